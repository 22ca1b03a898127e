"""The ways in which servers fail beneath running jobs, one after the other: jobs run again, and the books are right."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psycopg2
import pytest
import redis
from chaos.clock import WrongClock
from servers.rabbitmq import RabbitMQ
from servers.target import Target
from support.books import unbalanced_moments
from support.cluster import Role, cluster, wait_until
from support.missing import give_up
from support.world import World

from gnomon.embedded.postgres import EmbeddedPostgres
from gnomon.embedded.processes import family_of
from gnomon.embedded.valkey import EmbeddedValkey
from gnomon.job.model import Job

JOBS = 20
SCALED = {"SCHEDULER_MAX_JOB_LOCK_TIME": "5s"}
# What the promise allows after an outage, and some for a machine that does other things as well.
RECOVERY_SECONDS = 40
FROZEN_SECONDS = 8  # longer than anybody waits for an answer

END_OUR_SESSIONS = "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'gnomon%'"

Breaking = Callable[[Role], None]


def every_second(world: World, target: Target) -> list[Job]:
    job = {"interval_seconds": 1, "http_job": {"url": target.url("/hook"), "body": "{}"}}
    return [world.create(**job) for _ in range(JOBS)]


def wait_for_fresh_successes(world: World, why: str) -> None:
    """Until each job has succeeded for a moment later than now."""
    fresh = "select count(distinct job_id) from executions where state = 'SUCCEEDED' and scheduled_at > :since"
    since = world.one("select now()")
    wait_until(f"jobs run {why}", lambda: world.one(fresh, since=since) == JOBS, seconds=RECOVERY_SECONDS)


def settle_and_check(world: World, jobs: list[Job]) -> None:
    for job in jobs:
        world.service.pause(str(job.id))
    wait_until(
        "everything is in a final state",
        lambda: world.one("select count(*) from executions where state in ('WAITING', 'PENDING', 'RUNNING')") == 0,
        seconds=60,
    )
    assert {job.id: wrong for job in jobs if (wrong := unbalanced_moments(world, job.id))} == {}
    assert world.one("select count(*) from executions where state not in ('SUCCEEDED', 'SKIPPED')") == 0


def survive(
    world: World, database_url: str, queue_url: str, target: Target, folder: Path, faults: dict[str, Breaking]
) -> None:
    jobs = every_second(world, target)
    with cluster(database_url=database_url, queue_url=queue_url, folder=folder, **SCALED) as started:
        scheduler, _ = started.start_ready("scheduler", "worker")
        wait_for_fresh_successes(world, "at first")
        for name, breaking in faults.items():
            breaking(scheduler)
            wait_for_fresh_successes(world, f"again after: {name}")
        settle_and_check(world, jobs)


@pytest.fixture
def persistent_valkey(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """One of the test's own, that keeps its data."""
    server = EmbeddedValkey(tmp_path / "valkey", persist=True)
    server.start()
    yield server
    server.stop()


def test_redis_may_fail_in_every_way(
    world: World, database_url: str, persistent_valkey: EmbeddedValkey, target: Target, tmp_path: Path
) -> None:
    server = persistent_valkey
    with redis.Redis.from_url(server.url) as client:

        def run_out_of_memory(scheduler: Role) -> None:
            told = scheduler.text.count("does not take messages")
            client.config_set("maxmemory", "1")
            wait_until("the scheduler notices", lambda: scheduler.text.count("does not take messages") > told)
            client.config_set("maxmemory", "0")

        def restart_with_its_data(_: Role) -> None:
            server.kill()
            server.start()

        faults: dict[str, Breaking] = {
            "FLUSHALL": lambda _: client.flushall(),
            "queue deleted": lambda _: client.delete("io"),
            "CLIENT PAUSE": lambda _: client.client_pause(FROZEN_SECONDS * 1000),
            "out of memory": run_out_of_memory,
            "restarted with its data": restart_with_its_data,
        }
        survive(world, database_url, server.url, target, tmp_path, faults)


