"""The processes that take part, and what they can run."""

from marshmallow import fields

from gnomon.api.schemas.fields import Answer, Instant
from gnomon.job.instance import Role


class Instance(Answer):
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


class Handler(Answer):
    """A function that workers have registered: a job can name it as its type."""

    name = fields.String()
    queue = fields.String()
    schema = fields.Raw(
        allow_none=True,
        metadata={"type": "object", "description": "the JSON Schema of its payload; null takes any object"},
    )
    last_seen_at = Instant(metadata={"description": "when a living worker had it last"})
    alive = fields.Boolean(metadata={"description": "some living worker has it"})
