"""One connection to an AMQP broker, shared by all that publish there.

A message under way has a channel to itself. When a broker closes a channel it does not say over which message, and what
else was under way there would be left in doubt; so what it says on a channel is said of one message alone.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from typing import Any

import pika
import pika.channel
import pika.connection
import pika.exceptions
import pika.frame
import pika.spec

from gnomon import __version__
from gnomon.job.amqp import MAX_SHORT_STRING, Broker
from gnomon.worker.executors.amqp_stream import Stream
from gnomon.worker.executors.egress import Gate

MAX_CHANNELS = 256  # at a time; RabbitMQ allows 2,047
HEARTBEAT_SECONDS = 20  # a broker that is silent for 25 s is given up
FAREWELL_SECONDS = 1.0


class Answer(Enum):
    """What a broker says of a message."""

    CONFIRMED = auto()
    UNROUTABLE = auto()
    REFUSED = auto()


class LinkLost(Exception):
    """The connection had ended before the message was written."""


class TooLarge(Exception):
    """The message's properties do not fit into one frame of this broker, which would close the connection over them."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """What is published. With `mandatory` a message that no queue gets comes back."""

    exchange: str
    routing_key: str
    body: bytes
    properties: pika.BasicProperties
    mandatory: bool

    @cached_property
    def header_size(self) -> int:
        """Of the one frame that carries the properties."""
        return sum(map(len, self.properties.encode())) + 32

    def size(self) -> int:
        """Of all of it, as a broker returns it; no less than that."""
        return self.header_size + len(self.body) + len(self.body) // 1_024 + 2 * MAX_SHORT_STRING


async def open_link(
    broker: Broker, address: str, *, timeout: float, context: ssl.SSLContext | None, gate: Gate
) -> "Link":
    """Connects to this address of the broker within `timeout` seconds; raises what pika does, and Refused.

    TLS checks the certificate against the broker's name.
    """
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[Stream] = loop.create_future()

    def done(result: Stream | Exception) -> None:
        if isinstance(result, Exception):
            _settle(opened, error=result)
        elif opened.done():
            result.close()  # nobody waits any more
        else:
            opened.set_result(result)

    parameters = pika.ConnectionParameters(
        host=address,
        port=broker.port,
        virtual_host=broker.vhost,
        credentials=pika.PlainCredentials(broker.user, broker.password),
        heartbeat=HEARTBEAT_SECONDS,
        # pika's own limits fail where several pass at once, as in a process that was frozen: nobody is told then.
        socket_timeout=None,
        stack_timeout=None,
        ssl_options=None if context is None else pika.SSLOptions(context, broker.host),
        client_properties={"product": "gnomon", "version": __version__},
    )
    opening = Stream.connect(parameters, gate, done)
    try:
        async with asyncio.timeout(timeout):
            return Link(await opened)
    except (asyncio.CancelledError, TimeoutError):
        opening.abort()
        raise


