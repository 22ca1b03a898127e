"""The documents of the API: what is accepted, what is answered. The only place that knows marshmallow.

Only structure and types are checked here; the rules about values are those of gnomon.job. null means "not given".
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any

from marshmallow import RAISE, Schema, fields, validate

from gnomon.api.strict_json import escape
from gnomon.job.document import TARGET_FIELDS
from gnomon.job.errors import FieldError
from gnomon.job.instance import Role
from gnomon.job.model import REPEATABLE, Delivery, JobStatus, MisfirePolicy, Overlap, State, Trigger
from gnomon.job.target import HANDLER_QUEUES, METHODS

UNKNOWN = "is not known here"
MAX_ERRORS = 20

# The older spellings, at the top level of a job.
ALIASES = {"http": "http_job", "amqp": "amqp_job", "schedule": "cron_schedule", "jitter_seconds": "spread_seconds"}


def _says(wrong_type: str) -> dict[str, Any]:
    """How marshmallow's own checks are worded."""
    return {"invalid": wrong_type, "type": wrong_type, "null": "must not be null", "unknown": UNKNOWN}


class Text(fields.String):
    """A string and nothing that could be made one."""

    default_error_messages = _says("must be a string")


class Whole(fields.Integer):
    """An integer; neither "5" nor 5.0 nor true."""

    default_error_messages = _says("must be an integer")

    def __init__(self, **options: Any) -> None:
        super().__init__(strict=True, **options)


class Number(fields.Float):
    """A number as it was written: 5 stays an integer."""

    default_error_messages = _says("must be a number")

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.make_error("invalid")
        return value

    def _serialize(self, value: Any, *_: Any, **__: Any) -> Any:
        return value


class Array(fields.List[Any]):
    """A JSON array; marshmallow's own field takes the keys of an object too."""

    default_error_messages = _says("must be an array")

    def _deserialize(self, value: Any, *positional: Any, **named: Any) -> Any:
        if not isinstance(value, list):
            raise self.make_error("invalid")
        return super()._deserialize(value, *positional, **named)


class Instant(Text):
    """RFC 3339; read by gnomon.job, which knows the bounds."""

    def __init__(self, **options: Any) -> None:
        metadata = {"format": "date-time", **options.pop("metadata", {})}
        super().__init__(metadata=metadata, **options)


class Input(Schema):
    """What a client sends: unknown fields are refused. With `body_is_optional` no body is an empty one."""

    body_is_optional = False

    class Meta:
        unknown = RAISE

    error_messages = _says("must be an object")


def _optional(kind: type[fields.Field[Any]], about: str, /, **options: Any) -> fields.Field[Any]:
    metadata = {"description": about, **options.pop("metadata", {})}
    return kind(allow_none=True, metadata=metadata, **options)


def _one_of(names: Iterable[object], about: str) -> fields.Field[Any]:
    return _optional(Text, about, metadata={"enum": [*map(str, names), None]})


def _flag(about: str) -> fields.Field[Any]:
    return fields.Boolean(
        load_default=False,
        truthy={True},
        falsy={False},
        error_messages={"invalid": "must be true or false"},
        metadata={"description": about},
    )


def _choice(names: Iterable[object]) -> validate.OneOf:
    known = [str(name) for name in names]
    return validate.OneOf(known, error=f"must be one of {', '.join(known)}")


def _part(schema: type[Schema], about: str, **metadata: Any) -> fields.Field[Any]:
    return fields.Nested(
        schema,
        allow_none=True,
        metadata={"description": about, **metadata},
        error_messages={"type": "must be an object"},
    )


class Auth(Input):
    """Credentials of the target. Secrets are never answered; "***" sent back keeps what is stored."""

    type = _one_of(["none", "basic", "bearer"], "which fields belong to it: basic has username and password")
    username = _optional(Text, "for basic")
    password = _optional(Text, "for basic; a secret")
    token = _optional(Text, "for bearer; a secret")


class Http(Input):
    """An HTTP call."""

    url = Text(
        metadata={"description": "absolute; without a scheme it means https", "example": "https://example.com/hook"}
    )
    method = _one_of(METHODS, "POST by default")
    headers = fields.Dict(
        keys=Text(),
        values=Text(allow_none=True),
        allow_none=True,
        metadata={"description": "header names to values"},
        error_messages={"invalid": "must be an object"},
    )
    body = _optional(Text, "sent as it is, in UTF-8")
    valid_response_codes = _optional(Array, "which statuses are a success; any 2xx by default", cls_or_instance=Whole())
    auth = _part(Auth, "credentials")


