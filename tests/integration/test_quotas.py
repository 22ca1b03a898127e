"""What the operator lets jobs be, as the API says it."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from support.api import HOURLY, created, make_client, only_error, problem
from support.world import World

from gnomon.job.creations import Creations
from gnomon.job.errors import QuotaExceeded, Unavailable
from gnomon.job.quotas import Quotas
from gnomon.job.service import JobService
from gnomon.storage.postgres.creations import PostgresCreationStore
from gnomon.storage.postgres.jobs import PostgresJobStore, insert_job
from gnomon.storage.postgres.quotas import COUNT_JOBS, limited_by
from gnomon.storage.postgres.runs import PostgresRunStore
from gnomon.storage.postgres.sessions import acting_for


def service_over(world: World, quotas: Quotas, acting: Callable[[], str] = lambda: "") -> JobService:
    engine = limited_engine(world, quotas, acting)
    return JobService(
        jobs=PostgresJobStore(engine),
        runs=PostgresRunStore(engine),
        history=world.history,
        catalog=world.catalog,
        quotas=quotas,
    )


def limited_engine(world: World, quotas: Quotas, acting: Callable[[], str] = lambda: "") -> Engine:
    return acting_for(limited_by(world.engine, quotas), acting)


def limited(world: World, quotas: Quotas) -> FlaskClient:
    """A client of an API with these quotas."""
    world.service = service_over(world, quotas)
    world.creations = Creations(world.service, PostgresCreationStore(limited_engine(world, quotas)))
    return make_client(world)


def counts(world: World) -> dict[str, int]:
    """As the triggers keep them."""
    rows = world.sql("select owner, sum(count)::int as total from job_counts group by owner")
    return {row.owner: row.total for row in rows if row.total}


@pytest.mark.parametrize(
    ("schedule", "pointer"),
    [
        ({"cron_schedule": "*/10 * * * * *"}, "/cron_schedule"),
        ({"schedule": "@every 30s"}, "/schedule"),
        ({"cron_schedule": None, "interval_seconds": 59}, "/interval_seconds"),
    ],
)
def test_job_that_is_too_frequent_is_refused_where_it_says_so(
    world: World, schedule: dict[str, object], pointer: str
) -> None:
    client = limited(world, Quotas(min_interval=timedelta(minutes=1)))
    document = {"type": "HTTP", "http_job": {"url": "https://example.com/"}, **schedule}
    error = only_error(client.post("/v1/jobs", json=document))
    assert error["pointer"] == pointer
    assert "limits.min_interval" in error["hint"]


def test_frequent_job_that_exists_goes_on_when_the_limit_is_raised(world: World) -> None:
    job = created(make_client(world), cron_schedule="* * * * * *")
    client = limited(world, Quotas(min_interval=timedelta(minutes=1)))
    path = f"/v1/jobs/{job['id']}"
    assert client.patch(path, json={"tags": ["slow"]}).status_code == 200
    assert client.put(path, json={**job, "timezone": "Europe/Paris"}).status_code == 200
    only_error(client.patch(path, json={"cron_schedule": "*/2 * * * * *"}))
    assert client.patch(path, json={"cron_schedule": "* * * * *"}).status_code == 200
    only_error(client.patch(path, json={"cron_schedule": "* * * * * *"}))
    assert client.delete(path).status_code == 204


def test_no_more_jobs_than_there_may_be(world: World) -> None:
    client = limited(world, Quotas(jobs=2))
    first, _ = created(client), created(client, name="second")
    for refused in (
        client.post("/v1/jobs", json=HOURLY),
        client.post("/v1/jobs", json=HOURLY, headers={"Idempotency-Key": "k"}),
        client.post("/v1/jobs?validate_only=true", json=HOURLY),
        client.put("/v1/jobs/by-name/third", json=HOURLY),
    ):
        found = problem(refused, 409)
        assert found["type"] == "urn:gnomon:problem:quota-exceeded"
        assert "limits.jobs" in found["detail"]
    assert counts(world) == {"": 2}
    assert client.put("/v1/jobs/by-name/second", json=HOURLY).status_code == 200
    assert client.delete(f"/v1/jobs/{first['id']}").status_code == 204
    created(client)


def test_quota_that_was_lowered_leaves_alone_what_is_there(world: World) -> None:
    jobs = [created(make_client(world)) for _ in range(3)]
    client = limited(world, Quotas(jobs=1))
    path = f"/v1/jobs/{jobs[0]['id']}"
    assert client.patch(path, json={"tags": ["kept"]}).status_code == 200
    assert client.post(f"{path}/run").status_code == 202
    for job in jobs[1:]:
        problem(client.post("/v1/jobs", json=HOURLY), 409)
        assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    problem(client.post("/v1/jobs", json=HOURLY), 409)
    assert client.delete(path).status_code == 204
    created(client)


def test_each_key_has_a_quota_of_its_own(world: World) -> None:
    who = ["first"]
    service = service_over(world, Quotas(jobs_per_key=2), lambda: who[0])
    mine = [service.create(HOURLY) for _ in range(2)]
    with pytest.raises(QuotaExceeded, match=r"limits\.jobs_per_key"):
        service.create(HOURLY)
    who[0] = "second"
    service.create(HOURLY)
    service.delete(str(mine[0].id))  # the place is that of who created it
    assert counts(world) == {"first": 1, "second": 1}
    who[0] = "first"
    service.create(HOURLY)
    with pytest.raises(QuotaExceeded):
        service.create(HOURLY)


@pytest.mark.parametrize("quotas", [Quotas(jobs=25), Quotas(jobs_per_key=25)], ids=["in all", "per key"])
def test_ten_at_once_create_exactly_as_many_as_there_may_be(world: World, quotas: Quotas) -> None:
    service, together = service_over(world, quotas, lambda: "key"), Barrier(10)

    def create(_: int) -> int:
        together.wait()
        made = 0
        for _ in range(5):
            try:
                service.create(HOURLY)
                made += 1
            except QuotaExceeded:
                pass
        return made

    with ThreadPoolExecutor(10) as pool:
        assert sum(pool.map(create, range(10))) == 25
    assert world.one("select count(*) from jobs") == 25


def test_far_from_the_limit_nobody_waits_for_others(world: World) -> None:
    service = service_over(world, Quotas(jobs=1_000_000))
    with limited_engine(world, Quotas(jobs=1_000_000)).begin() as other:
        insert_job(other, service.prepared(HOURLY))  # not committed yet
        service.create(HOURLY)
    assert counts(world) == {"": 2}


def test_near_the_limit_one_waits_for_the_other(world: World) -> None:
    service = service_over(world, Quotas(jobs=900))
    with limited_engine(world, Quotas(jobs=900)).begin() as other:
        insert_job(other, service.prepared(HOURLY))
        with pytest.raises(Unavailable):  # for longer than a lock is waited for
            service.create(HOURLY)
    service.create(HOURLY)


def test_counts_are_right_whatever_happens_at_once(world: World) -> None:
    def live(seed: int) -> None:
        service = service_over(world, Quotas(), lambda: f"key-{seed % 3}")
        made = [service.create(HOURLY) for _ in range(8)]
        for job in made[: seed % 8]:
            service.delete(str(job.id))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(live, range(12)))
    rows = world.sql("select created_by as owner, count(*) as total from jobs where deleted_at is null group by 1")
    assert counts(world) == {row.owner: row.total for row in rows}
    world.sql("delete from jobs where created_by = 'key-1'")
    assert counts(world).keys() == {"key-0", "key-2"}


def test_counting_jobs_reads_no_job(world: World) -> None:
    with world.engine.connect() as connection:
        statement = text(f"explain (format text) {COUNT_JOBS.text}")
        plan = "\n".join(connection.execute(statement, {"owner": "x"}).scalars())
    assert "job_counts" in plan
    assert " jobs" not in plan


def test_backlog_of_a_job_is_bounded(world: World) -> None:
    service = service_over(world, Quotas(backlog=5))
    job = service.create({**HOURLY, "cron_schedule": "* * * * *", "overlap": "queue"})
    since = datetime.now(UTC) - timedelta(hours=1)

    def backfill(minutes: int) -> Any:
        times = {"since": since.isoformat(), "until": (since + timedelta(minutes=minutes)).isoformat()}
        return service.backfill(str(job.id), **times)

    with pytest.raises(QuotaExceeded, match=r"limits\.backlog"):
        backfill(30)
    assert world.one("select count(*) from executions") == 0
    assert 3 <= len(backfill(4)) <= 5

    def waiting() -> int:
        return Counter(row.state for row in world.sql("select state from executions"))["WAITING"]

    while waiting() < 5:
        service.run_now(str(job.id), may_wait=True)
    with pytest.raises(QuotaExceeded, match="executions that wait"):
        service.run_now(str(job.id), may_wait=True)
    assert waiting() == 5
