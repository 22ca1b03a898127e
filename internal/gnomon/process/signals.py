"""Being asked to stop: one flag that every loop of a process waits on."""

import logging
import math
import os
import select
import signal
import threading
import weakref
from collections.abc import Callable
from types import FrameType

_log = logging.getLogger(__name__)


class StopSignal:
    """Set once, by SIGTERM, SIGINT or `set`; never cleared. Belongs to one process: not to be used across a fork.

    A pipe, not a threading.Event: a signal handler that sets an Event whose lock the interrupted `wait` holds
    blocks the main thread for ever.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        weakref.finalize(self, _close, self._reader, self._writer)
        self._stopping = False
        self._received_signal = ""
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def install(self) -> None:
        """Listens to SIGTERM and SIGINT. Only in the main thread (ValueError elsewhere), once a process.

        The stop is noticed even while the main thread is held up in a call, in which it runs no signal handlers.
        """
        heard, hears = os.pipe()  # for as long as the process lives
        os.set_blocking(hears, False)
        signal.set_wakeup_fd(hears, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(heard,), name="signals", daemon=True).start()
        threading.Thread(target=self._watch, name="stop-signal", daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._received)

    def _listen(self, heard: int) -> None:
        """Python writes the number of each signal there that has a handler, at once."""
        while not self._stopping:
            for number in os.read(heard, 64):
                if number in (signal.SIGTERM, signal.SIGINT):
                    self._received(number, None)

    def _received(self, number: int, _frame: FrameType | None) -> None:
        self._received_signal = self._received_signal or signal.Signals(number).name
        self._mark()

    def _watch(self) -> None:
        """Does what a signal handler may not: log, take locks, call others."""
        self.wait()
        _log.info("stopping: %s", self._received_signal or "asked to by this process itself")
        self._run_callbacks()

    def set(self) -> None:
        """Asks everything to stop and runs the callbacks. Calling it again changes nothing."""
        self._mark()
        self._run_callbacks()

    def _mark(self) -> None:
        if not self._stopping:
            self._stopping = True
            os.write(self._writer, b"x")  # never read: the pipe stays readable for every waiter

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Calls `callback` once at the stop, in another thread, or at once if the stop has come."""
        with self._lock:
            if not self._stopping:
                self._callbacks.append(callback)
                return
        _run(callback)

    def is_set(self) -> bool:
        """Whether the stop has been asked for."""
        return self._stopping

    def wait(self, timeout: float | None = None) -> bool:
        """Sleeps up to `timeout` seconds (None: for ever); True as soon as the stop has been asked for."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        poll.poll(None if timeout is None else max(0, math.ceil(timeout * 1000)))
        return self._stopping

    def _run_callbacks(self) -> None:
        with self._lock:
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            _run(callback)


def _run(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        _log.exception("a callback of the stop failed; the others go on")


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