class NewHttp(Http):
    """The HTTP call of a new job."""

    url = Text(required=True, metadata=Http._declared_fields["url"].metadata, error_messages={"required": "is missing"})


class Amqp(Input):
    """A message for an AMQP 0-9-1 broker."""

    connection = Text(
        metadata={
            "description": "amqp:// or amqps://, user and password, host, port, vhost; the password is a secret",
            "example": "amqp://user:password@broker.example.com:5672/vhost",
        }
    )
    exchange = _optional(Text, 'which must exist; "", the default, routes to the queue that routing_key names')
    routing_key = _optional(Text, "up to 255 bytes")
    headers = fields.Dict(
        keys=Text(),
        values=fields.Raw(allow_none=True),
        allow_none=True,
        metadata={"description": "header names to strings, integers, booleans, arrays and objects"},
        error_messages={"invalid": "must be an object"},
    )
    body = _optional(Text, "sent in UTF-8, or as the bytes it encodes")
    body_encoding = _one_of(["base64"], "null: the body is text")
    content_type = _optional(Text, "a property of the message", metadata={"example": "text/plain"})


class NewAmqp(Amqp):
    """The message of a new job."""

    connection = Text(
        required=True,
        metadata=Amqp._declared_fields["connection"].metadata,
        error_messages={"required": "is missing"},
    )


TYPE = {
    "description": "HTTP, AMQP, or the name of a Python handler: GET /v1/handlers lists those that workers have",
    "examples": [*TARGET_FIELDS, "email_notification"],
}


class Retry(Input):
    """How failures are repeated."""

    max_attempts = _optional(Whole, "the first one included; 4 by default")
    initial_seconds = _optional(Number, "the first pause; 1 by default")
    multiplier = _optional(Number, "each pause is this much longer than the one before; 2 by default")
    max_seconds = _optional(Number, "the longest pause; 300 by default")
    jitter = _optional(Number, "the share of a pause that chance may take away, 0 to 1; 0.5 by default")
    strategy = _optional(
        Text, "the name of a function that workers have registered: it decides on the pauses, within max_attempts"
    )


class Misfire(Input):
    """What happens to moments that passed while nothing ran."""

    policy = _one_of(MisfirePolicy, "run_once by default")
    grace_seconds = _optional(Number, "how late a moment may be and still simply run; 60 by default")
    limit = _optional(Whole, "the most that run_all makes up for; 100 by default")


class JobPatch(Input):
    """Changes of a job (RFC 7396): what is left out stays, null means the default."""

    type = _optional(Text, "", metadata=TYPE)
    name = _optional(Text, "unique; letters, digits, '.', '_', '-'")
    cron_schedule = _optional(
        Text,
        "five fields, or six with seconds first; @hourly and the like; @every 5m",
        metadata={"example": "*/10 * * * *"},
    )
    schedule = _optional(Text, "older name of cron_schedule", metadata={"deprecated": True})
    interval_seconds = _optional(Whole, "runs every so many seconds")
    anchor_at = _optional(Instant, "where an interval counts from: starts_at, else the creation, by default")
    execute_at = _optional(Instant, "runs once, then")
    delay_seconds = _optional(Number, "runs once, so many seconds from now")
    timezone = _optional(Text, "IANA name of the zone of a cron_schedule; UTC by default")
    starts_at = _optional(Instant, "no moment before this one")
    ends_at = _optional(Instant, "no moment after this one")
    spread_seconds = _optional(Whole, "all moments of a job are later by a constant of less than this; 0 by default")
    jitter_seconds = _optional(Whole, "other name of spread_seconds", metadata={"deprecated": True})
    tags = _optional(Array, "up to 50, to find jobs by", cls_or_instance=Text())
    http_job = _part(Http, "the call of a job of type HTTP")
    http = _part(Http, "older name of http_job", deprecated=True)
    amqp_job = _part(Amqp, "the message of a job of type AMQP")
    amqp = _part(Amqp, "other name of amqp_job", deprecated=True)
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
    timeout_seconds = _optional(Number, "bounds one whole attempt; 30 by default")
    retry = _part(Retry, "how failures are repeated")
    misfire = _part(Misfire, "what happens to moments that passed while nothing ran")
    overlap = _one_of(Overlap, "when due while an execution is unfinished; skip by default")
    delivery = _one_of(Delivery, "at_least_once by default")


