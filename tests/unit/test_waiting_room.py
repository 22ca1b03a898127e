"""Ids whose moment is still to come are held, and admitted together when it has, by a clock that is driven here."""

import threading
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
from support.cluster import wait_until

from gnomon.job.errors import Unavailable
from gnomon.job.ids import EPOCH, scheduled_id
from gnomon.worker import waiting_room
from gnomon.worker.waiting_room import StoreClock, WaitingRoom

START = datetime.fromisoformat("2030-01-01T00:00:00+00:00")


class Time:
    """A process's own seconds and the store's clock, which may be wrong by any time; they go on when told to."""

    def __init__(self) -> None:
        self.seconds = 1_000.0
        self.asked = 0
        self.away = False

    def monotonic(self) -> float:
        return self.seconds

    def ask(self) -> datetime:
        self.asked += 1
        if self.away:
            raise Unavailable("the store is away")
        return START + timedelta(seconds=self.seconds - 1_000.0)


class Admitted:
    """What was admitted, call by call."""

    def __init__(self) -> None:
        self.calls: list[list[UUID]] = []
        self.prepared: list[UUID] = []

    def prepare(self, ids: Sequence[UUID]) -> None:
        self.prepared.extend(ids)

    def __call__(self, ids: Sequence[UUID]) -> None:
        self.calls.append(list(ids))

    @property
    def ids(self) -> list[UUID]:
        return [execution_id for call in self.calls for execution_id in call]


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    driven = Time()
    monkeypatch.setattr(waiting_room, "monotonic", driven.monotonic)
    return driven


@pytest.fixture
def admitted() -> Admitted:
    return Admitted()


@pytest.fixture
def room(time: Time, admitted: Admitted) -> Iterator[WaitingRoom]:
    opened = WaitingRoom(admitted, prepare=admitted.prepare, ask=time.ask, places=10)
    opened.start()
    yield opened
    opened.close()


def at(millis: float) -> UUID:
    """An id of this moment."""
    return scheduled_id(uuid4(), START + timedelta(milliseconds=millis))


def pass_to(time: Time, room: WaitingRoom, millis: float) -> None:
    time.seconds = 1_000.0 + millis / 1_000
    room.look_again([])  # wakes it up


def test_what_has_come_is_admitted_by_whoever_brings_it(room: WaitingRoom, admitted: Admitted) -> None:
    ids = [at(-1_000), at(-2)]
    room.admit(ids)
    assert admitted.calls == [ids]


def test_what_is_to_come_is_admitted_at_its_moment_and_no_sooner(
    room: WaitingRoom, admitted: Admitted, time: Time
) -> None:
    """The moment itself may be up to a millisecond later than the id says."""
    early = at(50)
    room.admit([early, late := at(-10)])
    assert admitted.prepared == [early]
    assert admitted.calls == [[late]]
    pass_to(time, room, 50.5)
    assert admitted.calls == [[late]]
    pass_to(time, room, 51)
    wait_until("it is admitted", lambda: admitted.calls == [[late], [early]])


def test_ids_of_the_same_milliseconds_are_admitted_together(room: WaitingRoom, admitted: Admitted, time: Time) -> None:
    near, later = sorted([at(50), at(51), at(54)]), at(90)
    room.admit([later, *near])
    for millis in (51, 52, 55):
        assert admitted.calls == []
        pass_to(time, room, millis)
    wait_until("they are admitted", lambda: len(admitted.calls) == 1)
    assert sorted(admitted.ids) == near
    pass_to(time, room, 91)
    wait_until("the other is admitted", lambda: admitted.ids[3:] == [later])


def test_stream_of_ids_does_not_hold_up_the_first(room: WaitingRoom, admitted: Admitted, time: Time) -> None:
    ids = sorted(at(50 + 2 * number) for number in range(8))
    room.admit(ids)
    pass_to(time, room, 55)
    wait_until("the first are admitted", lambda: admitted.ids == ids[:3])


