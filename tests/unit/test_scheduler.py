"""What a scheduler decides for itself: sharing a batch, rescuing, waking, and a broker that is away.

Stores and brokers are watched here, not imitated: what they do is tested on real ones.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from support.cluster import wait_until

from gnomon.job.errors import Contended, Unavailable
from gnomon.job.model import Misfire, MisfirePolicy
from gnomon.job.plan import DueJob, Plan
from gnomon.job.ports import Dispatched, Hold, Horizon, PlanBatch, Rescued
from gnomon.job.schedule import Cron, Timing
from gnomon.scheduler import dispatch as dispatch_module
from gnomon.scheduler import loop as loop_module
from gnomon.scheduler.dispatch import BATCH_STEPS, LEAST_STEPS, Dispatcher, plan_batch
from gnomon.scheduler.loop import OVERDUE_PAUSE, TICK, SchedulerLoop
from gnomon.scheduler.publish import Publisher
from gnomon.scheduler.rescue import SPARED, SPARING, Rescuer
from gnomon.scheduler.watchdog import SendWatchdog

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
NOTHING = Dispatched(jobs=0, published={}, held={}, full=False, behind=False)


class WatchedStore:
    """Answers as told and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Dispatched | Exception] = []
        self.limits: list[int] = []
        self.spared: list[timedelta | None] = []
        self.returned: list[UUID] = []
        self.due: list[Mapping[str, Sequence[UUID]]] = []
        self.freed = 0
        self.ahead = Horizon(now=NOON, at=None)

    def dispatch(self, decide: PlanBatch, *, limit: int) -> Dispatched:
        self.limits.append(limit)
        answer = self.answers.pop(0) if self.answers else NOTHING
        if isinstance(answer, Exception):
            raise answer
        return answer

    def republish(self, *, limit: int) -> Mapping[str, Sequence[UUID]]:
        return self.due.pop(0) if self.due else {}

    def return_slots(self, ids: Collection[UUID]) -> None:
        self.returned.extend(ids)

    def free_slots(self) -> int:
        self.freed += 1
        return 1

    def rescue(
        self, *, grace: timedelta, spare: timedelta | None, spread: timedelta = timedelta(seconds=30)
    ) -> Rescued:
        self.spared.append(spare)
        return Rescued()

    def horizon(self) -> Horizon:
        return self.ahead


class WatchedBroker:
    """A broker that can be taken away."""

    def __init__(self) -> None:
        self.away = False
        self.lost = False
        self.sent: list[UUID] = []
        self.probes = 0

    def publish(self, queue: str, ids: Sequence[UUID]) -> None:
        self._require()
        self.sent.extend(ids)

    def probe(self) -> None:
        self.probes += 1
        self._require()

    def lost_messages(self) -> bool:
        self._require()
        lost, self.lost = self.lost, False
        return lost

    def break_off(self) -> None:
        raise AssertionError("no call takes that long")

    def _require(self) -> None:
        if self.away:
            raise Unavailable("taken away")


@pytest.fixture
def store() -> WatchedStore:
    return WatchedStore()


@pytest.fixture
def broker() -> WatchedBroker:
    return WatchedBroker()


def due(schedule: str = "* * * * *", *, behind: timedelta = timedelta(0)) -> DueJob:
    misfire = Misfire(policy=MisfirePolicy.RUN_ONCE)
    return DueJob(
        id=uuid4(), revision=1, timing=Timing(schedule=Cron(schedule)), misfire=misfire, next_run=NOON - behind
    )


def test_each_job_gets_a_plan_in_its_place() -> None:
    jobs = [due() for _ in range(5)]
    plans = plan_batch(jobs, NOON)
    assert [plan.runs for plan in plans if isinstance(plan, Plan)] == [(NOON,)] * 5


