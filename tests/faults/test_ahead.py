"""What breaks between a dispatch ahead of its moment and that moment: nothing is lost, early, or done twice."""

from datetime import datetime
from pathlib import Path

import redis
from servers.target import Target
from support.cluster import cluster, wait_until
from support.world import World

JOBS = 10
AHEAD = {"SCHEDULER_AHEAD": "5s"}


def due_soon(world: World, target: Target) -> None:
    """One-shots of one moment, which a scheduler sees at once."""
    at: datetime = world.one("select now() + interval '5 seconds'")
    call = {"url": target.url("/hook"), "method": "POST", "body": "{}"}
    for _ in range(JOBS):
        world.create(execute_at=at.isoformat(), http_job=call)


def published(world: World) -> bool:
    return bool(world.one("select count(*) from executions where published_at is not null") == JOBS)


def wait_for_the_end(world: World) -> None:
    wait_until(
        "all have succeeded",
        lambda: world.one("select count(*) from executions where state = 'SUCCEEDED'") == JOBS,
        seconds=60,
    )
    wait_until("all are complete", lambda: world.one("select count(*) from jobs where status = 'RUNNING'") == 0)


def assert_each_ran_once_and_none_early(world: World, target: Target) -> None:
    assert set(target.keys().values()) == {1}
    assert len(target.keys()) == JOBS
    assert world.one("select max(attempt) from executions") == 1
    assert world.one("select count(*) from executions where first_started_at < scheduled_at") == 0


def messages_sent(broker: "redis.Redis") -> int:
    return int(broker.info("commandstats").get("cmdstat_lpush", {"calls": 0})["calls"])


def test_killed_worker_delays_what_it_held_and_loses_nothing(
    world: World, database_url: str, redis_url: str, target: Target, tmp_path: Path
) -> None:
    with (
        cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path, **AHEAD) as started,
        redis.Redis.from_url(redis_url) as broker,
    ):
        _, worker = started.start_ready("scheduler", "worker")
        before = messages_sent(broker)
        due_soon(world, target)
        wait_until(
            "the worker holds them",
            lambda: published(world) and messages_sent(broker) > before and broker.llen("io") == 0,
        )
        worker.kill()
        assert not target.requests
        started.start("worker").wait_ready()
        wait_for_the_end(world)
    assert_each_ran_once_and_none_early(world, target)


def test_messages_that_a_broker_loses_ahead_of_the_moment_are_sent_again(
    world: World, database_url: str, redis_url: str, target: Target, tmp_path: Path
) -> None:
    with (
        cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path, **AHEAD) as started,
        redis.Redis.from_url(redis_url) as broker,
    ):
        started.start_ready("scheduler")
        due_soon(world, target)
        wait_until("all are sent", lambda: published(world) and broker.llen("io") > 0)
        broker.flushdb()
        started.start("worker").wait_ready()
        wait_for_the_end(world)
    assert_each_ran_once_and_none_early(world, target)
