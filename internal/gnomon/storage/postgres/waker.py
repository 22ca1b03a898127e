"""Waker on LISTEN: a scheduler sleeps until a moment that another process announced."""

import logging
import os
import select
import time
import weakref
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
from sqlalchemy import Engine

from gnomon.storage.postgres.statements import WAKE_CHANNEL

log = logging.getLogger(__name__)

RECONNECT_SECONDS = 5.0


class PostgresWaker:
    """Waker on a connection of its own. While that is lost it is a plain timer: the longest sleep is the bound."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Any = None
        self._next_try = 0.0
        self._wake_out, self._wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Not closed before: `wake` may come from another thread at any time, and the number be another file's by then.
        weakref.finalize(self, _close, self._wake_in, self._wake_out)

    def wait(self, timeout: timedelta, *, before: datetime) -> None:
        """`before` is a moment of the database's clock, as the announcements are."""
        deadline = time.monotonic() + timeout.total_seconds()
        self._listen()
        while (left := deadline - time.monotonic()) > 0:
            if self._ready(left) and (self._drain_pipe() or self._announced(before)):
                return

    def wake(self) -> None:
        """Safe in a signal handler."""
        try:
            os.write(self._wake_in, b"!")
        except BlockingIOError:
            return  # the pipe is full of earlier calls: whoever waits will see them

    def close(self) -> None:
        """Ends the connection; no wait may follow."""
        self._drop()

    def _listen(self) -> None:
        if self._connection is not None or time.monotonic() < self._next_try:
            return
        self._next_try = time.monotonic() + RECONNECT_SECONDS
        try:
            arguments, keywords = self._engine.dialect.create_connect_args(self._engine.url)
            connection = psycopg2.connect(*arguments, **keywords, connect_timeout=5, application_name="gnomon waker")
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f"listen {WAKE_CHANNEL}")
        except psycopg2.Error as error:
            log.warning("can't listen for announcements (%s): jobs start up to one interval late", type(error).__name__)
            return
        self._connection = connection

    def _ready(self, seconds: float) -> bool:
        sources = [self._wake_out] + ([] if self._connection is None else [self._connection.fileno()])
        return bool(select.select(sources, [], [], seconds)[0])

    def _drain_pipe(self) -> bool:
        try:
            return bool(os.read(self._wake_out, 4096))
        except BlockingIOError:
            return False

    def _announced(self, before: datetime) -> bool:
        if self._connection is None:
            return False
        try:
            self._connection.poll()
        except psycopg2.Error:
            self._drop()
            return True  # what was announced meanwhile is unknown: look
        announced = [float(notice.payload) for notice in self._connection.notifies]
        self._connection.notifies.clear()
        return any(datetime.fromtimestamp(epoch, UTC) < before for epoch in announced)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
