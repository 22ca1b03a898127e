"""Stopping, repeating chores, waiting for servers. No test sleeps: a fake stop records the waits it is asked for."""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from gnomon.job.errors import Unavailable
from gnomon.process.backoff import Backoff
from gnomon.process.chore import run_chore
from gnomon.process.connect import wait_until_available
from gnomon.process.last_resort import end_within
from gnomon.process.signals import StopSignal

NO_JITTER = Backoff(first=timedelta(seconds=1), longest=timedelta(seconds=4), jitter=0)


class FakeTime:
    """A clock that only waiting moves, and a stop after so many waits."""

    def __init__(self, *, stop_after: int) -> None:
        self.now = 1000.0
        self.waits: list[float] = []
        self._stop_after = stop_after

    def clock(self) -> float:
        return self.now

    def is_set(self) -> bool:
        return len(self.waits) >= self._stop_after

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        self.now += timeout
        return self.is_set()


def script(*results: timedelta | Exception | None) -> Callable[[], timedelta | None]:
    """A step that returns or raises these, one after the other."""
    remaining: Iterator[timedelta | Exception | None] = iter(results)

    def step() -> timedelta | None:
        result = next(remaining)
        if isinstance(result, Exception):
            raise result
        return result

    return step


AWAY = Unavailable("no answer from db:5432")


def chore(time: FakeTime, *results: timedelta | Exception | None) -> None:
    run_chore("dispatch", script(*results), time, backoff=NO_JITTER, clock=time.clock, rand=lambda: 0.0)


def test_chore_sleeps_as_long_as_its_step_says_and_none_means_at_once() -> None:
    time = FakeTime(stop_after=2)
    chore(time, timedelta(seconds=3), None, None, timedelta(seconds=0.5))
    assert time.waits == [3, 0.5]


def test_outage_waits_twice_as_long_each_time_up_to_the_cap() -> None:
    time = FakeTime(stop_after=5)
    chore(time, AWAY, AWAY, AWAY, AWAY, AWAY)
    assert time.waits == [1, 2, 4, 4, 4]


def test_outage_is_told_once_with_what_happens_next_and_once_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    chore(FakeTime(stop_after=4), AWAY, AWAY, AWAY, timedelta(seconds=9))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            "dispatch: no answer from db:5432; trying again in 1.0 s, then at most every 4 s, until it works",
        ),
        ("INFO", "dispatch: recovered after 7 s"),  # 1 + 2 + 4
    ]


def test_backoff_starts_again_after_a_success() -> None:
    time = FakeTime(stop_after=4)
    chore(time, AWAY, AWAY, timedelta(seconds=9), AWAY)
    assert time.waits == [1, 2, 9, 1]


def test_unexpected_error_is_logged_with_its_traceback_and_the_chore_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    time = FakeTime(stop_after=2)
    chore(time, KeyError("surprise"), timedelta(seconds=9))
    assert time.waits == [1, 9]
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError


def test_stopped_chore_does_not_take_another_step() -> None:
    chore(FakeTime(stop_after=0), AssertionError("must not be called"))


@pytest.mark.parametrize(
    ("failures", "random", "seconds"),
    [
        (1, 0.0, 0.5),
        (1, 0.999, 0.5 * (1 - 0.3 * 0.999)),
        (3, 0.0, 2.0),  # 0.5 * 2²
        (6, 0.0, 15.0),  # 0.5 * 2⁵ = 16, capped
        (10_000, 0.0, 15.0),
    ],
)
def test_backoff_doubles_is_capped_and_only_ever_shortened_by_jitter(
    failures: int, random: float, seconds: float
) -> None:
    assert Backoff().wait_after(failures, random=random).total_seconds() == pytest.approx(seconds, abs=1e-5)


