"""How to notice that a broker has lost its messages: something that shares their fate."""

from typing import Protocol

import redis
from kombu import Connection

# Renewed with each look; what a process leaves behind is gone after a day.
KEPT_SECONDS = 86_400


class Marker(Protocol):
    """Raises whatever the driver does."""

    def probe(self) -> None:
        """Returns if the broker takes messages."""

    def renew(self, name: str) -> bool:
        """Whether the marker was missing, or from before a restart; puts it back."""


def marker_on(connection: Connection, *, timeout: float) -> Marker:
    """The marker for this kind of broker. `timeout` in seconds, for each answer."""
    if connection.transport.driver_type == "redis":
        return _RedisMarker(connection.default_channel.client)
    return _RabbitMarker(connection, timeout)


class _RedisMarker:
    """A key with the server's run id: missing after FLUSHALL, different after a restart that read old data."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def probe(self) -> None:
        self._client.set("gnomon.probe", "", ex=KEPT_SECONDS)

    def renew(self, name: str) -> bool:
        run_id = self._run_id()
        if self._client.get(name) == run_id:
            self._client.expire(name, KEPT_SECONDS)
            return False
        self._client.set(name, run_id, ex=KEPT_SECONDS)
        return True

    def _run_id(self) -> bytes:
        try:
            return str(self._client.info("server").get("run_id")).encode()
        except redis.exceptions.NoPermissionError:
            # INFO counts as dangerous in Redis's access rules. What a restart lost is then noticed as missing only.
            return b"unknown"


class _RabbitMarker:
    """A transient message in a durable queue, as ours are: a restart empties the queue.

    (A queue that is itself transient would do, but RabbitMQ 4 is about to refuse those that are not exclusive.)
    """

    def __init__(self, connection: Connection, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout

    def probe(self) -> None:
        # There is no such queue: the broker confirms, and forgets it. Twice, because one that has run out of memory or
        # disk blocks a connection only after the first message that it gets there.
        self._put("gnomon.probe")
        self._put("gnomon.probe")

    def renew(self, name: str) -> bool:
        expires = {"x-expires": KEPT_SECONDS * 1000}
        declared = self._connection.default_channel.queue_declare(
            name, durable=True, auto_delete=False, arguments=expires
        )
        if declared.message_count:
            return False
        self._put(name)
        return True

    def _put(self, queue: str) -> None:
        with self._connection.Producer(auto_declare=False) as producer:
            producer.publish(
                "", routing_key=queue, delivery_mode=1, timeout=self._timeout, confirm_timeout=self._timeout
            )
