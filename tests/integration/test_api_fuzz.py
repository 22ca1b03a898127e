"""schemathesis against the API: no answer outside the OpenAPI document, whatever is sent.

SCHEMATHESIS_SEED in the environment repeats a run; the seed is printed when something is found.
"""

import json
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import schemathesis
from flask import Flask
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from support.api import make_client
from support.example_scene import set_scene
from support.world import World
from werkzeug.serving import WSGIRequestHandler, make_server

from gnomon import __version__
from gnomon.api.app import make_document
from gnomon.api.throttle import Throttle
from gnomon.job.api_key import make_key, to_store
from gnomon.job.principal import Role

CONFIGURATION = """
seed = {seed}
base-url = "{url}"
continue-on-failure = true
[generation]
max-examples = {examples}
database = "none"
# Rules that a schema can't tell (a cron expression, two fields that exclude each other) are answered 422, and a
# revision that is not the job's 412. 400: schemathesis takes the quotes off an If-Match that it calls valid.
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "404", "409", "412", "422"]
negative_data_rejection.expected-statuses = ["400", "401", "403", "404", "405", "409", "412", "415", "422"]
[phases]
examples.enabled = {first}
coverage.enabled = {first}
fuzzing.enabled = {first}
stateful.max-steps = 15
stateful.generation.max-examples = 300
# The history of a deleted job, and who did what to it, stay readable by its id.
[[operations]]
include-operation-id = ["list_executions_of_job", "list_events_of_job"]
checks.use_after_free.enabled = false
# Who has no key is not told which methods there are.
[[operations]]
include-tag = "health"
checks.unsupported_method.enabled = false
"""
# Bodies that are nothing special, so that something happens; schemas are too wide to find them by chance.
POLICIES = {
    "tags": {"type": "array", "items": {"enum": ["billing", "backup", "\u00e9"]}, "maxItems": 3},
    "overlap": {"enum": ["skip", "allow", "queue"]},
    "delivery": {"enum": ["at_least_once", "at_most_once"]},
    "timeout_seconds": {"type": "integer", "minimum": 1, "maximum": 60},
    "retry": {"type": "object", "properties": {"max_attempts": {"type": "integer", "minimum": 1, "maximum": 5}}},
}
CALL = {
    "type": "object",
    "required": ["url"],
    "properties": {"url": {"enum": ["https://example.com/", "example.org/a?b=c"]}, "body": {"enum": ["", "{}"]}},
    "additionalProperties": False,
}
ORDINARY: Mapping[str, Any] = {
    "JobInput": {
        "type": "object",
        "required": ["type", "interval_seconds", "http_job"],
        "properties": {
            "type": {"const": "HTTP"},
            "interval_seconds": {"type": "integer", "minimum": 60, "maximum": 10_000},
            "http_job": CALL,
            **POLICIES,
        },
        "additionalProperties": False,
    },
    "JobPatch": {"type": "object", "properties": POLICIES, "additionalProperties": False},
    "JobPut": {"type": "object", "properties": POLICIES, "additionalProperties": False},
}


@schemathesis.serializer("application/x-ndjson")
def as_lines(_context: object, value: object) -> bytes:
    """What schemathesis can't send by itself."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode(errors="replace")


@pytest.mark.parametrize("keyed", [False, True], ids=["without a key", "with a key"])
def test_no_answer_is_outside_the_document(world: World, keyed: bool) -> None:
    seen = run(world, keyed=keyed, seed=int(os.environ.get("SCHEMATHESIS_SEED", "1")), examples=40, walks=3)
    assert seen["examples"] >= 40
    assert seen["coverage"] >= 3_000
    assert seen["fuzzing"] >= 600
    assert seen["stateful"] >= 400
    assert seen.total() >= 5_000


@pytest.mark.long
@pytest.mark.parametrize("keyed", [False, True], ids=["without a key", "with a key"])
def test_no_answer_is_outside_the_document_at_length(world: World, keyed: bool) -> None:
    seed = int(os.environ.get("SCHEMATHESIS_SEED", random.randrange(2**31)))
    assert run(world, keyed=keyed, seed=seed, examples=150, walks=8).total() >= 10_000


def run(world: World, *, keyed: bool, seed: int, examples: int, walks: int) -> Counter[str]:
    """How many requests each phase made. Whatever the checks find is asserted to be nothing.

    Hypothesis ends a stateful phase early where the same steps once had another outcome, as the database keeps what
    earlier ones left: so there are some, each with a seed of its own.
    """
    set_scene(world)
    document = eased(make_document(__version__))
    app = make_client(world, version=__version__, failures=Throttle(10**9, 1)).application
    if keyed:
        key = make_key()
        world.keys.add(to_store(key, name="fuzz", role=Role.ADMIN, expires_at=None, created_by="a test"))
        more = f'[auth.openapi.key]\nbearer = "{key.text}"\n'
    else:  # as on loopback, where there is none in the database
        del document["security"], document["components"]["securitySchemes"]
        more = ""
    requests: Counter[str] = Counter()
    with served(app) if keyed else nullcontext("http://localhost") as url:
        for walk in range(walks):
            configuration = CONFIGURATION.format(
                seed=seed + walk, examples=examples, first=str(walk == 0).lower(), url=url
            )
            requests += findings(document, None if keyed else app, configuration + more, seed)
    return requests


@contextmanager
def served(app: Flask) -> Iterator[str]:
    """Over a socket: schemathesis can't try what it does without a key in one process."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, kind: str, message: str, *args: object) -> None:
        """Nothing: there would be a line for each request."""


def eased(document: dict[str, Any]) -> dict[str, Any]:
    """The same document: what is ordinary was allowed before, but is now drawn half of the time."""
    schemas = document["components"]["schemas"]
    for name, ordinary in ORDINARY.items():
        schemas[f"Any{name}"] = schemas[name]
        schemas[name] = {"anyOf": [ordinary, {"$ref": f"#/components/schemas/Any{name}"}]}
    return document


def findings(document: dict[str, Any], app: Flask | None, configuration: str, seed: int) -> Counter[str]:
    config = SchemathesisConfig.from_str(configuration)
    schema = schemathesis.openapi.from_dict(document, config=config)
    schema.app = app  # called in this process if it is one, else asked at its URL
    requests: Counter[str] = Counter()
    found: dict[str, str] = {}
    for event in from_schema(schema).execute():
        match event:
            case events.ScenarioFinished(phase=phase, recorder=recorder):
                requests[phase.value] += len(recorder.interactions)
                for checks in recorder.checks.values():
                    for check in checks:
                        if check.failure_info is not None:
                            failure = check.failure_info.failure
                            text = f"{failure.title}: {failure.message}\n{check.failure_info.code_sample}"
                            found.setdefault(f"{check.name} {failure.operation}", text)
            case events.NonFatalError(value=error, label=label):
                found[label] = repr(error)
            case events.FatalError(exception=error):
                raise error
    report = "\n\n".join(f"{where}\n{text}" for where, text in sorted(found.items()))
    assert not found, f"SCHEMATHESIS_SEED={seed} found in {requests.total()} requests:\n\n{report}"
    return requests
