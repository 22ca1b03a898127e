"""D, R1 and R2 on Postgres: what only a database can do. What all stores have in common is in tests/conformance."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from support.world import World, record

from gnomon.job.errors import Contended
from gnomon.job.ids import scheduled_id
from gnomon.job.model import State, Trigger
from gnomon.scheduler.dispatch import plan_batch
from gnomon.storage.postgres import dispatch as dispatch_module
from gnomon.storage.postgres.births import insert_executions

NO_GRACE = timedelta(0)
SHORT = timedelta(seconds=-1)  # a lease that has ended already


def test_row_that_can_not_even_be_read_is_held(world: World) -> None:
    poison, healthy = world.due(), world.due()
    world.sql("update jobs set cron_schedule = 'nonsense', interval_seconds = null where id = :id", id=poison.id)
    done = world.dispatch.dispatch(plan_batch, limit=10)
    assert list(done.held) == [poison.id]
    assert world.states_of(healthy) == ["PENDING"]


def test_slots_are_freed_in_parts_until_all_are(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch_module, "FREED_AT_ONCE", 2)
    world.make_due(*[world.create() for _ in range(5)])
    ids = world.dispatched()
    assert world.dispatch.free_slots() == 5
    assert sorted(world.dispatch.republish(limit=10)["io"]) == sorted(ids)


def test_waiting_execution_of_an_idle_job_is_promoted(world: World) -> None:
    job = world.due(interval_seconds=10, overlap="queue")
    ids = world.dispatched()
    world.sql("update jobs set next_run = now()")
    world.dispatched()
    world.sql("delete from executions where id = :id", id=ids[0])
    assert world.dispatch.rescue(grace=NO_GRACE, spare=None).promoted == 1
    assert world.states_of(job) == ["PENDING"]


def test_dispatch_that_waits_for_a_lock_says_that_it_is_contended(world: World) -> None:
    job = world.due(overlap="skip")
    with world.engine.begin() as other:
        other.exec_driver_sql("lock table executions in access exclusive mode")
        with pytest.raises(Contended):
            world.dispatched()
    assert len(world.dispatched()) == 1
    assert world.states_of(job) == ["PENDING"]


def test_locked_job_is_passed_over(world: World) -> None:
    locked, free = world.due(), world.due()
    with world.engine.begin() as other:
        other.exec_driver_sql(f"select 1 from jobs where id = '{locked.id}' for update")
        assert len(world.dispatched()) == 1
    assert world.states_of(free) == ["PENDING"]
    assert len(world.dispatched()) == 1


def test_illegal_transition_is_refused_by_the_database_itself(world: World) -> None:
    world.due()
    ids = world.dispatched()
    for statement, reason in (
        ("update executions set state = 'SUCCEEDED'", "PENDING can not become SUCCEEDED"),
        ("update executions set attempt = 5", "only a claim raises the attempt"),
        ("update executions set state = 'RUNNING', lease_expires_at = now()", "only a claim raises the attempt"),
    ):
        with pytest.raises(Exception, match=reason):
            world.sql(statement)
    world.executions.record([record(world.claim(ids)[0])])
    with pytest.raises(Exception, match="SUCCEEDED can not become PENDING"):
        world.sql("update executions set state = 'PENDING', next_publish_at = now()")


def test_ids_sort_by_moment_and_differ_by_job() -> None:
    job, moment = uuid4(), datetime(2030, 1, 1, tzinfo=UTC)
    ids = [scheduled_id(job, moment + timedelta(milliseconds=step)) for step in range(50)]
    assert ids == sorted(ids)
    assert {(i.version, i.variant) for i in ids} == {(7, "specified in RFC 4122")}
    assert Counter([*ids, scheduled_id(uuid4(), moment)]).most_common(1)[0][1] == 1


def test_idle_execution_whose_job_is_being_dispatched_is_promoted_later(world: World) -> None:
    job = world.due(overlap="queue")
    (active,) = world.claim(world.dispatched())
    waiting = world.service.run_now(str(job.id), may_wait=True).execution
    world.sql("update executions set state = 'SUCCEEDED' where id = :id", id=active.id)  # as after a crossing
    with world.engine.connect() as connection, connection.begin() as transaction:
        birth = {"id": uuid4(), "job_id": job.id, "scheduled_at": datetime.now(UTC), "serial": False}
        insert_executions(connection, [birth], State.PENDING, trigger=Trigger.SCHEDULE, slot=15)
        assert world.dispatch.rescue(grace=timedelta(0), spare=None).promoted == 0
        transaction.rollback()
    assert world.dispatch.rescue(grace=timedelta(0), spare=None).promoted == 1
    assert world.history.get(waiting.id).state is State.PENDING
