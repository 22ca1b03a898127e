"""Jobs over HTTP, on a real database."""

import re
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from support.api import HOURLY, PRINTED, created, make_client, only_error, problem
from support.keys import OPEN
from support.world import World

from gnomon.job.address import EgressPolicy
from gnomon.job.sealing import opened
from gnomon.job.service import JobService
from gnomon.job.target import AmqpTarget, BasicAuth

NOBODY = "018f0000-0000-7000-8000-000000000000"  # no job has this id


@pytest.fixture
def client(world: World) -> FlaskClient:
    return make_client(world)


def stored_revisions(world: World) -> int:
    return int(world.one("select count(*) from job_revisions"))


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_printed_body_creates_a_job(client: FlaskClient, prefix: str) -> None:
    response = client.post(f"{prefix}/jobs", json=PRINTED)
    answer = response.get_json()
    assert response.status_code == 201
    assert response.headers["Location"] == f"{prefix}/jobs/{answer['id']}"
    assert response.headers["ETag"] == '"1"'
    assert answer["schedule_text"] == "every 10 minutes, UTC"
    assert len(answer["next_runs"]) == 5
    assert answer["next_runs"][0] == answer["next_run"]
    assert all(re.fullmatch(r"....-..-..T..:.0:00Z", moment) for moment in answer["next_runs"])
    read = client.get(response.headers["Location"]).get_json()
    assert read == {
        key: value for key, value in answer.items() if key not in ("next_runs", "schedule_text", "warnings")
    }


def test_answer_holds_every_policy_and_where_the_job_stands(client: FlaskClient) -> None:
    answer = created(client)
    volatile = ("id", "next_run", "created_at", "updated_at", "next_runs")
    assert {key: value for key, value in answer.items() if key not in volatile} == {
        "type": "HTTP",
        "name": None,
        "cron_schedule": "@hourly",
        "timezone": "UTC",
        "spread_seconds": 0,
        "tags": [],
        "http_job": {
            "url": "https://example.com/",
            "method": "POST",
            "headers": {},
            "body": None,
            "valid_response_codes": [],
            "auth": {"type": "none"},
            "secret_headers": [],
            "signing_secrets": [],
            "follow_redirects": 0,
        },
        "timeout_seconds": 30,
        "retry": {"max_attempts": 4, "initial_seconds": 1, "multiplier": 2.0, "max_seconds": 300, "jitter": 0.5}
        | {"strategy": None},
        "misfire": {"policy": "run_once", "grace_seconds": 60, "limit": 100},
        "overlap": "skip",
        "delivery": "at_least_once",
        "status": "RUNNING",
        "warnings": [],
        "last_run": None,
        "locked_until": None,
        "locked_by": None,
        "revision": 1,
        "held_until": None,
        "hold_reason": None,
        "pause_reason": None,
        "paused_until": None,
        "unreadable": None,
        "schedule_text": "at minute 0 of every hour, UTC",
    }


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"http": {"url": "example.com"}}, {"http_job": "https://example.com"}),
        ({"schedule": "*/5 * * * *"}, {"cron_schedule": "*/5 * * * *"}),
        ({"jitter_seconds": 30}, {"spread_seconds": 30}),
    ],
)
def test_older_spellings_are_understood(client: FlaskClient, given: dict[str, Any], read: dict[str, Any]) -> None:
    dropped = {"http": "http_job", "schedule": "cron_schedule"}.get(next(iter(given)))
    response = client.post("/jobs", json={key: value for key, value in HOURLY.items() if key != dropped} | given)
    assert response.status_code == 201
    answer = response.get_json()
    for name, value in read.items():
        assert (answer[name]["url"] if name == "http_job" else answer[name]) == value


@pytest.mark.parametrize(
    ("alias", "name"), [("http", "http_job"), ("schedule", "cron_schedule"), ("jitter_seconds", "spread_seconds")]
)
def test_two_spellings_at_once_are_refused(client: FlaskClient, alias: str, name: str) -> None:
    document = {"spread_seconds": 1, **HOURLY}
    error = only_error(client.post("/jobs", json={**document, alias: document[name]}))
    assert error["pointer"] == f"/{alias}"
    assert name in error["detail"]


