"""One action on many jobs, over HTTP."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from support.api import created, make_client, only_error, problem
from support.books import unbalanced_moments
from support.world import World
from werkzeug.test import TestResponse


@pytest.fixture
def client(world: World) -> FlaskClient:
    return make_client(world)


def ask(client: FlaskClient, action: str, *, key: str | None = None, **more: Any) -> TestResponse:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post("/v1/jobs/bulk", json={"action": action, **more}, headers=headers)


def done(client: FlaskClient, action: str, *, key: str | None = None, **more: Any) -> dict[str, Any]:
    response = ask(client, action, key=key, **more)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.get_json()
    return answer


def statuses(client: FlaskClient) -> dict[str, str]:
    return {job["name"]: job["status"] for job in client.get("/jobs").get_json()}


def names(listed: list[dict[str, Any]]) -> list[str]:
    return [one["name"] for one in listed]


def three(client: FlaskClient) -> None:
    for name, tags in (("a", ["x"]), ("b", ["x", "y"]), ("c", ["y"])):
        created(client, name=name, tags=tags, cron_schedule="0 * * * *")


def test_only_what_the_filter_leaves_is_paused_and_resumed(client: FlaskClient, world: World) -> None:
    three(client)
    answer = done(client, "pause", filter={"tag": ["x"]}, reason="the target moves")
    assert (answer["count"], names(answer["done"]), answer["refused"], answer["cursor"]) == (2, ["b", "a"], [], None)
    assert statuses(client) == {"a": "STOPPED", "b": "STOPPED", "c": "RUNNING"}
    assert client.get("/jobs/name:a").get_json()["pause_reason"] == "the target moves"
    assert names(done(client, "resume", filter={"status": "STOPPED", "q": "a"})["done"]) == ["a"]
    assert statuses(client) == {"a": "RUNNING", "b": "STOPPED", "c": "RUNNING"}
    for row in world.sql("select id from jobs"):
        assert unbalanced_moments(world, row.id) == {}


def test_dry_run_tells_and_does_nothing(client: FlaskClient) -> None:
    three(client)
    answer = done(client, "delete", filter={"tag": ["y"]}, dry_run=True)
    assert (answer["dry_run"], answer["count"], names(answer["sample"])) == (True, 2, ["c", "b"])
    assert len(statuses(client)) == 3


def test_all_has_to_be_said(client: FlaskClient) -> None:
    three(client)
    for more in ({}, {"filter": {}}, {"filter": None}, {"filter": {"tag": []}}, {"filter": {"q": None}}):
        assert only_error(ask(client, "delete", **more))["pointer"] == "/filter"
    assert only_error(ask(client, "delete", all=True, filter={"q": "a"}))["pointer"] == "/all"
    assert len(statuses(client)) == 3
    assert names(done(client, "delete", all=True)["done"]) == ["c", "b", "a"]
    assert statuses(client) == {}


def test_another_number_than_expected_is_refused_with_the_real_one(client: FlaskClient) -> None:
    three(client)
    document = problem(ask(client, "delete", filter={"tag": ["x"]}, expected_count=1), 409)
    assert document["type"] == "urn:gnomon:problem:count-differs"
    assert "2 match, not 1" in document["detail"]
    assert len(statuses(client)) == 3
    assert done(client, "delete", filter={"tag": ["x"]}, expected_count=2)["count"] == 2


def test_parts_are_continued_by_their_cursor(client: FlaskClient) -> None:
    for number in range(5):
        created(client, name=f"job-{number}")
    found, cursor = [], None
    for _ in range(3):
        answer = done(client, "pause", all=True, limit=2, cursor=cursor)
        found.append(names(answer["done"]))
        cursor = answer["cursor"]
        assert answer["count"] == 5
    assert (found, cursor) == ([["job-4", "job-3"], ["job-2", "job-1"], ["job-0"]], None)
    assert set(statuses(client).values()) == {"STOPPED"}


def test_runs_are_made_once_for_one_key(client: FlaskClient, world: World) -> None:
    three(client)
    first = done(client, "run", key="k", filter={"tag": ["x"]})
    again = done(client, "run", key="k", filter={"tag": ["x"]})
    assert [one["execution_id"] for one in first["done"]] == [one["execution_id"] for one in again["done"]]
    assert world.one("select count(*) from executions where trigger = 'MANUAL'") == 2


def test_each_job_that_refuses_does_so_by_itself(client: FlaskClient, world: World) -> None:
    three(client)
    busy = world.service.run_now("name:b").execution
    answer = done(client, "run", all=True)
    assert names(answer["done"]) == ["c", "a"]
    (refused,) = answer["refused"]
    assert (refused["name"], refused["code"]) == ("b", "overlapping")
    assert str(busy.id) in refused["reason"]
    created(client, name="over", cron_schedule=None, delay_seconds=0)
    world.dispatched()
    refused = done(client, "pause", filter={"q": "over"})["refused"]
    assert [one["code"] for one in refused] == ["conflict"]
    assert names(done(client, "run", filter={"q": "b"}, queue=True)["done"]) == ["b"]


def test_job_that_is_edited_meanwhile_is_left_alone(client: FlaskClient, world: World) -> None:
    three(client)
    listed = world.jobs.list

    def edit_after(query: Any) -> Any:
        page = listed(query)
        world.service.update("name:a", {"tags": ["kept"]})
        world.service.delete("name:c")
        return page

    world.jobs.list = edit_after  # type: ignore[method-assign]
    answer = done(client, "delete", all=True)
    assert names(answer["done"]) == ["b"]
    assert {one["name"]: one["code"] for one in answer["refused"]} == {"a": "changed", "c": "deleted"}
    world.jobs.list = listed  # type: ignore[method-assign]
    assert list(statuses(client)) == ["a"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"filter": {"q": "a"}}, "/action"),
        ({"action": "stop", "filter": {"q": "a"}}, "/action"),
        ({"action": "pause", "filter": {"staus": "RUNNING"}}, "/filter/staus"),
        ({"action": "pause", "filter": {"status": "PAUSED"}}, "/filter/status"),
        ({"action": "pause", "filter": {"next_run_after": "soon"}}, "/filter/next_run_after"),
        ({"action": "pause", "filter": {"tag": "x"}}, "/filter/tag"),
        ({"action": "pause", "filter": "all"}, "/filter"),
        ({"action": "pause", "filter": {"q": "a"}, "limit": 0}, "/limit"),
        ({"action": "pause", "filter": {"q": "a"}, "limit": 1001}, "/limit"),
        ({"action": "pause", "filter": {"q": "a"}, "cursor": "x"}, "/cursor"),
        ({"action": "pause", "filter": {"q": "a"}, "until": "soon"}, "/until"),
        ({"action": "resume", "filter": {"q": "a"}, "reason": "r"}, "/reason"),
        ({"action": "pause", "filter": {"q": "a"}, "queue": True}, "/queue"),
        ({"action": "pause", "filter": {"q": "a"}, "dryrun": True}, "/dryrun"),
    ],
)
def test_wrong_request_is_refused(client: FlaskClient, body: dict[str, Any], pointer: str) -> None:
    created(client, name="a")
    for asked in (body, {"dry_run": True, **body}):
        assert only_error(client.post("/jobs/bulk", json=asked))["pointer"] == pointer
    assert statuses(client) == {"a": "RUNNING"}
