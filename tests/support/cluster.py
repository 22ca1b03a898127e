"""Gnomon's own processes against given servers, started and killed as an operator or a fault would."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from support.keys import FOR_API, FOR_WORKER

PRIVATE = "127.0.0.0/8,::1/128"
KEYS = {"api": FOR_API, "worker": FOR_WORKER}


def wait_until(what: str, condition: Callable[[], bool], *, seconds: float = 30.0, pause: float = 0.05) -> None:
    """Waits for a condition; fails naming it."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(pause)


class Role:
    """One process of ours, with its log in a file."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._file = log.open("ab")
        self._process = subprocess.Popen(
            command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=self._file, stderr=self._file
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def text(self) -> str:
        """All it has logged."""
        return self.log.read_text(errors="replace")

    def wait_ready(self, seconds: float = 30.0) -> None:
        """Waits for its log to say so."""
        wait_until(
            f"{self.name} is ready; its log:\n{self.text[-2000:]}",
            lambda: "is ready" in self.text or self._process.poll() is not None,
            seconds=seconds,
        )
        assert self._process.poll() is None, f"{self.name} ended with {self._process.returncode}:\n{self.text[-3000:]}"

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()
        self._file.close()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stop(self, seconds: float = 40.0) -> int:
        """SIGTERM, and the exit code."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not stop within {seconds:g} s:\n{self.text[-3000:]}") from None
        self._file.close()
        return code

    @property
    def running(self) -> bool:
        return self._process.poll() is None


class Cluster:
    """Schedulers, workers and APIs that share a database and a broker. `settings` hold for all of them."""

    def __init__(self, *, database_url: str, queue_url: str, folder: Path, **settings: str) -> None:
        self._folder = folder
        self._roles: list[Role] = []
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SCHEDULER_")},
            "SCHEDULER_DB_URL": database_url,
            "SCHEDULER_QUEUE_URL": queue_url,
            "SCHEDULER_EGRESS_ALLOW": PRIVATE,
            "SCHEDULER_LOG_FORMAT": "text",
            **settings,
        }

    def start(self, role: str, **settings: str) -> Role:
        """A process of `gnomon <role>`; it may not be ready yet."""
        number = len(self._roles) + 1
        started = Role(
            f"{role}-{number}",
            [sys.executable, "-m", "gnomon.cli.main", role],
            {**self._environment, **KEYS.get(role, {}), **settings},
            self._folder / f"{number}-{role}.log",
        )
        self._roles.append(started)
        return started

    @property
    def roles(self) -> list[Role]:
        """All processes that were started, in order."""
        return list(self._roles)

    def start_ready(self, *roles: str) -> list[Role]:
        """Several at once, all ready."""
        started = [self.start(role) for role in roles]
        for role in started:
            role.wait_ready()
        return started

    def stop(self) -> None:
        """Ends what still runs, all at once; nothing is left behind."""
        running = [role for role in self._roles if role.running]
        for role in running:
            role.signal(signal.SIGCONT)
            role.signal(signal.SIGTERM)
        for role in running:
            with contextlib.suppress(AssertionError):
                role.stop()


@contextlib.contextmanager
def cluster(*, database_url: str, queue_url: str, folder: Path, **settings: str) -> Iterator[Cluster]:
    """A cluster that is ended whatever happens, and whose logs are shown when the test fails."""
    built = Cluster(database_url=database_url, queue_url=queue_url, folder=folder, **settings)
    try:
        yield built
    except BaseException:
        for role in built._roles:
            print(f"--- {role.name}\n{role.text[-6000:]}")
        raise
    finally:
        built.stop()
