"""Handlers that end in every way there is, for workers under test."""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from sqlalchemy import event, text

from gnomon import Context, PermanentError, handler, retry_strategy

log = logging.getLogger("mortal")


@handler("give")
def give(value: Any = None) -> Any:
    return value


@handler("give_unstorable")
def give_unstorable() -> str:
    return "\ud800\x00"


@handler("give_object")
def give_object() -> object:
    return object()


@handler("pid")
def pid() -> int:
    return os.getpid()


@handler("facts")
def facts(context: Context) -> dict[str, Any]:
    return {
        "execution_id": str(context.execution_id),
        "job_id": str(context.job_id),
        "attempt": context.attempt,
        "scheduled_at": context.scheduled_at.isoformat(),
        "seconds": (context.deadline - context.scheduled_at).total_seconds(),
        "cancelled": context.cancelled,
        "main_thread": threading.current_thread() is threading.main_thread(),
    }


@handler("raise")
def raise_error(text: str = "out of paper") -> None:
    raise RuntimeError(text)


@handler("raise_permanent")
def raise_permanent() -> None:
    raise PermanentError("no such customer")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


@handler("raise_unprintable")
def raise_unprintable() -> None:
    raise Unprintable


@handler("interrupt")
def interrupt() -> None:
    raise KeyboardInterrupt


@handler("sys_exit")
def sys_exit() -> None:
    sys.exit(3)


@handler("os_exit")
def os_exit(code: int) -> None:
    os._exit(code)


@handler("signal")
def send_signal(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.2)


@handler("segfault")
def segfault() -> None:
    ctypes.string_at(0)


@handler("abort")
def abort() -> None:
    os.abort()


@handler("hang")
def hang() -> None:
    while True:
        time.sleep(3600)


@handler("hang_deaf")
def hang_deaf() -> None:
    """Not even a signal or an exception ends it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP})
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(3600)


@handler("eat")
def eat(mebibytes: int) -> int:
    return len([b"x" * 2**20 for _ in range(mebibytes)])


@handler("close_link")
def close_link(seconds: float = 30.0) -> None:
    os.closerange(3, 256)
    time.sleep(seconds)


@handler("write_to_link")
def write_to_link() -> None:
    for number in range(3, 256):
        with contextlib.suppress(OSError):
            os.write(number, b"\x00\x00\x00\x05hello")
    time.sleep(30)


@handler("print")
def print_lines() -> None:
    print("printed line")
    print("printed to stderr", file=sys.stderr)
    print("without an end", end="")
    os.write(1, b"past Python\n")
    log.info("logged line", extra={"colour": "blue"})


@handler("flood")
def flood(lines: int) -> int:
    for _ in range(lines):
        print("x" * 200)
    return lines


@handler("grandchild")
def grandchild(path: str, then: str = "return") -> None:
    program = "import time; time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.DEVNULL)
    Path(path).write_text(str(process.pid))
    if then == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if then == "hang":
        time.sleep(600)


@handler("fork")
def fork() -> int:
    """The forked process writes to the log as if it were the child."""
    child = os.fork()
    if not child:
        log.warning("from a forked process")
        os._exit(0)
    os.waitpid(child, 0)
    return 1


@handler("wait_for_children")
def wait_for_children() -> str:
    try:
        return f"process {os.wait()}"
    except ChildProcessError:
        return "no children"


@handler("touch_and_wait")
def touch_and_wait(path: str, context: Context) -> str:
    Path(path).touch()
    while not context.cancelled:
        time.sleep(0.01)
    Path(f"{path}.cancelled").touch()
    context.check()
    return "never"


@handler("finish_though_cancelled")
def finish_though_cancelled(path: str, context: Context) -> str:
    Path(path).touch()
    while not context.cancelled:
        time.sleep(0.01)
    return "finished"


@handler("touch_and_hang")
def touch_and_hang(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


@handler("count")
def count(path: str, seconds: float = 0.0) -> None:
    with Path(path).open("a") as file:
        file.write("x\n")
    time.sleep(seconds)


@handler("typed")
def typed(number: int, names: list[str]) -> int:
    return number + len(names)


@handler("effect", transaction=True)
def effect(context: Context, die: str | None = None, marker: str | None = None) -> str:
    """Writes a row for its execution; dies at a point, in its first life only where there is a marker."""
    dies = die if marker is None or _first(marker) else None
    if dies == "before":
        _kill()
    if dies == "commit":  # W is done, the commit is not sent
        event.listen(context.connection, "commit", lambda _: _kill())
        event.listen(context.connection.engine, "commit", lambda _: _kill())
    if dies == "after":
        event.listen(context.connection.engine.pool, "reset", lambda *_: _kill())
    context.connection.execute(
        text("insert into effects (execution_id, attempt) values (:id, :attempt)"),
        {"id": context.execution_id, "attempt": context.attempt},
    )
    if dies == "middle":
        _kill()
    if dies == "raise":
        raise RuntimeError("changed its mind")
    if dies == "end":
        context.connection.commit()
    if dies == "end_raw":
        context.connection.execute(text("commit"))
    return "written"


def _first(marker: str) -> bool:
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@handler("async.give")
async def async_give(value: Any = None) -> Any:
    await asyncio.sleep(0)
    return value


@handler("async.sleep")
async def async_sleep(seconds: float, path: str | None = None) -> str:
    if path:
        Path(path).touch()
    await asyncio.sleep(seconds)
    return "slept"


@handler("async.stubborn")
async def async_stubborn(seconds: float) -> None:
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.05)


@handler("async.exit")
async def async_exit() -> None:
    sys.exit(3)


@handler("async.cancel_itself")
async def async_cancel_itself() -> None:
    raise asyncio.CancelledError


@handler("async.block")
async def async_block(seconds: float) -> None:
    time.sleep(seconds)


@retry_strategy("steady")
def steady(attempt: Any) -> float | None:
    return None if attempt.failures >= 2 else 0.1
