"""kombu's transports, made to survive what anybody can put on the broker.

kombu trusts the form of a message: on Redis an item that is not JSON, or lacks a field, ends the worker or costs it its
connection. On RabbitMQ headers that Python can't hold (a timestamp after the year 9999, text that is not UTF-8) do the
same again and again, because the broker delivers the message anew to each worker. On both a compressed body is unpacked
to whatever size it has before anybody looks at it.
"""

import logging
import socket
from collections.abc import Callable, MutableMapping
from typing import Any

from amqp.basic_message import Message
from amqp.method_framing import frame_handler
from kombu.transport import pyamqp, redis

log = logging.getLogger(__name__)

Frame = tuple[int, int, bytes]  # kind, channel, content
_CONTENT_HEADER = 2
_FIXED_PART = 12  # bytes: class, weight and length of the body
_NO_PROPERTIES = b"\0\0"


class _RedisChannel(redis.Channel):  # type: ignore[misc]
    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, or nested too deep
            log.warning("an item on the broker is no message (%.100s); it is dropped", error)
            return True


class RedisTransport(redis.Transport):  # type: ignore[misc]
    """Drops what is no message."""

    Channel = _RedisChannel

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


class _AmqpChannel(pyamqp.Channel):  # type: ignore[misc]
    def message_to_python(self, raw_message: Any) -> Any:
        _forbid_compression(raw_message.properties.get("application_headers"))
        return super().message_to_python(raw_message)

    def _on_basic_cancel(self, consumer_tag: str) -> None:
        """The queue has been deleted, or its node is gone: the connection has to be made anew, and the queue with it.

        py-amqp raises an error for that, which Celery swallows in the first tenth of a second of a connection (it reads
        once for good measure, asynloop's _quick_drain); the worker was deaf from then on. A socket that is shut down
        can't be overlooked.
        """
        self.connection.sock.shutdown(socket.SHUT_RDWR)
        super()._on_basic_cancel(consumer_tag)


class _AmqpConnection(pyamqp.Connection):  # type: ignore[misc]
    Channel = _AmqpChannel

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, frame_handler=_tolerant_frame_handler)


class AmqpTransport(pyamqp.Transport):  # type: ignore[misc]
    """Delivers a message whose headers can't be read without any headers; unpacks nothing."""

    Connection = _AmqpConnection


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


def _forbid_compression(headers: MutableMapping[str, Any] | None) -> None:
    """Leaves a compressed body as it is: then it is no JSON, and dropped as such. Ours are never compressed."""
    if headers:
        headers.pop("compression", None)
