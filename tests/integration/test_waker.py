"""A scheduler's sleep ends at its time, or when an earlier moment is announced."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from support.cluster import wait_until
from support.world import World

from gnomon.embedded.postgres import EmbeddedPostgres
from gnomon.storage.postgres.waker import PostgresWaker

LONG = timedelta(seconds=20)


@pytest.fixture
def waker(world: World) -> Iterator[PostgresWaker]:
    made = PostgresWaker(world.engine)
    yield made
    made.close()


def slept(waker: PostgresWaker, timeout: timedelta, *, before: datetime | None = None) -> float:
    """Seconds."""
    started = time.monotonic()
    waker.wait(timeout, before=before or datetime.now(UTC) + timeout)
    return time.monotonic() - started


def test_wait_ends_at_its_time(waker: PostgresWaker) -> None:
    assert slept(waker, timedelta(milliseconds=50)) >= 0.05


def test_new_job_wakes_a_scheduler_that_waits_for_a_later_moment(world: World, waker: PostgresWaker) -> None:
    slept(waker, timedelta(0))
    waker.wait(timedelta(milliseconds=1), before=datetime.now(UTC))  # listening from here on
    world.create(delay_seconds=0)
    assert slept(waker, LONG) < 10


def test_moment_later_than_what_is_waited_for_does_not_wake(world: World, waker: PostgresWaker) -> None:
    waker.wait(timedelta(milliseconds=1), before=datetime.now(UTC))
    world.create(delay_seconds=3600)
    assert slept(waker, timedelta(milliseconds=300)) >= 0.3


def test_wake_ends_the_wait_at_once(waker: PostgresWaker) -> None:
    waker.wake()
    assert slept(waker, LONG) < 10


def test_wake_after_the_end_is_harmless(waker: PostgresWaker) -> None:
    waker.close()
    waker.wake()  # the thread that watches for a stop may come late


def test_lost_connection_ends_the_wait_and_is_made_anew(
    world: World, waker: PostgresWaker, postgres: EmbeddedPostgres
) -> None:
    waker.wait(timedelta(milliseconds=1), before=datetime.now(UTC))
    postgres.restart(immediate=True)
    assert slept(waker, LONG) < 10  # what was announced meanwhile is unknown: look
    waker._next_try = 0.0
    waker.wait(timedelta(milliseconds=1), before=datetime.now(UTC))
    wait_until("the database answers", lambda: _creates(world))
    assert slept(waker, LONG) < 10


def test_without_the_database_it_is_a_plain_timer(
    world: World, waker: PostgresWaker, postgres: EmbeddedPostgres
) -> None:
    postgres.kill()
    assert slept(waker, timedelta(milliseconds=50)) >= 0.05


def _creates(world: World) -> bool:
    try:
        world.create(delay_seconds=0)
    except Exception:
        return False
    return True
