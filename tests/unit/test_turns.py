"""Places at hosts: who is called, who waits, who comes back later."""

import random
import threading
from datetime import timedelta
from typing import Any, cast

import pytest

from gnomon.job.target import AmqpTarget, HandlerTarget, HttpTarget, Target
from gnomon.worker.flights import Flight
from gnomon.worker.turns import At, Place, Turns, host_of

READY = cast("Flight", object())


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def reserved(turns: Turns, host: str) -> Place:
    place = turns.reserve(host)
    assert place is not None
    return place


def fill(turns: Turns, host: str, count: int) -> list[Place]:
    return [reserved(turns, host) for _ in range(count)]


def test_as_many_wait_as_are_called_and_no_more() -> None:
    turns = Turns(2)
    places = fill(turns, "a", 4)
    assert [place.at for place in places] == [At.CALLING, At.CALLING, At.WAITING, At.WAITING]
    assert turns.reserve("a") is None
    assert reserved(turns, "b").at is At.CALLING


def test_place_that_was_left_holds_on_to_nothing() -> None:
    turns = Turns(1)
    first, second = fill(turns, "a", 2)
    for place in (first, second):
        turns.park(place, READY)
    turns.leave([first])
    turns.leave([second])
    free = Turns(None).reserve("a")
    assert free is not None
    Turns(None).park(free, READY)
    Turns(None).leave([free])
    assert [place.flight for place in (first, second, free)] == [None] * 3


def test_turns_come_in_order_with_the_slot_of_the_one_before() -> None:
    turns = Turns(1)
    first, second = fill(turns, "a", 2)
    assert turns.park(second, READY) is At.WAITING
    assert turns.leave([first]) == (0, [READY])
    assert second.at is At.CALLING
    third = reserved(turns, "a")
    assert turns.leave([second]) == (0, [])  # the third is not ready
    assert third.at is At.CALLING
    assert turns.leave([third]) == (1, [])


def test_turn_that_comes_before_the_attempt_is_ready_is_kept_for_it() -> None:
    turns = Turns(1)
    first, second = fill(turns, "a", 2)
    assert turns.leave([first]) == (0, [])
    assert turns.park(second, READY) is At.CALLING
    assert turns.leave([second]) == (1, [])


def test_all_that_leave_at_once_make_room_for_as_many() -> None:
    turns = Turns(3)
    places = fill(turns, "a", 5) + fill(turns, "b", 1)
    for place in places:
        turns.park(place, cast("Flight", place))
    assert turns.leave([*places[:3], places[5]]) == (2, places[3:5])
    assert [place.at for place in places[3:5]] == [At.CALLING, At.CALLING]


def test_wait_that_is_withdrawn_ends_once_and_has_no_slot() -> None:
    turns = Turns(1)
    first, second = fill(turns, "a", 2)
    assert turns.withdraw(second)
    assert not turns.withdraw(second)
    assert turns.park(second, READY) is At.GONE
    assert turns.leave([second]) == (0, [])
    assert not turns.withdraw(first)
    assert turns.leave([first]) == (1, [])


def test_when_it_is_closed_nobody_waits_and_nobody_is_called_next() -> None:
    turns = Turns(1)
    first, second = fill(turns, "a", 2)
    turns.close()
    assert turns.leave([first]) == (1, [])
    assert second.at is At.WAITING
    assert turns.withdraw(second)
    fill(turns, "a", 1)
    assert turns.reserve("a") is None


def test_without_a_limit_everybody_is_called() -> None:
    turns = Turns(None)
    places = fill(turns, "a", 1000)
    assert {place.at for place in places} == {At.CALLING}
    assert turns.foresee(10_000) == 10_000
    assert turns.leave([places[0]]) == (1, [])


def test_room_is_that_of_the_busiest_host() -> None:
    clock = Clock()
    turns = Turns(10, clock=clock)
    fill(turns, "a", 3)
    fill(turns, "b", 7)
    clock.now += 60  # nothing has ended: neither is worth waiting for
    assert turns.foresee(4) == 0
    assert turns.foresee(3) == 3
    turns.SILENT_SECONDS = -1.0  # nobody waits for those that were foreseen
    assert turns.foresee(1) == 0
    turns.settle(3)
    assert turns.foresee(2) == 2


