"""What a child process does: takes one call after the other from its worker, and tells how each ended."""

import asyncio
import contextlib
import ctypes
import faulthandler
import io
import logging
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from gnomon.job.errors import Unavailable
from gnomon.job.outcome import Outcome, Sent, Succeeded
from gnomon.job.ports import EffectStore, Token
from gnomon.worker.arguments import InvalidPayload
from gnomon.worker.children.wire import LINK_CLOSED, Frame, Garbled, Link, outcome_frame, read_call
from gnomon.worker.executors import Call
from gnomon.worker.executors.python import context_of, failed, raised, returned
from gnomon.worker.handlers import Context, Handler, HandlerRegistry

if TYPE_CHECKING:
    from sqlalchemy import Connection

PR_SET_PDEATHSIG = 1
# Waits for the end of standard input, which the worker holds, and then ends all that is left of the group. Nobody's
# child, so that a handler may wait for all of its own.
GUARD = "exec 3<&0; (trap '' TERM INT HUP; read line <&3; kill -9 0) >/dev/null 2>&1 &"
MAX_LINE = 8_000


def live_under_worker(parent: int, *, memory: int | None) -> None:
    """Ends this process and all it starts when its worker ends, however that happens, and bounds its memory.

    Signals that a terminal or a supervisor sends to all of a service's processes are for the worker: it tells when to
    stop.
    """
    with contextlib.suppress(OSError, AttributeError):  # Linux only; elsewhere the end of the link has to do
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(os.EX_OK)
    with contextlib.suppress(OSError):  # where there is no shell, only this process ends
        subprocess.run(["/bin/sh", "-c", GUARD], check=False)  # noqa: S603 - no text of others is in it
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _ignore)  # not SIG_IGN, which programs that a handler starts would inherit
    faulthandler.enable()
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def log_to(link: Link, *, level: str) -> Callable[[str | None], None]:
    """Sends what is logged and printed here to the worker's log. Returns what names the execution in it from now on."""
    handler = _LinkHandler(link)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(True)
    warnings.simplefilter("default")
    sys.stdout = _Lines(handler, "stdout")
    sys.stderr = _Lines(handler, "stderr")
    return handler.name_execution


class Child:
    """Runs calls in the main thread, so that handlers may do there what only the main thread can."""

    def __init__(
        self,
        link: Link,
        registry: HandlerRegistry,
        *,
        effects: EffectStore | None,
        name_execution: Callable[[str | None], None],
    ) -> None:
        self._link = link
        self._registry = registry
        self._effects = effects
        self._name_execution = name_execution
        self._calls: queue.SimpleQueue[tuple[Frame, threading.Event]] = queue.SimpleQueue()

    def serve(self) -> None:
        """Does not return: it ends with the link."""
        threading.Thread(target=self._listen, name="worker-link", daemon=True).start()
        try:
            self._run()
        except OSError:
            os._exit(LINK_CLOSED)

    def _run(self) -> None:
        self._link.send({"kind": "ready"})
        while True:
            frame, cancelled = self._calls.get()
            self._name_execution(frame["execution_id"])
            outcome = self._outcome(frame, cancelled)
            _flush()
            self._link.send(outcome_frame(outcome))
            self._name_execution(None)

    def _listen(self) -> None:
        """While the main thread is in a handler."""
        cancelled = threading.Event()
        try:
            while frame := self._link.receive():
                if frame["kind"] == "call":
                    cancelled = threading.Event()
                    self._calls.put((frame, cancelled))
                else:
                    cancelled.set()
        except (OSError, ValueError, Garbled):  # the handler has had to do with it
            os._exit(LINK_CLOSED)
        os.killpg(0, signal.SIGKILL)  # the worker is gone; so is this group, with all that handlers have started

    def _outcome(self, frame: Frame, cancelled: threading.Event) -> Outcome:
        target, call = read_call(frame)
        handler = self._registry.get(target.name)
        if handler is None:
            message = f"the child process has no handler {target.name}: its modules have changed since the worker began"
            return failed("handler_missing", message, Sent.NOT_SENT)
        context = context_of(call, is_cancelled=cancelled.is_set)
        try:
            if handler.transaction and self._effects is not None:
                return self._with_effect(self._effects, handler, target.payload, call, context)
            return _result(handler, target.payload, context)
        except InvalidPayload as error:
            return failed("invalid_payload", str(error), Sent.NOT_SENT, permanent=True)
        except SystemExit as error:
            return failed("exited", f"the handler called sys.exit({error.code!r:.100})", Sent.ANSWERED)
        except MemoryError:
            return failed("out_of_memory", "the handler needed more memory than its process may have", Sent.ANSWERED)
        except BaseException as error:  # whatever it is, it ends the attempt and no more
            return raised(handler.name, call.execution_id, error)

    @staticmethod
    def _with_effect(effects: EffectStore, handler: Handler, payload: Any, call: Call, context: Context) -> Outcome:
        def effect(connection: "Connection") -> Succeeded:
            return _result(handler, payload, replace(context, transaction=connection))

        token = Token(id=call.execution_id, attempt=call.attempt)
        try:
            return effects.together(token, effect, timeout=call.timeout)
        except Unavailable as error:
            return failed("unavailable", str(error), Sent.NOT_SENT)


def _result(handler: Handler, payload: Any, context: Context) -> Succeeded:
    positional, named = handler.arguments.of(payload, context)
    result = handler.function(*positional, **named)
    if asyncio.iscoroutine(result):  # it was a plain function when its job was stored
        result = asyncio.run(result)
    return returned(result)


class _LinkHandler(logging.Handler):
    """Sends records to the worker, with the id of the execution that is under way."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link
        self._execution_id: str | None = None

    def name_execution(self, execution_id: str | None) -> None:
        self._execution_id = execution_id

    def emit(self, record: logging.LogRecord) -> None:
        try:
            extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
            if record.exc_info and record.exc_info[0]:
                extra["exception"] = logging.Formatter().formatException(record.exc_info)
            self.write(record.levelno, record.name, record.getMessage(), **extra)
        except Exception:
            self.handleError(record)

    def write(self, level: int, name: str, message: str, **extra: object) -> None:
        """Whatever the record says, it comes from this execution."""
        if self._execution_id is not None:
            extra["execution_id"] = self._execution_id
        self._link.send({"kind": "log", "level": level, "logger": name, "message": message[:MAX_LINE], "extra": extra})


_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Lines(io.TextIOBase):
    """What is printed becomes lines of the log."""

    def __init__(self, handler: _LinkHandler, name: str) -> None:
        self._handler = handler
        self._name = name
        self._begun = ""
        self._lock = threading.RLock()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """For programs that a handler starts: what they write goes by the log."""
        return 2

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._begun = (self._begun + text).split("\n")
            if len(self._begun) > MAX_LINE:
                lines, self._begun = [*lines, self._begun], ""
            for line in lines:
                self._handler.write(logging.INFO, self._name, line)
        return len(text)

    def end_line(self) -> None:
        """A line that was not ended ends with its execution."""
        with self._lock:
            if self._begun:
                self.write("\n")


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, _Lines):
            stream.end_line()


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Does nothing."""