class JobInput(JobPatch):
    """A new job: its type, its target, and exactly one schedule."""

    type = Text(
        required=True,
        metadata=TYPE,
        error_messages={"required": "is missing: it says what is called"},
    )
    http_job = _part(NewHttp, "the call of a job of type HTTP")
    http = _part(NewHttp, "older name of http_job", deprecated=True)
    amqp_job = _part(NewAmqp, "the message of a job of type AMQP")
    amqp = _part(NewAmqp, "other name of amqp_job", deprecated=True)


class Job(Schema):
    """A job: its definition with every policy, and where it stands. Secrets read "***"."""

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


READ_ONLY = tuple(name for name in CreatedJob._declared_fields if name not in JobPatch._declared_fields)


class JobPut(JobPatch):
    """Changes of a job, merged like a patch. What a job answers beside its definition may be sent back unchanged."""

    class Meta(Input.Meta):
        include = MappingProxyType(
            {name: fields.Raw(allow_none=True, metadata={"description": "answered only"}) for name in READ_ONLY}
        )


class Attempt(Schema):
    """One try that ended."""

    attempt = fields.Integer()
    worker = fields.String(allow_none=True)
    claimed_at = Instant(allow_none=True)
    finished_at = Instant(allow_none=True)
    outcome = fields.String()
    error_code = fields.String(allow_none=True)
    error_message = fields.String(allow_none=True)
    response_status = fields.Integer(allow_none=True)


class Execution(Schema):
    """One occurrence of a job. A SKIPPED one stands for `skipped_count` moments, up to `skipped_until`."""

    id = fields.String(metadata={"format": "uuid"})
    job_id = fields.String(metadata={"format": "uuid"})
    scheduled_at = Instant()
    state = fields.String(metadata={"enum": [str(state) for state in State]})
    trigger = fields.String(metadata={"enum": [str(trigger) for trigger in Trigger]})
    attempt = fields.Integer()
    start_time = Instant(allow_none=True)
    end_time = Instant(allow_none=True)
    success = fields.Boolean(allow_none=True, metadata={"description": "null while it is not finished"})
    error_code = fields.String(allow_none=True)
    error_message = fields.String(allow_none=True)
    response_status = fields.Integer(allow_none=True)
    response_excerpt = fields.String(allow_none=True)
    revision = fields.Integer()
    repeats = fields.String(
        allow_none=True, metadata={"format": "uuid", "description": "the execution that this one tries again"}
    )
    lateness_seconds = fields.Float(allow_none=True)
    duration_seconds = fields.Float(allow_none=True)
    cancel_requested_at = Instant(allow_none=True)
    skipped_count = fields.Integer()
    skipped_until = Instant(allow_none=True)
    worker = fields.String(allow_none=True)
    attempts = fields.List(fields.Nested(Attempt))


class Pause(Input):
    """Why, and for how long."""

    body_is_optional = True

    reason = _optional(
        Text, "shown with the job", validate=validate.Length(max=500, error="is longer than 500 characters")
    )
    until = _optional(Instant, "the job resumes by itself then; otherwise when asked to")


class BackfillRequest(Input):
    """Which past moments to make up for."""

    from_ = Instant(data_key="from", required=True, error_messages={"required": "is missing"})
    to = Instant(required=True, error_messages={"required": "is missing"}, metadata={"description": "inclusive"})
    dry_run = _flag("only tell what would be done")


class Backfill(Schema):
    """The moments that had no execution, or none but a SKIPPED one."""

    dry_run = fields.Boolean()
    count = fields.Integer()
    moments = fields.List(Instant())


