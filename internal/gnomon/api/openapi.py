"""What the OpenAPI document says beyond what routes declare: how each may fail, headers, examples and links.

Which errors an operation can answer follows from what it takes: no route lists them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

from gnomon.api.asked import REQUEST_ID
from gnomon.api.problems import MEDIA_TYPE, problem_document

Node = dict[str, Any]

EXAMPLES = Path(__file__).with_name("examples")
METHODS = ("get", "post", "put", "patch", "delete")
OPEN = "x-open"  # whether an operation takes no key
OWN = "x-own"  # its parameters that are neither the path's nor the query's
# Which values of an answer name a resource, by its schema and by the path parameter that takes them.
NAMED = {
    ("CreatedJob", "reference"): "$response.body#/id",
    ("Execution", "execution_id"): "$response.body#/id",
}


def _header(description: str, example: str, /, **schema: Any) -> Node:
    return {"description": description, "schema": {"type": "string", **schema}, "example": example, "required": True}


HEADERS = {
    REQUEST_ID: _header(
        "names the request in the log; the request's own, where it sent a harmless one",
        "5d0f6f1c8e7a4b1f9a3c2d4e5f607182",
    ),
    "Retry-After": _header("seconds after which to ask again", "5", pattern="^[0-9]+$"),
    "WWW-Authenticate": _header("how to authenticate", "Bearer"),
}
# What is answered with each status: a name for it, what it means, an example of its detail, the headers it always has.
ERRORS: Mapping[int, tuple[str, str, str, tuple[str, ...]]] = {
    400: (
        "Malformed",
        "The request, its JSON or one of its headers is malformed.",
        "the body is not valid JSON: …",
        (),
    ),
    401: (
        "Unauthenticated",
        "A key is needed, and none that is valid was given.",
        "this needs a key, sent as Authorization: Bearer gnm_…; `gnomon keys create` makes one",
        ("WWW-Authenticate",),
    ),
    403: (
        "Forbidden",
        "The key's role does not allow this.",
        "this needs a key with the role write; that of 'viewer' has the role read",
        (),
    ),
    404: ("NotFound", "There is no such job or execution.", "no job is named 'nightly-backup'", ()),
    408: ("TooSlow", "The body did not arrive in time.", "the request did not arrive in time", ()),
    409: ("Conflict", "The request does not fit the present state.", "another job is named 'nightly-backup'", ()),
    412: (
        "OtherRevision",
        "The job is at another revision than `If-Match` says.",
        "job 3f1c9b0e-5d2a-4c7e-9a41-6b8d2e0f7c55 is at revision 4, not 3: read it again",
        (),
    ),
    413: ("TooLarge", "The body is too large.", "the request body is too large", ()),
    414: ("UriTooLong", "The path with its query is too long.", "the request … exceeds what a server takes", ()),
    415: ("OtherType", "The body is of another type, or compressed.", "the body must be JSON in UTF-8, …", ()),
    422: ("Invalid", "What was given breaks a rule; `errors` says what and where.", "/limit: must be an integer", ()),
    429: ("TooMany", "Too many requests.", "too many requests: come back in 5 s", ("Retry-After",)),
    431: ("HeadersTooLarge", "The headers are too large.", "the request … exceeds what a server takes", ()),
    500: ("Failed", "A defect of the server's; its log has more under the request's id.", "the request failed …", ()),
    503: (
        "Unavailable",
        "A server that is needed for it does not answer now.",
        "a server that this one depends on does not answer now; the same request may succeed later",
        ("Retry-After",),
    ),
}


def complete(document: Node) -> Node:
    """The document that flask-smorest made, with all of it."""
    document["servers"] = [{"url": "/", "description": "the server that this document is from"}]
    components = document["components"]
    components["headers"] = HEADERS
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"key": []}]
    for item in document["paths"].values():
        shared = item.pop("parameters", [])
        for method in METHODS:
            if method in item:
                _complete_operation(item[method], method, shared)
    used = {status for operation in operations(document) for status in operation["responses"]}
    components["responses"] = {error[0]: _error(status) for status, error in ERRORS.items() if str(status) in used}
    components["links"] = dict(_links(document))
    for operation in operations(document):
        _link(operation, document)
    return document


def operations(document: Mapping[str, Any]) -> Iterator[Node]:
    """All of them, in the document's order."""
    for item in document["paths"].values():
        yield from (item[method] for method in METHODS if method in item)


