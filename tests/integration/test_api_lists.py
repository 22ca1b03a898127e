"""Lists over HTTP: filters and pages."""

from collections.abc import Sequence
from typing import Any

import pytest
from flask.testing import FlaskClient
from support.api import created, make_client, only_error
from support.world import World, record
from werkzeug.http import parse_options_header

from gnomon.job.model import State


@pytest.fixture
def client(world: World) -> FlaskClient:
    return make_client(world)


def names(client: FlaskClient, query: str = "") -> list[str]:
    response = client.get(f"/jobs{query}")
    assert response.status_code == 200, response.get_data(as_text=True)
    return [job["name"] for job in response.get_json()]


def pages(client: FlaskClient, path: str) -> list[Sequence[dict[str, Any]]]:
    found = []
    while path:
        response = client.get(path)
        assert response.status_code == 200, response.get_data(as_text=True)
        found.append(response.get_json())
        link, options = parse_options_header(response.headers.get("Link"))
        assert not link or options["rel"] == "next"
        path = link.strip("<>")
    return found


def test_jobs_are_listed_newest_first(client: FlaskClient) -> None:
    assert names(client) == []
    for name in "abc":
        created(client, name=name)
    assert names(client) == ["c", "b", "a"]


def test_pages_hold_every_job_once(client: FlaskClient) -> None:
    for number in range(7):
        created(client, name=f"job-{number}", tags=["été & co"])
    created(client, name="other")
    found = pages(client, "/v1/jobs?limit=3&tag=%C3%A9t%C3%A9+%26+co")
    assert [len(page) for page in found] == [3, 3, 1]
    assert [job["name"] for page in found for job in page] == [f"job-{number}" for number in range(6, -1, -1)]


def test_page_that_ends_exactly_has_no_next(client: FlaskClient) -> None:
    for _ in range(4):
        created(client)
    assert [len(page) for page in pages(client, "/jobs?limit=2")] == [2, 2]


def test_offset_skips(client: FlaskClient) -> None:
    for name in "abcde":
        created(client, name=name)
    assert names(client, "?limit=2&offset=1") == ["d", "c"]
    assert [[job["name"] for job in page] for page in pages(client, "/jobs?limit=2&offset=1")] == [
        ["d", "c"],
        ["b", "a"],
    ]


def test_filters(client: FlaskClient, world: World) -> None:
    created(client, name="nightly-backup", tags=["db", "prod"])
    created(client, name="Nightly-report", tags=["prod"])
    created(client, name="hook_1", tags=["db"])
    world.sql("update jobs set status = 'STOPPED' where name = 'hook_1'")
    assert names(client, "?q=NIGHT") == ["Nightly-report", "nightly-backup"]
    assert names(client, "?q=%25") == []
    assert names(client, "?q=_") == ["hook_1"]
    assert names(client, "?tag=prod") == ["Nightly-report", "nightly-backup"]
    assert names(client, "?tag=prod&tag=db") == ["nightly-backup"]
    assert names(client, "?tags=prod,db") == ["nightly-backup"]
    assert names(client, "?status=STOPPED") == ["hook_1"]
    assert names(client, "?status=RUNNING&tag=db") == ["nightly-backup"]
    assert len(names(client, "?type=HTTP")) == 3
    assert names(client, "?type=AMQP") == []


@pytest.mark.parametrize(
    ("query", "pointer", "words"),
    [
        ("stauts=RUNNING", "/stauts", "did you mean 'status'?"),
        ("page=2", "/page", "known:"),
        ("limit=0", "/limit", "between 1 and 500"),
        ("limit=501", "/limit", "between 1 and 500"),
        ("limit=ten", "/limit", "integer"),
        ("limit=", "/limit", "integer"),
        ("limit=-1", "/limit", "integer"),
        ("limit=1e2", "/limit", "integer"),
        ("limit=%EF%BC%95", "/limit", "integer"),
        ("limit=" + "9" * 4000, "/limit", "integer"),
        ("limit=5&limit=6", "/limit", "given 2 times"),
        ("offset=10001", "/offset", "10000"),
        ("status=running", "/status", "must be one of RUNNING, STOPPED, COMPLETED"),
        ("cursor=garbage", "/cursor", "not a cursor"),
        ("cursor=%C3%A9", "/cursor", "not a cursor"),
        ("cursor=eA&offset=1", "/offset", "cursor"),
        ("q=%00", "", "NUL"),
        ("tag=a%00", "", "NUL"),
        ("a%00=1", "", "NUL"),
        ("q=" + "x" * 201, "/q", "200"),
    ],
)
def test_wrong_query_is_refused(client: FlaskClient, query: str, pointer: str, words: str) -> None:
    error = only_error(client.get(f"/jobs?{query}"))
    assert error["pointer"] == pointer
    assert words in error["detail"] + error.get("hint", "")


