"""Handlers that run in this very process: sync ones each in a thread, async ones on the runner's event loop."""

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gnomon.job.outcome import Outcome, Sent
from gnomon.job.target import HandlerTarget, Target
from gnomon.worker.executors import BrokenOff, Call
from gnomon.worker.executors.python import context_of, failed, raised, returned, timed_out
from gnomon.worker.handlers import Handler

log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class Attempt:
    """One call of one handler. `over` is set when nobody waits for it any more."""

    handler: Handler
    target: HandlerTarget
    call: Call
    over: threading.Event = field(default_factory=threading.Event)

    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """Raises InvalidPayload."""
        context = context_of(self.call, is_cancelled=self.over.is_set)
        return self.handler.arguments.of(self.target.payload, context)

    def run(self, positional: list[Any], named: Mapping[str, Any]) -> Outcome:
        """Calls a sync handler, here and now."""
        try:
            return returned(self.handler.function(*positional, **named))
        except BaseException as error:  # sys.exit in a handler ends its attempt, and its thread anyway
            return self.raised(error)

    def raised(self, error: BaseException) -> Outcome:
        """What the handler raised."""
        return raised(self.handler.name, self.call.execution_id, error)


class LocalExecutor:
    """Executor of HandlerTarget. `find` names the handler, `keep_place` is Runner.keep_place.

    Nothing can stop a thread. Where a sync handler takes longer than its timeout, or is cancelled, its attempt ends
    all the same; its thread goes on, and so does the place it takes.
    """

    def __init__(self, find: Callable[[str], Handler | None], *, keep_place: Callable[[], Callable[[], None]]) -> None:
        self._find = find
        self._keep_place = keep_place
        self._threads: set[int] = set()

    def runs_this_thread(self) -> bool:
        """Whether a sync handler of ours is the caller."""
        return threading.get_ident() in self._threads

    async def execute(self, target: Target, call: Call) -> Outcome:
        """Calls the handler."""
        match target:
            case HandlerTarget():
                return await self._call(target, call)
            case _:
                return failed("unknown_handler", f"a {target.kind} job can't run inside a process", Sent.NOT_SENT)

    async def aclose(self) -> None:
        """Threads that still run can't be ended; they end with the process."""

    async def _call(self, target: HandlerTarget, call: Call) -> Outcome:
        handler = self._find(target.name)
        if handler is None:  # removed just now: another process may have it
            raise BrokenOff(Sent.NOT_SENT)
        from gnomon.worker.arguments import InvalidPayload  # pydantic: not where nothing is called

        attempt = Attempt(handler=handler, target=target, call=call)
        try:
            arguments = attempt.arguments()
        except InvalidPayload as error:
            return failed("invalid_payload", str(error), Sent.NOT_SENT, permanent=True)
        try:
            return await (self._await if handler.is_async else self._run_thread)(attempt, *arguments)
        finally:
            attempt.over.set()

    async def _await(self, attempt: Attempt, positional: list[Any], named: Mapping[str, Any]) -> Outcome:
        try:
            async with asyncio.timeout(attempt.call.timeout.total_seconds()) as bound:
                return returned(await attempt.handler.function(*positional, **named))
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise BrokenOff(Sent.MAYBE_SENT) from error
            return attempt.raised(error)  # by the handler itself
        except TimeoutError as error:
            return timed_out(attempt.call) if bound.expired() else attempt.raised(error)
        except BaseException as error:  # also what would end the loop: KeyboardInterrupt, SystemExit
            return attempt.raised(error)

    async def _run_thread(self, attempt: Attempt, positional: list[Any], named: Mapping[str, Any]) -> Outcome:
        done = self._start_thread(attempt, positional, named)
        try:
            async with asyncio.timeout(attempt.call.timeout.total_seconds()):
                return await asyncio.shield(done)
        except TimeoutError:
            self._leave(attempt, done)
            return timed_out(attempt.call)
        except asyncio.CancelledError as error:
            self._leave(attempt, done)
            raise BrokenOff(Sent.MAYBE_SENT) from error

    def _start_thread(
        self, attempt: Attempt, positional: list[Any], named: Mapping[str, Any]
    ) -> asyncio.Future[Outcome]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Outcome] = loop.create_future()

        def run() -> None:
            self._threads.add(threading.get_ident())
            outcome = attempt.run(positional, named)
            self._threads.discard(threading.get_ident())
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(done.set_result, outcome)

        thread = threading.Thread(
            target=contextvars.copy_context().run, args=(run,), name=f"gnomon-{attempt.handler.name}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # the interpreter is about to end
            raise BrokenOff(Sent.NOT_SENT) from error
        return done

    def _leave(self, attempt: Attempt, done: asyncio.Future[Outcome]) -> None:
        """Nobody waits any more, but the thread goes on."""
        if done.done():
            return
        release, began = self._keep_place(), time.monotonic()
        labels = {"execution_id": str(attempt.call.execution_id)}
        log.warning(
            "execution %s: handler %r goes on though its attempt is over: a thread can't be ended, and its place stays"
            " taken until it returns",
            attempt.call.execution_id,
            attempt.handler.name,
            extra=labels,
        )

        def ended(_: asyncio.Future[Outcome]) -> None:
            release()
            log.warning(
                "execution %s: handler %r returned %.1f s after its attempt was over; its place is free again",
                attempt.call.execution_id,
                attempt.handler.name,
                time.monotonic() - began,
                extra=labels,
            )

        done.add_done_callback(ended)


def _is_cancelled() -> bool:
    """Whether somebody else cancelled this task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
