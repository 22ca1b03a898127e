"""ExecutionQueue on Celery: ids become messages."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID, uuid4

from celery import Celery
from kombu import Connection

from gnomon.job.errors import Unavailable
from gnomon.process.tls import refused_certificate
from gnomon.queue.celery.app import ANSWER_SECONDS, TASK_NAME, queue_named, time_limits
from gnomon.queue.celery.marker import marker_on
from gnomon.queue.celery.transport import BROKER_ERRORS

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

IDS_PER_MESSAGE = 100  # moves the limit from Celery's messages to the database; more would gain next to nothing
_TRANSIENT = 1


class CeleryQueue:
    """Publishes over one connection of its own, one call at a time.

    A call on a broker that hangs ends after `timeout` seconds; only one that answers slowly, each message within that
    time, may take longer, until another thread calls `break_off`. A call that fails drops the connection: what hung
    once is not trusted again. Celery's pools of connections and producers, which make a caller wait without a word
    when they are exhausted, are not used.
    """

    def __init__(
        self, app: Celery, *, batch_sizes: Mapping[str, int] | None = None, timeout: float = ANSWER_SECONDS
    ) -> None:
        """`batch_sizes`: ids per message by queue, 100 where it says nothing. `timeout` in seconds."""
        self._app = app
        self._batch_sizes = batch_sizes or {}
        self._timeout = timeout
        self._connection: Connection | None = None
        self._broker = f"the broker at {app.connection_for_write().host}"
        self._lock = threading.Lock()
        self._broken_off = False
        self._marker = f"gnomon.marker.{uuid4()}"

    def publish(self, queue: str, ids: Sequence[UUID]) -> None:
        """Sends the ids in messages of up to 100. Raises Unavailable; then any part may have been sent."""
        if ids:
            self._call(lambda connection: self._publish(connection, queue, ids))

    def probe(self) -> None:
        """Raises Unavailable unless the broker takes messages now: one that is out of memory still answers pings."""
        self._call(lambda connection: marker_on(connection, timeout=self._timeout).probe())

    def lost_messages(self) -> bool:
        """True once for each loss, and at the first call, which can't know.

        Each process has a marker of its own in the broker's memory, which is gone when the messages are.
        """
        return self._call(lambda connection: marker_on(connection, timeout=self._timeout).renew(self._marker))

    def break_off(self) -> None:
        """From another thread: ends the link under the call that is under way, which then raises Unavailable.

        In vain where the call waits for something else than the broker, such as an address to be looked up.
        """
        self._broken_off = True
        transport = getattr(self._connection, "_transport", None)
        if transport is not None:
            transport.cut()

    def close(self) -> None:
        """Ends the connection; a later call makes a new one. A call that hangs is left to itself."""
        if not self._lock.acquire(timeout=self._timeout):
            return
        try:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.release()
        finally:
            self._lock.release()

    def _publish(self, connection: Connection, queue: str, ids: Sequence[UUID]) -> None:
        size = self._batch_sizes.get(queue, IDS_PER_MESSAGE)
        with self._app.amqp.Producer(connection, auto_declare=False) as producer:
            for start in range(0, len(ids), size):
                self._send(producer, queue, [str(one) for one in ids[start : start + size]])

    def _send(self, producer: Any, queue: str, ids: list[str]) -> None:
        """What Celery's send_task does, at two thirds of its cost: no routing, no signals, no result backend."""
        task_id = str(uuid4())
        message = self._app.amqp.as_task_v2(
            task_id, TASK_NAME, kwargs={"ids": ids}, argsrepr="()", kwargsrepr=_shown(ids), ignore_result=True
        )
        producer.publish(
            message.body,
            exchange="",
            routing_key=queue,
            declare=[queue_named(queue, self._app.conf.task_default_queue_type)],
            serializer="json",
            headers=message.headers,
            correlation_id=task_id,
            delivery_mode=_TRANSIENT,
            mandatory=True,  # RabbitMQ confirms even what goes nowhere, when the queue has been deleted behind our back
            timeout=self._timeout,
            confirm_timeout=self._timeout,
        )

    def _call(self, use: Callable[[Connection], Answer]) -> Answer:
        if not self._lock.acquire(timeout=self._timeout):
            raise Unavailable(f"{self._broker} keeps another call waiting")
        try:
            self._broken_off = False
            return self._call_twice(use)
        except Exception as error:
            if not (self._broken_off or isinstance(error, BROKER_ERRORS)):
                raise
            # else the type only: the text of a driver's error may hold the broker's URL
            reason = refused_certificate(error) or type(error).__name__
            raise Unavailable(f"{self._broker} does not take messages ({reason})") from error
        finally:
            self._lock.release()

    def _call_twice(self, use: Callable[[Connection], Answer]) -> Answer:
        """A connection that broke while it lay idle (the broker restarted) is no reason to give up."""
        idle, started = self._connection is not None, time.monotonic()
        try:
            return self._call_once(use)
        except BROKER_ERRORS:
            if not idle or time.monotonic() - started > self._timeout / 10:
                raise
        return self._call_once(use)

    def _call_once(self, use: Callable[[Connection], Answer]) -> Answer:
        try:
            if self._connection is None:
                self._connection = self._new_connection()
                self._connection.ensure_connection(max_retries=0)
            return use(self._connection)
        except BaseException:
            self._drop()
            raise

    def _new_connection(self) -> Connection:
        return self._app.connection_for_write(
            connect_timeout=self._timeout,
            heartbeat=0,  # nobody would send them while the connection lies idle, and RabbitMQ would close it
            transport_options=time_limits(self._timeout),
        )

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # without the farewell that a hung broker would never answer
            connection.collect(socket_timeout=self._timeout)


def _shown(ids: Sequence[str]) -> str:
    """What Flower shows of a message."""
    return f"{{'ids': ['{ids[0]}', … {len(ids)} in all]}}"