def test_more_than_any_host_may_have_are_foreseen_in_parts() -> None:
    turns = Turns(10)
    assert turns.foresee(500) == 10
    turns.settle(10)
    clock = Clock()
    turns = Turns(10, clock=clock)
    fill(turns, "slow", 5)
    clock.now += 60
    assert turns.foresee(500) == 5


def test_whoever_was_foreseen_gets_a_place_however_many_come_in_between() -> None:
    turns = Turns(10)
    assert turns.foresee(6) == 6
    others = [turns.reserve("a") for _ in range(30)]
    assert sum(place is not None for place in others) == 14
    assert all(turns.reserve("a", foreseen=True) for _ in range(6))
    turns.settle(6)
    assert turns.reserve("a") is None


def answering(turns: Turns, clock: Clock, host: str, *, at_once: int, seconds: float, rounds: int) -> list[Place]:
    """A host that answers all it has but one, each time after so many seconds; what it is called for then."""
    places = fill(turns, host, at_once)
    for _ in range(rounds):
        for place in places:
            turns.park(place, READY)
        clock.now += seconds
        turns.leave(places[1:])
        places = places[:1]
        while (place := turns.reserve(host)) is not None and place.at is At.CALLING:
            places.append(place)
        if place is not None and place.at is At.WAITING:
            turns.withdraw(place)
    return places


def test_host_that_is_quick_gets_more_and_leaves_some_to_others() -> None:
    clock = Clock()
    turns = Turns(16, most=56, clock=clock)
    assert len(answering(turns, clock, "a", at_once=16, seconds=0.1, rounds=10)) == 56


def test_host_that_is_slow_gets_no_more_than_the_others() -> None:
    clock = Clock()
    turns = Turns(16, most=56, clock=clock)
    assert len(answering(turns, clock, "a", at_once=16, seconds=6, rounds=10)) == 16


def test_host_that_was_quick_and_hangs_gets_no_more() -> None:
    clock = Clock()
    turns = Turns(16, most=56, clock=clock)
    places = answering(turns, clock, "a", at_once=16, seconds=0.1, rounds=10)
    for place in places:
        turns.park(place, READY)
    turns.leave(places[:30])
    clock.now += 5
    assert reserved(turns, "a").at is At.WAITING  # 26 are called, which is more than 16
    assert turns.foresee(1) == 0


def test_turns_of_a_host_that_was_quick_come_again_when_it_has_no_more_than_others() -> None:
    clock = Clock()
    turns = Turns(2, most=7, clock=clock)
    places = answering(turns, clock, "a", at_once=2, seconds=0.1, rounds=10)
    waiting = reserved(turns, "a")
    assert (len(places), waiting.at) == (7, At.WAITING)
    turns.park(waiting, READY)
    for place in places:
        turns.park(place, READY)
    for at_most in (6, 5, 4, 3, 2):  # each, long after the one before, is one too many
        clock.now += 60
        assert turns.leave([places.pop()]) == (1, [])
        assert len(places) == at_most
    assert turns.leave([places.pop()]) == (0, [READY])


class Patient(Turns):
    """Takes hosts for quick even where the machine is slow."""

    SILENT_SECONDS = 60.0


def test_host_that_is_quick_is_waited_for() -> None:
    turns = Patient(10)
    turns.GATHER_SECONDS = 60.0
    places = fill(turns, "a", 8)
    for place in places:
        turns.park(place, READY)
    found: list[int] = []
    waiting = threading.Thread(target=lambda: found.append(turns.foresee(6)))
    waiting.start()
    turns.leave(places)
    waiting.join(20)
    assert found == [6]


def test_those_that_were_foreseen_before_are_waited_for() -> None:
    turns = Turns(10)
    turns.GATHER_SECONDS = 60.0
    assert turns.foresee(6) == 6
    found: list[int] = []
    waiting = threading.Thread(target=lambda: found.append(turns.foresee(6)))
    waiting.start()
    turns.settle(6)
    waiting.join(20)
    assert found == [6]


def test_whoever_waits_for_a_quick_host_gets_what_room_there_is_after_a_while() -> None:
    turns = Patient(10)
    for place in fill(turns, "a", 8):
        turns.park(place, READY)
    assert turns.foresee(6) == 2


def test_closing_ends_the_wait_for_a_quick_host() -> None:
    turns = Patient(10)
    fill(turns, "a", 10)
    found: list[int] = []
    waiting = threading.Thread(target=lambda: found.append(turns.foresee(6)))
    waiting.start()
    turns.close()
    waiting.join(20)
    assert found == [0]


