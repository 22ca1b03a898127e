"""Publishes to AMQP 0-9-1 brokers: one connection per broker carries all messages of a process."""

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pika
import pika.exceptions

from gnomon.job.address import EgressPolicy
from gnomon.job.outcome import Failed, Outcome, Sent
from gnomon.job.target import AmqpTarget
from gnomon.worker.defects import log_defect
from gnomon.worker.executors import BrokenOff, Call
from gnomon.worker.executors.amqp_link import Link, LinkLost, Message, TooLarge, open_link
from gnomon.worker.executors.amqp_outcome import answered, ended, not_connected
from gnomon.worker.executors.egress import EgressGuard, Gate
from gnomon.worker.executors.http_request import CONNECT_TIMEOUT, Deadline, default_ca_file
from gnomon.worker.executors.premises import Premises
from gnomon.worker.executors.resolver import Addresses, LookupFailed, Resolver, system_lookup

log = logging.getLogger(__name__)

IDLE_TIME = timedelta(minutes=5)
PERSISTENT = 2


@dataclass
class _Progress:
    """How far an attempt has got."""

    sent: Sent = Sent.NOT_SENT

    def written(self) -> None:
        self.sent = Sent.MAYBE_SENT


class AmqpExecutor:
    """Lives on the loop of the first `execute`; not for use from other threads.

    `idle_time`: a connection that carried nothing for so long is closed. `ca_file`: who may vouch for amqps brokers;
    the system's bundle when None. `lookup`: finds the addresses of a host name; it may block. `premises`: what is our
    own.
    """

    def __init__(
        self,
        *,
        policy: EgressPolicy,
        idle_time: timedelta = IDLE_TIME,
        ca_file: str | None = None,
        lookup: Callable[[str], Addresses] = system_lookup,
        premises: Premises | None = None,
    ) -> None:
        self._guard = EgressGuard(policy, protocol="AMQP", premises=premises)
        self._resolver = Resolver(lookup)
        self._idle_time = idle_time
        self._ca_file = ca_file or default_ca_file()
        self._context: ssl.SSLContext | None = None
        self._links: dict[str, Link] = {}
        self._opening: dict[str, asyncio.Task[Link | Failed]] = {}
        self._chores: set[asyncio.Task[None]] = set()
        self._closed = False
        logging.getLogger("pika").setLevel(logging.CRITICAL)  # it takes each broker that is away for an error of ours

    async def execute(self, target: AmqpTarget, call: Call) -> Outcome:
        """Makes one attempt. Raises nothing but BrokenOff; a message that was written is not taken back by that."""
        progress = _Progress()
        if self._closed:
            return _cancelled(target, progress)
        try:
            async with asyncio.timeout(call.timeout.total_seconds()):
                outcome = await self._attempt(target, call, progress)
        except TimeoutError:
            outcome = _timed_out(target, call, progress)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling() > 0:
                raise BrokenOff(progress.sent) from error
            outcome = _cancelled(target, progress)  # only the connecting was: the executor closed
        except pika.exceptions.AMQPError as error:
            outcome = ended(target, error, progress.sent)
        except LinkLost as lost:
            outcome = _failed("reset", f"{target.broker}: {lost} before the message was sent", progress)
        except TooLarge as error:
            message = f"the headers are too large for {target.broker}: {error}"
            outcome = _failed("headers_too_large", message, progress, permanent=True)
        except Exception as error:
            log_defect(log, error, "execution %s, attempt %s: the AMQP engine failed", call.execution_id, call.attempt)
            outcome = _failed("internal_error", f"the AMQP engine broke down while calling {target.broker}", progress)
        return outcome if progress.sent is Sent.ANSWERED else self._unless_closed(outcome, target, progress)

    async def aclose(self) -> None:
        """Aborts what is under way, which then fails with the code `cancelled`, and closes all connections."""
        self._closed = True
        self._resolver.close()
        opening = list(self._opening.values())
        for task in [*opening, *self._chores]:
            task.cancel()
        await asyncio.gather(*opening, *self._chores, return_exceptions=True)
        links = list(self._links.values())
        self._links.clear()
        await asyncio.gather(*(link.close() for link in links))

    def _unless_closed(self, outcome: Outcome, target: AmqpTarget, progress: _Progress) -> Outcome:
        return _cancelled(target, progress) if self._closed else outcome

    async def _attempt(self, target: AmqpTarget, call: Call, progress: _Progress) -> Outcome:
        message = _message(target, call)
        while True:
            known = self._known(target)
            link = known or await self._open(target)
            if isinstance(link, Failed):
                return link
            try:
                answer = await link.publish(message, fresh=call.fresh_connection, on_write=progress.written)
            except (pika.exceptions.AMQPConnectionError, LinkLost):
                if known is None or progress.sent is not Sent.NOT_SENT or not link.closed or self._closed:
                    raise
                continue  # the broker had left the connection that was kept: nothing was sent
            progress.sent = Sent.ANSWERED
            return answered(target, answer)

    def _known(self, target: AmqpTarget) -> Link | None:
        link = self._links.get(target.connection)
        if link is not None and link.closed:
            del self._links[target.connection]
            return None
        return link

    async def _open(self, target: AmqpTarget) -> Link | Failed:
        """A new connection, or why there is none; whoever asks meanwhile waits for the same."""
        task = self._opening.get(target.connection)
        if task is None:
            task = self._opening[target.connection] = asyncio.ensure_future(self._opened(target))
        return await asyncio.shield(task)

    async def _opened(self, target: AmqpTarget) -> Link | Failed:
        try:
            link = await self._connect(target)
        finally:
            del self._opening[target.connection]
        if isinstance(link, Link):
            self._links[target.connection] = link
            self._close_when_idle(target.connection, link)
        return link

    async def _connect(self, target: AmqpTarget) -> Link | Failed:
        """Failures are values, as nobody may be left to take an exception."""
        broker, deadline, progress = target.broker, Deadline(CONNECT_TIMEOUT), _Progress()
        addresses = self._resolver.known(broker.host)
        try:
            if addresses is None:
                addresses = await self._resolver.resolve(broker.host, timeout=deadline.seconds_left())
            gate = self._guard.gate(broker.host)
            admitted = [address for address in addresses if gate.admits(address, broker.port)]
            if not admitted:
                return _blocked(target, gate)
            link = await self._connect_to(target, admitted, deadline)
        except LookupFailed as error:
            return _failed("dns", f"the name {broker.host!r} could not be resolved: {error}", progress)
        except TimeoutError:
            return _failed("timeout", f"gave up looking up {broker.host!r}", progress)
        except Exception as error:
            log_defect(log, error, "connecting to %s failed", broker)
            return _failed("internal_error", f"the AMQP engine broke down while connecting to {broker}", progress)
        if isinstance(link, Failed):
            self._resolver.forget(broker.host)
        return link

    async def _connect_to(self, target: AmqpTarget, addresses: list[str], deadline: Deadline) -> Link | Failed:
        """The first of the addresses that answers; each gets its share of the time."""
        failed = None
        for place, address in enumerate(addresses):
            gate = self._guard.gate(target.broker.host)
            timeout = max(0.01, deadline.seconds_left() / (len(addresses) - place))
            try:
                context = self._tls() if target.broker.tls else None
                return await open_link(target.broker, address, timeout=timeout, context=context, gate=gate)
            except Exception as error:  # pika wraps some, and lets others through
                failed = not_connected(target.broker, error) if gate.refusal is None else _blocked(target, gate)
        assert failed is not None
        return failed

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            # Not create_default_context, which writes the keys of all connections where SSLKEYLOGFILE says.
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._context.load_verify_locations(self._ca_file)
            self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        return self._context

    def _close_when_idle(self, connection: str, link: Link) -> None:
        chore = asyncio.ensure_future(self._watch(connection, link))
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    async def _watch(self, connection: str, link: Link) -> None:
        """Until the link is closed, by others or for having been idle."""
        limit = self._idle_time.total_seconds()
        while not link.closed and (left := limit - link.idle_seconds()) > 0:
            await asyncio.sleep(left)
        if self._links.get(connection) is link:
            del self._links[connection]
        with contextlib.suppress(pika.exceptions.AMQPError):
            await link.close()


