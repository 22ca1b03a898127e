"""Trying many executions again."""

from marshmallow import fields

from gnomon.api.schemas.executions import Execution
from gnomon.api.schemas.fields import Answer, Array, Input, Instant, Text, Whole, choice, flag, optional, within
from gnomon.job.model import REPEATABLE, Trigger
from gnomon.job.repeats import REPEAT_LIMIT


class RepeatRequest(Input):
    """Which executions to try again, and how."""

    state = optional(
        Array,
        "any of them; FAILED and UNKNOWN by default",
        cls_or_instance=Text(validate=choice(sorted(REPEATABLE))),
    )
    job_id = optional(Text, "of this job only", metadata={"format": "uuid"})
    trigger = optional(Text, "why they existed", validate=choice(Trigger))
    scheduled_after = optional(Instant, "no moment before this one")
    scheduled_before = optional(Instant, "no moment after this one")
    again = flag("also those that were tried again before")
    limit = Whole(
        load_default=1_000, metadata={"description": "at most so many, the oldest first", **within(1, REPEAT_LIMIT)}
    )
    expected_count = optional(
        Whole, "409 with the real number when another number of executions matches", metadata={"minimum": 0}
    )
    queue = flag("wait for the job's unfinished execution to end, and for one another")
    revision = Text(
        validate=choice(["current", "same"]),
        load_default="current",
        metadata={"description": "current: as the job is defined now; same: as it was then", "default": "current"},
    )
    dry_run = flag("only tell what would be done")


class Refusal(Answer):
    """An execution that was not tried again, and why."""

    id = fields.String(metadata={"format": "uuid"})
    code = fields.String(metadata={"enum": ["overlapping", "deleted", "tried_again"]})
    reason = fields.String()


class Repetition(Answer):
    """A new execution."""

    id = fields.String(metadata={"format": "uuid"})
    job_id = fields.String(metadata={"format": "uuid"})
    repeats = fields.String(metadata={"format": "uuid", "description": "the execution that this one tries again"})
    state = fields.String()


class Repeated(Answer):
    """What was tried again. A dry run answers `sample` in place of what only a real one can tell."""

    sometimes = frozenset(("created", "refused", "remaining", "sample"))

    dry_run = fields.Boolean()
    count = fields.Integer(metadata={"description": "how many matched, also beyond the limit; counted up to 100,000"})
    created = fields.List(fields.Nested(Repetition))
    refused = fields.List(fields.Nested(Refusal))
    remaining = fields.Integer(metadata={"description": "how many matched beyond the limit"})
    sample = fields.List(fields.Nested(Execution), metadata={"description": "of a dry run: the oldest ten"})