def test_rabbitmq_may_fail_in_every_way(
    world: World, database_url: str, rabbitmq_url: str, rabbitmq: RabbitMQ, target: Target, tmp_path: Path
) -> None:
    def alarm(resource: str) -> Breaking:
        def raise_and_clear(scheduler: Role) -> None:
            told = scheduler.text.count("does not take messages")
            name = f"{{resource_limit, {resource}, node()}}"
            rabbitmq.evaluate(f"rabbit_alarm:set_alarm({{{name}, []}})")
            wait_until("the scheduler notices", lambda: scheduler.text.count("does not take messages") > told)
            rabbitmq.evaluate(f"rabbit_alarm:clear_alarm({name})")

        return raise_and_clear

    def freeze(_: Role) -> None:
        assert rabbitmq.pid is not None
        with frozen(rabbitmq.pid, *family_of(rabbitmq.pid)):
            time.sleep(FROZEN_SECONDS)  # that long is the fault

    faults: dict[str, Breaking] = {
        "queue deleted": lambda _: rabbitmq.evaluate(
            '[rabbit_amqqueue:delete(Q, false, false, <<"test">>) || Q <- rabbit_amqqueue:list()]'
        ),
        "disk alarm": alarm("disk"),
        "memory alarm": alarm("memory"),
        "frozen": freeze,
    }
    survive(world, database_url, rabbitmq_url, target, tmp_path, faults)


def test_postgres_may_fail_in_every_way(
    world: World, database_url: str, redis_url: str, postgres: EmbeddedPostgres, target: Target, tmp_path: Path
) -> None:
    def restart_again_and_again(_: Role) -> None:
        for _round in range(5):
            postgres.kill()
            postgres.start()
            wait_until("the database answers", lambda: _answers(world))
            world.sql("select pg_sleep(1)")

    def run_out_of_connections(scheduler: Role) -> None:
        told = scheduler.text.count("does not answer")
        with contextlib.ExitStack() as sessions:
            first = sessions.enter_context(contextlib.closing(psycopg2.connect(postgres.url)))
            with contextlib.suppress(psycopg2.OperationalError):
                while True:
                    sessions.enter_context(contextlib.closing(psycopg2.connect(postgres.url)))
            # everybody needs a new connection now, and the test takes what becomes free
            with first.cursor() as cursor:
                cursor.execute(END_OUR_SESSIONS)
            with contextlib.suppress(psycopg2.OperationalError):
                while True:
                    sessions.enter_context(contextlib.closing(psycopg2.connect(postgres.url)))
            wait_until("the scheduler notices", lambda: scheduler.text.count("does not answer") > told)
        wait_until("the database answers", lambda: _answers(world))

    faults: dict[str, Breaking] = {
        "immediate restart every second, five times": restart_again_and_again,
        "a backend frozen while it holds the rows of all jobs": lambda _: hold_all_jobs(world, database_url),
        "connections exhausted": run_out_of_connections,
    }
    survive(world, database_url, redis_url, target, tmp_path, faults)


def test_three_schedulers_with_clocks_an_hour_apart_run_each_moment_once_and_never_early(
    world: World, database_url: str, queue_url: str, target: Target, tmp_path: Path
) -> None:
    clock = WrongClock(tmp_path)
    if not clock.available:
        give_up("NO COMPILER: gcc is needed to give a process another clock")
    jobs = every_second(world, target)
    with cluster(database_url=database_url, queue_url=queue_url, folder=tmp_path, **SCALED) as started:
        hour = timedelta(hours=1) // timedelta(seconds=1)
        roles = [started.start("scheduler", **clock.environment(shift)) for shift in (-hour, 0, hour)]
        roles += [started.start("worker", **clock.environment(shift)) for shift in (-hour, hour)]
        for role in roles:
            role.wait_ready()
        for number in range(3):
            wait_for_fresh_successes(world, f"round {number}")
        settle_and_check(world, jobs)
    due = {str(row.id): row.scheduled_at for row in world.sql("select id, scheduled_at from executions")}
    assert all(request.arrived_at >= due[request.key or ""] for request in target.requests)
    assert set(target.keys().values()) == {1}


@contextlib.contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """They do nothing meanwhile, and tell nobody."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def hold_all_jobs(world: World, database_url: str) -> None:
    """Not even the server can end such a session: nobody may wait for it."""
    with contextlib.closing(psycopg2.connect(database_url)) as session, session.cursor() as cursor:
        cursor.execute("select id from jobs for update")
        with frozen(session.info.backend_pid):
            other = world.create(interval_seconds=1, http_job={"url": "http://127.0.0.1:9/", "body": "{}"})
            ran = "select count(*) from executions where job_id = :id and attempt > 0"
            wait_until("others go on", lambda: world.one(ran, id=other.id) > 0)
            world.service.delete(str(other.id))
        session.rollback()
    world.sql("delete from executions where job_id = :id", id=other.id)


def _answers(world: World) -> bool:
    try:
        return bool(world.one("select 1"))
    except Exception:
        return False
