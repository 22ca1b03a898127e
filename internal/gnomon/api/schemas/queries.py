"""What stands behind the question mark, and which part of a list is asked for."""

import re
from typing import Any

from marshmallow import fields, validate

from gnomon.api.schemas.fields import Input, Text, says


class QueryWhole(fields.Integer):
    """An integer in a query: decimal digits, nothing else."""

    default_error_messages = says("must be an integer")

    def _deserialize(self, value: Any, *positional: Any, **named: Any) -> Any:
        if not re.fullmatch(r"[0-9]{1,9}", value, re.ASCII):
            raise self.make_error("invalid")
        return super()._deserialize(value, *positional, **named)


class QueryFlag(fields.Boolean):
    """true or false."""

    default_error_messages = says("must be true or false")

    def __init__(self, **options: Any) -> None:
        super().__init__(truthy={"true", "True", "1"}, falsy={"false", "False", "0"}, **options)


class PageQuery(Input):
    """Which part of a list."""

    limit = QueryWhole(
        load_default=50, validate=validate.Range(1, 500, error="must lie between 1 and 500"), metadata={"default": 50}
    )
    offset = QueryWhole(
        load_default=0,
        validate=validate.Range(0, 10_000, error="must not be above 10000: follow the Link header instead"),
    )
    cursor = Text(metadata={"description": "from the Link header of the page before"})
    count = QueryFlag(
        load_default=False,
        metadata={"description": "answer X-Total-Count, which takes time where much matches", "default": False},
    )
