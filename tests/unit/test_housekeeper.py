"""When the leader tidies up, and how it gives way to everything else. What it removes is tested on a real database."""

import threading
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from gnomon.job.errors import Unavailable
from gnomon.job.handlers import HandlerSpec
from gnomon.job.instance import Identity, Instance
from gnomon.job.ports import Swept, Untidy
from gnomon.job.retention import Retention
from gnomon.process.chore import run_chore
from gnomon.scheduler.housekeeping import EVERY, LOOK, Housekeeper, Tidied

ME, OTHER = uuid4(), uuid4()
PART = timedelta(seconds=3)


class Fleet:
    """Who leads."""

    def __init__(self) -> None:
        self.leads: UUID | None = ME
        self.asked = 0

    def leader(self) -> UUID | None:
        self.asked += 1
        return self.leads

    def beat(
        self, identity: Identity, *, handlers: Sequence[HandlerSpec] = (), retry_strategies: Sequence[str] = ()
    ) -> None:
        raise AssertionError("not a housekeeper's business")

    def leave(self, instance_id: UUID) -> None:
        raise AssertionError("not a housekeeper's business")

    def list(self) -> Sequence[Instance]:
        raise AssertionError("the leader is enough")


class Store:
    """Two parts of history; one untidy job of each kind. Each call takes PART on the clock that it moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.calls: list[str] = []
        self.fails_at = ""
        self.crowd = [2, 1, 0]
        self.keys = [1, 0]

    def clock(self) -> float:
        return self.now

    def _called(self, name: str) -> None:
        self.now += PART.total_seconds()
        self.calls.append(name)
        if name == self.fails_at:
            raise Unavailable("away")

    def prune_aged(self, retention: Retention, *, after: UUID | None) -> Swept[UUID]:
        self._called("aged" if after is None else "aged on")
        return Swept(removed=10, after=ME if after is None else None)

    def prune_crowded(self, job_id: UUID, retention: Retention) -> int:
        self._called("crowded")
        return self.crowd.pop(0)

    def untidy_jobs(self, retention: Retention, *, after: UUID | None) -> Untidy:
        self._called("jobs")
        return Untidy(crowded=[ME], edited=[ME], gone=[ME], after=None)

    def drop_revisions(self, job_id: UUID) -> int:
        self._called("revisions")
        return 1

    def drop_jobs(self, job_ids: Sequence[UUID], retention: Retention) -> int:
        self._called("drop")
        return len(job_ids)

    def trim_trail(self, retention: Retention, *, after: int | None) -> Swept[int]:
        self._called("trail")
        return Swept(removed=0, after=None)

    def forget_keys(self) -> int:
        self._called("keys")
        return self.keys.pop(0)

    def forget_instances(self, *, gone_for: timedelta, unseen_for: timedelta) -> int:
        self._called("instances")
        return 0


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def housekeeper(store: Store, fleet: Fleet) -> Housekeeper:
    return Housekeeper(store, fleet, me=ME, retention=Retention(), clock=store.clock)


ROUND = ["instances", "keys", "keys", "aged", "aged on", "jobs", *["crowded"] * 3, "revisions", "drop", "trail"]


def test_round_goes_through_everything_once_and_the_next_one_comes_later(
    housekeeper: Housekeeper, store: Store
) -> None:
    while len(store.calls) < len(ROUND):
        housekeeper.step()
    assert store.calls == ROUND
    assert housekeeper.step() == LOOK
    store.now += EVERY.total_seconds() - 1
    assert housekeeper.step() == LOOK
    assert store.calls == ROUND
    store.now += 1
    housekeeper.step()
    assert store.calls[len(ROUND) :] == ["instances"]


def test_it_rests_after_each_part_three_times_as_long_as_the_part_took(housekeeper: Housekeeper) -> None:
    assert housekeeper.step() == 3 * PART


def test_it_rests_less_in_a_round_that_takes_long(housekeeper: Housekeeper, store: Store) -> None:
    housekeeper.step()
    store.now += EVERY.total_seconds()
    assert housekeeper.step() == PART


def test_who_does_not_lead_does_nothing(housekeeper: Housekeeper, store: Store, fleet: Fleet) -> None:
    fleet.leads = OTHER
    assert housekeeper.step() == LOOK
    fleet.leads = None
    store.now += LOOK.total_seconds()
    assert housekeeper.step() == LOOK
    assert store.calls == []
    fleet.leads = ME
    store.now += LOOK.total_seconds()
    housekeeper.step()
    assert store.calls == ["instances"]


def test_who_leads_is_asked_now_and_then_also_within_a_round(
    housekeeper: Housekeeper, store: Store, fleet: Fleet
) -> None:
    for _ in range(3):
        housekeeper.step()
    assert fleet.asked == 1
    fleet.leads = OTHER
    assert housekeeper.step() == LOOK
    assert fleet.asked == 2
    assert store.calls == ROUND[:4]


def test_part_that_fails_ends_its_round_and_the_next_one_begins_anew(housekeeper: Housekeeper, store: Store) -> None:
    store.fails_at = "aged"
    store.keys = [0, 0]
    housekeeper.step()
    with pytest.raises(Unavailable):
        housekeeper.step()
    store.fails_at = ""
    housekeeper.step()
    assert store.calls == ["instances", "keys", "aged", "instances"]


def test_stop_comes_between_two_parts(housekeeper: Housekeeper, store: Store) -> None:
    class Stop:
        def is_set(self) -> bool:
            return len(store.calls) >= 4

        def wait(self, timeout: float | None = None) -> bool:
            return self.is_set()

    run_chore("housekeeping", housekeeper.step, Stop())
    assert len(store.calls) == 4


def test_thread_ends_with_the_stop(housekeeper: Housekeeper, store: Store) -> None:
    stop = threading.Event()
    housekeeper.join()  # before the start there is nothing to wait for
    stop.set()
    housekeeper.start(stop)
    housekeeper.join()
    assert store.calls == []
    assert all(thread.name != "housekeeping" for thread in threading.enumerate())


def test_what_was_done_is_said_in_words() -> None:
    assert str(Tidied()) == "nothing"
    assert str(Tidied(executions=3, keys=1)) == "3 executions, 1 keys"
