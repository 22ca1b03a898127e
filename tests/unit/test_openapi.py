"""The OpenAPI document: valid, whole, and the same as the one that is kept in docs/."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openapi_spec_validator import OpenAPIV31SpecValidator

from gnomon import __version__
from gnomon.api.app import make_document
from gnomon.api.openapi import EXAMPLES, operations

KEPT = Path(__file__).parents[2] / "docs" / "openapi.json"
DOCUMENT = make_document(__version__)


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    match value:
        case dict():
            yield value
            for below in value.values():
                yield from nodes(below)
        case list():
            for below in value:
                yield from nodes(below)


def test_document_is_valid() -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


def test_document_that_is_kept_is_this_one() -> None:
    assert json.loads(KEPT.read_text()) == DOCUMENT, "run: gnomon openapi > docs/openapi.json"


def test_operations_are_named_and_described() -> None:
    names = [operation["operationId"] for operation in operations(DOCUMENT)]
    assert [name for name in names if names.count(name) > 1 or not re.fullmatch("[a-z]+(_[a-z]+)+", name)] == []
    for operation in operations(DOCUMENT):
        assert re.fullmatch(r"[A-Z].*[^.:]\.?", operation["summary"]), operation["operationId"]
        assert operation["tags"]


def test_paths_are_versioned_and_declare_their_parameters() -> None:
    for path, item in DOCUMENT["paths"].items():
        assert path.startswith("/v1/")
        for operation in item.values():
            named = {given["name"] for given in operation.get("parameters", ()) if given["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))


def test_every_answer_is_described() -> None:
    for operation in operations(DOCUMENT):
        answers = operation["responses"]
        assert {status[0] for status in answers} >= {"2", "4", "5"}, operation["operationId"]
        for status, answer in answers.items():
            if status >= "400":
                (name,) = re.findall(r"^#/components/responses/(\w+)$", answer["$ref"])
                answer = DOCUMENT["components"]["responses"][name]
                assert "application/problem+json" in answer["content"]
            assert "X-Request-Id" in answer["headers"]


def test_links_lead_to_operations() -> None:
    names = {operation["operationId"] for operation in operations(DOCUMENT)}
    assert {link["operationId"] for link in DOCUMENT["components"]["links"].values()} <= names
    linked = {name for node in nodes(DOCUMENT["paths"]) for name in node.get("links", ())}
    assert linked == DOCUMENT["components"]["links"].keys()


def test_examples_belong_to_operations() -> None:
    names = {operation["operationId"] for operation in operations(DOCUMENT)}
    assert {file.stem for file in EXAMPLES.glob("*.json")} <= names
