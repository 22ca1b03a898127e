"""Runs async handlers on the worker's event loop, many at a time."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from gnomon.job.outcome import Outcome, Sent, Succeeded
from gnomon.job.target import HandlerTarget
from gnomon.worker.arguments import InvalidPayload
from gnomon.worker.executors import BrokenOff, Call
from gnomon.worker.executors.python import context_of, failed, raised, returned, timed_out
from gnomon.worker.handlers import Handler, HandlerRegistry
from gnomon.worker.loop_watch import LoopWatch

log = logging.getLogger(__name__)


class AsyncExecutor:
    """Lives on the loop it is made on. `give_up` is called when a handler blocks that for longer than `patience`.

    A handler that is broken off is cancelled, and has `GRACE_SECONDS` to clean up; then it is left to itself.
    """

    GRACE_SECONDS = 0.5

    def __init__(self, registry: HandlerRegistry, *, patience: timedelta, give_up: Callable[[], None]) -> None:
        self._registry = registry
        self._watch = LoopWatch(patience=patience, give_up=give_up)
        self._left: set[asyncio.Task[Outcome]] = set()

    async def execute(self, target: HandlerTarget, call: Call) -> Outcome:
        """Makes one attempt. A success that comes in time counts even when it was broken off."""
        handler = self._registry.get(target.name)
        if handler is None:
            return failed("handler_missing", f"this worker has no handler {target.name}", Sent.NOT_SENT)
        cancelled = _Flag()
        attempt = asyncio.get_running_loop().create_task(
            _run(handler, target.payload, call, cancelled),
            name=f"handler {handler.name}, execution {call.execution_id}",
        )
        try:
            await _ended(attempt, call.timeout)
        except asyncio.CancelledError as error:
            await self._break_off(attempt, cancelled)
            return _after_break(attempt, error)
        if attempt.done():
            return attempt.result()
        await self._break_off(attempt, cancelled)
        return timed_out(call)

    async def aclose(self) -> None:
        """Cancels what was left to itself."""
        self._watch.stop()
        for attempt in self._left:
            attempt.cancel()

    async def _break_off(self, attempt: asyncio.Task[Outcome], cancelled: "_Flag") -> None:
        cancelled.is_set = True
        attempt.cancel()
        await asyncio.wait([attempt], timeout=self.GRACE_SECONDS)
        if not attempt.done():
            log.error("%s goes on though it was cancelled: its attempt is over all the same", attempt.get_name())
            self._left.add(attempt)
            attempt.add_done_callback(self._left.discard)


@dataclass(slots=True)
class _Flag:
    """What a handler is told of, from whichever thread it asks."""

    is_set: bool = False


async def _ended(attempt: asyncio.Task[Outcome], timeout: timedelta) -> None:
    """Waits until it is over, or the time is. A third of what asyncio.wait takes, which is made for many."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def wake(_: object = None) -> None:
        if not ended.done():
            ended.set_result(None)

    attempt.add_done_callback(wake)
    timer = loop.call_later(timeout.total_seconds(), wake)
    try:
        await ended
    finally:
        timer.cancel()
        attempt.remove_done_callback(wake)


async def _run(handler: Handler, payload: Any, call: Call, cancelled: _Flag) -> Outcome:
    """Nothing but a cancellation gets out: SystemExit would end the loop."""
    try:
        context = context_of(call, is_cancelled=lambda: cancelled.is_set)
        positional, named = handler.arguments.of(payload, context)
        return returned(await handler.function(*positional, **named))
    except InvalidPayload as error:
        return failed("invalid_payload", str(error), Sent.NOT_SENT, permanent=True)
    except asyncio.CancelledError as error:
        if cancelled.is_set:
            raise
        return raised(handler.name, call.execution_id, error)
    except BaseException as error:  # whatever it is, it ends the attempt and no more
        return raised(handler.name, call.execution_id, error)


def _after_break(attempt: asyncio.Task[Outcome], reason: asyncio.CancelledError) -> Outcome:
    if attempt.done() and not attempt.cancelled():
        if isinstance(outcome := attempt.result(), Succeeded):
            return outcome
        raise BrokenOff(Sent.ANSWERED) from reason
    raise BrokenOff(Sent.MAYBE_SENT) from reason
