"""Errors."""

from marshmallow import Schema, fields


class BrokenRule(Schema):
    """`pointer` (RFC 6901) says where in the request."""

    pointer = fields.String(required=True)
    detail = fields.String(required=True)
    hint = fields.String()


class Problem(Schema):
    """An error (RFC 9457)."""

    type = fields.String(required=True)
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    detail = fields.String(required=True)
    errors = fields.List(fields.Nested(BrokenRule), required=True)
    request_id = fields.String(required=True)
    error = fields.String(required=True, metadata={"description": "the detail in one line"})
