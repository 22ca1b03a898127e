"""What is recognised without marshmallow is loaded as marshmallow loads it."""

import inspect
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marshmallow import Schema, fields
from support.api import HOURLY, PRINTED

from gnomon.api import schemas
from gnomon.api.schemas.fields import Doubtful, Input
from gnomon.api.schemas.jobs import JobInput

MODULES = [import_module(f"{schemas.__name__}.{found.name}") for found in iter_modules(schemas.__path__)]
INPUTS = sorted(
    {
        one
        for module in MODULES
        for one in vars(module).values()
        if inspect.isclass(one) and issubclass(one, Input) and one is not Input
    },
    key=lambda one: one.__name__,
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)


def values(field: Any) -> st.SearchStrategy[Any]:
    """Of every kind, more often of the one that the field takes."""
    match field:
        case fields.Nested(schema=Input() as schema):
            return documents(schema) | SCALARS
        case fields.List(inner=inner):
            return st.lists(values(inner), max_size=2) | SCALARS
        case fields.Dict():
            return st.dictionaries(st.text(max_size=2), SCALARS, max_size=2) | SCALARS
        case _:
            return SCALARS


def documents(schema: Input) -> st.SearchStrategy[Any]:
    known = {name: values(field) for name, field in schema.fields.items()}
    few = st.lists(st.sampled_from(sorted(known)), max_size=3, unique=True)
    some = few.flatmap(lambda names: st.fixed_dictionaries({name: known[name] for name in names}))
    return some | some.map(lambda document: {**document, "unknown": 1})


SCHEMAS = [kind() for kind in INPUTS]
DRAWN = [documents(schema) for schema in SCHEMAS]


@pytest.mark.parametrize(
    ("schema", "drawn"), [*zip(SCHEMAS, DRAWN, strict=True)], ids=[kind.__name__ for kind in INPUTS]
)
@settings(suppress_health_check=[HealthCheck.too_slow])  # the first draw of all makes what it is drawn from
@given(data=st.data())
def test_what_is_recognised_is_loaded_as_marshmallow_does(
    schema: Input, drawn: st.SearchStrategy[dict[str, Any]], data: st.DataObject
) -> None:
    document = data.draw(drawn)
    try:
        found = schema.plain(document)
    except Doubtful:
        return
    loaded = Schema.load(schema, document)
    assert repr(found) == repr(loaded)  # in this order, and 1 is not true


@pytest.mark.parametrize("document", [HOURLY, PRINTED])
def test_usual_creation_is_recognised(document: dict[str, Any]) -> None:
    assert JobInput().plain(document) == document
