"""Runs sync handlers in child processes, which can be killed where a thread can't."""

import asyncio
import logging

from gnomon.job.outcome import Failed, Outcome, Sent, Succeeded
from gnomon.job.target import HandlerTarget
from gnomon.worker.children.pool import Pool
from gnomon.worker.children.process import ChildLost, ChildProcess
from gnomon.worker.executors import BrokenOff, Call
from gnomon.worker.executors.python import failed, timed_out

log = logging.getLogger(__name__)


class ChildExecutor:
    """Lives on the event loop of its pool.

    A handler that is broken off has `GRACE_SECONDS` to see that in its Context and to end in its own way.
    """

    GRACE_SECONDS = 0.5
    WAIT_SECONDS = 30.0  # for a child that is ready
    REAP_SECONDS = 1.0

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def execute(self, target: HandlerTarget, call: Call) -> Outcome:
        """Makes one attempt in a child. Cancelling it ends the child, unless the handler ends by itself in time."""
        try:
            async with asyncio.timeout(self.WAIT_SECONDS):
                child = await self._pool.acquire()
        except TimeoutError:
            message = f"no child process was ready within {self.WAIT_SECONDS:g} s: {self._pool.trouble}"
            return failed("no_child", message, Sent.NOT_SENT)
        except asyncio.CancelledError as error:
            raise BrokenOff(Sent.NOT_SENT) from error
        try:
            outcome = await self._attempt(child, target, call)
        finally:
            self._pool.release(child)
        return outcome

    async def aclose(self) -> None:
        """Kills all children."""
        await self._pool.aclose()

    async def _attempt(self, child: ChildProcess, target: HandlerTarget, call: Call) -> Outcome:
        answer = child.call(target, call)
        try:
            async with asyncio.timeout(call.timeout.total_seconds()):
                outcome = await asyncio.shield(answer)
        except TimeoutError:
            await self._kill(child, timed_out(call))
            return timed_out(call)
        except ChildLost as error:
            self._log_loss(child, target, call, error)
            return failed(error.code, str(error), Sent.MAYBE_SENT)
        except asyncio.CancelledError as error:
            return await self._break_off(child, answer, error)
        if isinstance(outcome, Failed) and outcome.code == "out_of_memory":
            child.kill("retired", "what it could not get it may hold in pieces")
        return outcome

    async def _break_off(
        self, child: ChildProcess, answer: "asyncio.Future[Outcome]", reason: asyncio.CancelledError
    ) -> Outcome:
        """A success that came in time is one. A handler that raises has seen that it was broken off."""
        child.cancel()
        await asyncio.wait([answer], timeout=self.GRACE_SECONDS)
        if not answer.done():
            await self._kill(child, failed("cancelled", "broken off", Sent.MAYBE_SENT))
        if answer.done() and answer.exception() is None:
            if isinstance(outcome := answer.result(), Succeeded):
                return outcome
            raise BrokenOff(Sent.ANSWERED) from reason
        raise BrokenOff(Sent.MAYBE_SENT) from reason

    async def _kill(self, child: ChildProcess, failure: Failed) -> None:
        """What follows must not overlap with what the child was doing."""
        child.kill(failure.code, failure.message)
        await child.wait(self.REAP_SECONDS)

    def _log_loss(self, child: ChildProcess, target: HandlerTarget, call: Call, error: ChildLost) -> None:
        log.error(
            "execution %s: handler %s took its process %s along: %s",
            call.execution_id,
            target.name,
            child.pid,
            error,
            extra={"execution_id": str(call.execution_id), "job_id": str(call.job_id)},
        )