class RepeatRequest(Input):
    """Which executions to try again, and how."""

    state = _optional(
        Array,
        "any of them; FAILED and UNKNOWN by default",
        cls_or_instance=Text(validate=_choice(sorted(REPEATABLE))),
    )
    job_id = _optional(Text, "of this job only", metadata={"format": "uuid"})
    trigger = _optional(Text, "why they existed", validate=_choice(Trigger))
    scheduled_after = _optional(Instant, "no moment before this one")
    scheduled_before = _optional(Instant, "no moment after this one")
    again = _flag("also those that were tried again before")
    limit = Whole(load_default=1_000, metadata={"description": "at most so many, the oldest first; at most 1,000"})
    expected_count = _optional(Whole, "409 with the real number when another number of executions matches")
    queue = _flag("wait for the job's unfinished execution to end, and for one another")
    revision = Text(
        validate=_choice(["current", "same"]),
        load_default="current",
        metadata={"description": "current: as the job is defined now; same: as it was then", "default": "current"},
    )
    dry_run = _flag("only tell what would be done")


class Refusal(Schema):
    """An execution that was not tried again, and why."""

    id = fields.String(metadata={"format": "uuid"})
    code = fields.String(metadata={"enum": ["overlapping", "deleted", "tried_again"]})
    reason = fields.String()


class Repetition(Schema):
    """A new execution."""

    id = fields.String(metadata={"format": "uuid"})
    job_id = fields.String(metadata={"format": "uuid"})
    repeats = fields.String(metadata={"format": "uuid", "description": "the execution that this one tries again"})
    state = fields.String()


class Repeated(Schema):
    """What was tried again. A dry run answers `sample` in place of what only a real one can tell."""

    dry_run = fields.Boolean()
    count = fields.Integer(metadata={"description": "how many matched, also beyond the limit; counted up to 100,000"})
    created = fields.List(fields.Nested(Repetition))
    refused = fields.List(fields.Nested(Refusal))
    remaining = fields.Integer(metadata={"description": "how many matched beyond the limit"})
    sample = fields.List(fields.Nested(Execution), metadata={"description": "of a dry run: the oldest ten"})


class BrokenRule(Schema):
    """`pointer` (RFC 6901) says where in the request."""

    pointer = fields.String(required=True)
    detail = fields.String(required=True)
    hint = fields.String()


class Problem(Schema):
    """An error (RFC 9457)."""

    type = fields.String(required=True)
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    detail = fields.String(required=True)
    errors = fields.List(fields.Nested(BrokenRule), required=True)
    request_id = fields.String(required=True)
    error = fields.String(required=True, metadata={"description": "the detail in one line"})


class Instance(Schema):
    """A process: an API, a scheduler or a worker."""

    id = fields.String(metadata={"format": "uuid", "description": "a new one for each start"})
    name = fields.String(metadata={"description": "its scheduler.id: what executions show as their worker"})
    role = fields.String(metadata={"enum": [str(role) for role in Role]})
    host = fields.String()
    pid = fields.Integer()
    version = fields.String()
    queues = fields.List(fields.String(), metadata={"description": "what a worker takes messages from"})
    started_at = Instant()
    last_seen_at = Instant(metadata={"description": "its last heartbeat; there is one every 4 seconds"})
    left_at = Instant(allow_none=True, metadata={"description": "when it ended, if it did so in an orderly way"})
    alive = fields.Boolean(metadata={"description": "seen within the last 12 seconds, and not left"})
    leader = fields.Boolean(metadata={"description": "the scheduler that keeps house"})


class Handler(Schema):
    """A function that workers have registered: a job can name it as its type."""

    name = fields.String()
    queue = fields.String()
    schema = fields.Raw(
        allow_none=True,
        metadata={"type": "object", "description": "the JSON Schema of its payload; null takes any object"},
    )
    last_seen_at = Instant(metadata={"description": "when a living worker had it last"})
    alive = fields.Boolean(metadata={"description": "some living worker has it"})


class Health(Schema):
    """Sent with 200 only."""

    status = fields.String(metadata={"enum": ["ok"]})


class Version(Schema):
    """What serves here."""

    name = fields.String()
    version = fields.String()


class QueryWhole(fields.Integer):
    """An integer in a query: decimal digits, nothing else."""

    default_error_messages = _says("must be an integer")

    def _deserialize(self, value: Any, *positional: Any, **named: Any) -> Any:
        if not re.fullmatch(r"[0-9]{1,9}", value, re.ASCII):
            raise self.make_error("invalid")
        return super()._deserialize(value, *positional, **named)