@pytest.fixture
def job_with_history(world: World) -> str:
    """Five executions, oldest first: SUCCEEDED, FAILED, UNKNOWN, RUNNING, PENDING."""
    job = world.due(overlap="allow")
    for state in (State.SUCCEEDED, State.FAILED, State.UNKNOWN):
        (claimed,) = world.claim(world.dispatched())
        world.executions.record([record(claimed, state, error_message="said no", response_status=500)])
        world.make_due(job)
    world.claim(world.dispatched())
    world.make_due(job)
    world.dispatched()
    return str(job.id)


def states(client: FlaskClient, job_id: str, query: str = "") -> list[str]:
    response = client.get(f"/jobs/{job_id}/executions{query}")
    assert response.status_code == 200, response.get_data(as_text=True)
    return [execution["state"] for execution in response.get_json()]


def test_executions_are_listed_newest_first(client: FlaskClient, job_with_history: str) -> None:
    assert states(client, job_with_history) == ["PENDING", "RUNNING", "UNKNOWN", "FAILED", "SUCCEEDED"]
    assert states(client, job_with_history, "?state=RUNNING&state=SUCCEEDED") == ["RUNNING", "SUCCEEDED"]
    assert states(client, job_with_history, "?failed_only=true") == ["UNKNOWN", "FAILED"]
    assert states(client, job_with_history, "?failedOnly=true&limit=1") == ["UNKNOWN"]
    assert len(states(client, job_with_history, "?failed_only=false&limit=2&offset=1")) == 2
    found = pages(client, f"/v1/jobs/{job_with_history}/executions?limit=2&failed_only=false")
    assert [len(page) for page in found] == [2, 2, 1]


def test_execution_answers_what_became_of_it(client: FlaskClient, job_with_history: str) -> None:
    (failed,) = client.get(f"/jobs/{job_with_history}/executions?state=FAILED").get_json()
    assert failed["job_id"] == job_with_history
    assert failed["trigger"] == "SCHEDULE"
    assert failed["success"] is False
    assert failed["error_message"] == "said no"
    assert failed["response_status"] == 500
    assert failed["lateness_seconds"] >= 0
    assert failed["duration_seconds"] >= 0
    (attempt,) = failed["attempts"]
    assert (attempt["attempt"], attempt["outcome"], attempt["worker"]) == (1, "FAILED", "worker-1")


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("state=failed", "/state/0"),
        ("failed_only=yes", "/failed_only"),
        ("failed_only=true&state=FAILED", "/failed_only"),
        ("fialed_only=true", "/fialed_only"),
        ("cursor=x", "/cursor"),
    ],
)
def test_wrong_query_of_executions_is_refused(
    client: FlaskClient, job_with_history: str, query: str, pointer: str
) -> None:
    assert only_error(client.get(f"/jobs/{job_with_history}/executions?{query}"))["pointer"] == pointer


def test_executions_of_all_jobs_are_listed_by_state_trigger_job_and_moment(client: FlaskClient, world: World) -> None:
    first, second = world.due(overlap="allow"), world.due()
    for claimed in world.claim(world.dispatched()):
        world.executions.record([record(claimed, State.FAILED if claimed.job_id == first.id else State.SUCCEEDED)])
    world.service.run_now(str(first.id))

    def listed(query: str = "") -> list[tuple[str, str]]:
        response = client.get(f"/v1/executions{query}")
        assert response.status_code == 200, response.get_data(as_text=True)
        return sorted((one["job_id"], one["state"]) for one in response.get_json())

    failed, done, pending = (str(first.id), "FAILED"), (str(second.id), "SUCCEEDED"), (str(first.id), "PENDING")
    assert listed() == sorted([failed, done, pending])
    assert listed("?failed_only=true") == listed("?state=FAILED&state=UNKNOWN") == [failed]
    assert listed("?trigger=MANUAL") == [pending]
    assert listed(f"?job_id={second.id}") == [done]
    assert listed("?scheduled_before=2020-01-01T00:00:00Z") == listed("?scheduled_after=2100-01-01T00:00:00Z") == []
    assert len(listed("?scheduled_after=2020-01-01T00:00:00Z&scheduled_before=2100-01-01T00:00:00Z")) == 3
    assert [len(page) for page in pages(client, "/v1/executions?limit=2")] == [2, 1]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("?scheduled_after=yesterday", "/scheduled_after"),
        ("?trigger=CRON", "/trigger"),
        ("?stat=FAILED", "/stat"),
        ("?failed_only=true&state=FAILED", "/failed_only"),
    ],
)
def test_executions_are_not_listed_by_what_makes_no_sense(client: FlaskClient, query: str, pointer: str) -> None:
    assert only_error(client.get(f"/executions{query}"))["pointer"] == pointer
