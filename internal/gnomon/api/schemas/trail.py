"""What was done to a job, and by whom."""

from marshmallow import Schema, fields, validate

from gnomon.api.schemas.fields import Input, Instant, Text
from gnomon.api.schemas.queries import QueryWhole
from gnomon.job.model import Action


class TrailQuery(Input):
    """Which part of an audit trail."""

    limit = QueryWhole(
        load_default=50, validate=validate.Range(1, 500, error="must lie between 1 and 500"), metadata={"default": 50}
    )
    cursor = Text(metadata={"description": "from the Link header of the page before"})


class Actor(Schema):
    """Whoever did it."""

    id = fields.String(metadata={"description": "of the key, or `anonymous` from before there were keys"})
    name = fields.String(metadata={"description": "of the key"})


class Event(Schema):
    """An entry of the audit trail of a job."""

    at = Instant()
    action = fields.String(metadata={"enum": [str(action) for action in Action]})
    revision = fields.Integer(metadata={"description": "that of the job from then on"})
    by = fields.Nested(Actor, allow_none=True, metadata={"description": "null where a pause ended by itself"})
    reason = fields.String(allow_none=True, metadata={"description": "of a pause"})
    changed = fields.List(
        fields.String(), metadata={"description": "the fields that an edit changed, by their paths: never their values"}
    )
