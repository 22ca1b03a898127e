"""What can be asked of a job, beside reading and changing it."""

from marshmallow import fields, validate

from gnomon.api.schemas.fields import Answer, Input, Instant, Text, flag, optional
from gnomon.api.schemas.queries import QueryFlag


class RunQuery(Input):
    """How to run."""

    queue = QueryFlag(
        load_default=False, metadata={"description": "wait for the job's unfinished execution to end", "default": False}
    )


class Pause(Input):
    """Why, and for how long."""

    body_is_optional = True

    reason = optional(
        Text, "shown with the job", validate=validate.Length(max=500, error="is longer than 500 characters")
    )
    until = optional(Instant, "the job resumes by itself then; otherwise when asked to")


class BackfillRequest(Input):
    """Which past moments to make up for."""

    from_ = Instant(data_key="from", required=True, error_messages={"required": "is missing"})
    to = Instant(required=True, error_messages={"required": "is missing"}, metadata={"description": "inclusive"})
    dry_run = flag("only tell what would be done")


class Backfill(Answer):
    """The moments that had no execution, or none but a SKIPPED one."""

    dry_run = fields.Boolean()
    count = fields.Integer()
    moments = fields.List(Instant())
