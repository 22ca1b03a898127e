"""Run, pause, resume, backfill and cancel over HTTP: statuses, headers, and what is refused. See test_requested_runs.py
for what they do."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from support.api import created, make_client, only_error, problem
from support.world import World


@pytest.fixture
def client(world: World) -> FlaskClient:
    return make_client(world)


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_run_answers_the_execution_and_where_to_read_it(client: FlaskClient, prefix: str) -> None:
    job = created(client)
    response = client.post(f"{prefix}/jobs/{job['id']}/run")
    answer = response.get_json()
    assert response.status_code == 202
    assert (answer["job_id"], answer["trigger"], answer["state"]) == (job["id"], "MANUAL", "PENDING")
    assert response.headers["Location"] == f"{prefix}/executions/{answer['id']}"
    assert client.get(response.headers["Location"]).get_json() == answer


def test_run_that_overlaps_is_a_conflict_that_says_what_to_do(client: FlaskClient) -> None:
    job = created(client)
    active = client.post(f"/jobs/{job['id']}/run").get_json()
    refused = problem(client.post(f"/jobs/{job['id']}/run"), 409)
    assert active["id"] in refused["detail"]
    assert "queue=true" in refused["detail"]
    waiting = client.post(f"/jobs/{job['id']}/run?queue=true")
    assert (waiting.status_code, waiting.get_json()["state"]) == (202, "WAITING")


def test_repeated_run_with_its_key_is_marked(client: FlaskClient) -> None:
    job = created(client, overlap="allow")
    first = client.post(f"/jobs/{job['id']}/run", headers={"Idempotency-Key": "click-1"})
    again = client.post(f"/jobs/{job['id']}/run", headers={"Idempotency-Key": "click-1"})
    assert first.get_json()["id"] == again.get_json()["id"]
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    other = client.post(f"/jobs/{job['id']}/run?queue=true", headers={"Idempotency-Key": "click-1"})
    assert problem(other, 422)["type"] == "urn:gnomon:problem:key-reused"


@pytest.mark.parametrize("key", ["", "with space", "x" * 256, "\xe4"])
def test_key_that_no_header_should_hold_is_refused(client: FlaskClient, key: str) -> None:
    job = created(client)
    problem(client.post(f"/jobs/{job['id']}/run", headers={"Idempotency-Key": key}), 400)
    assert client.get(f"/jobs/{job['id']}/executions").get_json() == []


def test_pause_and_resume_answer_the_job(client: FlaskClient) -> None:
    job = created(client, name="nightly")
    paused = client.post("/jobs/name:nightly/pause", json={"reason": "holidays", "until": "2100-01-01T00:00:00Z"})
    assert paused.status_code == 200
    answer = paused.get_json()
    assert (answer["status"], answer["pause_reason"]) == ("STOPPED", "holidays")
    assert (answer["paused_until"], answer["next_run"]) == ("2100-01-01T00:00:00Z", "2100-01-01T00:00:00Z")
    resumed = client.post(f"/jobs/{job['id']}/resume").get_json()
    assert (resumed["status"], resumed["pause_reason"], resumed["paused_until"]) == ("RUNNING", None, None)
    assert resumed["next_run"] == job["next_run"]


def test_pause_needs_no_body(client: FlaskClient) -> None:
    job = created(client)
    assert client.post(f"/jobs/{job['id']}/pause").get_json()["status"] == "STOPPED"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"until": 5}, "/until"),
        ({"until": "tomorrow"}, "/until"),
        ({"reason": "x" * 501}, "/reason"),
        ({"why": "x"}, "/why"),
    ],
)
def test_pause_says_what_is_wrong(client: FlaskClient, body: dict[str, Any], pointer: str) -> None:
    job = created(client)
    assert only_error(client.post(f"/jobs/{job['id']}/pause", json=body))["pointer"] == pointer
    assert client.get(f"/jobs/{job['id']}").get_json()["status"] == "RUNNING"


def test_backfill_tells_the_moments(client: FlaskClient, world: World) -> None:
    job = created(client, cron_schedule="0 * * * *")
    asked = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T02:30:00Z"}
    moments = [f"2026-01-01T0{hour}:00:00Z" for hour in range(3)]
    dry = client.post(f"/jobs/{job['id']}/backfill", json={**asked, "dry_run": True})
    assert (dry.status_code, dry.get_json()) == (200, {"dry_run": True, "count": 3, "moments": moments})
    assert client.get(f"/jobs/{job['id']}/executions").get_json() == []
    done = client.post(f"/jobs/{job['id']}/backfill", json=asked)
    assert (done.status_code, done.get_json()["count"]) == (202, 3)
    listed = client.get(f"/jobs/{job['id']}/executions").get_json()
    assert [(one["trigger"], one["scheduled_at"]) for one in reversed(listed)] == [("BACKFILL", at) for at in moments]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"to": "2026-01-01T00:00:00Z"}, "/from"),
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z", "dry_run": "yes"}, "/dry_run"),
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-01-01"}, "/to"),
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z", "dry": True}, "/dry"),
    ],
)
def test_backfill_says_what_is_wrong(client: FlaskClient, body: dict[str, Any], pointer: str) -> None:
    job = created(client)
    assert only_error(client.post(f"/jobs/{job['id']}/backfill", json=body))["pointer"] == pointer


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_retry_answers_the_new_execution_and_what_it_repeats(client: FlaskClient, prefix: str) -> None:
    job = created(client)
    first = client.post(f"/jobs/{job['id']}/run").get_json()
    client.post(f"/executions/{first['id']}/cancel")
    response = client.post(f"{prefix}/executions/{first['id']}/retry?revision=same", headers={"Idempotency-Key": "k"})
    again = response.get_json()
    assert response.status_code == 202
    assert response.headers["Location"] == f"{prefix}/executions/{again['id']}"
    assert (again["trigger"], again["repeats"], again["revision"]) == ("RETRY_OF", first["id"], 1)
    replayed = client.post(f"{prefix}/executions/{first['id']}/retry?revision=same", headers={"Idempotency-Key": "k"})
    assert replayed.headers["Idempotency-Replayed"] == "true"
    assert only_error(client.post(f"/executions/{first['id']}/retry?revision=1"))["pointer"] == "/revision"
    problem(client.post(f"/executions/{again['id']}/retry"), 409)


def test_cancel_answers_the_execution(client: FlaskClient) -> None:
    job = created(client)
    execution = client.post(f"/jobs/{job['id']}/run").get_json()
    cancelled = client.post(f"/executions/{execution['id']}/cancel")
    assert (cancelled.status_code, cancelled.get_json()["state"]) == (202, "CANCELLED")
    assert cancelled.get_json()["cancel_requested_at"] is not None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/jobs/name:none/run"),
        ("POST", "/jobs/nonsense/pause"),
        ("POST", "/jobs/018f0000-0000-7000-8000-000000000000/resume"),
        ("GET", "/executions/nonsense"),
        ("POST", "/executions/018f0000-0000-7000-8000-000000000000/cancel"),
    ],
)
def test_unknown_job_or_execution_is_not_found(client: FlaskClient, method: str, path: str) -> None:
    problem(client.open(path, method=method), 404)


def test_job_that_can_not_be_read_is_shown_with_the_reason(client: FlaskClient, world: World) -> None:
    job = created(client, name="broken")
    world.sql('update job_revisions set definition = \'{"type": "FAX MACHINE"}\'')
    (listed,) = client.get("/jobs").get_json()
    assert listed == client.get(f"/jobs/{job['id']}").get_json()
    assert (listed["name"], listed["type"]) == ("broken", "HTTP")
    assert "/type" in listed["unreadable"]