class QueryFlag(fields.Boolean):
    """true or false."""

    default_error_messages = _says("must be true or false")

    def __init__(self, **options: Any) -> None:
        super().__init__(truthy={"true", "True", "1"}, falsy={"false", "False", "0"}, **options)


class NoQuery(Input):
    """Nothing can be asked."""


class PageQuery(Input):
    """Which part of a list."""

    limit = QueryWhole(
        load_default=50, validate=validate.Range(1, 500, error="must lie between 1 and 500"), metadata={"default": 50}
    )
    offset = QueryWhole(
        load_default=0,
        validate=validate.Range(0, 10_000, error="must not be above 10000: follow the Link header instead"),
    )
    cursor = Text(metadata={"description": "from the Link header of the page before"})


class JobListQuery(PageQuery):
    """Which jobs to list."""

    status = Text(validate=_choice(JobStatus))
    type = Text()
    tag = fields.List(Text(), metadata={"description": "repeat it: a job must bear all"})
    tags = Text(metadata={"description": "the same, comma separated"})
    q = Text(
        validate=validate.Length(max=200, error="is longer than 200 characters"),
        metadata={"description": "part of the name"},
    )


class RunQuery(Input):
    """How to run."""

    queue = QueryFlag(
        load_default=False, metadata={"description": "wait for the job's unfinished execution to end", "default": False}
    )


class RetryQuery(RunQuery):
    """As what to run."""

    revision = Text(
        validate=validate.OneOf(["current", "same"], error="must be current or same"),
        load_default="current",
        metadata={"description": "current: as the job is defined now; same: as it was then", "default": "current"},
    )


class ExecutionListQuery(PageQuery):
    """Which executions to list."""

    state = fields.List(Text(validate=_choice(State)), metadata={"description": "repeat it: any of them"})
    failed_only = QueryFlag(metadata={"description": "those that ended FAILED or UNKNOWN"})
    failedOnly = QueryFlag(metadata={"description": "older name of failed_only", "deprecated": True})  # noqa: N815
    trigger = Text(validate=_choice(Trigger))
    scheduled_after = Instant(metadata={"description": "no moment before this one"})
    scheduled_before = Instant(metadata={"description": "no moment after this one"})


class AllExecutionsQuery(ExecutionListQuery):
    """Which executions of all jobs to list."""

    job_id = Text(metadata={"description": "of this job only, also after it was deleted", "format": "uuid"})


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


def explain(messages: Any, schema: Schema) -> list[FieldError]:
    """marshmallow's messages as errors with pointers, and the nearest known name for an unknown one.

    Only the first few: looking for a near name takes time, and a body can hold thousands of unknown ones.
    """
    return list(islice(_explain(messages, schema, ""), MAX_ERRORS))


def _explain(messages: Any, field: Any, pointer: str) -> Iterator[FieldError]:
    if not isinstance(messages, Mapping):
        for message in messages if isinstance(messages, list) else [messages]:
            yield FieldError(pointer=pointer, detail=str(message))
        return
    for key, below in messages.items():
        if key == "_schema":
            yield from _explain(below, field, pointer)
        elif below == [UNKNOWN]:
            yield FieldError(pointer=f"{pointer}/{escape(str(key))}", detail=UNKNOWN, hint=_suggestion(str(key), field))
        else:
            yield from _explain(_unwrapped(below, field), _below(field, key), f"{pointer}/{escape(str(key))}")


def _unwrapped(messages: Any, field: Any) -> Any:
    """marshmallow tells apart whether the key or the value of a dictionary's entry is wrong; a pointer does not."""
    if isinstance(field, fields.Dict) and isinstance(messages, Mapping):
        return [text for texts in messages.values() for text in texts]
    return messages


def _below(field: Any, key: object) -> Any:
    schema = field.schema if isinstance(field, fields.Nested) else field
    return schema.fields.get(str(key)) if isinstance(schema, Schema) else getattr(field, "inner", None)


def _suggestion(name: str, field: Any) -> str | None:
    schema = field.schema if isinstance(field, fields.Nested) else field
    if not isinstance(schema, Schema):
        return None
    if name in READ_ONLY and isinstance(schema, JobPatch):
        return "it is answered, never given" + (": POST /jobs/{id}/pause pauses" if name == "status" else "")
    near = difflib.get_close_matches(name[:50].lower(), schema.fields, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(schema.fields)}"
