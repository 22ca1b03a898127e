"""What all ways to call a handler have in common: the Context it gets, and what its end means."""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from gnomon.job.outcome import MAX_EXCERPT, Failed, Outcome, Sent, Succeeded
from gnomon.job.target import HandlerTarget
from gnomon.worker.executors import Call
from gnomon.worker.handlers import Context, PermanentError

log = logging.getLogger(__name__)
handler_log = logging.getLogger("gnomon.handler")


class NoHandlers:
    """The executor of a worker that serves no handlers."""

    async def execute(self, target: HandlerTarget, _call: Call) -> Outcome:
        """Fails at once."""
        return failed("handler_missing", f"this worker runs no handlers, and so not {target.name}", Sent.NOT_SENT)

    async def aclose(self) -> None:
        """There is nothing to close."""


def context_of(call: Call, *, is_cancelled: Callable[[], bool] = lambda: False) -> Context:
    """The Context of an attempt that begins now."""
    labels = {"execution_id": str(call.execution_id), "job_id": str(call.job_id)}
    return Context(
        execution_id=call.execution_id,
        job_id=call.job_id,
        scheduled_at=call.scheduled_at,
        attempt=call.attempt,
        deadline=datetime.now(UTC) + call.timeout,
        logger=logging.LoggerAdapter(handler_log, labels),
        is_cancelled=is_cancelled,
    )


def returned(result: object) -> Succeeded:
    """What a handler returned is kept as text: a text as it is, other values as JSON where they can be that."""
    return Succeeded(response_excerpt=excerpt_of(result))


def excerpt_of(result: object) -> str | None:
    """A success stays one, whatever comes with it."""
    if result is None:
        return None
    try:
        text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = f"({type(result).__qualname__}, which is not JSON)"
    return text[: MAX_EXCERPT + 1]


def raised(name: str, execution_id: UUID, error: BaseException) -> Failed:
    """What a handler raised. The record keeps its type and text; the traceback is for the log."""
    log.error(
        "execution %s: handler %s raised %s",
        execution_id,
        name,
        type(error).__qualname__,
        exc_info=error,
        extra={"execution_id": str(execution_id)},
    )
    return failed("handler_error", message_of(error), Sent.ANSWERED, permanent=isinstance(error, PermanentError))


def message_of(error: BaseException) -> str:
    """The type and the text of an exception, whose text may raise one itself."""
    try:
        text = str(error)
    except Exception:
        text = ""
    return f"{type(error).__qualname__}: {text}" if text else type(error).__qualname__


def timed_out(call: Call) -> Failed:
    """The attempt took longer than the job allows."""
    return failed("timeout", f"the handler took longer than {call.timeout.total_seconds():g} s", Sent.MAYBE_SENT)


def failed(code: str, message: str, sent: Sent, *, permanent: bool = False) -> Failed:
    """A failed attempt that has neither status nor body."""
    return Failed(code=code, message=message, sent=sent, permanent=permanent)
