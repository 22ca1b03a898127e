"""Jobs: as they are given, in the names of older documents too, and as they are answered."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from marshmallow import fields, validate

from gnomon.api.schemas.fields import (
    Answer,
    Array,
    Input,
    Instant,
    Number,
    Text,
    Whole,
    choice,
    one_of,
    optional,
    part,
    within,
)
from gnomon.api.schemas.policies import Misfire, Retry
from gnomon.api.schemas.queries import PageQuery, QueryFlag
from gnomon.api.schemas.targets import Amqp, Http, NewAmqp, NewHttp
from gnomon.job.document import (
    MAX_DELAY_SECONDS,
    MAX_TAG,
    MAX_TAGS,
    MAX_TIMEOUT_SECONDS,
    MIN_TIMEOUT_SECONDS,
    NAME,
    TARGET_FIELDS,
)
from gnomon.job.errors import FieldError
from gnomon.job.model import Delivery, JobStatus, Overlap
from gnomon.job.schedule import MAX_INTERVAL, MAX_SPREAD
from gnomon.job.target import HANDLER_QUEUES

# The older spellings, at the top level of a job.
ALIASES = {"http": "http_job", "amqp": "amqp_job", "schedule": "cron_schedule", "jitter_seconds": "spread_seconds"}
TYPE = {
    "description": "HTTP, AMQP, or the name of a Python handler: GET /v1/handlers lists those that workers have",
    "examples": [*TARGET_FIELDS, "email_notification"],
}


class JobPatch(Input):
    """Changes of a job (RFC 7396): what is left out stays, null means the default."""

    type = optional(Text, "", metadata=TYPE)
    name = optional(Text, "unique; letters, digits, '.', '_', '-'", metadata={"pattern": f"^{NAME.pattern}$"})
    cron_schedule = optional(
        Text,
        "five fields, or six with seconds first; @hourly and the like; @every 5m",
        metadata={"example": "*/10 * * * *"},
    )
    schedule = optional(Text, "older name of cron_schedule", metadata={"deprecated": True})
    interval_seconds = optional(Whole, "runs every so many seconds", metadata=within(1, MAX_INTERVAL))
    anchor_at = optional(Instant, "where an interval counts from: starts_at, else the creation, by default")
    execute_at = optional(Instant, "runs once, then")
    delay_seconds = optional(Number, "runs once, so many seconds from now", metadata=within(0, MAX_DELAY_SECONDS))
    timezone = optional(
        Text, "IANA name of the zone of a cron_schedule; UTC by default", metadata={"example": "Europe/Paris"}
    )
    starts_at = optional(Instant, "no moment before this one")
    ends_at = optional(Instant, "no moment after this one")
    spread_seconds = optional(
        Whole,
        "all moments of a job are later by a constant of less than this; 0 by default",
        metadata=within(0, MAX_SPREAD),
    )
    jitter_seconds = optional(
        Whole, "other name of spread_seconds", metadata={"deprecated": True, **within(0, MAX_SPREAD)}
    )
    tags = optional(
        Array,
        "to find jobs by",
        cls_or_instance=Text(metadata={"minLength": 1, "maxLength": MAX_TAG}),
        metadata={"maxItems": MAX_TAGS},
    )
    http_job = part(Http, "the call of a job of type HTTP")
    http = part(Http, "older name of http_job", deprecated=True)
    amqp_job = part(Amqp, "the message of a job of type AMQP")
    amqp = part(Amqp, "other name of amqp_job", deprecated=True)
    payload = fields.Dict(
        keys=Text(),
        values=fields.Raw(allow_none=True),
        allow_none=True,
        metadata={
            "description": "what the handler is called with: an object that fits its schema; up to 128 KiB",
            "example": {"recipient": "user@example.com", "message": "Hello"},
        },
        error_messages={"invalid": "must be an object"},
    )
    timeout_seconds = optional(
        Number, "bounds one whole attempt; 30 by default", metadata=within(MIN_TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS)
    )
    retry = part(Retry, "how failures are repeated")
    misfire = part(Misfire, "what happens to moments that passed while nothing ran")
    overlap = one_of(Overlap, "when due while an execution is unfinished; skip by default")
    delivery = one_of(Delivery, "at_least_once by default")


class JobInput(JobPatch):
    """A new job: its type, its target, and exactly one schedule."""

    type = Text(
        required=True,
        metadata=TYPE,
        error_messages={"required": "is missing: it says what is called"},
    )
    http_job = part(NewHttp, "the call of a job of type HTTP")
    http = part(NewHttp, "older name of http_job", deprecated=True)
    amqp_job = part(NewAmqp, "the message of a job of type AMQP")
    amqp = part(NewAmqp, "other name of amqp_job", deprecated=True)


class Job(Answer):
    """A job: its definition with every policy, and where it stands. Secrets read "***"."""

    sometimes = frozenset(
        (
            "cron_schedule",
            "interval_seconds",
            "anchor_at",
            "execute_at",
            "timezone",
            "starts_at",
            "ends_at",
            "spread_seconds",
            "http_job",
            "amqp_job",
            "payload",
            "queue",
            "timeout_seconds",
            "retry",
            "misfire",
            "overlap",
            "delivery",
        )
    )

    id = fields.String(metadata={"format": "uuid"})
    type = fields.String()
    name = fields.String(allow_none=True)
    cron_schedule = fields.String()
    interval_seconds = fields.Integer()
    anchor_at = Instant()
    execute_at = Instant()
    timezone = fields.String()
    starts_at = Instant()
    ends_at = Instant()
    spread_seconds = fields.Integer()
    tags = fields.List(fields.String())
    http_job = fields.Nested(Http)
    amqp_job = fields.Nested(Amqp)
    payload = fields.Dict(metadata={"description": "of a handler's job"})
    queue = fields.String(
        metadata={"enum": list(HANDLER_QUEUES), "description": "of a handler's job: async for an async handler"}
    )
    timeout_seconds = Number()
    retry = fields.Nested(Retry)
    misfire = fields.Nested(Misfire)
    overlap = fields.String(metadata={"enum": [str(overlap) for overlap in Overlap]})
    delivery = fields.String(metadata={"enum": [str(delivery) for delivery in Delivery]})
    status = fields.String(metadata={"enum": [str(status) for status in JobStatus]})
    next_run = Instant(allow_none=True)
    last_run = Instant(allow_none=True)
    locked_until = Instant(allow_none=True, metadata={"description": "while an execution of it runs: its lease"})
    locked_by = fields.String(allow_none=True, metadata={"description": "while an execution of it runs: its worker"})
    revision = fields.Integer()
    created_at = Instant()
    updated_at = Instant()
    held_until = Instant(
        allow_none=True, metadata={"description": "set while the schedule can't be computed: left alone until then"}
    )
    hold_reason = fields.String(allow_none=True)
    pause_reason = fields.String(allow_none=True)
    paused_until = Instant(allow_none=True, metadata={"description": "a paused job resumes by itself then"})
    unreadable = fields.String(
        allow_none=True, metadata={"description": "why what is stored of the job can't be read; edit it to mend it"}
    )


class ChangedJob(Job):
    """A job that was changed just now."""

    warnings = fields.List(
        fields.String(), metadata={"description": "what keeps it from running as defined, as the workers are now"}
    )


class CreatedJob(ChangedJob):
    """A new job, with what its schedule means."""

    next_runs = fields.List(Instant(), metadata={"description": "the next five moments"})
    schedule_text = fields.String(allow_none=True, metadata={"description": "the schedule in words"})


class RehearsedJob(CreatedJob):
    """A job as it would be created: it has no id yet."""

    sometimes = frozenset((*CreatedJob.sometimes, "id"))


READ_ONLY = tuple(name for name in CreatedJob._declared_fields if name not in JobPatch._declared_fields)


class JobPut(JobPatch):
    """Changes of a job, merged like a patch. What a job answers beside its definition may be sent back unchanged."""

    class Meta(Input.Meta):
        include = MappingProxyType(
            {name: fields.Raw(allow_none=True, metadata={"description": "answered only"}) for name in READ_ONLY}
        )


class CreationQuery(Input):
    """Whether to create."""

    validate_only = QueryFlag(
        load_default=False,
        metadata={"description": "only tell whether it would be created, and as what", "default": False},
    )


class JobFilters(Input):
    """Which jobs."""

    status = Text(validate=choice(JobStatus))
    type = Text()
    tag = fields.List(Text(), metadata={"description": "repeat it: a job must bear all"})
    tags = fields.List(Text(), metadata={"description": "the same, comma separated or repeated"})
    q = Text(
        validate=validate.Length(max=200, error="is longer than 200 characters"),
        metadata={"description": "part of the name"},
    )
    queue = Text(metadata={"description": "where executions go: io, or handlers or async for those of handlers"})
    next_run_after = Instant(metadata={"description": "due at this moment or later"})
    next_run_before = Instant(metadata={"description": "due at this moment or earlier"})


class JobListQuery(PageQuery, JobFilters):
    """Which jobs to list."""


def canonical(document: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The document in the names of gnomon.job, and which older spelling was used for which of them."""
    used = {name: alias for alias, name in ALIASES.items() if alias in document}
    return {ALIASES.get(key, key): value for key, value in document.items()}, used


def doubled_aliases(document: Mapping[str, Any]) -> list[FieldError]:
    """Fields given under both of their names."""
    return [
        FieldError(pointer=f"/{alias}", detail=f"is another name of {name}: give one of the two")
        for alias, name in ALIASES.items()
        if alias in document and name in document
    ]
