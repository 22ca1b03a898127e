"""Starts processes of ours in a twentieth of the time: a server that has imported everything forks them.

    with Launcher() as launcher:
        worker = launcher.start("worker", environment, log=folder / "worker.log")

What runs is `gnomon <role>`, with the product's times scaled down (SCALED) and, where the environment names one, a
failpoint armed (support/failpoints.py). Each is a process of its own, to be killed and stopped. They end when the
server does, and it ends with whoever started it.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

LEASE = timedelta(seconds=2)  # set by SCHEDULER_MAX_JOB_LOCK_TIME

# Scaled as the lease is: everything that a fault makes somebody wait for.
SCALED: Mapping[str, object] = {
    "gnomon.process.heartbeat:Heartbeat.EVERY": timedelta(seconds=0.5),
    "gnomon.storage.postgres.instances:ALIVE_WITHIN": timedelta(seconds=2),
    "gnomon.scheduler.housekeeping:LOOK": timedelta(seconds=0.5),
    "gnomon.scheduler.housekeeping:EVERY": timedelta(seconds=2),
    "gnomon.scheduler.loop:RESCUE_SECONDS": 0.2,
    "gnomon.scheduler.rescue:GRACE": timedelta(seconds=0.2),
    "gnomon.scheduler.rescue:SPARING": timedelta(seconds=0.5),
    "gnomon.scheduler.rescue:SPARED": timedelta(seconds=10),
    "gnomon.scheduler.publish:Publisher.LOSS_CHECK_SECONDS": 0.2,
    "gnomon.scheduler.publish:Publisher.PROBE_SECONDS": (0.1, 0.2, 0.5),
    "gnomon.storage.postgres.statements:PUBLISH_SLOT_SECONDS": 1,
    "gnomon.storage.postgres.statements:PUBLISH_SLOT_MAX_SECONDS": 4,
    "gnomon.worker.recorder:Recorder.RENEW_CHECK_SECONDS": 0.1,
    "gnomon.worker.recorder:Recorder.CANCEL_CHECK_SECONDS": 0.2,
    "gnomon.worker.recorder:Recorder.RETRY_SECONDS": (0.1, 0.2),
    "gnomon.worker.boarding:Boarding.RETRY_SECONDS": (0.1, 0.2, 0.5),
    "gnomon.worker.runner:Runner.TRUST_CHECK_SECONDS": 0.1,
    "gnomon.storage.postgres.engine:SERVER_SETTINGS.idle_in_transaction_session_timeout": "1500ms",
}

_PRELOADED = (
    "gnomon.bootstrap.api",
    "gnomon.bootstrap.scheduler",
    "gnomon.bootstrap.worker",
    "gnomon.cli.flags",
    "gnomon.cli.main",
    "support.failpoints",
    "celery.app.amqp",
    "celery.apps.worker",
    "celery.concurrency.thread",
    "celery.worker.consumer",
    "celery.worker.strategy",
    "alembic.command",
    "sqlalchemy.dialects.postgresql.psycopg2",
)
_PR_SET_PDEATHSIG = 1


class Process:
    """One process that a launcher forked, with its log in a file."""

    def __init__(self, launcher: "Launcher", name: str, pid: int, log: Path) -> None:
        self._launcher = launcher
        self.name = name
        self.pid = pid
        self.log = log

    @property
    def text(self) -> str:
        """All it has logged."""
        return self.log.read_text(errors="replace")

    @property
    def code(self) -> int | None:
        """Its exit code (minus the signal that killed it); None while it lives."""
        return self._launcher.code_of(self.pid)

    def signal(self, number: signal.Signals) -> None:
        """Nothing when it has ended: its pid is kept until the launcher was asked for the code."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, seconds: float) -> int:
        """Its exit code. Raises AssertionError when it lives on."""
        deadline = time.monotonic() + seconds
        while (code := self.code) is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name} has not ended within {seconds:g} s:\n{self.text[-3000:]}")
            time.sleep(0.02)
        return code


