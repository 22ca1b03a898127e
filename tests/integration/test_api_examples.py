"""Every example of the OpenAPI document, sent to an API: the answers are as the document says, and its schemas hold.

With RECORD_EXAMPLES in the environment the answers that differ are written to the examples' files.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from support.api import make_client
from support.example_scene import set_scene
from support.world import World
from werkzeug.test import TestResponse

from gnomon import __version__
from gnomon.api.app import make_document
from gnomon.api.openapi import EXAMPLES, examples

DOCUMENT = make_document(__version__)
OPERATIONS = {
    operation["operationId"]: (path, method, operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
}
RECORDING = "RECORD_EXAMPLES" in os.environ
DURATIONS = ("lateness_seconds", "duration_seconds", "oldest_age_seconds", "median", "p95", "p99", "max")
CHANGING = (
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "an id"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "an instant"),
)


def test_examples_are_answered_as_documented(world: World, subtests: pytest.Subtests) -> None:
    client = make_client(world, version=__version__)
    for operation_id, (path, method, operation) in OPERATIONS.items():
        names = sorted(examples(operation_id) if RECORDING else set(example_names(operation)))
        with subtests.test(f"{operation_id} has an example"):
            assert names, "write one: internal/gnomon/api/examples"
        for name in names:
            with subtests.test(f"{operation_id}, {name}"):
                set_scene(world)
                response = sent(client, path, method, operation, name)
                documented = documented_answer(operation, name, response)
                check_answer(documented, response)
                answer = response.get_json() if response.is_json else response.get_data(as_text=True) or None
                if RECORDING:
                    record(operation_id, name, response.status_code, answer)
                else:
                    assert steady(answer) == steady(example_of(documented, name))


def example_names(operation: Mapping[str, Any]) -> Iterator[str]:
    for place in (
        *operation.get("parameters", ()),
        *operation.get("requestBody", {}).get("content", {}).values(),
        *(content for answer in operation["responses"].values() for content in answer.get("content", {}).values()),
    ):
        yield from place.get("examples", ())


def sent(client: FlaskClient, path: str, method: str, operation: Mapping[str, Any], name: str) -> TestResponse:
    """What the API answers to the example of this name."""
    values: dict[str, dict[str, Any]] = {"path": {}, "query": {}, "header": {}}
    for parameter in operation.get("parameters", ()):
        if name in parameter.get("examples", {}):
            values[parameter["in"]][parameter["name"]] = parameter["examples"][name]["value"]
    query = {key: str(value).lower() if isinstance(value, bool) else value for key, value in values["query"].items()}
    content = operation.get("requestBody", {}).get("content", {})
    bodies = {
        kind: shown["examples"][name]["value"] for kind, shown in content.items() if name in shown.get("examples", {})
    }
    kind, body = next(iter(bodies.items()), (None, None))
    data = body if isinstance(body, str) or body is None else json.dumps(body)
    return client.open(
        path.format_map(values["path"]),
        method=method.upper(),
        query_string=query,
        headers=values["header"],
        data=data,
        content_type=kind,
    )


def documented_answer(operation: Mapping[str, Any], name: str, response: TestResponse) -> Mapping[str, Any]:
    """What the document says of the answer that the example should have: the only one that shows it, or has no body."""
    answers = {status: answer for status, answer in operation["responses"].items() if "$ref" not in answer}
    shown = [
        status
        for status, answer in answers.items()
        if "content" not in answer or any(name in content.get("examples", {}) for content in answer["content"].values())
    ]
    if not RECORDING:
        assert [str(response.status_code)] == shown, response.get_data(as_text=True)
    documented: Mapping[str, Any] = answers[str(response.status_code)]
    return documented


def check_answer(documented: Mapping[str, Any], response: TestResponse) -> None:
    for header, about in documented["headers"].items():
        required = resolved(about).get("required", False)
        assert header in response.headers or not required, f"{header} is missing"
    if "content" in documented:
        schema = documented["content"][response.mimetype]["schema"]
        if response.is_json:
            errors = Draft202012Validator({**schema, "components": DOCUMENT["components"]}).iter_errors(
                response.get_json()
            )
            assert [f"{error.json_path}: {error.message}" for error in errors] == []
    else:
        assert response.get_data() == b""


def example_of(documented: Mapping[str, Any], name: str) -> Any:
    (content,) = documented.get("content", {"": {}}).values()
    return content.get("examples", {}).get(name, {}).get("value")


def resolved(node: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = node
    if "$ref" in node:
        found = DOCUMENT
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
    return found  # type: ignore[no-any-return]


def steady(value: Any) -> Any:
    """The value without what is another each time."""
    match value:
        case dict():
            return {
                key: "a duration" if key in DURATIONS and isinstance(below, int | float) else steady(below)
                for key, below in value.items()
            }
        case list():
            return [steady(below) for below in value]
        case str():
            for pattern, word in CHANGING:
                value = re.sub(pattern, word, value)
            return value
    return value


def record(operation_id: str, name: str, status: int, answer: Any) -> None:
    file = EXAMPLES / f"{operation_id}.json"
    known = json.loads(file.read_text())
    example = known[name]
    assert status == example["status"], answer
    if answer is not None and steady(answer) != steady(example.get("answer")):
        example["answer"] = answer
        file.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n")
