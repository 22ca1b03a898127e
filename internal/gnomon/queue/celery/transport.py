"""kombu's transports, made to survive what anybody can put on the broker.

kombu trusts the form of a message: on Redis an item that is not JSON, or lacks a field, ends the worker or costs it its
connection. On RabbitMQ headers that Python can't hold (a timestamp after the year 9999, text that is not UTF-8) do the
same again and again, because the broker delivers the message anew to each worker. On both a compressed body is unpacked
to whatever size it has before anybody looks at it.
"""

import errno
import logging
import socket
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakSet

from amqp import AMQPError
from amqp.basic_message import Message
from amqp.method_framing import frame_handler
from kombu.exceptions import KombuError, OperationalError
from kombu.transport import pyamqp, redis
from redis import RedisError

log = logging.getLogger(__name__)

# What a broker that is away, or refuses, raises through any of the drivers.
BROKER_ERRORS: tuple[type[Exception], ...] = (OperationalError, KombuError, RedisError, AMQPError, OSError)

Frame = tuple[int, int, bytes]  # kind, channel, content
_CONTENT_HEADER = 2
_FIXED_PART = 12  # bytes: class, weight and length of the body
_NO_PROPERTIES = b"\0\0"


class _RedisChannel(redis.Channel):  # type: ignore[misc]
    _publishing: Any = None

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """kombu would make a client for each message, which takes a tenth of what sending the message takes."""
        if client is None:
            if self._publishing is None or self._publishing.connection_pool is not self.pool:
                self._publishing = self._create_client()
            client = self._publishing
        yield client

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, or nested too deep
            log.warning("an item on the broker is no message (%.100s); it is dropped", error)
            return True

    def _get_pool(self, asynchronous: bool = False) -> Any:
        pool = super()._get_pool(asynchronous)
        self.connection.pools.add(pool)
        return pool


class RedisTransport(redis.Transport):  # type: ignore[misc]
    """Drops what is no message; can be cut off by another thread."""

    Channel = _RedisChannel

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.pools: WeakSet[Any] = WeakSet()

    def cut(self) -> None:
        """From any thread, at any moment: whoever waits for the broker stops waiting."""
        for pool in list(self.pools):
            for connection in [*pool._in_use_connections, *pool._available_connections]:
                _shut(connection._sock)

    def _deliver(self, message: Any, queue: str) -> None:
        try:
            _forbid_compression(message["headers"])
            super()._deliver(message, queue)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            log.warning(
                "a message on queue %.100r lacks what every message has (%s: %.100s); it is dropped",
                queue,
                type(error).__name__,
                error,
            )


class _AmqpMessage(pyamqp.Message):  # type: ignore[misc]
    def ack_log_error(
        self, logger: logging.Logger, errors: tuple[type[Exception], ...], multiple: bool = False
    ) -> None:
        """The link broke between a message and its acknowledgement: a matter of course, and no CRITICAL traceback."""
        try:
            self.ack(multiple=multiple)
        except errors as error:
            logger.info("a message was not acknowledged (%s): it comes again, and is dropped", type(error).__name__)
            _shut_link(self.channel.connection)  # if Celery has not noticed yet, now it does


class _AmqpChannel(pyamqp.Channel):  # type: ignore[misc]
    Message = _AmqpMessage

    def message_to_python(self, raw_message: Any) -> Any:
        _forbid_compression(raw_message.properties.get("application_headers"))
        return super().message_to_python(raw_message)

    def _on_basic_cancel(self, consumer_tag: str) -> None:
        """The queue has been deleted, or its node is gone: the connection has to be made anew, and the queue with it.

        py-amqp raises an error for that, which Celery swallows in the first tenth of a second of a connection (it reads
        once for good measure, asynloop's _quick_drain); the worker was deaf from then on. A socket that is shut down
        can't be overlooked.
        """
        _shut_link(self.connection)
        super()._on_basic_cancel(consumer_tag)


class _AmqpConnection(pyamqp.Connection):  # type: ignore[misc]
    Channel = _AmqpChannel

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, frame_handler=_tolerant_frame_handler)

    def connect(self, callback: Callable[[], None] | None = None) -> Any:
        self.client.transport.newest = self  # from the first byte on, so that a handshake can be cut off as well
        return super().connect(callback)


class AmqpTransport(pyamqp.Transport):  # type: ignore[misc]
    """Delivers a message whose headers can't be read without any headers; unpacks nothing. Can be cut off."""

    Connection = _AmqpConnection
    newest: _AmqpConnection | None = None

    def cut(self) -> None:
        """From any thread, at any moment: whoever waits for the broker stops waiting."""
        _shut_link(self.newest)

    def drain_events(self, connection: Any, **options: Any) -> Any:
        """Tells of a connection or channel that the server closed in a way that Celery can't overlook.

        In the first tenth of a second of a connection it reads once for good measure (asynloop's _quick_drain) and
        there swallows all errors but those of the operating system: the worker was deaf until heartbeats were missed
        (16 s, seen).
        """
        try:
            return super().drain_events(connection, **options)
        except AMQPError as error:
            raise ConnectionResetError(errno.ECONNRESET, f"{type(error).__name__}: {error}") from error


def _tolerant_frame_handler(connection: Any, callback: Callable[..., Any]) -> Callable[[Frame], bool]:
    handle = frame_handler(connection, callback)

    def on_frame(frame: Frame) -> bool:
        try:
            return bool(handle(frame))
        except Exception:
            kind, channel, content = frame
            if kind != _CONTENT_HEADER or _is_readable(content):
                raise
        return bool(handle((kind, channel, content[:_FIXED_PART] + _NO_PROPERTIES)))

    return on_frame


def _is_readable(content_header: bytes) -> bool:
    try:
        Message().inbound_header(content_header)
    except Exception:  # whatever a decoder meets
        return False
    return True


def _shut(link: socket.socket | None) -> None:
    """Ends what goes on on a socket without closing it: its number must not be given to another one under a reader."""
    if link is not None:
        with suppress(OSError):
            socket.socket.shutdown(link, socket.SHUT_RDWR)  # below TLS, whose state belongs to the thread that uses it


def _shut_link(connection: pyamqp.Connection | None) -> None:
    # the property `transport` would connect anew
    _shut(getattr(getattr(connection, "_transport", None), "sock", None))


def _forbid_compression(headers: MutableMapping[str, Any] | None) -> None:
    """Leaves a compressed body as it is: then it is no JSON, and dropped as such. Ours are never compressed."""
    if headers:
        headers.pop("compression", None)