def test_budget_is_shared_evenly_among_jobs_that_are_behind() -> None:
    jobs = [due("0 12 * * *", behind=timedelta(days=5000)) for _ in range(4)]  # a step a day
    plans = [plan for plan in plan_batch(jobs, NOON, steps=400) if isinstance(plan, Plan)]
    assert [plan.examined for plan in plans] == [100, 100, 100, 100]
    assert not any(plan.reached_now for plan in plans)
    assert BATCH_STEPS >= 1000 * LEAST_STEPS  # a full batch of late jobs still moves on


def test_late_jobs_advance_a_little_even_when_the_time_of_the_batch_is_up() -> None:
    times = iter([0.0, 0.5, 1.5, 1.5])
    jobs = [due("0 12 * * *", behind=timedelta(days=5000)) for _ in range(3)]
    plans = [plan for plan in plan_batch(jobs, NOON, clock=lambda: next(times)) if isinstance(plan, Plan)]
    assert plans[0].examined > LEAST_STEPS
    assert [plan.examined for plan in plans[1:]] == [LEAST_STEPS, LEAST_STEPS]


def test_job_whose_plan_raises_is_held_and_the_others_are_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    poison, healthy = due(), due()
    plan_due = dispatch_module.plan_due

    def failing(job: DueJob, now: datetime, limit: int) -> Plan:
        if job is poison:
            raise ZeroDivisionError("boom")
        return plan_due(job, now, limit)

    monkeypatch.setattr(dispatch_module, "plan_due", failing)
    held, plan = plan_batch([poison, healthy], NOON)
    assert isinstance(held, Hold)
    assert "ZeroDivisionError: boom" in held.reason
    assert isinstance(plan, Plan)


def test_batch_is_halved_while_rows_are_locked_and_grows_again(store: WatchedStore, broker: WatchedBroker) -> None:
    store.answers = [Contended("locked")] * 3
    dispatcher = Dispatcher(store, publisher_of(store, broker), batch=8)
    full = [dispatcher.run_once().full for _ in range(3)]
    assert full == [True, True, False]  # a single job that stays locked waits for the next round
    for _ in range(4):
        dispatcher.run_once()
    assert store.limits == [8, 4, 2, 1, 2, 4, 8]


