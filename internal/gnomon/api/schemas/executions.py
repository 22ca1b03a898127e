"""Executions: what became of jobs."""

from marshmallow import fields, validate

from gnomon.api.schemas.actions import RunQuery
from gnomon.api.schemas.fields import Answer, Instant, Text, choice
from gnomon.api.schemas.queries import PageQuery, QueryFlag
from gnomon.job.model import State, Trigger


class Attempt(Answer):
    """One try that ended."""

    attempt = fields.Integer()
    worker = fields.String(allow_none=True)
    claimed_at = Instant(allow_none=True)
    finished_at = Instant(allow_none=True)
    outcome = fields.String()
    error_code = fields.String(allow_none=True)
    error_message = fields.String(allow_none=True)
    response_status = fields.Integer(allow_none=True)


class Execution(Answer):
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


class RetryQuery(RunQuery):
    """As what to run."""

    revision = Text(
        validate=validate.OneOf(["current", "same"], error="must be current or same"),
        load_default="current",
        metadata={"description": "current: as the job is defined now; same: as it was then", "default": "current"},
    )


class ExecutionListQuery(PageQuery):
    """Which executions to list."""

    state = fields.List(Text(validate=choice(State)), metadata={"description": "repeat it: any of them"})
    failed_only = QueryFlag(metadata={"description": "those that ended FAILED or UNKNOWN"})
    failedOnly = QueryFlag(metadata={"description": "older name of failed_only", "deprecated": True})  # noqa: N815
    trigger = Text(validate=choice(Trigger))
    scheduled_after = Instant(metadata={"description": "no moment before this one"})
    scheduled_before = Instant(metadata={"description": "no moment after this one"})


class AllExecutionsQuery(ExecutionListQuery):
    """Which executions of all jobs to list."""

    job_id = Text(metadata={"description": "of this job only, also after it was deleted", "format": "uuid"})