class Link:
    """An open connection. `closed` says that it is of no more use."""

    def __init__(self, connection: Stream) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._lanes: set[_Lane] = set()
        self._idle: list[_Lane] = []
        self._users = 0
        self._last_used = self._loop.time()
        self._passable = asyncio.Event()
        self._passable.set()
        self._gone = asyncio.Event()
        self._slots = asyncio.Semaphore(max(1, min(MAX_CHANNELS, (connection.params.channel_max or 65_535) // 2)))
        connection.add_on_close_callback(lambda *_: self._lost())
        connection.add_on_connection_blocked_callback(lambda *_: self._passable.clear())
        connection.add_on_connection_unblocked_callback(lambda *_: self._passable.set())

    @property
    def closed(self) -> bool:
        """Nothing can be published here any more."""
        return not self._connection.is_open

    def idle_seconds(self) -> float:
        """Since the last message; 0 while one is under way."""
        return 0.0 if self._users else self._loop.time() - self._last_used

    async def publish(self, message: Message, *, fresh: bool, on_write: Callable[[], None]) -> Answer:
        """Publishes and waits for the broker's answer; `on_write` is called just before the message is let out.

        While the broker takes nothing, this waits. `fresh` opens a channel for this message alone, an exchange of words
        which shows that the broker listens right now. Raises LinkLost, TooLarge, and what pika says of a channel or
        connection that ended.
        """
        self._users += 1
        try:
            async with self._slots:
                return await self._publish(message, fresh=fresh, on_write=on_write)
        finally:
            self._users -= 1
            self._last_used = self._loop.time()

    async def _publish(self, message: Message, *, fresh: bool, on_write: Callable[[], None]) -> Answer:
        if message.header_size > self._connection.params.frame_max:
            raise TooLarge(f"{message.header_size} bytes")
        await self._wait_until_passable()
        lane = await self._lane(fresh=fresh)
        try:
            await self._wait_until_passable()
            self._connection.allow(message.size())
            on_write()
            answer = await lane.publish(message)
        except BaseException:
            lane.close()  # its message may still be under way
            raise
        if fresh:
            lane.close()
        else:
            self._idle.append(lane)
        return answer

    async def close(self) -> None:
        """Ends what is under way with pika's ConnectionClosedByClient, and the connection; takes a second at most."""
        with contextlib.suppress(pika.exceptions.ConnectionWrongStateError):
            reason = pika.exceptions.ConnectionClosedByClient(200, "closed")
            for lane in list(self._lanes):
                lane.fail(reason)
            self._connection.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                await self._gone.wait()
        if not self._connection.is_closed:
            self._connection._adapter_disconnect_stream()  # pika has no other way not to wait for a mute broker

    async def _wait_until_passable(self) -> None:
        await self._passable.wait()
        if self.closed:
            raise LinkLost("the connection was lost")

    async def _lane(self, *, fresh: bool) -> "_Lane":
        while self._idle and not fresh:
            lane = self._idle.pop()
            if lane.usable:
                return lane
        lane = _Lane(on_closed=self._lanes.discard)
        self._lanes.add(lane)
        try:
            await lane.open(self._connection)
        except BaseException:
            lane.close()
            raise
        return lane

    def _lost(self) -> None:
        self._passable.set()
        self._gone.set()


class _Lane:
    """A channel in confirm mode with one message under way at a time."""

    def __init__(self, *, on_closed: "Callable[[_Lane], None]") -> None:
        self._on_closed = on_closed
        self._channel: pika.channel.Channel | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._answer = Answer.CONFIRMED

    @property
    def usable(self) -> bool:
        """Whether a message can be published."""
        return self._channel is not None and self._channel.is_open

    async def open(self, connection: Stream) -> None:
        self._waiting = asyncio.get_running_loop().create_future()
        self._channel = connection.channel(on_open_callback=self._opened)
        self._channel.add_on_close_callback(self._closed)
        self._channel.add_on_return_callback(self._returned)
        await self._waiting

    async def publish(self, message: Message) -> Answer:
        assert self._channel is not None
        self._answer = Answer.CONFIRMED
        self._waiting = asyncio.get_running_loop().create_future()
        self._channel.basic_publish(
            message.exchange, message.routing_key, message.body, message.properties, mandatory=message.mandatory
        )
        await self._waiting
        return self._answer

    def fail(self, error: Exception) -> None:
        """Whoever waits gets this error."""
        if self._waiting is not None:
            _settle(self._waiting, error=error)

    def close(self) -> None:
        """The broker works off what it has got first."""
        if self._channel is None or self._channel.is_closed:
            self._on_closed(self)
            return
        with contextlib.suppress(pika.exceptions.AMQPError):
            self._channel.close()

    def _opened(self, channel: pika.channel.Channel) -> None:
        try:
            channel.confirm_delivery(self._confirmed, self._ready)
        except Exception as error:  # pika's callbacks must let nothing out
            self.fail(error)

    def _ready(self, _frame: pika.frame.Method) -> None:
        self._settle()

    def _returned(self, *_: object) -> None:
        self._answer = Answer.UNROUTABLE  # the confirmation follows

    def _confirmed(self, frame: pika.frame.Method) -> None:
        if isinstance(frame.method, pika.spec.Basic.Nack):
            self._answer = Answer.REFUSED
        self._settle()

    def _closed(self, _channel: pika.channel.Channel, reason: Exception) -> None:
        self._on_closed(self)
        self.fail(reason)

    def _settle(self) -> None:
        if self._waiting is not None:
            _settle(self._waiting)


def _settle(future: asyncio.Future[Any], *, error: Exception | None = None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(None)
