"""Servers and processes kept running until they are stopped, in the reverse of the order they were started in."""

import logging
import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Protocol

from gnomon.embedded.processes import Child, end_orphans_of, start_child, stop_child
from gnomon.job.errors import GnomonError

_READY = re.compile(rb"\bready\b", re.IGNORECASE)
_FIRST_DELAY_SECONDS = 0.5
_LONGEST_DELAY_SECONDS = 30.0
_STEADY_SECONDS = 60.0
_GRACE_SECONDS = 40.0
_RELAY_SECONDS = 2.0


class Runnable(Protocol):
    """What a supervisor keeps running."""

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""

    def start(self) -> None:
        """Start it; nothing when it runs."""

    def stop(self) -> None:
        """End it; nothing when it does not run."""


class Process:
    """A command whose output goes, line by line, to `write(line)`, in a thread of its own.

    `ready` is set by its first line with the word "ready". `urgent` says, while it is being stopped, not to wait.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        write: Callable[[bytes], None],
        urgent: Callable[[], bool] = lambda: False,
    ) -> None:
        self.ready = threading.Event()
        self._command = command
        self._env = env
        self._write = write
        self._urgent = urgent
        self._child: Child | None = None
        self._relay: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return self._child.pid if self._child and self._child.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        """What it ended with; negative is the signal that ended it. None while it runs, or before it ever did."""
        return self._child.poll() if self._child else None

    def start(self) -> None:
        """Start it, after killing what a former run left behind."""
        if self.pid:
            return
        self._drop()
        self._child = start_child(self._command, log=subprocess.PIPE, env=self._env)
        assert self._child.stdout is not None
        self._relay = threading.Thread(target=self._pass_on, args=(self._child.stdout,), daemon=True)
        self._relay.start()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when it takes longer than 40 s or `urgent()`."""
        if self._child is not None:
            stop_child(self._child, grace_seconds=_GRACE_SECONDS, urgent=self._urgent)
        self._drop()

    def _drop(self) -> None:
        if self._child is not None:
            end_orphans_of(self._child)
        if self._relay is not None:
            self._relay.join(_RELAY_SECONDS)  # the pipe ends with the last process that holds it
            self._relay = None

    def _pass_on(self, output: IO[bytes]) -> None:
        with output:
            for line in output:
                self._write(line)
                if _READY.search(line):
                    self.ready.set()


@dataclass
class _Kept:
    """`due` is when a restart may be tried, `since` when the last start was, both on the monotonic clock."""

    name: str
    runnable: Runnable
    failures: int = 0
    since: float = 0
    due: float | None = None


class Supervisor:
    """Starts what it is given, restarts what ends, stops all. `say` gets one sentence about each event."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._kept: list[_Kept] = []

    def start(self, name: str, runnable: Runnable) -> None:
        """Start it and keep it running. Raises what its start raises; stop() covers it all the same."""
        self._kept.append(_Kept(name, runnable, since=time.monotonic()))
        runnable.start()

    def run_once(self) -> None:
        """Notice what has ended; restart what is due. To be called a few times a second, from the main thread."""
        now = time.monotonic()
        for kept in self._kept:
            if kept.due is None and kept.runnable.pid is None:
                self._plan_restart(kept, now, "ended")
            elif kept.due is not None and kept.due <= now:
                self._restart(kept, now)

    def stop(self) -> None:
        """Stop all, the last started first. One that can't be stopped does not keep the others."""
        while self._kept:
            kept = self._kept.pop()
            try:
                kept.runnable.stop()
            except Exception:
                logging.getLogger(__name__).exception("%s could not be stopped; its processes may be left", kept.name)

    def _plan_restart(self, kept: _Kept, now: float, what: str) -> None:
        kept.failures = 1 if now - kept.since > _STEADY_SECONDS else kept.failures + 1
        delay = restart_delay(kept.failures)
        kept.due = now + delay
        self._say(f"{kept.name} {what}; starting it again in {delay:g} s")

    def _restart(self, kept: _Kept, now: float) -> None:
        kept.since, kept.due = now, None
        try:
            kept.runnable.start()
        except GnomonError as error:
            self._plan_restart(kept, time.monotonic(), f"did not start ({error})")


def restart_delay(failures: int) -> float:
    """Seconds to wait after the given number of ends in a row: doubling from half a second up to 30 s."""
    return min(_LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0 ** min(failures - 1, 10))
