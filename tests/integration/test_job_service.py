"""Creating, editing and deleting jobs: what becomes of next_run, of revisions and of what is owed."""

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest
from support.books import unbalanced_moments
from support.cluster import wait_until
from support.world import HTTP_JOB, World, record

from gnomon.job.document import read_definition
from gnomon.job.errors import InvalidJob, NotFound
from gnomon.job.model import Definition, Job, State
from gnomon.job.plan import DueJob, Plan
from gnomon.job.ports import Claimed, Hold
from gnomon.job.service import upcoming
from gnomon.scheduler.dispatch import plan_batch
from gnomon.storage.postgres import statements
from gnomon.storage.postgres.literals import json_rows, uuid_array

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def read(world: World, job: Job) -> Job:
    return world.service.get(str(job.id))


def test_interval_without_a_start_runs_first_after_one_interval(world: World) -> None:
    job = world.create(interval_seconds=60)
    assert job.next_run == job.created_at + timedelta(seconds=60)


def test_interval_with_a_start_runs_first_at_its_start(world: World) -> None:
    start = datetime(2100, 1, 1, tzinfo=UTC)
    assert world.create(interval_seconds=60, starts_at=start.isoformat()).next_run == start


def test_next_moments_of_a_job_are_its_schedule_and_shift(world: World) -> None:
    job = world.create(cron_schedule="0 * * * *", spread_seconds=600)
    moments = upcoming(job, 3)
    assert moments[0] == job.next_run
    assert [later - earlier for earlier, later in pairwise(moments)] == [timedelta(hours=1)] * 2
    assert timedelta(0) <= timedelta(minutes=moments[0].minute, seconds=moments[0].second) < timedelta(seconds=600)


def test_moments_around_edits_are_each_in_one_row(world: World) -> None:
    job = world.create(interval_seconds=1, overlap="allow")
    world.make_due(job, ago=5)
    for timeout in range(1, 4):
        world.service.update(str(job.id), {"timeout_seconds": timeout, "ends_at": f"210{timeout}-01-01T00:00:00Z"})
        world.dispatched()
        assert unbalanced_moments_since_first(world, job) == {}


def unbalanced_moments_since_first(world: World, job: Job) -> dict[datetime, int]:
    """make_due moves the anchor a hundred intervals back: only what was owed since counts."""
    first = world.one("select min(scheduled_at) from executions where job_id = :id", id=job.id)
    return {moment: rows for moment, rows in unbalanced_moments(world, job.id).items() if moment >= first}


def test_execution_that_a_dispatch_creates_while_its_job_is_deleted_is_cancelled_too(world: World) -> None:
    job = world.due()
    deleting = threading.Thread(target=world.service.delete, args=(str(job.id),))

    def decide(jobs: Sequence[DueJob], now: datetime) -> list[Plan | Hold]:
        deleting.start()  # it waits for the row that this dispatch holds
        wait_until("it waits", lambda: world.one("select count(*) from pg_locks where not granted") > 0)
        return plan_batch(jobs, now)

    assert len(world.dispatch.dispatch(decide, limit=10).published["io"]) == 1
    deleting.join(10)
    assert world.states_of(job) == ["CANCELLED"]


@pytest.mark.parametrize("reference", ["nonsense", "name:nobody", "0190A5F0-0000-7000-8000-000000000001 ", "123", ""])
def test_reference_to_nothing_is_not_found(world: World, reference: str) -> None:
    with pytest.raises(NotFound):
        world.service.get(reference)


@pytest.mark.parametrize("other", ["claim", "retry"])
def test_delete_that_crosses_a_claim_or_a_retry_lets_no_further_attempt_happen(world: World, other: str) -> None:
    """The delete waits for the other transaction, and then sees what that has made of the row."""
    job = world.due()
    ids = world.dispatched()
    statement, parameters = statements.CLAIM, claim_parameters(ids)
    if other == "retry":
        (claimed,) = world.claim(ids)
        statement, parameters = statements.RECORD, retry_parameters(claimed)
    with world.engine.connect() as connection, connection.begin() as transaction:
        connection.execute(statement, parameters)
        deleting = threading.Thread(target=lambda: world.jobs.delete(job.id))
        deleting.start()
        wait_until("the delete waits for the row", lambda: waiting_sessions(world) == 1)
        transaction.commit()
    deleting.join()
    for row in world.sql("select id, attempt from executions where state = 'RUNNING'"):
        failed = Claimed(id=row.id, attempt=row.attempt, job_id=job.id, revision=1, failures=0, scheduled_at=NOON)
        world.executions.record([record(failed, State.PENDING)])
    assert world.claim(ids) == []
    assert world.one("select count(*) from executions where state in ('WAITING', 'PENDING', 'RUNNING')") == 0


def claim_parameters(ids: Sequence[UUID]) -> dict[str, object]:
    return {"ids": uuid_array(ids), "delivery": uuid4(), "lease": 30, "worker": "w", "instance": uuid4()}


def retry_parameters(claimed: Claimed) -> dict[str, object]:
    row = {"id": claimed.id, "attempt": claimed.attempt, "state": "PENDING", "delay": 0, "failed": True, "seconds": 0.1}
    return {"rows": json_rows([row]), "instance": uuid4(), "again": "retried"}


def waiting_sessions(world: World) -> int:
    count: int = world.one(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    )
    return count


def defined(**document: Any) -> Callable[[Job | None, datetime], Definition]:
    given = {"type": "HTTP", "name": "nightly", "http_job": HTTP_JOB, "cron_schedule": "0 3 * * *", **document}
    return lambda _job, now: read_definition(given, now=now)


def test_ensuring_a_job_creates_it_and_then_leaves_it_alone(world: World) -> None:
    created = world.service.ensure("nightly", defined())
    again = world.service.ensure("nightly", defined())
    assert (again.id, again.revision, again.updated_at) == (created.id, 1, created.updated_at)


def test_ensuring_another_definition_makes_a_revision_and_drops_no_moment_that_is_due(world: World) -> None:
    created = world.service.ensure("nightly", defined())
    world.sql("update jobs set next_run = now() - interval '1 minute'")
    changed = world.service.ensure("nightly", defined(cron_schedule="* * * * * *"))
    assert (changed.id, changed.revision) == (created.id, 2)
    assert len(world.dispatched()) == 1
    assert sum(execution.skipped_count or 1 for execution in world.history_of(changed)) >= 60


def test_many_processes_ensure_the_same_job_at_once(world: World) -> None:
    jobs: list[Job] = []
    threads = [
        threading.Thread(target=lambda: jobs.append(world.service.ensure("nightly", defined()))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(jobs) == 8
    assert {(job.id, job.revision) for job in jobs} == {(jobs[0].id, 1)}


def test_ensuring_a_schedule_that_never_fires_stores_nothing(world: World) -> None:
    with pytest.raises(InvalidJob, match="never"):
        world.service.ensure("nightly", defined(cron_schedule="0 0 30 2 *"))
    assert world.one("select count(*) from jobs") == 0
