"""schemathesis against the API: no answer outside the OpenAPI document, whatever is sent.

SCHEMATHESIS_SEED in the environment repeats a run; the seed is printed when something is found.
"""

import os
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
import schemathesis
from flask import Flask
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from support.api import make_client
from support.example_scene import set_scene
from support.world import World

from gnomon import __version__
from gnomon.api.app import make_document

CONFIGURATION = """
seed = {seed}
continue-on-failure = true
[generation]
max-examples = {examples}
database = "none"
# Rules that a schema can't tell (a cron expression, two fields that exclude each other) are answered 422, and a
# revision that is not the job's 412. 400: schemathesis takes the quotes off an If-Match that it calls valid.
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "409", "412", "422"]
negative_data_rejection.expected-statuses = ["400", "401", "403", "404", "405", "409", "412", "415", "422"]
[phases]
examples.enabled = {first}
coverage.enabled = {first}
fuzzing.enabled = {first}
stateful.max-steps = 15
stateful.generation.max-examples = 300
# The history of a deleted job stays readable by its id.
[[operations]]
include-operation-id = "list_executions_of_job"
checks.use_after_free.enabled = false
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


def test_no_answer_is_outside_the_document(world: World) -> None:
    seen = run(world, seed=int(os.environ.get("SCHEMATHESIS_SEED", "1")), examples=60, walks=4)
    assert seen["examples"] >= 40
    assert seen["coverage"] >= 3_000
    assert seen["fuzzing"] >= 600
    assert seen["stateful"] >= 400
    assert seen.total() >= 5_000


@pytest.mark.long
def test_no_answer_is_outside_the_document_at_length(world: World) -> None:
    seed = int(os.environ.get("SCHEMATHESIS_SEED", random.randrange(2**31)))
    assert run(world, seed=seed, examples=600, walks=40).total() >= 15_000


def run(world: World, *, seed: int, examples: int, walks: int) -> Counter[str]:
    """How many requests each phase made. Whatever the checks find is asserted to be nothing.

    Hypothesis ends a stateful phase early where the same steps once had another outcome, as the database keeps what
    earlier ones left: so there are some, each with a seed of its own.
    """
    set_scene(world)
    document = eased(make_document(__version__))
    # without keys in the database, the API on loopback takes none
    del document["security"], document["components"]["securitySchemes"]
    app = make_client(world, version=__version__).application
    requests: Counter[str] = Counter()
    for walk in range(walks):
        configuration = CONFIGURATION.format(seed=seed + walk, examples=examples, first=str(walk == 0).lower())
        requests += findings(document, app, configuration, seed)
    return requests


def eased(document: dict[str, Any]) -> dict[str, Any]:
    """The same document: what is ordinary was allowed before, but is now drawn half of the time."""
    schemas = document["components"]["schemas"]
    for name, ordinary in ORDINARY.items():
        schemas[f"Any{name}"] = schemas[name]
        schemas[name] = {"anyOf": [ordinary, {"$ref": f"#/components/schemas/Any{name}"}]}
    return document


def findings(document: dict[str, Any], app: Flask, configuration: str, seed: int) -> Counter[str]:
    config = SchemathesisConfig.from_str(configuration)
    schema = schemathesis.openapi.from_dict(document, config=config)
    schema.app = app
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
