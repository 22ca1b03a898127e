"""The handlers that jobs call in chaos. Each notes on disk that it was called before it does what its payload says.

The first attempt ends as `does` says, later ones return: a job that kills whoever runs it succeeds in the end. The note
is a line like the sink's, in the file that CHAOS_HANDLERS_LOG names; its status is 200 if the call will return.
"""

import asyncio
import os
import signal
import time

from sqlalchemy import text

from chaos.clock import true_time
from gnomon.worker.handlers import Context, PermanentError, handler

LOG = "CHAOS_HANDLERS_LOG"
_SLOW_SECONDS = 0.3
_WRITE = text("insert into chaos.written (execution_id, attempt) values (:id, :attempt)")
_BEYOND_ANY_TIMEOUT = 60.0


def ends(context: Context, does: str) -> str:
    """What becomes of this attempt, once it is noted: in one write, so that no other process can get between."""
    end = does if context.attempt == 1 or does == "slow" else "return"
    status = 200 if end in ("return", "slow") else 500
    line = f"{true_time():.6f}\t{context.execution_id}\t{context.attempt}\t{status}\thandler:{does}\n"
    descriptor = os.open(os.environ[LOG], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        assert os.write(descriptor, line.encode()) == len(line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return end


@handler("chaos_child")
def in_a_child(context: Context, does: str) -> str:
    """In a child process, which it may take along."""
    return _end(does, ends(context, does))


@handler("chaos_row", transaction=True)
def in_a_transaction(context: Context, does: str) -> str:
    """As in a child, with a row that must be there exactly if the success is."""
    end = ends(context, does)
    values = {"id": context.execution_id, "attempt": context.attempt}
    context.connection.execute(_WRITE, values)
    return _end(does, end)


def _end(does: str, end: str) -> str:
    match end:
        case "slow":
            time.sleep(_SLOW_SECONDS)
        case "raise":
            raise RuntimeError("as the payload says")
        case "give_up":
            raise PermanentError("as the payload says")
        case "hang":
            time.sleep(_BEYOND_ANY_TIMEOUT)
        case "exit":
            os._exit(3)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
    return does


@handler("chaos_loop")
async def on_the_loop(context: Context, does: str) -> str:
    """On the event loop that all handlers of its kind share: what would end the process is not for it."""
    match await asyncio.to_thread(ends, context, does):
        case "slow":
            await asyncio.sleep(_SLOW_SECONDS)
        case "raise":
            raise RuntimeError("as the payload says")
        case "give_up":
            raise PermanentError("as the payload says")
        case "hang":
            await asyncio.sleep(_BEYOND_ANY_TIMEOUT)
    return does
