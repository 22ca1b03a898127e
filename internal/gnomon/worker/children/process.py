"""One child process as its worker sees it: started, given calls one after the other, and killed with all it started."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gnomon.job.outcome import Outcome
from gnomon.job.target import HandlerTarget
from gnomon.worker.children.wire import (
    LINK_CLOSED,
    MAX_FRAME,
    Frame,
    Garbled,
    call_frame,
    encode,
    read_frame,
    read_outcome,
)
from gnomon.worker.executors import Call

log = logging.getLogger(__name__)

# -P: what lies in the current folder must not be taken for the standard library.
_BOOT = (
    "import json, sys; given = json.loads(sys.stdin.readline()); sys.path[:] = given.pop('path'); "
    "from {module} import main; main(given)"
)


@dataclass(frozen=True, kw_only=True)
class Birth:
    """What each child is started with. `boot` is the module whose `main` gets all of it.

    `given` is for `boot` alone. It goes through a pipe, because it may hold passwords.
    """

    boot: str
    modules: tuple[str, ...]
    log_level: str
    memory: int | None
    given: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def text(self, connection: socket.socket) -> str:
        """For the child's standard input."""
        known = {key: value for key, value in asdict(self).items() if key != "given"}
        return json.dumps({**known, **self.given, "path": sys.path, "parent": os.getpid(), "link": connection.fileno()})


class ChildLost(Exception):
    """The child ended in the middle of a call. `code` and the text say how."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ChildProcess:
    """Lives on an event loop. It is started by `start`, on the loop's thread: on Linux it dies with that thread."""

    LAST_WORDS_SECONDS = 1.0

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[str]
        self._writer: asyncio.StreamWriter
        self._answer: asyncio.Future[Outcome] | None = None
        self._lock = threading.Lock()
        self._reaped = False
        self._end: tuple[str, str] | None = None
        self.calls = 0
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.ended = asyncio.Event()
        self._exited = asyncio.Event()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def usable(self) -> bool:
        """Whether it lives, and nobody has asked for its end."""
        return self._end is None

    async def start(self, birth: Birth) -> None:
        """Returns when it is there; `ready` is done when it takes calls, or fails with ChildLost."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this very interpreter
                [sys.executable, "-P", "-c", _BOOT.format(module=birth.boot)],
                stdin=subprocess.PIPE,
                stdout=2,  # what a handler starts may write there; it must not end up in what a command prints
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                text=True,
            )
            text = birth.text(theirs)
        reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=MAX_FRAME)
        threading.Thread(target=self._watch, args=(text,), name=f"child-{self.pid}", daemon=True).start()
        self._reading = self._loop.create_task(self._read(reader))

    def call(self, target: HandlerTarget, call: Call) -> "asyncio.Future[Outcome]":
        """Hands it a call; the future ends with the outcome, or with ChildLost."""
        self.calls += 1
        self._answer = self._loop.create_future()
        self._writer.write(encode(call_frame(target, call)))
        if self.ended.is_set():
            self._fail()
        return self._answer

    def cancel(self) -> None:
        """Lets the handler know that its attempt is not wanted any more."""
        self._writer.write(encode({"kind": "cancel"}))

    def kill(self, code: str, message: str) -> None:
        """Ends it at once, and all it has started. A call under way fails with this."""
        self._end = self._end or (code, message)
        self._kill_group()

    async def wait(self, seconds: float) -> None:
        """Until it is gone, for so long at most: one that hangs in the kernel can't be waited for."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ended.wait(), seconds)

    def _kill_group(self) -> None:
        with self._lock, contextlib.suppress(ProcessLookupError, PermissionError):
            if not self._reaped:  # after that, the number may be another's
                os.killpg(self.pid, signal.SIGKILL)

    def _watch(self, text: str) -> None:
        """In a thread of its own."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(f"{text}\n")
            self._process.stdin.flush()  # and left open: its end tells the group that this worker is gone
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        self._kill_group()  # what it leaves behind
        with self._lock:
            code = self._process.wait()
            self._reaped = True
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now
            self._loop.call_soon_threadsafe(self._note_end, code)

    def _note_end(self, code: int) -> None:
        self._end = self._end or _ending(code)
        self._exited.set()
        self._finishing = self._loop.create_task(self._finish())

    async def _finish(self) -> None:
        """What it said before it died counts."""
        await asyncio.wait([self._reading], timeout=self.LAST_WORDS_SECONDS)
        self._reading.cancel()
        self._writer.close()
        self.ended.set()
        self._fail()

    def _fail(self) -> None:
        assert self._end is not None
        for future in (self.ready, self._answer):
            if future is not None and not future.done():
                future.set_exception(ChildLost(*self._end))
                future.exception()  # whether somebody asks or not

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                self._take(await read_frame(reader))
        except Garbled as error:
            self.kill("crashed", f"the handler wrote to its connection to the worker ({error})")
        except (EOFError, OSError):
            with contextlib.suppress(TimeoutError):  # the usual reason, which says more
                await asyncio.wait_for(self._exited.wait(), self.LAST_WORDS_SECONDS)
            self.kill(*_LINK_CLOSED)

    def _take(self, frame: Frame) -> None:
        match frame.get("kind"):
            case "log":
                self._log(frame)
            case "ready":
                if not self.ready.done():
                    self.ready.set_result(None)
            case "failed":
                self._end = ("failed", str(frame.get("message")))
            case "done":
                if self._answer is not None and not self._answer.done():
                    self._answer.set_result(read_outcome(frame))
            case _:
                raise Garbled("no frame of ours")

    def _log(self, frame: Frame) -> None:
        try:
            name, level = str(frame["logger"]), int(frame["level"])
            record = logging.LogRecord(name, level, "", 0, "%s", (frame["message"],), None)
            extra = dict(frame["extra"])
        except (KeyError, TypeError, ValueError) as error:
            raise Garbled("no log record") from error
        vars(record).update({key: value for key, value in extra.items() if key not in vars(record)})
        record.process = self.pid
        logger = logging.getLogger(name)
        if logger.isEnabledFor(level):
            logger.handle(record)


_LINK_CLOSED = ("crashed", "the handler closed its connection to the worker")


def _ending(code: int) -> tuple[str, str]:
    if code == LINK_CLOSED:
        return _LINK_CLOSED
    if code >= 0:
        return "exited", f"the handler's process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (somebody killed it; the system does when memory is short)" if -code == signal.SIGKILL else ""
    return "crashed", f"the handler's process was ended by {name}{hint}"
