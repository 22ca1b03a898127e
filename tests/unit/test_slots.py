"""The back-pressure of a worker."""

import threading

from support.cluster import wait_until

from gnomon.worker.slots import Slots


def test_slots_are_handed_out_up_to_the_capacity() -> None:
    slots = Slots(5)
    assert slots.take(3) == 3
    assert slots.take(9) == 2
    assert slots.in_use == 5


def test_taking_waits_until_one_is_given_back() -> None:
    slots = Slots(1)
    slots.take(1)
    taken: list[int] = []
    waiting = threading.Thread(target=lambda: taken.append(slots.take(4)))
    waiting.start()
    assert taken == []
    slots.give(1)
    waiting.join(5)
    assert taken == [1]


def test_what_is_taken_away_while_one_waits_for_more_ends_no_wait() -> None:
    slots = Slots(4)
    assert slots.take(3) == 3
    taken: list[int] = []
    waiting = threading.Thread(target=lambda: taken.append(slots.take(4)))
    slots.GATHER_SECONDS = 0.2
    waiting.start()
    wait_until("it waits for more", lambda: slots._needed == 4)
    slots.keep()
    waiting.join(0.4)
    assert taken == []
    slots.give(2)
    waiting.join(20)
    assert taken == [2]


def test_several_in_turn_get_all_that_they_want_in_the_end() -> None:
    slots, wanted, taken, turn = Slots(16), 10, list[int](), threading.Lock()

    def admit() -> None:
        for _ in range(50):
            left = wanted
            while left:
                with turn:
                    count = slots.take(left)
                taken.append(count)
                left -= count
                slots.give(count)

    threads = [threading.Thread(target=admit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(taken) == 8 * 50 * wanted
    assert min(taken) > 0
    assert slots.in_use == 0


def test_closing_ends_every_wait() -> None:
    slots = Slots(1)
    slots.take(1)
    taken: list[int] = []
    waiting = [threading.Thread(target=lambda: taken.append(slots.take(1))) for _ in range(3)]
    for thread in waiting:
        thread.start()
    slots.close()
    wait_until("all have given up", lambda: taken == [0, 0, 0])
    assert slots.take(1) == 0


def test_idle_is_when_all_were_given_back() -> None:
    slots = Slots(2)
    slots.take(2)
    assert not slots.wait_until_idle(0.01)
    slots.give(2)
    assert slots.wait_until_idle(0.01)


def test_place_that_is_kept_is_missing_until_it_is_given_back() -> None:
    slots = Slots(2)
    assert slots.take(2) == 2
    slots.keep()
    slots.give(2)
    assert slots.take(2) == 1
    assert not slots.wait_until_idle(0)
    slots.give(2)
    assert slots.wait_until_idle(0)


def test_place_may_be_kept_where_none_is_free() -> None:
    slots = Slots(1)
    slots.take(1)
    slots.keep()
    taken: list[int] = []
    waiting = threading.Thread(target=lambda: taken.append(slots.take(1)))
    waiting.start()
    slots.give(1)
    waiting.join(0.2)
    assert taken == []
    slots.give(1)
    waiting.join(20)
    assert taken == [1]