def test_null_means_not_given(client: FlaskClient) -> None:
    answer = created(client, execute_at=None, name=None, timeout_seconds=None, retry={"jitter": None}, tags=None)
    assert answer["timeout_seconds"] == 30
    assert answer["retry"]["jitter"] == 0.5


MESSAGE: dict[str, Any] = {
    "type": "AMQP",
    "execute_at": "2030-01-01T09:00:00Z",
    "amqp_job": {
        "connection": "amqp://user:hunter2@broker.example.com/vhost",
        "exchange": "my_exchange",
        "routing_key": "my_routing_key",
        "headers": {"x-delay": 10000},
        "body": "Hello",
        "body_encoding": None,
        "content_type": "text/plain",
    },
}


def stored_password(world: World, job: dict[str, Any]) -> str:
    definition = world.service.get(job["id"]).definition
    assert definition is not None
    target = opened(definition, job_id=UUID(job["id"]), unseal=OPEN).target
    assert isinstance(target, AmqpTarget)
    return target.broker.password


@pytest.mark.parametrize("name", ["amqp_job", "amqp"])
def test_amqp_job_is_created_as_printed_and_keeps_its_password(client: FlaskClient, world: World, name: str) -> None:
    body = {name if key == "amqp_job" else key: value for key, value in MESSAGE.items()}
    response = client.post("/jobs", json=body)
    assert response.status_code == 201, response.text
    assert "hunter2" not in response.text
    job = response.get_json()
    assert job["type"] == "AMQP"
    assert job["amqp_job"] == {
        **MESSAGE["amqp_job"],
        "connection": "amqp://user:***@broker.example.com/vhost",
    }
    shown = client.patch(f"/jobs/{job['id']}", json={"amqp_job": {**job["amqp_job"], "body": "Bye"}}).get_json()
    assert shown["amqp_job"]["body"] == "Bye"
    assert stored_password(world, job) == "hunter2"
    assert client.put(f"/jobs/{job['id']}", json=shown).status_code == 200
    assert stored_password(world, job) == "hunter2"
    assert client.get("/jobs?type=AMQP").get_json()[0]["id"] == job["id"]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"body": "a", "body_encoding": "base64"}, "/amqp/body"),
        ({"body_encoding": "hex"}, "/amqp/body_encoding"),
        ({"routing_key": "k" * 256}, "/amqp/routing_key"),
        ({"headers": {"a": 2**63}}, "/amqp/headers/a"),
        ({"headers": [1]}, "/amqp/headers"),
        ({"connection": "amqp://user:***@broker.example.com/"}, "/amqp/connection"),
        ({"exchagne": "e"}, "/amqp/exchagne"),
    ],
)
def test_wrong_message_is_refused_with_its_place(client: FlaskClient, changes: dict[str, Any], pointer: str) -> None:
    rest = {key: value for key, value in MESSAGE.items() if key != "amqp_job"}
    error = only_error(client.post("/jobs", json={**rest, "amqp": {**MESSAGE["amqp_job"], **changes}}))
    assert error["pointer"] == pointer


