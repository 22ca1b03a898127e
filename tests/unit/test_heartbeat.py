"""A heartbeat goes on whatever its store does, and the end of its process does not wait for it."""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from support.cluster import wait_until

from gnomon.job.errors import Unavailable
from gnomon.job.handlers import HandlerSpec, wrong_name
from gnomon.job.instance import ALIVE_WITHIN, HEARTBEAT, Identity, Instance, Role
from gnomon.process import heartbeat as heartbeat_module
from gnomon.process.heartbeat import Heartbeat

ME = Identity(id=uuid4(), name="me", role=Role.WORKER, host="here", pid=1, version="1")
SOON = timedelta(milliseconds=5)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Heartbeat, "EVERY", SOON)


class WatchedStore:
    """Remembers its calls; each does `behaviour` first."""

    def __init__(self, behaviour: Callable[[], None] = lambda: None) -> None:
        self.behaviour = behaviour
        self.beats = 0
        self.left: list[UUID] = []

    def beat(
        self, identity: Identity, *, handlers: Sequence[HandlerSpec] = (), retry_strategies: Sequence[str] = ()
    ) -> None:
        self.behaviour()
        self.beats += 1

    def leave(self, instance_id: UUID) -> None:
        self.behaviour()
        self.left.append(instance_id)

    def list(self) -> Sequence[Instance]:
        raise AssertionError("nobody asked")

    def leader(self) -> UUID | None:
        raise AssertionError("nobody asked")


def assert_set(release: threading.Event) -> None:
    assert release.wait(60)


def away() -> None:
    raise Unavailable("no answer from db:5432")


def test_two_heartbeats_may_get_lost() -> None:
    assert ALIVE_WITHIN >= 3 * HEARTBEAT


def test_it_beats_until_the_stop_and_then_says_farewell() -> None:
    store = WatchedStore()
    heartbeat = Heartbeat(store, ME)
    heartbeat.start()
    wait_until("it has beaten thrice", lambda: store.beats >= 3)
    assert store.left == []
    heartbeat.stop()
    assert store.left == [ME.id]


def test_it_goes_on_when_the_store_is_back() -> None:
    asked = threading.Event()

    def leave() -> None:
        asked.set()
        away()

    store = WatchedStore(leave)
    heartbeat = Heartbeat(store, ME)
    heartbeat.start()
    assert asked.wait(10)
    assert store.beats == 0
    store.behaviour = lambda: None
    wait_until("it beats again", lambda: store.beats > 0)
    heartbeat.stop()


def test_it_does_not_beat_before_the_store_is_ready() -> None:
    missing = threading.Event()

    def ready() -> None:
        if not missing.is_set():
            missing.set()
            raise Unavailable("the schema is missing")

    store = WatchedStore(lambda: None if missing.is_set() else pytest.fail("too early"))
    heartbeat = Heartbeat(store, ME, ready=ready)
    heartbeat.start()
    wait_until("it beats", lambda: store.beats > 0)
    heartbeat.stop()


def test_one_that_never_was_ready_says_no_farewell() -> None:
    store = WatchedStore()
    heartbeat = Heartbeat(store, ME, ready=away)
    heartbeat.start()
    heartbeat.stop()
    assert (store.beats, store.left) == (0, [])


def test_stop_before_the_start_does_nothing() -> None:
    store = WatchedStore()
    Heartbeat(store, ME).stop()
    assert store.left == []


def test_end_of_the_process_does_not_wait_for_a_store_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat_module, "FAREWELL_SECONDS", 0.05)
    release = threading.Event()
    store = WatchedStore(lambda: assert_set(release))
    heartbeat = Heartbeat(store, ME)
    heartbeat.start()
    began = time.monotonic()
    heartbeat.stop()
    assert time.monotonic() - began < 30
    release.set()
    wait_until("its thread has ended", lambda: all(thread.name != "heartbeat" for thread in threading.enumerate()))


@pytest.mark.parametrize("name", ["email_notification", "reports.daily", "_x", "a-b", "x" * 100])
def test_name_of_a_handler(name: str) -> None:
    assert wrong_name(name) is None


@pytest.mark.parametrize("name", ["", "1st", "a b", "a/b", "ü", "x" * 101, "HTTP", "Amqp", "a\n"])
def test_what_can_not_name_a_handler(name: str) -> None:
    assert wrong_name(name)