def test_batch_that_the_database_gives_up_on_is_halved_with_its_budget(
    store: WatchedStore, broker: WatchedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []

    def dispatch(decide: PlanBatch, *, limit: int) -> Dispatched:
        store.limits.append(limit)
        steps.append(decide([due(behind=timedelta(days=3000))], NOON)[0].examined)  # type: ignore[union-attr]
        raise Unavailable("canceling statement due to statement timeout")

    monkeypatch.setattr(dispatch_module, "BATCH_STEPS", 160)
    monkeypatch.setattr(store, "dispatch", dispatch)
    dispatcher = Dispatcher(store, publisher_of(store, broker), batch=8)
    for _ in range(4):
        with pytest.raises(Unavailable):
            dispatcher.run_once()
    assert store.limits == [8, 4, 2, 1]
    assert steps == [160, 80, 40, 20]


def test_recent_leases_are_spared_after_the_start_and_after_an_outage(store: WatchedStore) -> None:
    now = 0.0
    rescuer = Rescuer(store, clock=lambda: now)
    rescuer.run_once()
    now = SPARING.total_seconds() + 1
    rescuer.run_once()
    rescuer.after_outage()
    rescuer.run_once()
    assert store.spared == [SPARED, None, SPARED]


def test_leases_that_nobody_could_renew_during_a_long_outage_are_spared_as_well(store: WatchedStore) -> None:
    now = 0.0
    rescuer = Rescuer(store, clock=lambda: now)
    now = SPARING.total_seconds() + 1
    rescuer.run_once()
    now += 600
    rescuer.after_outage()
    rescuer.run_once()
    assert store.spared == [None, SPARED + timedelta(seconds=600)]


class WatchedWaker:
    def __init__(self) -> None:
        self.waits: list[tuple[timedelta, datetime]] = []

    def wait(self, timeout: timedelta, *, before: datetime) -> None:
        self.waits.append((timeout, before))

    def wake(self) -> None:
        raise AssertionError("nobody should")


def publisher_of(store: WatchedStore, broker: WatchedBroker) -> Publisher:
    return Publisher(store, broker, SendWatchdog(broker, give_up=lambda: None))


def loop_over(
    store: WatchedStore, broker: WatchedBroker, waker: WatchedWaker, stopping: Callable[[], bool] = lambda: False
) -> SchedulerLoop:
    publisher = publisher_of(store, broker)
    return SchedulerLoop(
        store=store,
        dispatcher=Dispatcher(store, publisher, batch=10),
        publisher=publisher,
        rescuer=Rescuer(store),
        waker=waker,
        interval=timedelta(seconds=1),
        stopping=stopping,
    )


@pytest.mark.parametrize(
    ("ahead", "slept"),
    [
        (None, timedelta(seconds=1)),  # nothing ahead: the interval
        (timedelta(seconds=5), timedelta(seconds=1)),  # later than the interval
        (timedelta(milliseconds=300), timedelta(milliseconds=300)),  # to the moment
        (timedelta(milliseconds=-1), timedelta(0)),  # fell due since the dispatch: at once
    ],
)
def test_scheduler_sleeps_until_the_next_moment(
    store: WatchedStore, broker: WatchedBroker, ahead: timedelta | None, slept: timedelta
) -> None:
    waker = WatchedWaker()
    store.ahead = Horizon(now=NOON, at=None if ahead is None else NOON + ahead)
    loop_over(store, broker, waker).turn()
    assert waker.waits == [(slept, NOON + slept)]


def test_what_stays_due_after_a_turn_does_not_make_the_scheduler_spin(
    store: WatchedStore, broker: WatchedBroker
) -> None:
    waker = WatchedWaker()
    store.ahead = Horizon(now=NOON, at=NOON)
    loop = loop_over(store, broker, waker)
    for _ in range(3):
        loop.turn()
    assert [timeout for timeout, _ in waker.waits] == [timedelta(0), OVERDUE_PAUSE, OVERDUE_PAUSE]


def test_what_falls_due_all_the_time_is_taken_in_batches_a_few_milliseconds_apart(
    store: WatchedStore, broker: WatchedBroker
) -> None:
    waker = WatchedWaker()
    store.ahead = Horizon(now=NOON, at=NOON)
    store.answers = [Dispatched(jobs=3, published={}, held={}, full=False, behind=False)] * 2
    loop = loop_over(store, broker, waker)
    for _ in range(4):
        loop.turn()
    assert [timeout for timeout, _ in waker.waits] == [TICK, TICK, timedelta(0), OVERDUE_PAUSE]


def test_full_batches_follow_at_once_until_asked_to_stop(store: WatchedStore, broker: WatchedBroker) -> None:
    store.answers = [Dispatched(jobs=10, published={}, held={}, full=True, behind=False)] * 100
    waker = WatchedWaker()
    loop_over(store, broker, waker, stopping=lambda: len(store.limits) >= 5).turn()
    assert len(store.limits) == 5
    assert waker.waits == []


def test_lost_attempts_are_rescued_however_much_is_due(
    store: WatchedStore, broker: WatchedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "RESCUE_SECONDS", 0.0)
    store.answers = [Dispatched(jobs=10, published={}, held={}, full=True, behind=False)] * 5
    loop_over(store, broker, WatchedWaker()).turn()
    assert len(store.spared) == 6


def test_what_is_to_be_published_again_is_looked_for_now_and_then_and_whenever_nothing_is_due(
    store: WatchedStore, broker: WatchedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    monkeypatch.setattr(Publisher, "kick", lambda _: looks.append(len(store.limits)))
    monkeypatch.setattr(loop_module, "REPUBLISH_SECONDS", 60.0)
    store.answers = [Dispatched(jobs=10, published={}, held={}, full=True, behind=False)] * 5
    loop_over(store, broker, WatchedWaker()).turn()
    assert looks == [1, 6]


def test_rescue_goes_on_at_once_while_there_is_more_to_rescue(
    store: WatchedStore, broker: WatchedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = [Rescued(requeued=1000), Rescued(requeued=1000), Rescued(requeued=3)]
    monkeypatch.setattr(store, "rescue", lambda **_: rounds.pop(0))
    loop = loop_over(store, broker, WatchedWaker())
    for _ in range(5):
        loop.turn()
    assert rounds == []


def test_locked_rows_are_no_outage(store: WatchedStore, broker: WatchedBroker) -> None:
    now = SPARING.total_seconds() + 1
    publisher = publisher_of(store, broker)
    rescuer = Rescuer(store, clock=lambda: now if store.spared else 0.0)
    rescuer.run_once()  # the start is long over from now on
    loop = SchedulerLoop(
        store=store,
        dispatcher=Dispatcher(store, publisher, batch=10),
        publisher=publisher,
        rescuer=rescuer,
        waker=WatchedWaker(),
        interval=timedelta(seconds=1),
        stopping=lambda: False,
    )
    for error, spared in ((Contended("rows are locked"), None), (Unavailable("away"), SPARED)):
        store.horizon = _raising(error)  # type: ignore[method-assign]
        with pytest.raises(type(error)):
            loop.turn()
        rescuer.run_once()
        assert store.spared[-1] == spared


def _raising(error: Exception) -> Callable[[], Horizon]:
    def ask() -> Horizon:
        raise error

    return ask


def test_broker_that_is_away_gets_its_messages_when_it_is_back(store: WatchedStore, broker: WatchedBroker) -> None:
    ids = [uuid4() for _ in range(3)]
    broker.away = True
    publisher = publisher_of(store, broker)
    publisher.start()
    publisher.submit("io", ids)
    wait_until("the slots are given back", lambda: store.returned == ids)
    publisher.submit("io", ids)
    wait_until("nothing is sent to a broker that is away", lambda: store.returned == ids * 2)
    store.due = [{"io": ids}]
    broker.away = False
    wait_until("it is published when a probe succeeds", lambda: broker.sent == ids)
    assert broker.probes > 0
    publisher.stop(timedelta(seconds=5))


def test_lost_messages_free_all_slots(store: WatchedStore, broker: WatchedBroker) -> None:
    broker.lost = True
    publisher = publisher_of(store, broker)
    publisher.start()
    publisher.kick()
    wait_until("slots are freed", lambda: store.freed == 1)
    publisher.stop(timedelta(seconds=5))


def test_loss_is_not_forgotten_when_the_database_fails_at_that_moment(
    store: WatchedStore, broker: WatchedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[bool] = []

    def free_slots() -> int:
        tries.append(True)
        if len(tries) == 1:
            raise Unavailable("away")
        return 5

    monkeypatch.setattr(store, "free_slots", free_slots)
    monkeypatch.setattr(Publisher, "LOSS_CHECK_SECONDS", 0.0)
    broker.lost = True
    publisher = publisher_of(store, broker)
    publisher.start()

    def asked_again() -> bool:
        publisher.kick()
        return len(tries) == 2

    wait_until("slots are freed after all", asked_again)
    publisher.stop(timedelta(seconds=5))


def test_publisher_sends_what_is_queued_before_it_stops(store: WatchedStore, broker: WatchedBroker) -> None:
    publisher = publisher_of(store, broker)
    parcels = [[uuid4()] for _ in range(20)]
    for parcel in parcels:
        publisher.submit("io", parcel)
    publisher.start()
    publisher.stop(timedelta(seconds=5))
    assert broker.sent == [one for parcel in parcels for one in parcel]
