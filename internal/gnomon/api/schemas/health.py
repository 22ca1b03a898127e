"""Whether this process lives, and what it is."""

from marshmallow import fields

from gnomon.api.schemas.fields import Answer


class Health(Answer):
    """Sent with 200 only."""

    status = fields.String(metadata={"enum": ["ok"]})


class Version(Answer):
    """What serves here."""

    name = fields.String()
    version = fields.String()