REFUSED = {
    "unknown field": ({"cron_shedule": "* * * * *"}, "/cron_shedule", "did you mean 'cron_schedule'?"),
    "unknown field inside": ({"http_job": {"url": "a.b", "bodi": ""}}, "/http_job/bodi", "did you mean 'body'?"),
    "read-only field": ({"status": "STOPPED"}, "/status", "POST /jobs/{id}/pause"),
    "bad cron": ({"cron_schedule": "61 * * * *"}, "/cron_schedule", "field 1 (minute) '61'"),
    "bad cron under its alias": ({"cron_schedule": ..., "schedule": "* * 32 * *"}, "/schedule", "field 3"),
    "cron that never fires": ({"cron_schedule": "0 0 31 2 *"}, "/cron_schedule", "never occurs"),
    "moment that has passed": ({"cron_schedule": ..., "execute_at": "2020-01-01T00:00:00Z"}, "/execute_at", "passed"),
    "moment without offset": ({"cron_schedule": ..., "execute_at": "2030-01-01T00:00:00"}, "/execute_at", "offset"),
    "year 1": ({"cron_schedule": ..., "execute_at": "0001-01-01T00:00:00+14:00"}, "/execute_at", "between the years"),
    "year 9999": ({"ends_at": "9999-12-31T23:59:59-12:00"}, "/ends_at", "between the years"),
    "no schedule": ({"cron_schedule": ...}, "/cron_schedule", "no schedule"),
    "two schedules": ({"interval_seconds": 60}, "/interval_seconds", "exclude each other"),
    "zone that is none": ({"timezone": "Mars/Olympus"}, "/timezone", "Mars/Olympus"),
    "bad URL": ({"http_job": {"url": "ftp://example.com"}}, "/http_job/url", "the scheme must be http or https"),
    "bad URL under its alias": ({"http_job": ..., "http": {"url": "http://a b"}}, "/http/url", "character"),
    "no URL": ({"http_job": {}}, "/http_job/url", "missing"),
    "null for the URL": ({"http_job": {"url": None}}, "/http_job/url", "null"),
    "no target": ({"http_job": ...}, "/http_job", "missing"),
    "no type": ({"type": ...}, "/type", "missing"),
    "type that is none": ({"type": "SMTP"}, "/type", "SMTP"),
    "text for a number": ({"timeout_seconds": "5"}, "/timeout_seconds", "must be a number"),
    "true for a number": ({"timeout_seconds": True}, "/timeout_seconds", "must be a number"),
    "text for an integer": ({"spread_seconds": "5"}, "/spread_seconds", "must be an integer"),
    "fraction for an integer": ({"retry": {"max_attempts": 1.5}}, "/retry/max_attempts", "must be an integer"),
    "float for an integer": ({"retry": {"max_attempts": 2.0}}, "/retry/max_attempts", "must be an integer"),
    "true for an integer": ({"retry": {"max_attempts": True}}, "/retry/max_attempts", "must be an integer"),
    "number for a text": ({"name": 5}, "/name", "must be a string"),
    "object for a list": ({"tags": {"a": 1}}, "/tags", "must be an array"),
    "text for a list": ({"tags": "billing"}, "/tags", "must be an array"),
    "null in a list": ({"tags": ["a", None]}, "/tags/1", "null"),
    "list for an object": ({"http_job": []}, "/http_job", "must be an object"),
    "text for an object": ({"retry": "often"}, "/retry", "must be an object"),
    "number in headers": ({"http_job": {"url": "a.b", "headers": {"X/1": 1}}}, "/http_job/headers/X~11", "string"),
    "secret that is a mask": (
        {"http_job": {"url": "a.b", "auth": {"type": "bearer", "token": "***"}}},
        "/http_job/auth",
        "none is stored",
    ),
    "NUL": ({"http_job": {"url": "a.b", "body": "a\x00b"}}, "/http_job/body", "NUL"),
    "NUL in a key": ({"http_job": {"url": "a.b", "headers": {"a\x00": "b"}}}, "/http_job/headers/a\x00", "NUL"),
    "lone surrogate": ({"name": "\ud800"}, "/name", "surrogate"),
    "lone surrogate in a header": (
        {"http_job": {"url": "a.b", "headers": {"a": "\udfff"}}},
        "/http_job/headers/a",
        "surrogate",
    ),
    "endless integer": ({"spread_seconds": 10**4000}, "/spread_seconds", "must lie between"),
    "number beyond floats": ({"timeout_seconds": 10**400}, "/timeout_seconds", "must lie between"),
}


