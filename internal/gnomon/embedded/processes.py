"""Children of this process: start, wait until ready, stop and reap. Always by pid, never by name."""

# ruff: noqa: S603, S607 - commands are lists built in this folder and found on PATH; no shell reads them

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Self

from gnomon.job.errors import Unavailable

Child = subprocess.Popen[bytes]
NOBODY = 65534

_POLL_SECONDS = 0.02
_TAIL_LINES = 20


class ServerFailed(Unavailable):
    """A child ended or stayed silent instead of becoming ready; the message carries the end of its log."""


class Server(ABC):
    """What can be started and stopped; `with server:` does both."""

    @abstractmethod
    def start(self) -> None:
        """Return when it answers."""

    @abstractmethod
    def stop(self) -> None:
        """Return when it is gone."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_child(
    command: Sequence[str],
    *,
    log: Path | IO[bytes] | int,
    env: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    as_nobody: bool = False,
    when_orphaned: signal.Signals = signal.SIGTERM,
) -> Child:
    """Start `command` with its output appended to `log`, in a session of its own: Ctrl-C reaches it only through us.

    Where the kernel can (Linux), the child gets `when_orphaned` if this process dies, however it dies; but only if the
    main thread started it.
    """
    if isinstance(log, Path):
        with log.open("ab") as output:
            return start_child(
                command, log=output, env=env, stdin=stdin, as_nobody=as_nobody, when_orphaned=when_orphaned
            )
    return subprocess.Popen(
        [*_setpriv(as_nobody=as_nobody, when_orphaned=when_orphaned), *command],
        stdin=stdin,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=env,
        start_new_session=True,
    )


def feed(child: Child, text: str) -> None:
    """Write `text` to the child's stdin and close it: a password on the command line could be read by others.

    A child that is dead already is noticed by wait_until_ready, which can say more.
    """
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError), child.stdin:
        child.stdin.write(text.encode())


def as_nobody_command(command: Sequence[str]) -> list[str]:
    """`command` run as the unprivileged user nobody: for root only, which Postgres refuses to run as.

    The one capability left lets it pass through folders that only root may enter (0700 homes): no folder's mode has to
    change.
    """
    return [*_setpriv(as_nobody=True, when_orphaned=None), *command]


def _setpriv(*, as_nobody: bool, when_orphaned: signal.Signals | None) -> list[str]:
    options = []
    if as_nobody:
        options += ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
        options += ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]
    # The kernel watches the thread that forked, not the process: a short-lived thread would take the child with it.
    if when_orphaned and _can_watch_owner() and threading.current_thread() is threading.main_thread():
        options += ["--pdeathsig", when_orphaned.name.removeprefix("SIG")]
    return ["setpriv", *options, "--"] if options else []


@functools.cache
def _can_watch_owner() -> bool:
    """Whether this machine's setpriv (util-linux, not BusyBox) knows --pdeathsig."""
    if shutil.which("setpriv") is None:
        return False
    known = subprocess.run(["setpriv", "--help"], capture_output=True, text=True, check=False)
    return "--pdeathsig" in known.stdout


def wait_until_ready(
    child: Child, ready: Callable[[], bool], *, name: str, log: Path, deadline_seconds: float = 30
) -> None:
    """Return when `ready()` is true. Raises ServerFailed, and ends the child, when it exits or the deadline passes."""
    give_up_at = time.monotonic() + deadline_seconds
    while not ready():
        if child.poll() is not None:
            raise ServerFailed(f"{name} ended with code {child.returncode} before it was ready:\n{tail(log)}")
        if time.monotonic() > give_up_at:
            kill_child(child)
            raise ServerFailed(f"{name} was not ready after {deadline_seconds:g} s:\n{tail(log)}")
        time.sleep(_POLL_SECONDS)


def stop_child(
    child: Child,
    *,
    ask: signal.Signals = signal.SIGTERM,
    grace_seconds: float = 10,
    urgent: Callable[[], bool] = lambda: False,
) -> None:
    """Ask the child to end; kill it when it has not within `grace_seconds`, or `urgent()` says not to wait for it.

    What it leaves behind (its own children) is killed in either case.
    """
    if child.poll() is not None:
        end_orphans_of(child)
        return
    family = family_of(child.pid)
    child.send_signal(ask)
    give_up_at = time.monotonic() + grace_seconds
    while child.poll() is None and time.monotonic() < give_up_at and not urgent():
        time.sleep(_POLL_SECONDS)
    child.kill()
    child.wait()
    _end(family)


def kill_child(child: Child) -> None:
    """SIGKILL the child and its whole family; return when all are gone."""
    family = family_of(child.pid)
    child.kill()
    child.wait()
    _end(family)


def end_orphans_of(child: Child) -> None:
    """Kill what a dead child left running in its process group. A number in use again is nobody of ours: left alone."""
    living = _living_processes()
    if child.pid not in living:
        _end(pid for pid, relation in living.items() if relation.group == child.pid)


def family_of(pid: int) -> list[int]:
    """Descendants and members of the process group of `pid`, as of now, without itself."""
    living = _living_processes()
    found: set[int] = set()
    frontier = {pid}
    while frontier:
        found |= frontier
        related = {other for other, relation in living.items() if relation.parent in frontier or relation.group == pid}
        frontier = related - found
    return sorted(found - {pid})


def wait_until_gone(pids: Iterable[int], *, deadline_seconds: float = 10) -> None:
    """Return when none of `pids` runs any more (a zombie does not count). Raises TimeoutError."""
    left, give_up_at = set(pids), time.monotonic() + deadline_seconds
    while left := left & _living_processes().keys():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"processes {sorted(left)} still run after {deadline_seconds:g} s")
        time.sleep(_POLL_SECONDS)


def is_running(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    return pid in _living_processes()


def _end(pids: Iterable[int]) -> None:
    doomed = list(pids)
    for pid in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until_gone(doomed)


class _Relation(NamedTuple):
    parent: int
    group: int


def _living_processes() -> dict[int, _Relation]:
    """Each process that is not a zombie. From /proc where there is one: slim images have no `ps`."""
    rows = _rows_of_proc() if Path("/proc/self/stat").exists() else _rows_of_ps()
    return {int(pid): _Relation(int(parent), int(group)) for pid, state, parent, group in rows if state[0] != "Z"}


def _rows_of_proc() -> Iterator[tuple[str, str, str, str]]:
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                stat = Path(entry.path, "stat").read_text(errors="replace")
            except OSError:
                continue  # it ended between the listing and the reading
            state, parent, group, *_ = stat.rpartition(")")[2].split()
            yield entry.name, state, parent, group


def _rows_of_ps() -> Iterator[tuple[str, str, str, str]]:
    command = ["ps", "-A", "-o", "pid=,stat=,ppid=,pgid="]
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        pid, state, parent, group = line.split()
        yield pid, state, parent, group


def tail(log: Path, *, lines: int = _TAIL_LINES) -> str:
    """The last lines of a log file, for an error message."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) or "(its log is empty)"
    except OSError:
        return "(it left no log)"
