"""Creating jobs: requests that may be sent twice, that only ask, or that name the job."""

import json
import threading
from collections import Counter
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from flask.testing import FlaskClient
from support.api import HOURLY, created, make_client, only_error, problem
from support.keys import OPEN
from support.world import World

from gnomon.job.handlers import HandlerSpec
from gnomon.job.model import Job
from gnomon.job.sealing import opened


@pytest.fixture
def client(world: World) -> FlaskClient:
    return make_client(world)


def jobs(world: World) -> int:
    return int(world.one("select count(*) from jobs where deleted_at is null"))


def target_of(world: World, reference: str) -> Any:
    """What the job calls, with its secrets."""
    job = world.service.get(reference)
    assert job.definition is not None
    return opened(job.definition, job_id=job.id, unseal=OPEN).target


class TestIdempotencyKey:
    def test_the_same_request_again_is_answered_with_the_job_as_it_is_then(
        self, client: FlaskClient, world: World
    ) -> None:
        headers = {"Idempotency-Key": "order-17"}
        first = client.post("/v1/jobs", json=HOURLY, headers=headers)
        assert first.status_code == 201
        assert "Idempotency-Replayed" not in first.headers
        client.patch(first.headers["Location"], json={"tags": ["changed"]})
        again = client.post("/v1/jobs", json=HOURLY, headers=headers)
        assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
        assert again.headers["Location"] == first.headers["Location"]
        assert (again.headers["ETag"], again.get_json()["tags"]) == ('"2"', ["changed"])
        assert len(again.get_json()["next_runs"]) == 5
        assert jobs(world) == 1

    def test_order_and_spelling_of_the_fields_do_not_make_another_request(
        self, client: FlaskClient, world: World
    ) -> None:
        headers = {"Idempotency-Key": "k"}
        client.post("/jobs", json=HOURLY, headers=headers)
        older = {"schedule": "@hourly", "http": HOURLY["http_job"], "type": "HTTP", "name": None}
        assert client.post("/jobs", json=older, headers=headers).headers["Idempotency-Replayed"] == "true"
        assert jobs(world) == 1

    def test_another_body_is_refused(self, client: FlaskClient, world: World) -> None:
        headers = {"Idempotency-Key": "k"}
        client.post("/jobs", json=HOURLY, headers=headers)
        other = client.post("/jobs", json={**HOURLY, "tags": ["x"]}, headers=headers)
        assert problem(other, 422)["type"] == "urn:gnomon:problem:key-reused"
        assert jobs(world) == 1

    def test_replay_of_a_deleted_job_says_so(self, client: FlaskClient, world: World) -> None:
        headers = {"Idempotency-Key": "k"}
        job_id = client.post("/jobs", json=HOURLY, headers=headers).get_json()["id"]
        client.delete(f"/jobs/{job_id}")
        again = client.post("/jobs", json=HOURLY, headers=headers)
        document = problem(again, 409)
        assert document["type"] == "urn:gnomon:problem:created-is-gone"
        assert job_id in document["detail"]
        assert again.headers["Idempotency-Replayed"] == "true"
        assert jobs(world) == 0

    def test_refused_request_leaves_its_key_free(self, client: FlaskClient, world: World) -> None:
        created(client, name="taken")
        headers = {"Idempotency-Key": "k"}
        assert client.post("/jobs", json={**HOURLY, "name": "taken"}, headers=headers).status_code == 409
        assert client.post("/jobs", json={**HOURLY, "name": "free"}, headers=headers).status_code == 201
        assert world.one("select count(*) from idempotency_keys") == 1

    def test_request_under_way_makes_its_twin_wait_outside(self, client: FlaskClient, world: World) -> None:
        """The first is held inside its transaction, after its key was taken."""
        entered, go_on = threading.Event(), threading.Event()
        prepared = world.service.prepared

        def held(document: Any) -> Any:
            prepare = prepared(document)

            def wait(now: Any) -> Any:
                entered.set()
                assert go_on.wait(60)
                return prepare(now)

            return wait

        world.service.prepared = held  # type: ignore[method-assign]
        answers: list[Any] = []
        first = threading.Thread(target=lambda: answers.append(_post(world, "k")))
        first.start()
        assert entered.wait(60)
        world.service.prepared = prepared  # type: ignore[method-assign]
        twin = client.post("/jobs", json=HOURLY, headers={"Idempotency-Key": "k"})
        go_on.set()
        first.join()
        assert problem(twin, 409)["type"] == "urn:gnomon:problem:key-in-flight"
        assert twin.headers["Retry-After"] == "1"
        assert answers == [201]
        assert client.post("/jobs", json=HOURLY, headers={"Idempotency-Key": "k"}).status_code == 201
        assert jobs(world) == 1

    def test_ten_at_once_with_one_key_create_one_job(self, world: World) -> None:
        statuses: list[int] = []
        threads = [threading.Thread(target=lambda: statuses.append(_post(world, "one"))) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert jobs(world) == 1
        assert Counter(statuses).keys() <= {201, 409}
        assert Counter(statuses)[201] >= 1

    def test_nothing_is_kept_from_which_a_password_could_be_tried_out(self, client: FlaskClient, world: World) -> None:
        """Neither the key nor a digest that needs no key."""
        auth = {"type": "basic", "username": "u", "password": "hunter2"}
        http = {"url": "https://example.com/", "auth": auth}
        for key in ("first-key", "second-key"):
            client.post("/jobs", json={**HOURLY, "http_job": http}, headers={"Idempotency-Key": key})
        (one, other) = world.sql("select key, fingerprint from idempotency_keys")
        assert one.fingerprint != other.fingerprint
        assert not {"first-key", "second-key"} & {one.key, other.key}


def _post(world: World, key: str) -> int:
    return make_client(world).post("/v1/jobs", json=HOURLY, headers={"Idempotency-Key": key}).status_code


class TestValidateOnly:
    def test_answers_what_would_be_and_stores_nothing(self, client: FlaskClient, world: World) -> None:
        response = client.post("/v1/jobs?validate_only=true", json={**HOURLY, "name": "maybe"})
        answer = response.get_json()
        assert response.status_code == 200
        assert "Location" not in response.headers
        assert "id" not in answer
        assert (answer["name"], answer["schedule_text"]) == ("maybe", "at minute 0 of every hour, UTC")
        assert len(answer["next_runs"]) == 5
        for table in ("jobs", "job_revisions", "job_events", "idempotency_keys"):
            assert world.one(f"select count(*) from {table}") == 0

    def test_refuses_what_a_creation_would_refuse(self, client: FlaskClient) -> None:
        created(client, name="taken")
        taken = client.post("/jobs?validate_only=true", json={**HOURLY, "name": "taken"})
        assert problem(taken, 409)["type"] == "urn:gnomon:problem:name-taken"
        error = only_error(client.post("/jobs?validate_only=1", json={**HOURLY, "cron_schedule": "61 * * * *"}))
        assert error["pointer"] == "/cron_schedule"

    def test_false_creates(self, client: FlaskClient) -> None:
        assert client.post("/jobs?validate_only=false", json=HOURLY).status_code == 201
        assert only_error(client.post("/jobs?validate_only=maybe", json=HOURLY))["pointer"] == "/validate_only"
        assert only_error(client.post("/jobs?validate=true", json=HOURLY))["hint"] == "did you mean 'validate_only'?"


SECRET = {"url": "https://example.com/", "auth": {"type": "basic", "username": "u", "password": "hunter2"}}
PATH = "/v1/jobs/by-name/nightly"


class TestPutByName:
    def test_creates_then_replaces_the_whole(self, client: FlaskClient, world: World) -> None:
        first = client.put(PATH, json={**HOURLY, "tags": ["a"], "timeout_seconds": 5})
        answer = first.get_json()
        assert (first.status_code, first.headers["ETag"], answer["name"]) == (201, '"1"', "nightly")
        assert first.headers["Location"] == f"/v1/jobs/{answer['id']}"
        assert len(answer["next_runs"]) == 5
        second = client.put(PATH, json={**HOURLY, "overlap": "queue"})
        replaced = second.get_json()
        assert (second.status_code, second.headers["ETag"], replaced["id"]) == (200, '"2"', answer["id"])
        assert (replaced["tags"], replaced["timeout_seconds"], replaced["overlap"]) == ([], 30, "queue")
        assert jobs(world) == 1

    def test_the_same_again_changes_nothing(self, client: FlaskClient, world: World) -> None:
        for schedule in ({"interval_seconds": 600}, {"cron_schedule": "@every 10m"}, {"cron_schedule": "0 3 * * *"}):
            document = {"type": "HTTP", "http_job": {"url": "https://example.com/"}, **schedule}
            before = client.put(PATH, json=document).get_json()
            world.sql("select pg_sleep(0.01)")
            again = client.put(PATH, json=document).get_json()
            assert (again["revision"], again["next_run"]) == (before["revision"], before["next_run"])

    def test_what_was_read_can_be_put_back(self, client: FlaskClient, world: World) -> None:
        client.put(PATH, json={**HOURLY, "http_job": SECRET})
        read = client.get("/v1/jobs/name:nightly").get_json()
        assert read["http_job"]["auth"]["password"] == "***"
        put = client.put(PATH, json={**read, "tags": ["new"]})
        assert (put.status_code, put.get_json()["tags"], put.get_json()["revision"]) == (200, ["new"], 2)
        assert target_of(world, read["id"]).auth.password == "hunter2"

    def test_masked_password_of_a_new_job_is_refused(self, client: FlaskClient) -> None:
        masked = {**SECRET, "auth": {**SECRET["auth"], "password": "***"}}  # type: ignore[dict-item]
        assert only_error(client.put(PATH, json={**HOURLY, "http_job": masked}))["pointer"] == "/http_job/auth"

    def test_masked_connection_keeps_its_password(self, client: FlaskClient, world: World) -> None:
        document: dict[str, Any] = {
            "type": "AMQP",
            "interval_seconds": 60,
            "amqp_job": {"connection": "amqp://user:hunter2@broker.example.com/vhost", "routing_key": "q"},
        }
        client.put(PATH, json=document)
        masked = "amqp://user:***@broker.example.com/vhost"
        put = client.put(PATH, json={**document, "amqp_job": {"connection": masked, "routing_key": "other"}})
        assert (put.status_code, put.get_json()["amqp_job"]["connection"]) == (200, masked)
        assert target_of(world, "name:nightly").broker.password == "hunter2"

    def test_paused_job_stays_paused(self, client: FlaskClient) -> None:
        client.put(PATH, json=HOURLY)
        client.post("/v1/jobs/name:nightly/pause", json={"reason": "r"})
        answer = client.put(PATH, json={**HOURLY, "cron_schedule": "@daily"}).get_json()
        assert (answer["status"], answer["pause_reason"], answer["cron_schedule"]) == ("STOPPED", "r", "@daily")

    def test_conditions_are_kept(self, client: FlaskClient) -> None:
        for condition in ('"1"', "*"):
            assert client.put(PATH, json=HOURLY, headers={"If-Match": condition}).status_code == 412
        assert client.put(PATH, json=HOURLY, headers={"If-None-Match": "*"}).status_code == 201
        other = {**HOURLY, "tags": ["x"]}
        problem(client.put(PATH, json=other, headers={"If-None-Match": "*"}), 412)
        problem(client.put(PATH, json=other, headers={"If-Match": '"7"'}), 412)
        assert client.put(PATH, json=other, headers={"If-Match": '"1"'}).status_code == 200
        assert client.put(PATH, json=HOURLY, headers={"If-Match": "*"}).status_code == 200

    @pytest.mark.parametrize("headers", [{"If-None-Match": '"1"'}, {"If-None-Match": "*", "If-Match": "*"}])
    def test_conditions_that_mean_nothing_are_malformed(self, client: FlaskClient, headers: dict[str, str]) -> None:
        problem(client.put(PATH, json=HOURLY, headers=headers), 400)

    @pytest.mark.parametrize(
        ("change", "pointer"),
        [
            ({"name": "other"}, "/name"),
            ({"id": "018f0000-0000-7000-8000-000000000000"}, "/id"),
            ({"status": "STOPPED"}, "/status"),
            ({"type": None}, "/type"),
            ({"schedule": "61 * * * *", "cron_schedule": None}, "/schedule"),
            ({"tag": ["x"]}, "/tag"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, client: FlaskClient, change: dict[str, Any], pointer: str) -> None:
        document = {key: value for key, value in {**HOURLY, **change}.items() if value is not None}
        assert only_error(client.put(PATH, json=document))["pointer"] == pointer

    @pytest.mark.parametrize("name", ["a b", "-a", "%C3%A9", "x" * 201, "%00"])
    def test_name_that_no_job_can_bear_is_refused(self, client: FlaskClient, name: str) -> None:
        assert only_error(client.put(f"/v1/jobs/by-name/{name}", json=HOURLY))["pointer"] == "/name"

    def test_many_at_once_make_one_job(self, world: World) -> None:
        answers: list[int] = []

        def put(number: int) -> None:
            response = make_client(world).put("/jobs/by-name/nightly", json={**HOURLY, "tags": [str(number)]})
            answers.append(response.status_code)

        threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert Counter(answers) == {201: 1, 200: 7}
        assert jobs(world) == 1
        assert world.one("select max(revision) from job_revisions") == 8


class TestNull:
    """It is what is left out, whichever way a job comes in."""

    WHOLE = (
        "name timezone execute_at interval_seconds anchor_at starts_at ends_at spread_seconds tags timeout_seconds "
        "retry misfire overlap delivery payload amqp_job"
    )
    PARTS: ClassVar = {
        "http_job": "method headers body valid_response_codes auth secret_headers signing_secrets follow_redirects",
        "retry": "max_attempts initial_seconds multiplier max_seconds jitter strategy",
        "misfire": "policy grace_seconds limit",
    }

    def test_fields_that_are_null_have_their_defaults(self, client: FlaskClient, world: World) -> None:
        nulls = dict.fromkeys(self.WHOLE.split())
        parts = {part: {**HOURLY.get(part, {}), **dict.fromkeys(fields.split())} for part, fields in self.PARTS.items()}
        plain = world.service.get(client.post("/v1/jobs", json=HOURLY).get_json()["id"]).definition
        assert plain is not None
        for place, given in enumerate(({**HOURLY, **nulls}, {**HOURLY, **parts})):
            assert client.post("/v1/jobs?validate_only=true", json=given).status_code == 200
            posted = client.post("/v1/jobs", json=given)
            put = client.put(f"/v1/jobs/by-name/put-{place}", json=given)
            again = client.put(f"/v1/jobs/by-name/put-{place}", json=given)
            assert (posted.status_code, put.status_code, again.status_code) == (201, 201, 200)
            line = json.dumps({**given, "name": f"imported-{place}"})
            told = client.post("/v1/jobs/import", data=line, headers={"Content-Type": "application/x-ndjson"})
            assert told.get_json()["created"] == 1, told.text
            assert world.service.get(posted.get_json()["id"]).definition == plain
            for name in (f"put-{place}", f"imported-{place}"):
                assert world.service.get(f"name:{name}").definition == replace(plain, name=name)

    def test_nulls_of_a_payload_are_the_handlers(self, client: FlaskClient, world: World) -> None:
        world.announce(HandlerSpec(name="clean_up", queue="handlers"))
        given = {"type": "clean_up", "cron_schedule": "@hourly", "payload": {"a": None, "b": {"c": None}}}
        posted = client.post("/v1/jobs", json=given)
        put = client.put("/v1/jobs/by-name/put", json=given)
        again = client.put("/v1/jobs/by-name/put", json=given)
        line = json.dumps({**given, "name": "imported"})
        client.post("/v1/jobs/import", data=line, headers={"Content-Type": "application/x-ndjson"})
        assert (posted.status_code, put.status_code, again.headers["ETag"]) == (201, 201, put.headers["ETag"])
        for reference in (posted.get_json()["id"], "name:put", "name:imported"):
            assert client.get(f"/v1/jobs/{reference}").get_json()["payload"] == given["payload"]


class TestIfMatch:
    def test_of_two_writers_one_wins(self, client: FlaskClient, world: World) -> None:
        job = created(client)
        answers: list[int] = []
        barrier = threading.Barrier(2)

        def write(change: str) -> None:
            other = make_client(world)
            headers = {"If-Match": '"1"'}
            barrier.wait(60)
            if change == "delete":
                answers.append(other.delete(f"/jobs/{job['id']}", headers=headers).status_code)
            else:
                answers.append(other.patch(f"/jobs/{job['id']}", json={"tags": ["x"]}, headers=headers).status_code)

        threads = [threading.Thread(target=write, args=(change,)) for change in ("delete", "patch")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) in ([200, 412], [204, 404])

    def test_deletion_is_decided_under_the_lock(self, client: FlaskClient, world: World) -> None:
        """The edit is in its transaction when the deletion asks; a look before the lock would see the old revision."""
        job = created(client)
        inside, asked = threading.Event(), threading.Event()

        def decide_slowly(found: Job, now: Any) -> Any:
            change = original(found, now)
            inside.set()
            assert asked.wait(60)
            return change

        jobs_update = world.jobs.update
        original: Any = None

        def update(job_id: Any, decide: Any) -> Job:
            nonlocal original
            original = decide
            return jobs_update(job_id, decide_slowly)

        world.jobs.update = update  # type: ignore[method-assign]
        writer = threading.Thread(target=lambda: make_client(world).patch(f"/jobs/{job['id']}", json={"tags": ["x"]}))
        writer.start()
        assert inside.wait(60)
        answers: list[int] = []
        path = f"/jobs/{job['id']}"
        remover = threading.Thread(
            target=lambda: answers.append(make_client(world).delete(path, headers={"If-Match": '"1"'}).status_code)
        )
        remover.start()
        while not world.one("select count(*) from pg_stat_activity where wait_event_type = 'Lock'"):
            pass
        asked.set()
        writer.join()
        remover.join()
        assert answers == [412]
        assert client.get(path).get_json()["tags"] == ["x"]

    @pytest.mark.parametrize("action", ["pause", "resume"])
    def test_pause_and_resume_are_for_a_revision_too(self, client: FlaskClient, action: str) -> None:
        job = created(client)
        path = f"/jobs/{job['id']}/{action}"
        problem(client.post(path, headers={"If-Match": '"2"'}), 412)
        answer = client.post(path, headers={"If-Match": '"1"'})
        assert (answer.status_code, answer.headers["ETag"]) == (200, '"1"')


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/jobs/name:one"),
        ("PATCH", "/v1/jobs/name:one"),
        ("PUT", "/v1/jobs/by-name/one"),
        ("DELETE", "/v1/jobs/name:one"),
        ("POST", "/v1/jobs/name:one/pause"),
        ("POST", "/v1/jobs/name:one/resume"),
        ("GET", "/v1/version"),
        ("GET", "/health"),
    ],
)
def test_unknown_parameter_is_refused_everywhere(client: FlaskClient, method: str, path: str) -> None:
    created(client, name="one")
    response = client.open(f"{path}?dry_run=true", method=method, json={} if method in ("PATCH", "PUT") else None)
    assert only_error(response)["pointer"] == "/dry_run"
    assert client.get("/v1/jobs/name:one").get_json()["status"] == "RUNNING"
