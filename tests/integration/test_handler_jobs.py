"""Jobs that call handlers, over HTTP: named, checked against what workers announced, and treated like any other job."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from support.aging import let_pass
from support.api import make_client, only_error, problem
from support.world import World, record, token

from gnomon.job.document import Whole
from gnomon.job.handlers import HandlerSpec
from gnomon.job.model import Job, State
from gnomon.job.target import HandlerTarget

PRINTED: dict[str, Any] = {
    "type": "email_notification",
    "schedule": "*/10 * * * *",
    "payload": {"recipient": "user@example.com", "message": "…"},
}
SCHEMA = {
    "type": "object",
    "properties": {"recipient": {"type": "string"}, "message": {"type": ["string", "null"]}},
    "required": ["recipient", "message"],
    "additionalProperties": False,
}
EMAIL = HandlerSpec(name="email_notification", queue="handlers", schema=SCHEMA)
REPORT = HandlerSpec(name="report.daily", queue="async")


@pytest.fixture
def client(world: World) -> FlaskClient:
    world.announce(EMAIL, REPORT, retry_strategies=["patient"])
    return make_client(world)


def created(client: FlaskClient, **changes: Any) -> dict[str, Any]:
    response = client.post("/v1/jobs", json={**PRINTED, **changes})
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.get_json()
    return answer


def changed(client: FlaskClient, job: dict[str, Any], **patch: Any) -> dict[str, Any]:
    response = client.patch(f"/v1/jobs/{job['id']}", json=patch)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.get_json()
    return answer


def target_of(world: World, job: dict[str, Any]) -> HandlerTarget:
    definition = world.service.get(job["id"]).definition
    assert definition is not None
    assert isinstance(definition.target, HandlerTarget)
    return definition.target


def test_handler_job_is_created_as_printed(client: FlaskClient, world: World) -> None:
    job = created(client)
    assert (job["type"], job["cron_schedule"], job["payload"]) == (
        "email_notification",
        "*/10 * * * *",
        PRINTED["payload"],
    )
    assert (job["queue"], job["warnings"], len(job["next_runs"])) == ("handlers", [], 5)
    assert not {"http_job", "amqp_job"} & job.keys()
    shown = client.get(f"/v1/jobs/{job['id']}").get_json()
    assert shown == {key: value for key, value in job.items() if key in shown}
    other = created(client, type="report.daily", payload=None)
    assert (other["payload"], other["queue"]) == ({}, "async")
    assert [one["id"] for one in client.get("/v1/jobs?type=email_notification").get_json()] == [job["id"]]
    assert client.get("/v1/jobs?type=HTTP").get_json() == []
    assert target_of(world, job).payload == PRINTED["payload"]


def test_printed_job_is_created(client: FlaskClient) -> None:
    page = (Path(__file__).parents[2] / "docs/semantics.md").read_text()
    (block,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert client.post("/v1/jobs", json=json.loads(block)).status_code == 201


def test_patch_merges_into_the_payload_and_put_replaces_it(client: FlaskClient, world: World) -> None:
    job = created(client, payload={"recipient": "a@example.com", "message": None})
    assert job["payload"]["message"] is None
    assert client.put(f"/v1/jobs/{job['id']}", json=job).get_json()["revision"] == 1
    assert changed(client, job, payload={"message": "Hi"})["payload"] == {"recipient": "a@example.com", "message": "Hi"}
    error = only_error(client.patch(f"/v1/jobs/{job['id']}", json={"payload": {"message": None}}))
    assert (error["pointer"], error["detail"]) == ("/payload/message", "is missing")
    put = client.put(f"/v1/jobs/{job['id']}", json={"payload": {"recipient": "b@example.com", "message": None}})
    assert put.get_json()["payload"] == {"recipient": "b@example.com", "message": None}
    assert put.get_json()["warnings"] == []
    assert target_of(world, job).payload == {"recipient": "b@example.com", "message": None}


def test_type_changes_between_all_kinds(client: FlaskClient) -> None:
    job = created(client)
    called = changed(client, job, type="HTTP", http_job={"url": "https://example.com"})
    assert not {"payload", "queue"} & called.keys()
    assert "http_job" not in changed(client, job, type="report.daily", payload={"day": 1})
    back = changed(client, job, type="email_notification", payload=PRINTED["payload"])
    assert (back["payload"], back["queue"]) == (PRINTED["payload"], "handlers")
    assert only_error(client.patch(f"/v1/jobs/{job['id']}", json={"type": "HTTP"}))["pointer"] == "/http_job"


REFUSED = {
    "missing field": ({"payload": {"recipient": "a"}}, "/payload/message", "is missing"),
    "wrong type": ({"payload": {"recipient": 5, "message": ""}}, "/payload/recipient", "must be a string"),
    "unknown field": ({"payload": {"recipient": "a", "message": "", "x": 1}}, "/payload/x", "is not known here"),
    "no object": ({"payload": [1]}, "/payload", "must be an object"),
    "too deep": (
        {"type": "report.daily", "payload": {"a": [[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]}},
        "/payload",
        "deep",
    ),
    "too large": ({"type": "report.daily", "payload": {"a": "x" * 131_072}}, "/payload", "131072"),
    "never announced": ({"type": "reprot.daily"}, "/type", "known: HTTP, AMQP, email_notification, report.daily"),
    "malformed name": ({"type": "a b"}, "/type", "letters"),
    "small letters": ({"type": "http"}, "/type", "kind of target"),
    "HTTP beside it": ({"http_job": {"url": "https://example.com"}}, "/http_job", "does not belong"),
    "AMQP beside it": ({"amqp": {"connection": "amqp://a"}}, "/amqp", "does not belong"),
    "queue": ({"queue": "async"}, "/queue", "is not known here"),
    "never fires": ({"schedule": "0 0 30 2 *"}, "/schedule", "never"),
    "unknown strategy": ({"retry": {"strategy": "hasty"}}, "/retry/strategy", "known: patient"),
    "strategy is no text": ({"retry": {"strategy": 5}}, "/retry/strategy", "must be a string"),
}


@pytest.mark.parametrize(("changes", "pointer", "words"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_with_its_place(
    client: FlaskClient, changes: dict[str, Any], pointer: str, words: str
) -> None:
    error = only_error(client.post("/v1/jobs", json={**PRINTED, **changes}))
    assert error["pointer"].startswith(pointer)
    assert words in error["detail"]


def test_payload_beside_a_call_is_refused(client: FlaskClient) -> None:
    body = {"type": "HTTP", "schedule": "@daily", "http_job": {"url": "https://example.com"}, "payload": {"a": 1}}
    assert only_error(client.post("/v1/jobs", json=body))["pointer"] == "/payload"


def test_what_is_wrong_is_told_at_once_and_shows_no_payload(client: FlaskClient) -> None:
    body = {**PRINTED, "payload": {"recipient": ["hunter2"], **{f"x{number}": "hunter2" for number in range(40)}}}
    response = client.post("/v1/jobs", json=body)
    assert len(problem(response, 422)["errors"]) == 20
    assert "hunter2" not in response.text


def test_handler_of_dead_workers_is_accepted_with_a_warning(client: FlaskClient, world: World) -> None:
    let_pass(world, timedelta(minutes=5))
    job = created(client)
    (warning,) = job["warnings"]
    assert "'email_notification'" in warning
    assert "last seen" in warning
    assert changed(client, job, tags=["a"])["warnings"] == [warning]
    world.announce(EMAIL)
    assert changed(client, job, tags=["b"])["warnings"] == []


def test_job_whose_handler_has_changed_is_read_and_rescheduled(client: FlaskClient, world: World) -> None:
    job = created(client)
    let_pass(world, timedelta(minutes=5))
    other = {"type": "object", "required": ["subject"]}
    world.announce(HandlerSpec(name=EMAIL.name, queue="async", schema=other))
    shown = client.get(f"/v1/jobs/{job['id']}").get_json()
    assert (shown["payload"], shown["queue"]) == (PRINTED["payload"], "handlers")
    moved = changed(client, job, cron_schedule="@daily")
    assert (moved["queue"], moved["revision"]) == ("async", 2)
    assert moved["warnings"] == ["/payload/subject: is missing"]
    error = only_error(client.patch(f"/v1/jobs/{job['id']}", json={"payload": {"message": "x"}}))
    assert error["pointer"] == "/payload/subject"


def test_strategy_is_kept_and_taken_away(client: FlaskClient) -> None:
    job = created(client, retry={"strategy": "patient", "max_attempts": 9})
    assert (job["retry"]["strategy"], job["retry"]["max_attempts"]) == ("patient", 9)
    assert changed(client, job, retry={"strategy": None})["retry"]["strategy"] is None


def handler_job(world: World, **document: Any) -> Job:
    world.announce(EMAIL, REPORT)
    return world.due(type="report.daily", http_job=None, **document)


def test_any_payload_is_stored_as_it_was_given(world: World) -> None:
    numbers = [0, -0.0, 1, 1.0, 1e15, 1e-7, 5e-324, 0.1, 1 / 3, 2**53 - 1, -(2.0**53 - 1), 123456789.123456789]
    texts = ["", 'é\u2028\U0001f600\\"/\x01\x7f\ufffe', "-0.0", "null"]
    payload = {"numbers": numbers, "texts": texts, "": {"": [], "a": {}, "b": [None, True, [[]]]}, "\x01é": 1}
    job = handler_job(world, payload=payload)
    stored = world.service.get(str(job.id))
    assert target_of(world, {"id": str(job.id)}) == HandlerTarget(name="report.daily", payload=payload, queue="async")
    assert target_of(world, {"id": str(job.id)}).payload == payload
    assert world.service.update(str(job.id), {"payload": Whole(payload)}).revision == stored.revision == 1
    assert world.service.update(str(job.id), {"payload": {"\x01é": True}}).revision == 2


def fail(world: World, ids: list[UUID], state: State = State.FAILED) -> UUID:
    (claimed,) = world.claim(ids)
    world.executions.record([record(claimed, state)])
    return claimed.id


def test_executions_of_handlers_are_published_to_their_queue(world: World) -> None:
    job = handler_job(world)
    (execution,) = world.dispatched()
    world.sql("update executions set next_publish_at = now()")
    assert world.dispatch.republish(limit=10) == {"async": [execution]}
    assert world.history_of(job)[0].state is State.PENDING


@pytest.mark.parametrize("overlap", ["skip", "queue", "allow"])
def test_overlap_holds_for_handlers(world: World, overlap: str) -> None:
    job = handler_job(world, overlap=overlap)
    world.dispatched()
    world.make_due(job)
    world.dispatched()
    second = {"skip": "SKIPPED", "queue": "WAITING", "allow": "PENDING"}[overlap]
    assert sorted(world.states_of(job)) == sorted(["PENDING", second])


def test_handler_that_was_lost_at_most_once_is_unknown(world: World) -> None:
    job = handler_job(world, delivery="at_most_once")
    (claimed,) = world.claim(world.dispatched(), delivery=UUID(int=1))
    started = world.executions.start([token(claimed)], delivery=UUID(int=1), margin=timedelta(seconds=1))
    assert started == {claimed.id}
    let_pass(world, timedelta(minutes=5))
    world.dispatch.rescue(grace=timedelta(seconds=2), spare=None)
    assert world.states_of(job) == ["UNKNOWN"]


def test_handlers_are_run_retried_and_backfilled_like_calls(world: World) -> None:
    job = handler_job(world, overlap="allow", payload={"day": 1})
    failed = fail(world, world.dispatched())
    run = world.service.run_now(str(job.id)).execution
    world.service.update(str(job.id), {"type": "email_notification", "payload": PRINTED["payload"]})
    again = world.service.retry(str(failed)).execution
    same = world.service.retry(str(failed), same_revision=True).execution
    queues = {row.id: (row.kind, row.queue) for row in world.sql("select id, kind, queue from executions")}
    assert queues[run.id] == queues[same.id] == ("report.daily", "async")
    assert queues[again.id] == ("email_notification", "handlers")
    definitions = world.executions.definitions([(job.id, 1), (job.id, 2)])
    targets = [definitions[job.id, revision].target for revision in (1, 2)]
    assert [target.payload for target in targets if isinstance(target, HandlerTarget)] == [
        {"day": 1},
        PRINTED["payload"],
    ]
