"""The queue within one process."""

import threading
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from support.cluster import wait_until

from gnomon.queue.memory import MemoryQueue

SECONDS = timedelta(seconds=20)


def test_ids_are_admitted_message_by_message_in_order() -> None:
    admitted: list[Sequence[UUID]] = []
    queue = MemoryQueue(admitted.append, give_back=lambda ids: None)
    queue.start()
    messages = [[uuid4(), uuid4()], [uuid4()]]
    for ids in messages:
        queue.publish("any", ids)
    wait_until("both have come", lambda: admitted == messages)
    queue.close(SECONDS)


def test_publishing_never_waits_for_a_worker_whose_places_are_taken() -> None:
    free = threading.Event()
    queue = MemoryQueue(lambda ids: free.wait(20) and None, give_back=lambda ids: None)
    queue.start()
    for _ in range(1000):
        queue.publish("any", [uuid4()])
    free.set()
    queue.close(SECONDS)


def test_what_waits_when_it_ends_is_given_back() -> None:
    admitted: list[UUID] = []
    returned: list[UUID] = []
    free = threading.Event()

    def admit(ids: Sequence[UUID]) -> None:
        admitted.extend(ids)
        free.wait(20)

    queue = MemoryQueue(admit, give_back=returned.extend)
    queue.start()
    ids = [uuid4() for _ in range(5)]
    for one in ids:
        queue.publish("any", [one])
    wait_until("the first is being admitted", lambda: admitted == ids[:1])
    queue.refuse()
    queue.publish("any", [late := uuid4()])
    free.set()
    queue.close(SECONDS)
    assert (admitted, returned) == (ids[:1], [*ids[1:], late])


def test_error_in_one_message_does_not_end_the_delivery(caplog: pytest.LogCaptureFixture) -> None:
    admitted: list[Sequence[UUID]] = []

    def admit(ids: Sequence[UUID]) -> None:
        if not admitted:
            admitted.append(())
            raise ValueError
        admitted.append(ids)

    queue = MemoryQueue(admit, give_back=lambda ids: None)
    queue.start()
    queue.publish("any", [uuid4()])
    queue.publish("any", [second := uuid4()])
    wait_until("the second has come", lambda: admitted[-1:] == [[second]])
    queue.close(SECONDS)
    assert "could not be taken" in caplog.text
