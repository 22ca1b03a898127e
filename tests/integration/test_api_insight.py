"""How it goes, over HTTP: why, depths, counts."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from flask.testing import FlaskClient
from support.api import created, make_client, only_error, problem
from support.world import World, record

from gnomon.job.handlers import HandlerSpec
from gnomon.job.instance import Identity, Role
from gnomon.job.model import Job, State


@pytest.fixture
def client(world: World) -> FlaskClient:
    return make_client(world)


def join(world: World, role: Role, *queues: str) -> Identity:
    one = Identity(id=uuid4(), name=f"{role}-1", role=role, host="here", pid=1, version="1", queues=queues)
    world.instances.beat(one)
    return one


@pytest.fixture
def fleet(world: World) -> None:
    """A scheduler, and a worker for HTTP jobs."""
    join(world, Role.SCHEDULER)
    join(world, Role.WORKER, "io")


def why(client: FlaskClient, job: Job | dict[str, Any] | str) -> dict[str, str]:
    """Texts by their codes; of executions, that of the newest."""
    reference = job if isinstance(job, str) else job["id"] if isinstance(job, dict) else str(job.id)
    response = client.get(f"/v1/jobs/{reference}/why")
    assert response.status_code == 200, response.text
    return {reason["code"]: reason["text"] for reason in reversed(response.get_json()["reasons"])}


def claimed_of(world: World, job: Job, *, wait: float = 0.0) -> Any:
    """An attempt of a job that is due; `wait`: how long ago it was due, in seconds."""
    world.make_due(job, ago=wait)
    (claimed,) = world.claim(world.dispatched())
    return claimed


class TestWhy:
    def test_a_job_that_is_not_due_says_when_it_is(self, client: FlaskClient, fleet: None) -> None:
        job = created(client)
        found = why(client, job)
        assert set(found) == {"not_due", "no_history"}
        assert job["next_run"] in found["not_due"]

    def test_nobody_to_run_it(self, client: FlaskClient, world: World) -> None:
        job = created(client)
        assert set(why(client, job)) == {"not_due", "no_history", "no_scheduler", "no_worker"}
        scheduler, worker = join(world, Role.SCHEDULER), join(world, Role.WORKER, "handlers")
        assert "'io'" in why(client, job)["no_worker"]
        world.instances.leave(scheduler.id)
        world.instances.leave(worker.id)
        assert {"no_scheduler", "no_worker"} <= set(why(client, job))

    def test_a_worker_without_its_handler(self, client: FlaskClient, world: World) -> None:
        world.announce(HandlerSpec(name="mail", queue="handlers"))
        client.post("/jobs", json={"type": "mail", "name": "mails", "cron_schedule": "@daily"})
        world.sql("update instances set handlers = '{}', queues = '{handlers}'")
        assert "'mail'" in why(client, "name:mails")["no_handler"]
        world.sql("update instances set handlers = '{mail}'")
        assert "no_handler" not in why(client, "name:mails")

    def test_a_paused_job_says_since_when_and_why(self, client: FlaskClient, fleet: None) -> None:
        job = created(client)
        client.post(f"/jobs/{job['id']}/pause", json={"reason": "the target moves", "until": "2100-01-01T00:00:00Z"})
        text = why(client, job)["paused"]
        assert "the target moves" in text
        assert "until 2100-01-01T00:00:00Z" in text

    def test_a_job_that_is_over_or_held_or_overdue(self, client: FlaskClient, world: World, fleet: None) -> None:
        over = world.create(delay_seconds=0)
        world.dispatched()
        assert "completed" in why(client, over)
        job = world.create(interval_seconds=60)
        world.make_due(job, ago=30)
        assert "30" in why(client, job)["overdue"]
        world.sql(
            "update jobs set held_until = now() + interval '1 hour', hold_reason = 'no such zone' where id = :id",
            id=job.id,
        )
        assert "no such zone" in why(client, job)["held"]

    def test_a_late_one_says_where_the_time_went(self, client: FlaskClient, world: World, fleet: None) -> None:
        claimed = claimed_of(world, job := world.create(interval_seconds=3600), wait=30)
        text = why(client, job)["late"]
        assert "until a scheduler had created it" in text
        assert "until a worker began" in text
        world.executions.record([record(claimed)])

    def test_what_runs_waits_and_is_skipped(self, client: FlaskClient, world: World, fleet: None) -> None:
        job = world.create(interval_seconds=3600, overlap="queue")
        claimed = claimed_of(world, job)
        assert "worker-1" in why(client, job)["running"]
        world.make_due(job)
        world.dispatched()
        assert str(claimed.id) in why(client, job)["waits_its_turn"]
        world.make_due(job)
        world.dispatched()
        assert "another execution was unfinished" in why(client, job)["skipped"]

    def test_misfires_say_how_many(self, client: FlaskClient, world: World, fleet: None) -> None:
        job = world.create(interval_seconds=60, misfire={"policy": "skip", "grace_seconds": 0})
        world.make_due(job, ago=600)
        world.dispatched()
        assert "moments" in why(client, job)["skipped"]
        assert "misfire policy" in why(client, job)["skipped"]

    def test_what_was_tried_again_says_why_and_when_next(self, client: FlaskClient, world: World, fleet: None) -> None:
        job = world.create(interval_seconds=3600)
        claimed = claimed_of(world, job)
        error = {"error_code": "http_status", "error_message": "the target answered 500"}
        world.executions.record([record(claimed, State.PENDING, delay=timedelta(hours=1), **error)])
        assert "after 1 failures (http_status: the target answered 500)" in why(client, job)["waits_to_try"]

    def test_what_may_have_run_twice_names_the_worker_that_went_silent(
        self, client: FlaskClient, world: World, fleet: None
    ) -> None:
        job = world.create(interval_seconds=3600)
        claimed_of(world, job)
        world.sql("update executions set lease_expires_at = now() - interval '1 hour'")
        assert world.dispatch.rescue(grace=timedelta(0), spare=None, spread=timedelta(0)).total == 1
        assert "attempt 1 on worker-1 went silent" in why(client, job)["ran_again"]

    def test_what_was_asked_for_and_failed(self, client: FlaskClient, world: World, fleet: None) -> None:
        job = world.create(interval_seconds=3600)
        execution = world.service.run_now(str(job.id)).execution
        assert "could begin since" in why(client, job)["waits_for_a_worker"]
        (claimed,) = world.claim([execution.id])
        world.executions.record([record(claimed, State.FAILED, error_code="http_status", error_message="it said no")])
        found = why(client, job)
        assert "by hand" in found["asked_for"]
        assert "ended FAILED (http_status: it said no)" in found["failed"]

    def test_nobody_knows_of_a_job_that_is_gone(self, client: FlaskClient) -> None:
        job = created(client)
        client.delete(f"/jobs/{job['id']}")
        problem(client.get(f"/jobs/{job['id']}/why"), 404)
        problem(client.get("/jobs/name:nobody/why"), 404)


def test_queues_tell_their_depths_and_ages(client: FlaskClient, world: World, fleet: None) -> None:
    assert client.get("/v1/queues").get_json() == [
        {"name": "io", "workers": 1, "due": 0, "sent": 0, "later": 0, "waiting": 0, "running": 0}
        | {"oldest_due_at": None, "oldest_age_seconds": None}
    ]
    job = world.due(overlap="queue")
    world.dispatched()
    world.make_due(job)
    world.dispatched()
    world.sql("update executions set available_at = now() - interval '40 seconds' where state = 'PENDING'")
    (queue,) = client.get("/queues").get_json()
    assert (queue["due"], queue["sent"], queue["waiting"], queue["running"]) == (1, 1, 1, 0)
    assert queue["oldest_age_seconds"] >= 40
    world.sql("update executions set available_at = now() + interval '1 hour' where state = 'PENDING'")
    (queue,) = client.get("/queues").get_json()
    assert (queue["due"], queue["later"], queue["oldest_age_seconds"]) == (0, 1, None)


def test_stats_count_jobs_and_executions_with_their_lateness(client: FlaskClient, world: World) -> None:
    answer = client.get("/v1/stats").get_json()
    assert answer["jobs"] == {"RUNNING": 0, "STOPPED": 0, "COMPLETED": 0, "held": 0, "overdue": 0}
    assert (answer["counted"], answer["complete"], answer["lateness_seconds"]) == (0, True, None)
    job = world.create(interval_seconds=3600)
    world.executions.record([record(claimed_of(world, job, wait=50), State.FAILED)])
    world.service.pause(str(world.create().id))
    answer = client.get("/v1/stats").get_json()
    assert answer["jobs"] == {"RUNNING": 1, "STOPPED": 1, "COMPLETED": 0, "held": 0, "overdue": 0}
    assert (answer["executions"]["FAILED"], answer["executions"]["SUCCEEDED"], answer["counted"]) == (1, 0, 1)
    assert answer["lateness_seconds"]["median"] >= 50
    assert answer["lateness_seconds"]["max"] >= answer["lateness_seconds"]["p99"]
    assert client.get("/stats?window_seconds=10").get_json()["counted"] == 0
    for query in ("window_seconds=0", "window_seconds=604801", "window=60"):
        assert only_error(client.get(f"/stats?{query}"))["pointer"] == f"/{query.partition('=')[0]}"


def test_lists_count_what_matches_when_asked_to(
    client: FlaskClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        created(client, name=name, tags=["x"])
    created(client)
    response = client.get("/jobs?tag=x&limit=1&offset=1&count=true")
    assert (response.headers["X-Total-Count"], len(response.get_json())) == ("3", 1)
    assert "X-Total-Count-Capped" not in response.headers
    following = client.get(response.headers["Link"].partition(">")[0].strip("<"))
    assert following.headers["X-Total-Count"] == "3"
    assert "X-Total-Count" not in client.get("/jobs").headers
    world.service.run_now("name:a")
    for path in ("/executions", "/jobs/name:a/executions"):
        assert client.get(f"{path}?count=true&trigger=MANUAL").headers["X-Total-Count"] == "1"
        assert client.get(f"{path}?count=true&state=FAILED").headers["X-Total-Count"] == "0"
    monkeypatch.setattr("gnomon.storage.postgres.overview.COUNTED", 2)
    monkeypatch.setattr("gnomon.api.paging.COUNTED", 2)
    headers = client.get("/jobs?count=true").headers
    assert (headers["X-Total-Count"], headers["X-Total-Count-Capped"]) == ("2", "true")


def test_pages_stay_as_they_are_while_rows_are_added(client: FlaskClient, world: World) -> None:
    """Whoever follows the links meets all that was there when they began, once."""
    for number in range(6):
        created(client, name=f"old-{number}")
        world.service.run_now(f"name:old-{number}")
    for path, key in (("/jobs", "id"), ("/executions", "id")):
        before = [one[key] for one in client.get(f"{path}?limit=500").get_json()]
        seen: list[str] = []
        where: str | None = f"{path}?limit=2"
        while where:
            response = client.get(where)
            seen += [one[key] for one in response.get_json()]
            world.service.run_now(created(client)["id"])
            where = response.headers.get("Link", "").partition(">")[0].strip("<")
        assert seen == before
