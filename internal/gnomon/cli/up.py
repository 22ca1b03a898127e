"""All of Gnomon on one machine, in the foreground: Postgres, Valkey, API, scheduler and worker. Not for production."""

import contextlib
import fcntl
import http.client
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType

from gnomon.cli.sealing import PRIVATE_FILE, PUBLIC_FILE, ensure_pair
from gnomon.embedded.ports import LOOPBACK, port_is_free
from gnomon.embedded.postgres import EmbeddedPostgres
from gnomon.embedded.supervisor import Process, Supervisor
from gnomon.embedded.valkey import EmbeddedValkey
from gnomon.job.errors import ConfigurationError, GnomonError, Unavailable

PRIVATE_NETWORKS = "127.0.0.0/8,::1/128,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7"
_READY_SECONDS = 60
_LOOK_SECONDS = 0.1
_TEMPORARY = "gnomon-up-"
_ABANDONED_AFTER_SECONDS = 60
_FOREIGN_SERVERS = ("SCHEDULER_DB_", "SCHEDULER_QUEUE_URL", "SCHEDULER_CACHE_", "SCHEDULER_SECRETS_")


def run_up(*, port: int, data: Path | None, handlers: str = "", python: str = sys.executable) -> int:
    """Run everything until SIGINT, SIGTERM or SIGHUP; the exit code. Main thread only.

    Without `data` all is kept in a temporary folder that is removed at the end. `handlers` names the modules of Python
    handlers, for which there are two workers more.
    """
    try:
        _check_port(port)
        with _StopRequest() as stop, _home(data) as home:
            kept = data is not None
            return _Stack(port=port, home=home, kept=kept, handlers=handlers, python=python, stop=stop).run()
    except GnomonError as error:
        print(f"gnomon up: {error}", file=sys.stderr)
        return 1


class _Stack:
    """What `run_up` runs, from the first server's start to the last one's end."""

    def __init__(self, *, port: int, home: Path, kept: bool, handlers: str, python: str, stop: "_StopRequest") -> None:
        self._port = port
        self._handlers = handlers
        self._python = python
        self._stop = stop
        self._private_keys, self._public_keys = home / PRIVATE_FILE, home / PUBLIC_FILE
        self._output = _Output(home / "logs" if kept else None)
        # What is thrown away at the end need not survive a power cut.
        self._postgres = EmbeddedPostgres(home / "postgres", fsync=kept)
        self._valkey = EmbeddedValkey(home / "valkey", persist=kept)

    def run(self) -> int:
        """Start, announce, keep running, and stop in the reverse order whatever happened."""
        supervisor = Supervisor(self._output.say)
        try:
            if self._start(supervisor):
                self._announce()
            while not self._stop.requested:
                supervisor.run_once()
                time.sleep(_LOOK_SECONDS)
        finally:
            self._output.say("stopping")
            supervisor.stop()
        return 0

    def _start(self, supervisor: Supervisor) -> bool:
        """True when all are ready, False when asked to stop before. Raises GnomonError when one can't start."""
        ensure_pair(self._private_keys, self._public_keys)
        supervisor.start("postgres", self._postgres)
        supervisor.start("valkey", self._valkey)
        if not self._migrate():
            return False
        roles = {name: self._process(name) for name in ("worker", "scheduler", "api")}
        if self._handlers:
            roles |= {queue: self._process("worker", queue) for queue in ("handlers", "async")}
        for name, process in roles.items():
            supervisor.start(name, process)
        return self._wait_until_ready(roles)

    def _migrate(self) -> bool:
        migration = self._process("migrate")
        migration.start()
        try:
            while migration.pid and not self._stop.requested:
                time.sleep(_LOOK_SECONDS / 5)
        finally:
            migration.stop()
        if self._stop.requested:
            return False
        if migration.exit_code:
            raise Unavailable(f"the database could not be migrated (exit code {migration.exit_code}); see above")
        return True

    def _wait_until_ready(self, roles: Mapping[str, Process]) -> bool:
        give_up_at = time.monotonic() + _READY_SECONDS
        while not self._stop.requested:
            ended = next((name for name, process in roles.items() if process.pid is None), None)
            if ended:
                raise Unavailable(f"{ended} ended with code {roles[ended].exit_code} before it was ready; see above")
            waiting = [name for name, process in roles.items() if name != "api" and not process.ready.is_set()]
            if not waiting and _answers_ready(self._port):
                return True
            if time.monotonic() > give_up_at:
                raise Unavailable(f"{', '.join(waiting) or 'api'} not ready after {_READY_SECONDS} s; see above")
            time.sleep(_LOOK_SECONDS / 5)
        return False

    def _process(self, role: str, queue: str = "io") -> Process:
        """`queue` is for a worker; one that serves another than io is called by it."""
        return Process(
            [self._python, "-m", "gnomon.cli.main", role],
            env=self._environment() | {"SCHEDULER_WORKER_QUEUES": queue} | self._keys_of(role, queue),
            write=self._output.lines_of(role if queue == "io" else queue),
            urgent=lambda: self._stop.urgent,
        )

    def _keys_of(self, role: str, queue: str) -> dict[str, str]:
        """Each process gets no more of the sealing keys than it needs; handlers none, as they are others' code."""
        if role == "api":
            return {"SCHEDULER_SECRETS_PUBLIC_KEYS_FILE": str(self._public_keys)}
        if (role, queue) == ("worker", "io"):
            return {"SCHEDULER_SECRETS_PRIVATE_KEYS_FILE": str(self._private_keys)}
        return {}

    def _environment(self) -> dict[str, str]:
        """Ours without what names other servers, and with the settings that make the roles one system."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN_SERVERS)}
        chosen = {"SCHEDULER_EGRESS_ALLOW": PRIVATE_NETWORKS, "SCHEDULER_LOG_FORMAT": "text"}
        return (
            chosen
            | inherited
            | {
                "SCHEDULER_DB_URL": self._postgres.url,
                "SCHEDULER_QUEUE_URL": self._valkey.url,
                "SCHEDULER_WEB_API_HOST": f"{LOOPBACK}:{self._port}",
                "SCHEDULER_WORKER_HANDLERS": self._handlers,
                "PYTHONUNBUFFERED": "1",
            }
        )

    def _announce(self) -> None:
        base = f"http://{LOOPBACK}:{self._port}"
        self._output.say(
            "not for production: one machine, no key needed unless one was made, and jobs may call private addresses"
        )
        print(f"ready {base}", *_examples(base), sep="\n", flush=True)


def _examples(base: str) -> list[str]:
    """Three commands to paste into a shell."""
    target = f'"http_job": {{"url": "{base}/health/live", "method": "GET"}}'
    job = f'{{"name": "hello", "type": "HTTP", "interval_seconds": 10, {target}}}'
    return [
        f"curl -sS {base}/jobs -H 'Content-Type: application/json' -d '{job}'",
        f"curl -sS {base}/jobs",
        f"curl -sS {base}/jobs/name:hello/executions",
    ]


class _Output:
    """Lines of all processes on stderr, each with its role before it; also in a file for each role in `folder`."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        if folder:
            folder.mkdir(exist_ok=True)

    def say(self, sentence: str) -> None:
        """A line of our own."""
        self.lines_of("up")(f"{sentence}\n".encode())

    def lines_of(self, role: str) -> Callable[[bytes], None]:
        """Where `role` writes its lines. A full disk or a closed terminal must not stop what is being logged."""
        prefix = f"{role:<9} | ".encode()
        file = self._folder / f"{role}.log" if self._folder else None

        def write(line: bytes) -> None:
            with self._lock:
                with contextlib.suppress(OSError, ValueError):
                    sys.stderr.buffer.write(prefix + line)
                    sys.stderr.buffer.flush()
                if file:
                    with contextlib.suppress(OSError), file.open("ab") as log:
                        log.write(line)

        return write