def test_hosts_that_have_nothing_are_forgotten() -> None:
    turns = Turns(2)
    for number in range(100):
        turns.leave([reserved(turns, f"host-{number}")])
    assert turns._hosts == {}


def test_what_is_put_off_comes_back_spread_out_behind_what_was_put_off_before() -> None:
    turns = Turns(1, clock=Clock())
    fill(turns, "a", 2)
    first, second = turns.put_off("a", 1000), turns.put_off("a", 1000)
    assert first == (timedelta(seconds=0.5), timedelta(seconds=1))  # twice the pace of a host that is not known yet
    assert second == (timedelta(seconds=1.5), timedelta(seconds=1))


def test_for_a_host_that_ends_nothing_it_comes_back_ever_more_slowly() -> None:
    clock = Clock()
    turns = Turns(1, clock=clock)
    fill(turns, "a", 2)
    clock.now += 60
    assert turns.put_off("a", 100).spread == timedelta(seconds=100 / Turns.SLOWEST_RETURN)


def test_for_a_host_that_is_fast_it_comes_back_faster_than_it_goes() -> None:
    clock = Clock()
    turns = Turns(1, clock=clock)
    calling, waiting = fill(turns, "a", 2)
    turns.park(calling, READY)
    for _ in range(4000):  # 200 a second
        clock.now += 0.005
        turns.park(waiting, READY)
        assert turns.leave([calling]).next == [READY]
        calling, waiting = waiting, reserved(turns, "a")
    pause = turns.put_off("a", 100).spread.total_seconds()
    assert pause == pytest.approx(100 / 400, rel=0.1)


def test_nothing_is_put_off_for_longer_than_two_minutes() -> None:
    turns = Turns(1, clock=Clock())
    fill(turns, "a", 2)
    for _ in range(20):
        later = turns.put_off("a", 100_000)
        assert later.delay + later.spread <= timedelta(seconds=Turns.LATEST_SECONDS)
    assert later.spread >= timedelta(seconds=Turns.LATEST_SECONDS / 2)


def test_crowded_host_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    turns = Turns(1, clock=clock)
    fill(turns, "example.com:443", 2)
    for _ in range(5):
        turns.put_off("example.com:443", 1)
    clock.now += 61
    turns.put_off("example.com:443", 1)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "example.com:443 has as many executions as one host may (worker.concurrency_per_host)" in lines[0]


def test_slots_and_places_stay_in_step_whatever_happens_at_once() -> None:
    """Each thread behaves as admitting threads and the event loop do. No slot may be lost or made."""
    turns, hosts, slots, lock = Turns(3), ["a", "b"], [0], threading.Lock()

    def give(count: int) -> None:
        with lock:
            slots[0] += count

    def done(place: Place) -> None:
        left = turns.leave([place])
        give(left.slots)
        for ready in left.next:
            done(cast("Any", ready))

    def admit(seed: int) -> None:
        rng = random.Random(seed)
        mine: list[Place] = []
        for _ in range(2_000):
            place = turns.reserve(rng.choice(hosts))
            if place is not None:
                give(-int(place.began_calling))
                mine.append(place)
            if mine and rng.random() < 0.6:
                place = mine.pop(rng.randrange(len(mine)))
                match rng.randrange(3):
                    case 0:
                        done(place)  # it was not claimed
                    case 1 if turns.withdraw(place):
                        pass
                    case _:
                        if turns.park(place, cast("Flight", place)) is At.CALLING:
                            done(place)
        for place in mine:
            done(place)

    threads = [threading.Thread(target=admit, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert slots == [0]
    assert turns._hosts == {}


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (HttpTarget(url="https://Example.com/a?b"), "example.com:443"),
        (HttpTarget(url="http://example.com.:8080/"), "example.com:8080"),
        (HttpTarget(url="http://example.com/"), "example.com:80"),
        (HttpTarget(url="http://[::1]:80/"), "[::1]:80"),
        (AmqpTarget(connection="amqps://u:p@mq.example.com/v", routing_key="q"), "mq.example.com:5671"),
        (HandlerTarget(name="reports.daily"), "handler reports.daily"),
    ],
)
def test_host_of_a_target(target: Target, host: str) -> None:
    assert host_of(target) == host


def test_no_password_is_part_of_a_host() -> None:
    target: Any = AmqpTarget(connection="amqp://user:s3cret@mq.example.com/v", routing_key="q")
    assert "s3cret" not in host_of(target)
