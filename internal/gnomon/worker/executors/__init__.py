"""What carries out attempts: one executor for each kind of target."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar, assert_never
from uuid import UUID

from gnomon.job.outcome import Outcome, Sent
from gnomon.job.target import AmqpTarget, HandlerTarget, HttpTarget, Target
from gnomon.worker.executors.scrub import scrubbed

TargetT_contra = TypeVar("TargetT_contra", contravariant=True)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One attempt to be made. `timeout` bounds all of it, name lookup included.

    `fresh_connection` asks for a connection that nobody used before and nobody will use after: on a reused one the
    request may find out only halfway that the target has hung up.
    """

    execution_id: UUID
    job_id: UUID
    attempt: int
    scheduled_at: datetime
    timeout: timedelta
    fresh_connection: bool = False

    def headers(self) -> dict[str, str]:
        """What tells the target which attempt of which execution this is; the key is the same for every attempt."""
        scheduled_at = self.scheduled_at.astimezone(UTC).replace(tzinfo=None)
        return {
            "Idempotency-Key": str(self.execution_id),
            "X-Scheduler-Attempt": str(self.attempt),
            "X-Scheduler-Scheduled-At": f"{scheduled_at.isoformat()}Z",
        }


class BrokenOff(asyncio.CancelledError):
    """A cancellation that knows how far the attempt had got."""

    def __init__(self, sent: Sent) -> None:
        super().__init__(sent.value)
        self.sent = sent


class Executor(Protocol[TargetT_contra]):
    """Lives on one event loop. Nothing but cancellation gets out of `execute`: every failure is an Outcome."""

    async def execute(self, target: TargetT_contra, call: Call) -> Outcome:
        """Makes one attempt. Cancelling the task aborts it at once and raises BrokenOff."""

    async def aclose(self) -> None:
        """Aborts what is under way, which then fails with the code `cancelled`, and closes all connections."""


class Executors:
    """The executor of each kind of target."""

    def __init__(
        self, *, http: Executor[HttpTarget], amqp: Executor[AmqpTarget], handlers: Executor[HandlerTarget]
    ) -> None:
        self._http = http
        self._amqp = amqp
        self._handlers = handlers

    async def execute(self, target: Target, call: Call) -> Outcome:
        """Makes one attempt with the executor of the target's kind. What failed is told without the job's secrets."""
        return scrubbed(await self._execute(target, call), target)

    async def _execute(self, target: Target, call: Call) -> Outcome:
        match target:
            case HttpTarget():
                return await self._http.execute(target, call)
            case AmqpTarget():
                return await self._amqp.execute(target, call)
            case HandlerTarget():
                return await self._handlers.execute(target, call)
            case _:
                assert_never(target)

    async def aclose(self) -> None:
        """Closes all of them."""
        await self._http.aclose()
        await self._amqp.aclose()
        await self._handlers.aclose()
