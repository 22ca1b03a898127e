"""Consumes the queues that jobs publish to, and acknowledges a message only when it is on disk.

One line for each delivery, separated by tabs: when it came (seconds since 1970), the stamp of its publication,
message_id, attempt, whether the broker calls it a redelivery, queue. The broker may go away and come back.

    CHAOS_BROKER=amqp://... python -m chaos.witness LOG QUEUE...
"""

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pika
import pika.exceptions
from servers.stamp import HEADER

_PREFETCH = 200
_AGAIN_SECONDS = 0.2
_POLL_SECONDS = 0.05


class Log:
    """Lines that are on disk when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, lines: Sequence[str]) -> None:
        data = "".join(lines).encode()
        assert os.write(self._descriptor, data) == len(data)
        os.fsync(self._descriptor)


def watch(url: str, queues: Sequence[str], log: Log) -> None:
    """For ever."""
    while True:
        with contextlib.suppress(pika.exceptions.AMQPError, OSError):
            _consume(url, queues, log)
        time.sleep(_AGAIN_SECONDS)


def _consume(url: str, queues: Sequence[str], log: Log) -> None:
    """Until the connection ends. A queue that is deleted ends it, for the consumer has to be made anew."""
    parameters = pika.URLParameters(url)
    parameters.heartbeat, parameters.socket_timeout, parameters.stack_timeout = 5, 2, 5
    came: list[tuple[int, str]] = []

    def take(_channel: Any, method: Any, properties: pika.BasicProperties, _body: bytes) -> None:
        came.append((method.delivery_tag, _line(method, properties)))

    with contextlib.closing(pika.BlockingConnection(parameters)) as connection:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=_PREFETCH)
        channel.add_on_cancel_callback(lambda _: channel.close())
        for queue in queues:
            channel.basic_consume(queue, take)
        while channel.is_open:
            connection.process_data_events(time_limit=_POLL_SECONDS)
            if came:
                log.write([line for _, line in came])
                channel.basic_ack(came[-1][0], multiple=True)
                came.clear()


def _line(method: Any, properties: pika.BasicProperties) -> str:
    headers = properties.headers or {}
    fields = (
        f"{time.time():.6f}",
        headers.get(HEADER, "-"),
        properties.message_id or "-",
        headers.get("X-Scheduler-Attempt", "-"),
        int(method.redelivered),
        method.routing_key,
    )
    return "\t".join(map(str, fields)) + "\n"


if __name__ == "__main__":
    watch(os.environ["CHAOS_BROKER"], sys.argv[2:], Log(Path(sys.argv[1])))