class _StopRequest:
    """Signals that ask to stop. A second one says not to wait for what is under way."""

    def __init__(self) -> None:
        self._count = 0
        self._former: dict[signal.Signals, object] = {}

    @property
    def requested(self) -> bool:
        return self._count > 0

    @property
    def urgent(self) -> bool:
        return self._count > 1

    def __enter__(self) -> "_StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            former = signal.getsignal(number)
            if number is signal.SIGHUP and former is signal.SIG_IGN:
                continue  # nohup: meant to outlive its terminal
            self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._count += 1


def _check_port(port: int) -> None:
    if not 1 <= port <= 65_535:
        raise ConfigurationError(f"--port {port} is not a port; choose one from 1 to 65535")
    if not port_is_free(port):
        raise ConfigurationError(
            f"port {port} on {LOOPBACK} is taken (or not allowed); choose another: --port {port + 1}"
        )


@contextlib.contextmanager
def _home(data: Path | None) -> Iterator[Path]:
    """The folder of this run, locked: `data`, kept, or a temporary one, removed at the end."""
    if data is not None:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(data.absolute()) as home:
            yield home
        return
    _remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY))
    try:
        with _locked(folder) as home:
            yield home
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """Hold `folder` for this process. The lock ends with the process, however it ends. Raises ConfigurationError."""
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            raise ConfigurationError(
                f"{folder} is in use by another `gnomon up` (process {owner}); stop that one or choose another --data"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield folder


def _remove_abandoned() -> None:
    """Temporary folders of runs that were killed: ours, not locked, and old enough not to be just starting."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*/lock"):
        folder = lock.parent
        with contextlib.suppress(OSError, ConfigurationError):
            status = folder.lstat()
            if status.st_uid == os.geteuid() and time.time() - status.st_mtime > _ABANDONED_AFTER_SECONDS:
                with _locked(folder):
                    shutil.rmtree(folder)


def _answers_ready(port: int) -> bool:
    link = http.client.HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        link.request("GET", "/health/ready")
        return link.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        link.close()
