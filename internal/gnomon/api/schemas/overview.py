"""How it goes: depths, counts, lateness, and why."""

from marshmallow import fields, validate

from gnomon.api.schemas.fields import Answer, Input, Instant, Number
from gnomon.api.schemas.queries import QueryWhole
from gnomon.job.model import JobStatus, State


class Reason(Answer):
    """One thing that is so."""

    code = fields.String(metadata={"description": "a short stable word"})
    text = fields.String(metadata={"description": "the same in a sentence"})
    execution_id = fields.String(
        allow_none=True, metadata={"format": "uuid", "description": "of which execution; null: of the job itself"}
    )


class Why(Answer):
    """Why a job has not run, was late, was skipped or ran twice, from the recorded times."""

    job_id = fields.String(metadata={"format": "uuid"})
    at = Instant(metadata={"description": "when this was so"})
    reasons = fields.List(fields.Nested(Reason))


class Queue(Answer):
    """The unfinished executions of a queue, as the database has them; counted up to 100,000 of each state."""

    name = fields.String()
    workers = fields.Integer(metadata={"description": "living workers that take from it"})
    due = fields.Integer(metadata={"description": "could begin now"})
    sent = fields.Integer(metadata={"description": "of these, for which a message was published"})
    later = fields.Integer(metadata={"description": "wait for a moment, or for a retry"})
    waiting = fields.Integer(metadata={"description": "wait for another execution of their job"})
    running = fields.Integer()
    oldest_due_at = Instant(allow_none=True)
    oldest_age_seconds = Number(allow_none=True, metadata={"description": "how long the oldest could have begun"})


class StatsQuery(Input):
    """Of how long."""

    window_seconds = QueryWhole(
        load_default=3600,
        validate=validate.Range(1, 604_800, error="must lie between 1 and 604800"),
        metadata={"default": 3600, "description": "the moments of so many seconds until now"},
    )


class Spread(Answer):
    """Of a number of durations, in seconds."""

    median = Number()
    p95 = Number()
    p99 = Number()
    max = Number()


JobCounts = Answer.from_dict(
    {
        **{status.value: fields.Integer() for status in JobStatus},
        "held": fields.Integer(metadata={"description": "their schedule can't be computed"}),
        "overdue": fields.Integer(metadata={"description": "due for over ten seconds, and not looked at"}),
    },
    name="JobCounts",
)
ExecutionCounts = Answer.from_dict({state.value: fields.Integer() for state in State}, name="ExecutionCounts")


class Stats(Answer):
    """How it goes."""

    at = Instant()
    window_seconds = Number()
    jobs = fields.Nested(JobCounts)
    executions = fields.Nested(ExecutionCounts)
    counted = fields.Integer(metadata={"description": "the newest executions of the window, up to 100,000"})
    complete = fields.Boolean(metadata={"description": "those were all"})
    lateness_seconds = fields.Nested(Spread, allow_none=True)
    duration_seconds = fields.Nested(Spread, allow_none=True)
