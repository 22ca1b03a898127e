"""Who changed what: audit trails, requests in the log, and Idempotency-Keys that each client has for itself."""

import io
import json
import logging
import re
from typing import Any

import pytest
from flask.testing import FlaskClient
from support.api import HOURLY, created, make_client, only_error, problem
from support.world import World

from gnomon.job.api_key import make_key, to_store
from gnomon.job.principal import Role
from gnomon.monitoring.logs import configure_logging

AUTH = ["http_job.auth.type", "http_job.auth.username", "http_job.auth.password"]
NOBODY = "018f0000-0000-7000-8000-000000000000"


@pytest.fixture
def client(world: World) -> FlaskClient:
    return make_client(world)


def key_of(world: World, name: str, role: Role = Role.WRITE) -> tuple[str, dict[str, str]]:
    """The id of a new key, and the headers with it."""
    key = make_key()
    world.keys.add(to_store(key, name=name, role=role, expires_at=None, created_by="a test"))
    return key.id, {"Authorization": f"Bearer {key.text}"}


def trail(client: FlaskClient, job_id: str, headers: dict[str, str] | None = None) -> list[dict[str, Any]]:
    response = client.get(f"/v1/jobs/{job_id}/events", headers=headers)
    assert response.status_code == 200, response.get_data(as_text=True)
    entries: list[dict[str, Any]] = response.get_json()
    return entries


def test_trail_says_who_did_what_the_latest_first(client: FlaskClient, world: World) -> None:
    job = created(client, name="nightly")
    ann, as_ann = key_of(world, "ann")
    ben, as_ben = key_of(world, "ben")
    path = f"/v1/jobs/{job['id']}"
    client.patch(path, json={"cron_schedule": "@daily", "tags": ["x"]}, headers=as_ann)
    client.post(f"{path}/pause", json={"reason": "holidays"}, headers=as_ben)
    client.post(f"{path}/resume", headers=as_ben)
    client.delete(path, headers=as_ann)
    world.keys.revoke("ann", by="a test")
    entries = trail(client, job["id"], as_ben)
    by_ann, by_ben = {"id": ann, "name": "ann"}, {"id": ben, "name": "ben"}
    assert [(entry["action"], entry["by"], entry["revision"]) for entry in entries] == [
        ("DELETED", by_ann, 2),
        ("RESUMED", by_ben, 2),
        ("PAUSED", by_ben, 2),
        ("EDITED", by_ann, 2),
        ("CREATED", {"id": "anonymous", "name": "anonymous"}, 1),
    ]
    assert entries[2]["reason"] == "holidays"
    assert [entry["changed"] for entry in entries] == [[], [], [], ["cron_schedule", "tags"], []]
    assert [entry["at"] for entry in entries] == sorted((entry["at"] for entry in entries), reverse=True)


def test_pause_that_ended_by_itself_was_ended_by_nobody(client: FlaskClient, world: World) -> None:
    job = created(client)
    client.post(f"/jobs/{job['id']}/pause", json={"until": "2090-01-01T00:00:00Z"})
    world.sql("update jobs set paused_until = now() - interval '1 second'")
    world.dispatched()
    assert [(entry["action"], entry["by"] and entry["by"]["id"]) for entry in trail(client, job["id"])] == [
        ("RESUMED", None),
        ("PAUSED", "anonymous"),
        ("CREATED", "anonymous"),
    ]


@pytest.mark.parametrize(
    ("patch", "changed"),
    [
        ({"http_job": {"url": "https://example.com/other"}}, ["http_job.url"]),
        ({"http_job": {"headers": {"X-Team": "canary"}}}, ["http_job.headers"]),
        ({"http_job": {"auth": {"type": "basic", "username": "u", "password": "canary"}}}, AUTH),
        ({"retry": {"max_attempts": 7}, "overlap": "allow"}, ["retry.max_attempts", "overlap"]),
        ({"cron_schedule": None, "interval_seconds": 60}, ["cron_schedule", "interval_seconds"]),
    ],
)
def test_edit_names_the_fields_that_it_changed_and_no_value(
    client: FlaskClient, world: World, patch: dict[str, Any], changed: list[str]
) -> None:
    job = created(client)
    response = client.patch(f"/jobs/{job['id']}", json=patch)
    assert response.status_code == 200, response.get_data(as_text=True)
    entry = trail(client, job["id"])[0]
    assert set(changed) <= set(entry["changed"])
    assert len(entry["changed"]) <= len(changed) + 1  # an interval has an anchor
    assert "canary" not in str(world.sql("select job_events::text from job_events"))


def test_new_password_is_a_change_of_the_password(client: FlaskClient) -> None:
    auth = {"type": "basic", "username": "u", "password": "one"}
    job = created(client, http_job={"url": "https://example.com/", "auth": auth})
    client.patch(f"/jobs/{job['id']}", json={"http_job": {"auth": {"password": "two"}}})
    assert trail(client, job["id"])[0]["changed"] == ["http_job.auth.password"]


