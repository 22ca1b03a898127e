"""Group commit: no outcome, however odd, and no outage stops the recorder or costs another outcome."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from support.cluster import wait_until
from support.world import LEASE, World, record, token

from gnomon.job.errors import Unavailable
from gnomon.job.model import State
from gnomon.job.ports import Record
from gnomon.storage.postgres.executions import PostgresExecutionStore
from gnomon.worker.flights import Abort, Flight, Flights
from gnomon.worker.recorder import Recorder


class FlakyStore(PostgresExecutionStore):
    """The real store, whose first replies to `record` are lost on the way."""

    def __init__(self, world: World, *, lost_before: int = 0, lost_after: int = 0) -> None:
        super().__init__(world.engine, instance=uuid4(), worker="flaky")
        self._lost_before, self._lost_after = lost_before, lost_after

    def record(self, records: Sequence[Record]) -> set[UUID]:
        if self._lost_before:
            self._lost_before -= 1
            raise Unavailable("lost before the commit")
        written = super().record(records)
        if self._lost_after:
            self._lost_after -= 1
            raise Unavailable("lost after the commit")
        return written


class CountingStore(PostgresExecutionStore):
    """The real store; counts the groups it is asked to write."""

    def __init__(self, world: World) -> None:
        super().__init__(world.engine, instance=uuid4(), worker="counting")
        self.calls = 0

    def record(self, records: Sequence[Record]) -> set[UUID]:
        self.calls += 1
        return super().record(records)


class DefectiveStore(PostgresExecutionStore):
    """The real store, with a defect that shows at one execution."""

    def __init__(self, world: World, culprit: UUID) -> None:
        super().__init__(world.engine, instance=uuid4(), worker="defective")
        self._culprit = culprit

    def record(self, records: Sequence[Record]) -> set[UUID]:
        if self._culprit in {one.token.id for one in records}:
            raise ZeroDivisionError
        return super().record(records)


def refuse_abort(_flight: Flight, _reason: Abort) -> None:
    raise AssertionError("nothing is in flight")


def recorder_on(store: PostgresExecutionStore) -> Recorder:
    started = Recorder(store, Flights(), lease=LEASE, abort=refuse_abort)
    started.start()
    return started


def claimed_records(world: World, count: int, owner: UUID) -> list[Record]:
    world.make_due(*[world.create() for _ in range(count)])
    return [record(one, owner=owner) for one in world.claim(world.dispatched(), delivery=owner)]


def states(world: World) -> dict[str, int]:
    return {row.state: row.total for row in world.sql("select state, count(*) as total from executions group by state")}


def poison(healthy: Record, state: State) -> Record:
    """An outcome whose text Postgres refuses."""
    return Record(
        token=healthy.token,
        owner=healthy.owner,
        state=state,
        duration=timedelta(0),
        failed=True,
        error_code="x",
        error_message="NUL: \x00",
    )


@pytest.mark.parametrize("place", [0, 4, 137, 199])
def test_outcome_the_database_refuses_costs_only_its_own_texts(world: World, place: int) -> None:
    store = CountingStore(world)
    recorder = Recorder(store, Flights(), lease=LEASE, abort=refuse_abort)
    records = claimed_records(world, Recorder.GROUP, uuid4())
    records[place] = poison(records[place], State.FAILED)
    for one in records:
        recorder.add(one)
    recorder.start()
    assert recorder.stop(timedelta(seconds=20)) == 0
    assert states(world) == {"SUCCEEDED": Recorder.GROUP - 1, "FAILED": 1}
    assert world.one("select error_code from executions where state = 'FAILED'") == "unrecordable"
    assert store.calls <= 2 + 2 * 8  # halved: one group, two for each of log2(200) steps, and the bare one


@pytest.mark.parametrize("verdict", [State.UNKNOWN, State.FAILED, State.PENDING])
def test_verdict_on_an_at_most_once_execution_survives_the_refusal_of_its_texts(world: World, verdict: State) -> None:
    world.make_due(*[world.create(delivery="at_most_once") for _ in range(3)])
    owner = uuid4()
    claimed = world.claim(world.dispatched(), delivery=owner)
    started = world.executions.start([token(one) for one in claimed], delivery=owner, margin=timedelta(0))
    assert len(started) == 3
    records = [record(one, owner=owner) for one in claimed]
    records[1] = poison(records[1], verdict)
    recorder = recorder_on(world.executions)
    for one in records:
        recorder.add(one)
    assert recorder.stop(timedelta(seconds=10)) == 0
    assert states(world) == {"SUCCEEDED": 2, verdict.value: 1}
    (row,) = world.sql("select effect_started_at, error_code from executions where state <> 'SUCCEEDED'")
    assert row.error_code == "unrecordable"
    assert (row.effect_started_at is None) == (verdict is State.PENDING)  # only a retry may be sent anew


def test_defect_that_strikes_one_outcome_does_not_stand_in_the_way_of_the_others(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    records = claimed_records(world, 20, uuid4())
    recorder = recorder_on(DefectiveStore(world, records[7].token.id))
    for one in records:
        recorder.add(one)
    assert recorder.stop(timedelta(seconds=10)) == 0
    assert states(world) == {"SUCCEEDED": 19, "RUNNING": 1}
    assert f"execution {records[7].token.id}: its outcome can't be stored" in caplog.text


@pytest.mark.parametrize("lost", [{"lost_before": 2}, {"lost_after": 1}])
def test_lost_reply_neither_loses_nor_doubles_an_outcome(
    world: World, lost: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    recorder = recorder_on(FlakyStore(world, **lost))
    for one in claimed_records(world, 5, uuid4()):
        recorder.add(one)
    wait_until("all are recorded", lambda: states(world) == {"SUCCEEDED": 5})
    assert recorder.stop(timedelta(seconds=10)) == 0
    assert world.one("select sum(count) from tallies where outcome = 'SUCCEEDED'") == 5
    assert "taken over" not in caplog.text  # it recognised its own earlier call


def test_outcome_of_an_attempt_that_was_taken_over_is_dropped_with_a_line_in_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    (stale,) = claimed_records(world, 1, uuid4())
    world.sql("update executions set lease_expires_at = now() - interval '1 s'")
    world.dispatch.rescue(grace=timedelta(0), spare=None)
    recorder = recorder_on(world.executions)
    recorder.add(stale)
    assert recorder.stop(timedelta(seconds=10)) == 0
    assert states(world) == {"PENDING": 1}
    assert f"execution {stale.token.id}: attempt 1 was taken over" in caplog.text