@pytest.mark.parametrize(("changes", "pointer", "words"), REFUSED.values(), ids=REFUSED)
def test_wrong_job_is_refused_with_place_and_reason(
    client: FlaskClient, world: World, changes: dict[str, Any], pointer: str, words: str
) -> None:
    document = {key: value for key, value in {**HOURLY, **changes}.items() if value is not ...}
    error = only_error(client.post("/jobs", json=document))
    assert error["pointer"] == pointer
    assert words in error["detail"] + error.get("hint", "")
    assert stored_revisions(world) == 0


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ('{"type": "HTTP",}', 400, "line 1, column 17"),
        ("", 400, "line 1, column 1"),
        ('{"type": NaN}', 400, "NaN"),
        ('{"type": "HTTP", "type": "HTTP"}', 400, "twice"),
        ('{"a":' * 5000 + "1" + "}" * 5000, 400, "deeper"),
        ("[" * 100_000, 400, "deeper"),
        ("[]", 422, "must be a JSON object"),
        ("null", 422, "must be a JSON object"),
        ('"job"', 422, "must be a JSON object"),
        ('{"spread_seconds": ' + "1" * 5000 + "}", 422, "must lie between"),
        ('{"timeout_seconds": 1e400}', 422, "larger"),
        ("{}" + " " * 262_144, 413, "too large"),
    ],
)
@pytest.mark.parametrize("method", ["post", "patch"])
def test_wrong_body_is_refused(
    client: FlaskClient, world: World, method: str, body: str, status: int, words: str
) -> None:
    path = "/jobs" if method == "post" else f"/jobs/{created(client)['id']}"
    before = stored_revisions(world)
    response = client.open(path, method=method.upper(), data=body, content_type="application/json")
    assert words in problem(response, status)["detail"]
    assert stored_revisions(world) == before


def test_body_may_be_as_large_as_the_limit(client: FlaskClient) -> None:
    body = '{"type": "HTTP", "cron_schedule": "@hourly", "http_job": {"url": "a.b"}}'
    response = client.post("/jobs", data=body.ljust(262_144), content_type="application/json")
    assert response.status_code == 201


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/json; charset=latin1",
    ],
)
@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
def test_body_of_another_type_is_refused(
    client: FlaskClient, world: World, method: str, content_type: str | None
) -> None:
    path = "/jobs" if method == "POST" else f"/jobs/{created(client)['id']}"
    before = stored_revisions(world)
    response = client.open(path, method=method, data='{"tags": ["x"]}', content_type=content_type)
    assert "Content-Type: application" in problem(response, 415)["detail"]
    if method == "PATCH":
        assert response.headers["Accept-Patch"] == "application/merge-patch+json, application/json"
    assert stored_revisions(world) == before


def test_compressed_body_is_refused(client: FlaskClient) -> None:
    problem(client.post("/jobs", json=HOURLY, headers={"Content-Encoding": "gzip"}), 415)


def test_many_errors_are_told_at_once_but_not_all(client: FlaskClient) -> None:
    document = {**HOURLY, "timeout_seconds": "x", **{f"field_{number}": 1 for number in range(10_000)}}
    errors = problem(client.post("/jobs", json=document), 422)["errors"]
    assert len(errors) == 20
    assert "/timeout_seconds" in {error["pointer"] for error in errors}


def test_name_is_taken_until_its_job_is_deleted(client: FlaskClient, world: World) -> None:
    first = created(client, name="nightly")
    document = problem(client.post("/jobs", json={**HOURLY, "name": "nightly"}), 409)
    assert "nightly" in document["detail"]
    assert document["type"] == "urn:gnomon:problem:name-taken"
    assert stored_revisions(world) == 1
    assert client.get("/jobs/name:nightly").get_json()["id"] == first["id"]
    assert client.delete("/jobs/name:nightly").status_code == 204
    created(client, name="nightly")


