"""A worker dies while executions wait in it for a host that hangs."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.target import Target
from support import ledger
from support.cluster import cluster, wait_until
from support.gate import Gate
from support.world import World

SCALED = {"SCHEDULER_MAX_JOB_LOCK_TIME": "4s", "SCHEDULER_WORKER_CONCURRENCY_PER_HOST": "5"}
STUCK, WELL = 60, 20


@pytest.fixture
def other() -> Iterator[Target]:
    with Target() as started:
        yield started


def states(world: World, target: Target) -> Counter[str]:
    """Of the executions whose job calls this target."""
    rows = world.sql(
        "select e.state from executions e join job_revisions r on r.job_id = e.job_id and r.revision = e.revision "
        "where r.definition::text like :address",
        address=f"%:{target.port}/%",
    )
    return Counter(row.state for row in rows)


def test_nothing_is_lost_or_done_twice_when_a_worker_is_killed_with_waiting_executions(
    world: World, database_url: str, redis_url: str, target: Target, other: Target, tmp_path: Path
) -> None:
    gate = Gate()
    target.on("/hook", gate.behaviour())
    with world.engine.begin() as connection:
        ledger.watch(connection.connection.cursor())
    for index in range(STUCK):
        delivery = "at_most_once" if index % 2 else "at_least_once"
        world.create(delay_seconds=0, http_job={"url": target.url("/hook"), "body": "{}"}, delivery=delivery)
    for _ in range(WELL):
        world.create(delay_seconds=0, http_job={"url": other.url("/hook"), "body": "{}"})
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path, **SCALED) as started:
        _, worker = started.start_ready("scheduler", "worker")
        wait_until("the others are finished", lambda: states(world, other) == {"SUCCEEDED": WELL}, seconds=60)
        wait_until("places are taken", lambda: (gate.inside, states(world, target)["RUNNING"]) == (5, 10), seconds=60)
        marked = world.sql("select id from executions where state = 'RUNNING' and effect_started_at is not null")
        assert {str(row.id) for row in marked} <= target.keys().keys()  # what waits is not marked as sent
        worker.kill()
        started.start("worker").wait_ready()
        wait_until("another has taken over", lambda: gate.inside == 5, seconds=60)
        gate.open.set()
        wait_until("all are finished", lambda: states(world, target).keys() <= {"SUCCEEDED", "UNKNOWN"}, seconds=90)
    # at most once, what had been sent when the worker died is UNKNOWN, and only that
    assert states(world, target)["UNKNOWN"] == len(marked)
    jobs = world.sql("select job_id as id, definition->>'delivery' as delivery from job_revisions")
    promises = {row.id: ledger.Promise(at_most_once=row.delivery == "at_most_once") for row in jobs}
    assert ledger.complaints(world, [*target.requests, *other.requests], promises) == []
