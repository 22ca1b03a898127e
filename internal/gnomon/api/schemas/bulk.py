"""One action on many jobs."""

from marshmallow import fields, validate

from gnomon.api.schemas.fields import Answer, Array, Input, Instant, Text, Whole, choice, flag, optional, within
from gnomon.api.schemas.jobs import Job
from gnomon.job.bulk import BULK_LIMIT
from gnomon.job.model import JobStatus

ACTIONS = ("pause", "resume", "run", "delete")


class JobFilter(Input):
    """Which jobs, as the list's filters."""

    status = optional(Text, "where it stands", validate=choice(JobStatus))
    type = optional(Text, "HTTP, AMQP, or the name of a handler")
    tag = optional(Array, "a job must bear all", cls_or_instance=Text())
    q = optional(Text, "part of the name", validate=validate.Length(max=200, error="is longer than 200 characters"))
    queue = optional(Text, "where executions go")
    next_run_after = optional(Instant, "due at this moment or later")
    next_run_before = optional(Instant, "due at this moment or earlier")


class BulkRequest(Input):
    """What to do, to which jobs, and how carefully."""

    action = Text(required=True, validate=choice(ACTIONS), error_messages={"required": "is missing"})
    filter = fields.Nested(
        JobFilter,
        allow_none=True,
        metadata={"description": "which jobs; without any, `all` has to say so"},
        error_messages={"type": "must be an object"},
    )
    all = flag("all jobs, where there is no filter")
    expected_count = optional(Whole, "409 with the real number when another number of jobs matches")
    limit = Whole(
        load_default=1_000, metadata={"description": "at most so many, the newest first", **within(1, BULK_LIMIT)}
    )
    cursor = optional(Text, "from the answer before: goes on after its jobs")
    dry_run = flag("only tell what would be done")
    reason = optional(
        Text,
        "of a pause: shown with the jobs",
        validate=validate.Length(max=500, error="is longer than 500 characters"),
    )
    until = optional(Instant, "of a pause: the jobs resume by themselves then")
    queue = flag("of a run: wait for each job's unfinished execution to end")


class BulkDone(Answer):
    """A job to which it was done."""

    id = fields.String(metadata={"format": "uuid"})
    name = fields.String(allow_none=True)
    execution_id = fields.String(allow_none=True, metadata={"format": "uuid", "description": "what a run has made"})


class BulkRefusal(Answer):
    """A job to which it was not done, and why."""

    id = fields.String(metadata={"format": "uuid"})
    name = fields.String(allow_none=True)
    code = fields.String(metadata={"enum": ["overlapping", "deleted", "changed", "invalid", "conflict"]})
    reason = fields.String()


class BulkOutcome(Answer):
    """What was done. A dry run answers `sample` in place of what only a real one can tell."""

    sometimes = frozenset(("done", "refused", "cursor", "sample"))
    action = fields.String(metadata={"enum": list(ACTIONS)})
    dry_run = fields.Boolean()
    count = fields.Integer(metadata={"description": "how many matched, also beyond the limit; counted up to 100,000"})
    done = fields.List(fields.Nested(BulkDone))
    refused = fields.List(fields.Nested(BulkRefusal))
    cursor = fields.String(allow_none=True, metadata={"description": "goes on with those beyond the limit"})
    sample = fields.List(fields.Nested(Job), metadata={"description": "of a dry run: the newest ten"})