def test_request_that_changes_nothing_leaves_no_trace(client: FlaskClient) -> None:
    job = created(client)
    client.patch(f"/jobs/{job['id']}", json={"cron_schedule": "@hourly"})
    assert [entry["action"] for entry in trail(client, job["id"])] == ["CREATED"]


def test_trail_is_paged_and_each_entry_is_on_one_page(client: FlaskClient) -> None:
    job = created(client)
    for number in range(6):
        client.patch(f"/jobs/{job['id']}", json={"tags": [f"t{number}"]})
    path: str | None = f"/v1/jobs/{job['id']}/events?limit=3"
    pages = []
    while path:
        response = client.get(path)
        pages.append([entry["revision"] for entry in response.get_json()])
        link = re.fullmatch(r'<([^>]+)>; rel="next"', response.headers.get("Link", ""))
        path = link and link[1]
    assert pages == [[7, 6, 5], [4, 3, 2], [1]]


@pytest.mark.parametrize(
    "query", ["cursor=x", "cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk", "limit=0", "limit=501", "offset=1"]
)
def test_wrong_part_of_a_trail_is_refused(client: FlaskClient, query: str) -> None:
    job = created(client)
    only_error(client.get(f"/jobs/{job['id']}/events?{query}"))


def test_trail_is_that_of_one_job_and_of_one_that_exists(client: FlaskClient) -> None:
    one, other = created(client, name="one"), created(client)
    client.post(f"/jobs/{other['id']}/pause", json={})
    assert len(trail(client, "name:one")) == len(trail(client, one["id"])) == 1
    for reference in (NOBODY, "nonsense", "name:nobody"):
        problem(client.get(f"/jobs/{reference}/events"), 404)


def test_idempotency_keys_of_one_client_are_not_those_of_another(client: FlaskClient, world: World) -> None:
    job = created(client, overlap="allow")
    made = {}
    for name in ("ann", "ben"):
        _, headers = key_of(world, name)
        asked = [client.post(f"/jobs/{job['id']}/run", headers={**headers, "Idempotency-Key": "one"}) for _ in range(2)]
        assert [response.status_code for response in asked] == [202, 202]
        assert [response.headers.get("Idempotency-Replayed") for response in asked] == [None, "true"]
        (made[name],) = {response.get_json()["id"] for response in asked}
        again = client.post("/jobs", json={**HOURLY, "tags": [name]}, headers={**headers, "Idempotency-Key": "two"})
        assert again.status_code == 201
    assert made["ann"] != made["ben"]


@pytest.fixture
def log() -> Any:
    stream = io.StringIO()
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    configure_logging(level="DEBUG", format="json", role="api", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines() if "gnomon.api.request_log" in line]
    root.handlers[:] = before
    root.setLevel(level)


def test_each_request_is_logged_with_who_sent_it(client: FlaskClient, world: World, log: Any) -> None:
    ann, as_ann = key_of(world, "ann")
    created_id = client.post("/jobs", json=HOURLY, headers={**as_ann, "X-Request-Id": "mine"}).get_json()["id"]
    client.get(f"/jobs/{created_id}?secret=canary", headers=as_ann)
    client.get("/jobs")
    client.get("/health/live")
    lines = [(line["level"], line["message"], line["principal"]) for line in log()]
    assert lines == [
        ("INFO", "POST /jobs answered 201", ann),
        ("INFO", f"GET /jobs/{created_id} answered {lines[1][1][-3:]}", ann),
        ("INFO", "GET /jobs answered 401", ""),
        ("DEBUG", "GET /health/live answered 200", ""),
    ]
    assert log()[0]["request_id"] == "mine"
    assert log()[0]["address"] == "127.0.0.1"
    assert "canary" not in str(log())


def test_key_that_is_refused_is_logged_by_its_id(client: FlaskClient, world: World, log: Any) -> None:
    ann, as_ann = key_of(world, "ann")
    world.keys.revoke("ann", by="a test")
    client.get("/jobs", headers=as_ann)
    client.get("/jobs")
    assert [line.get("refused_key") for line in log()] == [ann, None]


def test_key_is_in_no_line_of_the_log_wherever_it_was_sent(client: FlaskClient, world: World, log: Any) -> None:
    key = make_key()
    world.keys.add(to_store(key, name="ann", role=Role.READ, expires_at=None, created_by="a test"))
    headers = {"Authorization": f"Bearer {key.text}", "X-Request-Id": key.text}
    for path in (f"/jobs/{key.text}", f"/jobs?q={key.text}", f"/{key.text}"):
        client.get(path, headers=headers)
        client.get(path)
    client.open("/jobs", method=key.text[:20])
    written = str(log())
    assert key.id in written
    assert key.secret[:8] not in written
