"""Servers that are away at the start or later: work waits, says why, and resumes by itself."""

import signal
from pathlib import Path

import pytest
from servers.rabbitmq import RabbitMQ
from servers.target import Target, answer
from support.books import unbalanced_moments
from support.cluster import cluster, wait_until
from support.world import World

from gnomon.embedded.postgres import EmbeddedPostgres
from gnomon.embedded.valkey import EmbeddedValkey
from gnomon.job.model import Job

SCALED = {"SCHEDULER_MAX_JOB_LOCK_TIME": "5s"}


def every_second(world: World, target: Target, count: int) -> list[Job]:
    job = {"interval_seconds": 1, "http_job": {"url": target.url("/hook"), "body": "{}"}}
    return [world.create(**job) for _ in range(count)]


def fresh_successes(world: World) -> int:
    """Successes of moments of the last two seconds."""
    count: int = world.one(
        "select count(*) from executions where state = 'SUCCEEDED' and scheduled_at > now() - interval '2 seconds'"
    )
    return count


def settle(world: World) -> None:
    world.sql("update jobs set status = 'STOPPED'")
    wait_until(
        "everything is in a final state",
        lambda: world.one("select count(*) from executions where state in ('WAITING', 'PENDING', 'RUNNING')") == 0,
        seconds=60,
    )


def assert_books_are_right(world: World, jobs: list[Job]) -> None:
    wrong = {job.id: moments for job in jobs if (moments := unbalanced_moments(world, job.id))}
    assert wrong == {}


def test_services_that_start_before_the_database_wait_for_it_and_say_so(
    world: World, database_url: str, redis_url: str, postgres: EmbeddedPostgres, target: Target, tmp_path: Path
) -> None:
    every_second(world, target, 3)
    postgres.kill()
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path) as started:
        roles = [started.start("scheduler"), started.start("worker")]
        for role in roles:
            wait_until("it says what it waits for", lambda r=role: "waiting for the database" in r.text)
            assert "is ready" not in role.text
        postgres.start()
        for role in roles:
            role.wait_ready()
        wait_until("jobs run", lambda: len(target.requests) > 3)


def test_services_that_start_before_the_broker_run_jobs_when_it_comes(
    world: World, database_url: str, redis_url: str, valkey: EmbeddedValkey, target: Target, tmp_path: Path
) -> None:
    jobs = every_second(world, target, 3)
    valkey.kill()
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path) as started:
        scheduler, _ = started.start("scheduler"), started.start("worker")
        wait_until("the scheduler says that the broker is away", lambda: "the broker does not" in scheduler.text)
        valkey.start()
        wait_until("jobs run", lambda: fresh_successes(world) >= 3, seconds=60)
        settle(world)
    assert_books_are_right(world, jobs)


@pytest.mark.parametrize("broker", ["valkey", "rabbitmq"])
def test_broker_that_is_killed_and_comes_back_empty_costs_time_only(
    world: World, database_url: str, target: Target, tmp_path: Path, request: pytest.FixtureRequest, broker: str
) -> None:
    queue_url = request.getfixturevalue("redis_url" if broker == "valkey" else "rabbitmq_url")
    server: EmbeddedValkey | RabbitMQ = request.getfixturevalue(broker)
    jobs = every_second(world, target, 20)
    with cluster(database_url=database_url, queue_url=queue_url, folder=tmp_path) as started:
        started.start_ready("scheduler", "worker")
        wait_until("jobs run", lambda: fresh_successes(world) >= 20)
        server.kill()
        server.start()
        wait_until("jobs run again", lambda: fresh_successes(world) >= 20, seconds=60)
        settle(world)
    assert_books_are_right(world, jobs)


def test_database_that_is_killed_and_comes_back_costs_time_only(
    world: World, database_url: str, redis_url: str, postgres: EmbeddedPostgres, target: Target, tmp_path: Path
) -> None:
    jobs = every_second(world, target, 20)
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path, **SCALED) as started:
        started.start_ready("scheduler", "worker")
        wait_until("jobs run", lambda: fresh_successes(world) >= 20)
        postgres.kill()
        postgres.start()
        wait_until("the database answers", lambda: _answers(world))
        wait_until("jobs run again", lambda: fresh_successes(world) >= 20, seconds=60)
        settle(world)
    assert_books_are_right(world, jobs)
    done = {str(row.id) for row in world.sql("select id from executions where state = 'SUCCEEDED'")}
    assert done <= target.keys().keys()


def test_rolling_restart_loses_nothing_and_leaves_no_doubt(
    world: World, database_url: str, queue_url: str, target: Target, tmp_path: Path
) -> None:
    target.on("/hook", answer(delay=0.2))
    jobs = every_second(world, target, 50)
    with cluster(database_url=database_url, queue_url=queue_url, folder=tmp_path) as started:
        roles = started.start_ready("scheduler", "worker")
        for role in roles:
            wait_until("jobs run", lambda: fresh_successes(world) >= 50, seconds=60)
            assert role.stop() == 0
            started.start(role.name.partition("-")[0]).wait_ready()
        wait_until("jobs run", lambda: fresh_successes(world) >= 50, seconds=60)
        settle(world)
    assert_books_are_right(world, jobs)
    assert world.one("select count(*) from executions where state not in ('SUCCEEDED', 'SKIPPED')") == 0
    assert set(target.keys().values()) == {1}  # each was called once: what was in flight finished


def test_worker_that_is_frozen_longer_than_its_lease_does_not_overwrite_its_successor(
    world: World, database_url: str, redis_url: str, target: Target, tmp_path: Path
) -> None:
    target.on("/hook", answer(delay=2.0))
    job = world.create(delay_seconds=20, http_job={"url": target.url("/hook")})
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path, **SCALED) as started:
        _, frozen = started.start_ready("scheduler", "worker")
        # by then the scheduler no longer spares recent leases, as it does after its start
        target.wait_for(lambda requests: len(requests) == 1, timeout=40)
        frozen.signal(signal.SIGSTOP)
        started.start("worker").wait_ready()
        wait_until("another worker has done it", lambda: world.states_of(job) == ["SUCCEEDED"], seconds=40)
        frozen.signal(signal.SIGCONT)
        wait_until("the frozen one notices", lambda: "taken over" in frozen.text or "lease" in frozen.text, seconds=20)
    (execution,) = world.history_of(job)
    assert (execution.state.value, execution.attempt) == ("SUCCEEDED", 2)
    assert [attempt.outcome for attempt in execution.attempts] == ["LOST"]


def _answers(world: World) -> bool:
    try:
        return bool(world.one("select 1"))
    except Exception:
        return False
