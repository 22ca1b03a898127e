"""Jobs on their way out and in."""

from types import MappingProxyType

from marshmallow import fields, validate

from gnomon.api.schemas.fields import Answer, Input, Instant, Text, choice, optional
from gnomon.api.schemas.jobs import READ_ONLY, JobPatch
from gnomon.api.schemas.queries import QueryFlag
from gnomon.job.imports import STANDING
from gnomon.job.model import JobStatus


class ImportQuery(Input):
    """How to import."""

    dry_run = QueryFlag(load_default=False, metadata={"description": "only tell what would be done", "default": False})


class ImportedJob(JobPatch):
    """A line of an export. What else a job answers may be left in it, and is ignored."""

    class Meta(Input.Meta):
        include = MappingProxyType({name: fields.Raw(allow_none=True) for name in READ_ONLY if name not in STANDING})

    id = fields.UUID(
        allow_none=True,
        metadata={"description": "which job it is, where no job bears the name"},
        error_messages={"invalid_uuid": "must be a UUID"},
    )
    status = optional(Text, "of a job that is created: STOPPED ones are paused", validate=choice(JobStatus))
    pause_reason = optional(Text, "", validate=validate.Length(max=500, error="is longer than 500 characters"))
    paused_until = optional(Instant, "")


class BrokenLine(Answer):
    """Why a line was refused: `pointer` (RFC 6901) says where in it."""

    sometimes = frozenset(("hint",))

    line = fields.Integer()
    pointer = fields.String()
    detail = fields.String()
    hint = fields.String()


class ImportResult(Answer):
    """What became of the lines."""

    dry_run = fields.Boolean()
    lines = fields.Integer(metadata={"description": "how many there were, without empty ones"})
    created = fields.Integer()
    replaced = fields.Integer()
    unchanged = fields.Integer()
    refused = fields.Integer()
    errors = fields.List(fields.Nested(BrokenLine), metadata={"description": "of refused lines: the first hundred"})