@pytest.mark.parametrize("method", ["GET", "PATCH", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "reference",
    [
        NOBODY,
        "12",
        "not-a-uuid",
        "{" + NOBODY + "}",
        "name:nobody",
        "name:",
        "name:%00",
        "%00",
        "name:a%2Fb",
        "%ED%A0%80",
    ],
)
def test_unknown_job_is_not_found(client: FlaskClient, method: str, reference: str) -> None:
    body = {} if method in ("GET", "DELETE") else {"json": {"tags": ["x"]}}
    problem(client.open(f"/jobs/{reference}", method=method, **body), 404)


def test_unknown_job_has_no_executions(client: FlaskClient) -> None:
    problem(client.get(f"/jobs/{NOBODY}/executions"), 404)


def test_patch_changes_what_it_names(client: FlaskClient) -> None:
    job = created(client, name="a", tags=["x"], http_job={"url": "a.b", "headers": {"A": "1", "B": "2"}})
    response = client.patch(
        f"/jobs/{job['id']}",
        data='{"name": "b", "tags": null, "http": {"headers": {"A": null}}, "timeout_seconds": 5}',
        content_type="application/merge-patch+json",
    )
    answer = response.get_json()
    assert response.status_code == 200
    assert response.headers["ETag"] == '"2"'
    assert (answer["name"], answer["tags"], answer["timeout_seconds"]) == ("b", [], 5)
    assert answer["http_job"]["headers"] == {"B": "2"}
    assert answer["next_run"] == job["next_run"]


def test_patch_that_changes_nothing_makes_no_revision(client: FlaskClient, world: World) -> None:
    job = created(client)
    response = client.patch(f"/jobs/{job['id']}", json={})
    assert response.headers["ETag"] == '"1"'
    assert stored_revisions(world) == 1


def test_patch_to_another_kind_of_schedule_replaces_it(client: FlaskClient) -> None:
    job = created(client, timezone="Europe/Berlin")
    answer = client.patch(f"/jobs/{job['id']}", json={"execute_at": "2030-01-01T09:00:00Z"}).get_json()
    assert "cron_schedule" not in answer
    assert answer["next_run"] == "2030-01-01T09:00:00Z"


@pytest.mark.parametrize("field", ["id", "status", "next_run", "revision", "created_at", "locked_by"])
def test_patch_of_what_is_only_answered_is_refused(client: FlaskClient, field: str) -> None:
    job = created(client)
    error = only_error(client.patch(f"/jobs/{job['id']}", json={field: job[field]}))
    assert error["pointer"] == f"/{field}"
    assert "never given" in error["hint"]


def test_wrong_patch_changes_nothing(client: FlaskClient, world: World) -> None:
    job = created(client)
    error = only_error(client.patch(f"/jobs/{job['id']}", json={"tags": ["x"], "schedule": "* * * *"}))
    assert error["pointer"] == "/schedule"
    assert stored_revisions(world) == 1


def test_put_takes_back_the_whole_answer(client: FlaskClient, world: World) -> None:
    job = client.post("/jobs", json=PRINTED).get_json()
    response = client.put(f"/jobs/{job['id']}", json=job)
    assert response.status_code == 200
    assert response.headers["ETag"] == '"1"'
    job["http"] = job.pop("http_job") | {"method": "PUT"}
    answer = client.put(f"/jobs/{job['id']}", json=job).get_json()
    assert answer["http_job"]["method"] == "PUT"
    assert answer["revision"] == 2
    assert stored_revisions(world) == 2


def test_put_merges(client: FlaskClient) -> None:
    job = created(client, tags=["x"])
    answer = client.put(f"/jobs/{job['id']}", json={"http": {"url": "https://example.org/"}}).get_json()
    assert answer["http_job"]["url"] == "https://example.org/"
    assert answer["tags"] == ["x"]
    assert answer["cron_schedule"] == "@hourly"


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [("status", "COMPLETED", "follows by itself"), ("id", NOBODY, "leave it out"), ("nane", "x", "'name'")],
)
def test_put_of_what_it_can_not_change_is_refused(client: FlaskClient, field: str, value: str, words: str) -> None:
    job = created(client)
    error = only_error(client.put(f"/jobs/{job['id']}", json={field: value}))
    assert error["pointer"] == f"/{field}"
    assert words in error["hint"]


def test_put_of_another_status_pauses_and_resumes(client: FlaskClient) -> None:
    job = created(client)
    path = f"/jobs/{job['id']}"
    stopped = client.put(path, json={"status": "STOPPED", "tags": ["x"]}, headers={"If-Match": '"1"'})
    assert (stopped.status_code, stopped.headers["ETag"]) == (200, '"2"')
    assert (stopped.get_json()["status"], stopped.get_json()["tags"]) == ("STOPPED", ["x"])
    running = client.put(path, json={**stopped.get_json(), "status": "RUNNING"}).get_json()
    assert (running["status"], running["revision"]) == ("RUNNING", 2)