def test_time_that_nobody_looks_ahead_is_a_wrong_clock_and_left_to_the_claim(
    room: WaitingRoom, admitted: Admitted
) -> None:
    far, forged = at(11_000), uuid4()
    room.admit([far, forged])
    assert admitted.calls == [[far, forged]]


def test_whoever_brings_too_many_waits_for_room_or_for_their_moment(
    room: WaitingRoom, admitted: Admitted, time: Time
) -> None:
    many = [at(50) for _ in range(25)]
    bringing = threading.Thread(target=room.admit, args=(many,))
    bringing.start()
    wait_until("the room is full", lambda: len(room._held) == 10)
    assert bringing.is_alive()
    pass_to(time, room, 51)
    wait_until("all are admitted", lambda: sorted(admitted.ids) == sorted(many))
    bringing.join(10)
    assert not bringing.is_alive()


def test_what_has_come_does_not_wait_for_room(room: WaitingRoom, admitted: Admitted) -> None:
    come = at(-10)
    bringing = threading.Thread(target=room.admit, args=([*(at(5_000) for _ in range(11)), come],))
    bringing.start()
    wait_until("it is admitted", lambda: admitted.ids == [come])
    room.close()
    bringing.join(10)


def test_closed_room_gives_out_what_it_held_and_holds_nothing(
    room: WaitingRoom, admitted: Admitted, time: Time
) -> None:
    held = [at(5_000) for _ in range(10)]
    room.admit(held)
    late = at(5_000)
    bringing = threading.Thread(target=room.admit, args=([late],))
    bringing.start()
    assert sorted(room.close()) == sorted(held)
    wait_until("whoever waited goes on", lambda: admitted.ids == [late])
    bringing.join(10)
    pass_to(time, room, 6_000)
    assert admitted.ids == [late]


def test_what_a_claim_did_not_get_is_looked_at_twice_again(room: WaitingRoom, admitted: Admitted, time: Time) -> None:
    missed = at(0)
    for number, millis in enumerate((101, 1_001), 1):
        room.look_again([missed])
        assert len(admitted.calls) == number - 1
        pass_to(time, room, millis)
        wait_until("it is admitted", lambda number=number: len(admitted.calls) == number)  # type: ignore[misc]
    room.look_again([missed])
    assert room.close() == []


def test_failure_to_admit_costs_the_others_nothing(time: Time) -> None:
    seen: list[UUID] = []

    def admit(ids: Sequence[UUID]) -> None:
        seen.extend(ids)
        raise Unavailable("this worker stops") if len(seen) == 1 else ValueError("a defect")

    room = WaitingRoom(admit, prepare=Admitted(), ask=time.ask, places=10)
    room.start()
    ids = [at(50), at(100), at(150)]
    room.admit(ids)
    for number, millis in enumerate((51, 101, 151), 1):
        pass_to(time, room, millis)
        wait_until("it was tried", lambda number=number: len(seen) == number)  # type: ignore[misc]
    room.close()


def test_clock_is_asked_once_for_a_while(time: Time) -> None:
    clock = StoreClock(time.ask)
    assert clock.millis() == (START - EPOCH) / timedelta(milliseconds=1)
    time.seconds += 4
    assert clock.millis() == (START - EPOCH) / timedelta(milliseconds=1) + 4_000
    assert time.asked == 1
    time.seconds += 2
    clock.millis()
    assert time.asked == 2


def test_clock_goes_on_while_the_store_is_away(time: Time) -> None:
    clock = StoreClock(time.ask)
    first = clock.millis()
    time.away = True
    time.seconds += 10
    assert clock.millis() == first + 10_000


def test_before_the_store_has_answered_nothing_is_held(time: Time, admitted: Admitted) -> None:
    time.away = True
    room = WaitingRoom(admitted, prepare=admitted.prepare, ask=time.ask, places=10)
    early = at(50)
    room.admit([early])
    assert admitted.ids == [early]


def test_without_a_clock_nothing_is_held(admitted: Admitted) -> None:
    room = WaitingRoom(admitted, prepare=admitted.prepare, ask=None, places=0)
    room.start()
    early = at(50)
    room.admit([early])
    assert admitted.ids == [early]
