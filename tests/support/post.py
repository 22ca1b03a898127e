"""Where the AMQP jobs of a cell publish: a queue of its RabbitMQ, behind a link that stamps what passes.

A message counts as a request of the scripted target does, so that one ledger judges both.
"""

import contextlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Self

import pika
from servers.proxy import Direction
from servers.stamp import BLANK, HEADER, StampingProxy
from servers.target import Request

_QUEUE = "effects"


class SlowConfirms(StampingProxy):
    """From the first message on, each piece takes `confirm_seconds`: the confirmation of the first one, too."""

    confirm_seconds = 0.0

    def rewritten(self, data: bytes, direction: Direction) -> tuple[bytes, bytes]:
        if BLANK in data:
            self._set_delay(self.confirm_seconds)
        return super().rewritten(data, direction)


class Post:
    """The queue, declared at the beginning. What it got is kept here once it was asked for."""

    def __init__(self, url: str, *, confirm_seconds: float = 0.0) -> None:
        self._url = url
        self._got: list[Request] = []
        self._open = contextlib.ExitStack()
        self._link = SlowConfirms.before(url)
        self._link.confirm_seconds = confirm_seconds

    def __enter__(self) -> Self:
        self._open.enter_context(self._link)
        with self._channel() as channel:
            channel.queue_declare(_QUEUE, durable=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def hasten(self) -> None:
        """From now on nothing is held up."""
        self._link.confirm_seconds = 0.0
        self._link.heal()

    def message(self) -> dict[str, Any]:
        """What a job sends."""
        headers = {HEADER: BLANK.decode()}
        return {"connection": self._link.url(self._url), "routing_key": _QUEUE, "headers": headers, "body": "{}"}

    def requests(self) -> Sequence[Request]:
        """All messages until now."""
        with self._channel() as channel:
            while (message := channel.basic_get(_QUEUE, auto_ack=True))[0] is not None:
                self._got.append(_request(message[1], message[2]))
        return tuple(self._got)

    @contextlib.contextmanager
    def _channel(self) -> Iterator[Any]:
        with contextlib.closing(pika.BlockingConnection(pika.URLParameters(self._url))) as connection:
            yield connection.channel()


def _request(properties: pika.BasicProperties, body: bytes) -> Request:
    arrived_at = datetime.fromtimestamp(int(properties.headers[HEADER]) / 1e6, UTC)
    headers = tuple((name, str(value)) for name, value in properties.headers.items())
    return Request(method="PUBLISH", path=_QUEUE, headers=headers, body=body, connection=0, arrived_at=arrived_at)
