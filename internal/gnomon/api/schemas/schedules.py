"""Schedules: what they would do."""

from marshmallow import fields, validate

from gnomon.api.schemas.fields import Answer, Input, Instant, Number, Text, Whole, optional
from gnomon.api.schemas.queries import QueryWhole
from gnomon.job.preview import MAX_COUNT

COUNT = validate.Range(1, MAX_COUNT, error=f"must lie between 1 and {MAX_COUNT}")


class NextRunsQuery(Input):
    """From when on, and how many."""

    count = QueryWhole(load_default=10, validate=COUNT, metadata={"default": 10})
    from_ = Instant(data_key="from", metadata={"description": "by default the job's next run, or now"})


class PreviewRequest(Input):
    """A schedule as a job has it."""

    cron_schedule = optional(
        Text,
        "five fields, or six with seconds first; @hourly and the like; @every 5m",
        metadata={"example": "*/10 * * * *"},
    )
    schedule = optional(Text, "older name of cron_schedule", metadata={"deprecated": True})
    interval_seconds = optional(Whole, "runs every so many seconds")
    anchor_at = optional(Instant, "where an interval counts from: starts_at, else now, by default")
    execute_at = optional(Instant, "runs once, then")
    delay_seconds = optional(Number, "runs once, so many seconds from now")
    timezone = optional(Text, "IANA name of the zone of a cron_schedule; UTC by default")
    starts_at = optional(Instant, "no moment before this one")
    ends_at = optional(Instant, "no moment after this one")
    from_ = optional(Instant, "from when on; now by default", data_key="from")
    count = Whole(load_default=10, validate=COUNT, metadata={"description": "how many", "default": 10})


class Moment(Answer):
    """When it runs."""

    at = Instant(metadata={"description": "in UTC"})
    local = Instant(metadata={"description": "as the clocks of the schedule's zone show it, with their offset"})


class Preview(Answer):
    """What a schedule would do."""

    schedule_text = fields.String(metadata={"description": "the schedule in words"})
    timezone = fields.String()
    runs = fields.List(fields.Nested(Moment))
    warnings = fields.List(
        fields.String(),
        metadata={"description": "daylight saving, moments that follow in quick succession, or none at all"},
    )