class Launcher:
    """The fork server, seen from a test; for use by many threads."""

    def __init__(self) -> None:
        path = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        self._server = subprocess.Popen(
            [sys.executable, "-m", "support.launcher"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
            start_new_session=True,
        )
        self._lock = threading.Lock()
        self._codes: dict[int, int] = {}

    @property
    def pid(self) -> int:
        return self._server.pid

    def start(self, role: str, environment: Mapping[str, str], *, log: Path, name: str | None = None) -> Process:
        """A process of `gnomon <role>`, or of the client; it may not be ready yet."""
        log.touch()
        pid = self._ask({"do": "start", "role": role, "environment": dict(environment), "log": str(log)})
        return Process(self, name or role, pid, log)

    def code_of(self, pid: int) -> int | None:
        """The exit code of a process of ours, once it has ended."""
        if pid not in self._codes:
            code = self._ask({"do": "poll", "pid": pid})
            if code is None:
                return None
            self._codes[pid] = code
        return self._codes[pid]

    def close(self) -> None:
        """Ends the server, and whoever it forked."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._server.stdin.close()
        self._server.wait(10)
        self._server.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: Mapping[str, object]) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with self._lock:
            self._server.stdin.write(json.dumps(request).encode() + b"\n")
            self._server.stdin.flush()
            answer = self._server.stdout.readline()
        if not answer:
            raise AssertionError(f"the launcher ended with {self._server.wait(10)}")
        return json.loads(answer)["answer"]


def serve() -> None:
    """The fork server: answers requests on stdin until it is closed. It has one thread only, as forking wants."""
    for name in _PRELOADED:
        importlib.import_module(name)
    from gnomon.storage.postgres.migrate import latest_version

    latest_version()
    assert threading.active_count() == 1
    gc.collect()
    gc.freeze()  # the collector would touch, and so copy, every page in every child
    for line in sys.stdin.buffer:
        request = json.loads(line)
        answer = _fork(request) if request["do"] == "start" else _poll(request["pid"])
        sys.stdout.write(json.dumps({"answer": answer}) + "\n")
        sys.stdout.flush()


def _fork(request: Mapping[str, Any]) -> int:
    server = os.getpid()
    pid = os.fork()
    if pid == 0:
        _be_child(request, server)
    return pid


def _poll(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _be_child(request: Mapping[str, Any], server: int) -> NoReturn:
    code = 70
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != server:
            os._exit(code)
        _redirect(request["log"])
        os.environ.clear()
        os.environ.update(request["environment"])
        code = _run(request["role"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(log: str) -> None:
    with open(os.devnull) as nothing, open(log, "ab") as output:
        os.dup2(nothing.fileno(), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)


def _run(role: str) -> int:
    from support.failpoints import arm

    scale()
    arm(os.environ)
    if role == "client":
        return call_service(json.loads(os.environ["CLIENT_CALL"]))
    from gnomon.cli.main import main

    main([role])
    return 0


def scale() -> None:
    """Assigns SCALED. Raises AttributeError or KeyError for a name that the product no longer has."""
    for place, value in SCALED.items():
        owner, name = look_up(place)
        if isinstance(owner, dict):
            owner[name] = value
        else:
            setattr(owner, name, value)


def look_up(place: str) -> tuple[Any, str]:
    """What holds a value of SCALED, and the value's name in it. Raises AttributeError or KeyError."""
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    _ = owner[name] if isinstance(owner, dict) else getattr(owner, name)
    return owner, name


def call_service(call: Mapping[str, Any]) -> int:
    """A client: one call of JobService over the stores that the API has, repeated until it is known to be done."""
    from gnomon.bootstrap import api
    from gnomon.bootstrap.database import open_engine
    from gnomon.job.creations import Creations
    from gnomon.job.errors import Conflict, KeyInFlight, NotFound, Unavailable
    from gnomon.job.repeats import Repeats
    from gnomon.job.service import JobService
    from gnomon.settings import load_settings

    engine = open_engine(load_settings({}), check_first=True)
    service = JobService(
        jobs=api.PostgresJobStore(engine),
        runs=api.PostgresRunStore(engine),
        history=api.PostgresHistoryStore(engine),
        catalog=api.PostgresCatalog(engine),
    )
    others: Mapping[str, Callable[..., object]] = {
        "create_once": Creations(service, api.PostgresCreationStore(engine)).create,
        "repeat": _repeat_failed(Repeats(api.PostgresRepeatStore(engine))),
    }
    verb: Callable[..., object] = others.get(call["verb"]) or getattr(service, call["verb"])
    while True:
        try:
            verb(*call["arguments"], **call.get("options", {}))
        except (Unavailable, KeyInFlight) as error:
            print(f"not answered ({error}): once more", flush=True)
            time.sleep(0.1)
        except (Conflict, NotFound) as error:
            print(f"it was done before: {error}", flush=True)
            return 0
        else:
            print("done", flush=True)
            return 0


def _repeat_failed(repeats: Any) -> Callable[..., object]:
    from gnomon.job.model import State
    from gnomon.job.ports import RepeatQuery
    from gnomon.job.repeats import How

    return lambda *, key: repeats.repeat(RepeatQuery(states=[State.FAILED]), How(may_wait=True), key=key)


if __name__ == "__main__":
    serve()