def _message(target: AmqpTarget, call: Call) -> Message:
    return Message(
        exchange=target.exchange,
        routing_key=target.routing_key,
        body=target.payload(),
        properties=pika.BasicProperties(
            message_id=str(call.execution_id),
            headers={**target.headers, **call.headers()},
            content_type=target.content_type,
            delivery_mode=PERSISTENT,
            timestamp=int(time.time()),
        ),
        # The delayed-message exchange routes nothing before the delay is over, and would return what it has taken.
        mandatory="x-delay" not in target.headers,
    )


def _timed_out(target: AmqpTarget, call: Call, progress: _Progress) -> Failed:
    what = "before the message was sent" if progress.sent is Sent.NOT_SENT else "before it confirmed the message"
    return _failed("timeout", f"gave up on {target.broker} after {call.timeout.total_seconds():g} s {what}", progress)


def _cancelled(target: AmqpTarget, progress: _Progress) -> Failed:
    return _failed("cancelled", f"the call to {target.broker} was aborted: this worker stops", progress)


def _blocked(target: AmqpTarget, gate: Gate) -> Failed:
    reason = f"{target.broker} must not be called: {gate.refusal}"
    return _failed("egress_blocked", reason, _Progress(), permanent=True)


def _failed(code: str, message: str, progress: _Progress, *, permanent: bool = False) -> Failed:
    return Failed(code=code, message=message, sent=progress.sent, permanent=permanent)