def test_waiting_for_a_server_ends_when_it_answers(caplog: pytest.LogCaptureFixture) -> None:
    time = FakeTime(stop_after=99)
    step = script(AWAY, AWAY, None)
    answered = wait_until_available(
        "waiting for the database", lambda: step() and None, time, backoff=NO_JITTER, clock=time.clock, rand=lambda: 0.0
    )
    assert answered
    assert time.waits == [1, 2]
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_waiting_for_a_server_ends_at_the_stop() -> None:
    time = FakeTime(stop_after=2)
    step = script(AWAY, AWAY)
    assert not wait_until_available("waiting", lambda: step() and None, time, backoff=NO_JITTER)


def test_waiting_for_a_server_lets_other_errors_through() -> None:
    step = script(ValueError("wrong password"))
    with pytest.raises(ValueError, match="wrong password"):
        wait_until_available("waiting", lambda: step() and None, FakeTime(stop_after=9))


def test_stop_wakes_every_waiter_and_stays_set() -> None:
    stop = StopSignal()
    assert not stop.wait(0)
    woken: list[bool] = []
    waiters = [threading.Thread(target=lambda: woken.append(stop.wait())) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    stop.set()
    for waiter in waiters:
        waiter.join()
    assert woken == [True, True, True]
    assert stop.is_set()
    assert stop.wait(60)


def test_callbacks_of_the_stop_run_once_and_one_that_fails_does_not_stop_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stop = StopSignal()
    calls: list[str] = []
    stop.on_stop(lambda: calls.append("first"))
    stop.on_stop(lambda: calls.remove("not there"))
    stop.on_stop(lambda: calls.append("last"))
    stop.set()
    stop.set()
    assert calls == ["first", "last"]
    assert "a callback of the stop failed" in caplog.text
    stop.on_stop(lambda: calls.append("late"))
    assert calls == ["first", "last", "late"]


PROGRAM = """
from gnomon.process.signals import StopSignal
stop = StopSignal()
stop.install()
stop.on_stop(lambda: print("callback", flush=True))
print("ready", flush=True)
assert stop.wait()
# The callback runs in another thread: give it the chance to finish before the process ends.
import threading
[thread.join() for thread in threading.enumerate() if thread.name == "stop-signal"]
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_sets_the_stop(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, number)
        assert process.communicate(timeout=30)[0] == "callback\n"
    assert process.returncode == 0


def test_stop_is_noticed_while_the_main_thread_is_held_up_in_a_call() -> None:
    program = """
import ctypes, logging, os, threading, time
from gnomon.process.signals import StopSignal

def ask() -> None:
    time.sleep(0.2)
    os.kill(os.getpid(), 15)

logging.basicConfig(level="INFO")
stop = StopSignal()
stop.install()
stop.on_stop(lambda: os._exit(0))
threading.Thread(target=ask).start()
mutex = ctypes.create_string_buffer(64)
for _ in range(2):  # the second time it waits for ever, and no signal interrupts it
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=10).returncode == 0


def test_process_that_hangs_after_its_stop_is_ended_with_code_0_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    stop, ended = StopSignal(), threading.Event()
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    end_within(timedelta(seconds=0.05), stop, end=end)
    assert not ended.wait(0.2)  # nobody has asked it to stop
    stop.set()
    assert ended.wait(5)
    assert codes == [0]
    assert "still hangs" in caplog.text


@pytest.mark.parametrize("role", ["api", "scheduler", "worker"])
def test_sigterm_while_a_service_is_being_imported_ends_it_with_code_0(role: str) -> None:
    program = (
        "import os, signal, sys; from gnomon.cli import main as cli; sys.argv = ['gnomon', sys.argv[1]]; "
        "cli.gnomon.main = lambda **_: os.kill(os.getpid(), signal.SIGTERM); cli.main()"
    )
    assert subprocess.run([sys.executable, "-c", program, role], timeout=30).returncode == 0
    assert subprocess.run([sys.executable, "-c", program, "migrate"], timeout=30).returncode == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_a_service_that_is_on_its_way_out_changes_nothing(number: signal.Signals) -> None:
    program = (
        "import atexit, os, sys; from gnomon.cli import main as cli; sys.argv = ['gnomon', 'worker']; "
        f"cli.gnomon.main = lambda **_: sys.exit(0); atexit.register(os.kill, os.getpid(), {int(number)}); cli.main()"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=30).returncode == 0
