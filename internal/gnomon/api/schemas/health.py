"""Whether this process lives, and what it is."""

from marshmallow import Schema, fields


class Health(Schema):
    """Sent with 200 only."""

    status = fields.String(metadata={"enum": ["ok"]})


class Version(Schema):
    """What serves here."""

    name = fields.String()
    version = fields.String()
