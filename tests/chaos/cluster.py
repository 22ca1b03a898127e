"""Gnomon's processes as a supervisor keeps them: with own links to the servers, started again when they die."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from servers.proxy import Proxy
from support.keys import FOR_API, FOR_WORKER

from chaos import handlers
from chaos.clock import WrongClock
from gnomon.embedded.ports import free_port
from gnomon.embedded.processes import end_orphans_of, family_of, stop_child

LEASE_SECONDS = 6
PER_HOST = 6  # executions that a worker has under way for one host
SCHEDULERS = ("scheduler-1", "scheduler-2", "scheduler-3")
HANDLERS = {"worker-4": "handlers", "worker-5": "handlers", "worker-6": "async"}
WORKERS = ("worker-1", "worker-2", "worker-3", *HANDLERS)
APIS = ("api-1", "api-2")
MEMBERS = (*SCHEDULERS, *WORKERS, *APIS)
_RESTART_SECONDS = 1.0
_POLL_SECONDS = 0.1
_STOP_SECONDS = 30


class Member:
    """One process of ours. Methods may be called from any thread."""

    def __init__(self, name: str, environment: Mapping[str, str], folder: Path, clock: WrongClock) -> None:
        self.name = name
        self.role = name.partition("-")[0]
        self.starts = 0
        self.clock_shift = 0
        self._environment = dict(environment)
        self._log = folder / f"{name}.log"
        self._clock = clock
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._died_at: float | None = None

    def start(self) -> None:
        """The shift of its clock holds for this start only."""
        with self._lock, self._log.open("ab") as log:
            shift, self.clock_shift = self.clock_shift, 0
            self.starts += 1
            self._died_at = None
            self._process = subprocess.Popen(
                [*_dies_with_us(), sys.executable, "-m", "gnomon.cli.main", self.role],
                env={**self._environment, **self._clock.environment(shift)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def supervise(self, now: float) -> None:
        """Starts it again a second after its end was seen; what it left behind is ended first, as systemd does."""
        if self._process is None or self._process.poll() is None:
            return
        if self._died_at is None:
            self._died_at = now
        elif now - self._died_at >= _RESTART_SECONDS:
            end_orphans_of(self._process)
            self.start()

    def kill(self, choice: float = 0.0) -> None:
        """SIGKILL to one of its processes: `choice` in [0, 1) picks; 0 is the one that was started."""
        pids = self.pids()
        if pids:
            _signal(pids[int(choice * len(pids))], signal.SIGKILL)

    def freeze(self) -> Callable[[], None]:
        """SIGSTOP to all of its processes; what is returned lets these go on, whatever was started since."""
        pids = self.pids()
        for pid in pids:
            _signal(pid, signal.SIGSTOP)

        def thaw() -> None:
            for pid in pids:
                _signal(pid, signal.SIGCONT)

        return thaw

    def pids(self) -> list[int]:
        process = self._process
        return [] if process is None or process.poll() is not None else [process.pid, *family_of(process.pid)]

    @property
    def ready(self) -> bool:
        """Whether its last start has got as far as its log says."""
        return self.starts > 0 and self._log.read_text(errors="replace").count(" is ready") >= self.starts

    def stop(self) -> None:
        """SIGTERM; SIGKILL for what does not end."""
        process = self._process
        if process is None:
            return
        for pid in self.pids():
            _signal(pid, signal.SIGCONT)
        stop_child(process, grace_seconds=_STOP_SECONDS)


class Cluster:
    """All members. `database` and `broker` are the ways each of them has to the servers."""

    def __init__(self, *, database_url: str, queue_url: str, folder: Path, ahead: str) -> None:
        clock = WrongClock(folder)
        self.clock_available = clock.available
        self.database = {name: Proxy.before(database_url) for name in MEMBERS}
        self.broker = {name: Proxy.before(queue_url) for name in MEMBERS if name not in APIS}
        self._open = contextlib.ExitStack()
        for link in self.links:
            self._open.enter_context(link)
        self._folder = folder
        self._ahead = ahead
        self._api_ports = {name: free_port() for name in APIS}
        self.members = {
            name: Member(name, self._environment(name, database_url, queue_url), folder, clock) for name in MEMBERS
        }
        self._stopping = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor")

    @property
    def links(self) -> Sequence[Proxy]:
        return [*self.database.values(), *self.broker.values()]

    @property
    def api_urls(self) -> Sequence[str]:
        return [f"http://127.0.0.1:{port}/v1" for port in self._api_ports.values()]

    def start(self) -> None:
        """Returns at once; the supervisor goes on until `stop`."""
        self._supervisor.start()

    def heal(self) -> None:
        """Whole links."""
        for link in self.links:
            link.heal()

    def stop(self) -> None:
        """Nothing is left behind."""
        self.heal()
        self._stopping.set()
        if self._supervisor.is_alive():
            self._supervisor.join()
        stoppers = [threading.Thread(target=member.stop) for member in self.members.values()]
        for stopper in stoppers:
            stopper.start()
        for stopper in stoppers:
            stopper.join()
        self._open.close()

    def _supervise(self) -> None:
        """The thread that forks lives as long as this process: the kernel ends its children with it."""
        for member in self.members.values():
            member.start()
        while not self._stopping.wait(_POLL_SECONDS):
            for member in self.members.values():
                member.supervise(time.monotonic())

    def _environment(self, name: str, database_url: str, queue_url: str) -> Mapping[str, str]:
        plain = {key: value for key, value in os.environ.items() if not key.startswith("SCHEDULER_")}
        settings = {
            "SCHEDULER_SCHEDULER_ID": name,
            "SCHEDULER_SCHEDULER_AHEAD": self._ahead,
            "SCHEDULER_DB_URL": self.database[name].url(database_url),
            "SCHEDULER_EGRESS_ALLOW": "127.0.0.0/8,::1/128",
            "SCHEDULER_LOG_FORMAT": "text",
            "SCHEDULER_MAX_JOB_LOCK_TIME": f"{LEASE_SECONDS}s",
            "SCHEDULER_WORKER_CONCURRENCY_PER_HOST": str(PER_HOST),
        }
        if name in APIS:
            settings |= FOR_API
            settings["SCHEDULER_WEB_API_HOST"] = f"127.0.0.1:{self._api_ports[name]}"
        elif name in WORKERS and name not in HANDLERS:
            settings |= FOR_WORKER
        if name in HANDLERS:
            settings |= {"SCHEDULER_WORKER_QUEUES": HANDLERS[name], "SCHEDULER_WORKER_HANDLERS": handlers.__name__}
            settings[handlers.LOG] = str(self._folder / "handlers.log")
        settings["SCHEDULER_QUEUE_URL"] = self.broker[name].url(queue_url) if name in self.broker else queue_url
        return plain | settings


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _dies_with_us() -> list[str]:
    return ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
