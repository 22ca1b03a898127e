"""Waker on pub/sub: a scheduler sleeps until a moment that another process announced."""

import logging
import os
import select
import threading
import time
import weakref
from datetime import datetime, timedelta

import redis
from redis.client import PubSub

from gnomon.storage.redis.client import passing_reason
from gnomon.storage.redis.database import RedisDatabase, micros

log = logging.getLogger(__name__)

RECONNECT_SECONDS = 2.0
LISTEN_SECONDS = 1.0


class RedisWaker:
    """Waker on a subscription of its own, which a thread listens to. While that is lost it is a plain timer.

    The thread begins with the first wait, so a process may fork before.
    """

    def __init__(self, database: RedisDatabase) -> None:
        self._database = database
        self._earliest: int | None = None
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._listener: threading.Thread | None = None
        self._deaf = False
        self._wake_out, self._wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Not closed before: `wake` may come from another thread at any time, and the number be another file's by then.
        weakref.finalize(self, _close, self._wake_in, self._wake_out)

    def wait(self, timeout: timedelta, *, before: datetime) -> None:
        """`before` is a moment of the store's clock, as the announcements are."""
        self._listen()
        deadline = time.monotonic() + timeout.total_seconds()
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self._wake_out], [], [], left)[0] and (self._woken() or self._announced(before)):
                return

    def wake(self) -> None:
        """Safe in a signal handler."""
        self._write(b"!")

    def close(self) -> None:
        """Ends the listening; no wait may follow."""
        self._closing.set()
        if self._listener is not None:
            self._listener.join()
            self._listener = None

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = threading.Thread(target=self._run, name="gnomon-waker", daemon=True)
            self._listener.start()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._subscribe()
            except redis.RedisError as error:
                self._complain(passing_reason(error) or type(error).__name__)
                self._closing.wait(RECONNECT_SECONDS)

    def _subscribe(self) -> None:
        with PubSub(self._database.client.connection_pool) as link:
            link.subscribe(f"{self._database.prefix}wake")
            while link.get_message(timeout=LISTEN_SECONDS) is None and not self._closing.is_set():
                pass  # until the server has confirmed, or refused
            self._deaf = False
            self._hear(0)  # what was announced before is unknown: look
            while not self._closing.is_set():
                self._take(link)

    def _complain(self, reason: str) -> None:
        """Once, until it listens again."""
        if not self._deaf:
            log.warning("can't listen for announcements (%s): jobs start up to one interval late", reason)
        self._deaf = True

    def _take(self, link: PubSub) -> None:
        message = link.get_message(timeout=LISTEN_SECONDS)
        if message is not None and message["type"] == "message":
            self._hear(int(message["data"]))

    def _hear(self, moment: int) -> None:
        with self._lock:
            told = self._earliest is not None  # once is enough: the pipe must have room for `wake`
            self._earliest = min(moment, self._earliest) if self._earliest is not None else moment
        if not told:
            self._write(b".")

    def _announced(self, before: datetime) -> bool:
        with self._lock:
            earliest, self._earliest = self._earliest, None
        return earliest is not None and earliest < micros(before)

    def _woken(self) -> bool:
        try:
            return b"!" in os.read(self._wake_out, 4096)
        except BlockingIOError:
            return False

    def _write(self, mark: bytes) -> None:
        try:
            os.write(self._wake_in, mark)
        except BlockingIOError:
            return  # the pipe is full of earlier calls: whoever waits will see them


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