def _complete_operation(operation: Node, method: str, shared: Iterable[Node]) -> None:
    given = [*shared, *operation.pop(OWN), *operation.get("parameters", [])]
    operation["parameters"] = [dict(parameter) for parameter in given]
    if operation.pop(OPEN):
        operation["security"] = []
    answers = {status: answer for status, answer in operation["responses"].items() if int(status) < 400}
    for answer in answers.values():
        answer.setdefault("headers", {})[REQUEST_ID] = {"$ref": f"#/components/headers/{REQUEST_ID}"}
    refusals = {
        str(status): {"$ref": f"#/components/responses/{ERRORS[status][0]}"} for status in _errors(operation, method)
    }
    operation["responses"] = dict(sorted((answers | refusals).items()))
    for name, example in examples(operation["operationId"]).items():
        _add_example(operation, name, example)
    if not operation["parameters"]:
        del operation["parameters"]


def _errors(operation: Node, method: str) -> set[int]:
    """By what the operation takes."""
    given = {(parameter["in"], parameter["name"]) for parameter in operation["parameters"]}
    places = {place for place, _ in given}
    found = {400, 414, 422, 431, 500}
    found |= {503} if operation.get("security") == [] else {401, 403, 429, 503}
    if "path" in places or ("query", "job_id") in given:
        found |= {404}
    if "requestBody" in operation:
        found |= {408, 413, 415}
    if ("header", "Idempotency-Key") in given:
        found |= {409}
    if ("header", "If-Match") in given:
        found |= {412}
    if method in ("post", "put", "patch"):
        found |= {409}
    return found


def _error(status: int) -> Node:
    _, description, detail, headers = ERRORS[status]
    example = problem_document(HTTPStatus(status), detail, request_id=HEADERS[REQUEST_ID]["example"])
    return {
        "description": description,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in (REQUEST_ID, *headers)},
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}},
    }


@cache
def examples(operation_id: str) -> Mapping[str, Any]:
    """Requests with their answers, by name: what was answered is recorded by the test that sends them."""
    file = EXAMPLES / f"{operation_id}.json"
    found: Mapping[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found


def _add_example(operation: Node, name: str, example: Mapping[str, Any]) -> None:
    about = {"summary": example["summary"]}
    parameters = {parameter["name"]: parameter for parameter in operation["parameters"]}
    for parameter, value in example.get("parameters", {}).items():
        parameters[parameter].setdefault("examples", {})[name] = {**about, "value": value}
    if "body" in example:
        for content in operation["requestBody"]["content"].values():
            content.setdefault("examples", {})[name] = {**about, "value": example["body"]}
    if "answer" in example:
        for content in operation["responses"][str(example["status"])]["content"].values():
            content.setdefault("examples", {})[name] = {**about, "value": example["answer"]}


def _links(document: Node) -> Iterator[tuple[str, Node]]:
    """One to each operation on a resource that an answer can name."""
    for operation in operations(document):
        taken = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "path"}
        for (_, parameter), value in NAMED.items():
            if parameter in taken:
                name = operation["operationId"]
                yield name, {"operationId": name, "parameters": {parameter: value}}


def _link(operation: Node, document: Node) -> None:
    """From what made a resource, and says where it is."""
    for answer in operation["responses"].values():
        if "Location" not in answer.get("headers", {}):
            continue
        schema = answer["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        values = [parameter for (made, parameter) in NAMED if made == schema]
        answer["links"] = {
            name: {"$ref": f"#/components/links/{name}"}
            for name, link in document["components"]["links"].items()
            if link["parameters"].keys() <= set(values)
        }