def test_if_match_compares_the_revision(client: FlaskClient) -> None:
    path = f"/jobs/{created(client)['id']}"

    def change(method: str, tag: str, **body: Any) -> Any:
        return client.open(path, method=method, headers={"If-Match": tag}, **body)

    assert change("PATCH", '"1"', json={"tags": ["a"]}).headers["ETag"] == '"2"'
    for stale in ('"1"', 'W/"2"', '"abc"', '"99999999999999999999"'):
        assert problem(change("PATCH", stale, json={"tags": ["b"]}), 412)["type"].endswith("revision-mismatch")
        problem(change("PUT", stale, json={"tags": ["b"]}), 412)
        problem(change("DELETE", stale), 412)
    for malformed in ("2", '"2', "", '"1", "2"'):
        problem(change("PATCH", malformed, json={"tags": ["b"]}), 400)
    assert change("PUT", "*", json={"tags": ["c"]}).headers["ETag"] == '"3"'
    assert change("DELETE", '"3"').status_code == 204


def test_deleted_job_is_gone_but_its_history_stays(client: FlaskClient, world: World) -> None:
    job = world.due()
    world.claim(world.dispatched())
    response = client.delete(f"/jobs/{job.id}")
    assert response.status_code == 204
    assert response.get_data() == b""
    problem(client.get(f"/jobs/{job.id}"), 404)
    problem(client.delete(f"/jobs/{job.id}"), 404)
    (execution,) = client.get(f"/jobs/{job.id}/executions").get_json()
    assert execution["state"] == "RUNNING"


def test_running_execution_shows_as_the_lock_of_its_job(client: FlaskClient, world: World) -> None:
    job = world.due()
    world.claim(world.dispatched())
    answer = client.get(f"/jobs/{job.id}").get_json()
    assert answer["locked_by"] == "worker-1"
    assert answer["locked_until"] is not None
    assert answer["last_run"] is not None


def test_secrets_are_never_answered(client: FlaskClient, world: World) -> None:
    basic = {"type": "basic", "username": "me", "password": "canary-1"}
    bearer = {"type": "bearer", "token": "canary-2"}
    response = client.post("/jobs", json={**HOURLY, "http_job": {"url": "a.b", "auth": basic}})
    path = response.headers["Location"]
    answers = [
        response,
        client.get(path),
        client.get("/jobs"),
        client.patch(path, json={"tags": ["x"]}),
        client.put(path, json={**client.get(path).get_json(), "tags": ["y"]}),
        client.put(path, json={"http_job": {"auth": {**basic, "username": "a:b"}}}),
        client.patch(path, json={"http_job": {"auth": {**bearer, "password": "canary-1"}}}),
        client.patch(path, json={"http_job": {"auth": bearer}}),
        client.post("/jobs", json={**HOURLY, "http_job": {"url": "a.b", "auth": basic}, "password": "canary-1"}),
    ]
    assert [answer.status_code for answer in answers] == [201, 200, 200, 200, 200, 422, 422, 200, 422]
    assert not [answer for answer in answers if "canary" in answer.get_data(as_text=True)]
    assert answers[0].get_json()["http_job"]["auth"] == {"type": "basic", "username": "me", "password": "***"}
    assert answers[7].get_json()["http_job"]["auth"] == {"type": "bearer", "token": "***"}


def test_mask_sent_back_keeps_the_stored_secret(client: FlaskClient, world: World) -> None:
    job = client.post("/jobs", json=PRINTED).get_json()
    client.put(f"/jobs/{job['id']}", json={**job, "tags": ["changed"]})
    client.patch(f"/jobs/{job['id']}", json={"http": {"auth": {"username": "me", "password": "***"}}})
    stored = world.service.get(job["id"])
    assert stored.revision == 3
    auth = opened(stored.definition, job_id=stored.id, unseal=OPEN).target.auth
    assert auth == BasicAuth(username="me", password="bar")


def test_address_that_no_setting_opens_is_refused_and_one_that_is_closed_warned_of(world: World) -> None:
    world.service = JobService(
        jobs=world.jobs, runs=world.runs, history=world.history, catalog=world.catalog, egress=EgressPolicy()
    )
    client = make_client(world)

    refused = client.post("/v1/jobs", json={**HOURLY, "http_job": {"url": "http://169.254.169.254/latest"}})
    closed = created(client, http_job={"url": "http://10.0.0.1/"})
    public = created(client)

    assert only_error(refused)["pointer"] == "/http_job/url"
    (warning,) = closed["warnings"]
    assert "10.0.0.1 is a private address; the setting egress-allow can open it" in warning
    assert public["warnings"] == []
