"""Errors."""

from marshmallow import fields

from gnomon.api.schemas.fields import Answer


class BrokenRule(Answer):
    """`pointer` (RFC 6901) says where in the request."""

    sometimes = frozenset(("hint",))

    pointer = fields.String()
    detail = fields.String()
    hint = fields.String()


class Problem(Answer):
    """An error (RFC 9457)."""

    type = fields.String()
    title = fields.String()
    status = fields.Integer()
    detail = fields.String()
    errors = fields.List(fields.Nested(BrokenRule))
    request_id = fields.String()
    error = fields.String(metadata={"description": "the detail in one line"})
