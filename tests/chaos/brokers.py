"""The two brokers, and the ways in which each of them fails. What can't be done just now raises Missed."""

import contextlib
import os
import shutil
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import pika
import pika.exceptions
import redis
from pika.adapters.blocking_connection import BlockingChannel
from servers.rabbitmq import RabbitMQ

from gnomon.embedded.processes import ServerFailed, family_of
from gnomon.embedded.valkey import EmbeddedValkey

_QUEUE = "io"
_ADMIN_SECONDS = 2


class Missed(Exception):
    """The server is away or frozen already."""


class Broker(ABC):
    """`url` is that of the server itself, not of a link."""

    def __init__(self) -> None:
        self._frozen = False
        self._starting = False
        self._to_empty = False

    @property
    @abstractmethod
    def url(self) -> str: ...

    @property
    @abstractmethod
    def _pid(self) -> int | None: ...

    def start(self) -> None:
        """Returns when it answers. Nothing when it runs."""
        self._starting = True
        try:
            self._start()
        finally:
            self._starting = False

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def stop(self) -> None: ...

    def kill(self) -> None:
        """Also one that is frozen."""
        if self._pid is None or self._starting:
            raise Missed("the broker is down already")
        self._kill()
        self._frozen = False

    @abstractmethod
    def _kill(self) -> None: ...

    @abstractmethod
    def forget(self) -> None:
        """What it has on disk, while it is down."""

    @abstractmethod
    def wipe(self) -> None:
        """All messages, at once."""

    @abstractmethod
    def delete_queue(self) -> None: ...

    @abstractmethod
    def fill(self, disk: bool) -> None:
        """No more messages are taken, until `empty`."""

    @abstractmethod
    def _empty(self) -> None: ...

    def freeze(self) -> None:
        """Nothing is answered, until `thaw`."""
        self._check_answers()
        self._signal(signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        self._frozen = False
        with contextlib.suppress(Missed):
            self._signal(signal.SIGCONT)
        if self._to_empty:
            self.empty()

    def empty(self) -> None:
        """Or as soon as it answers again; a restart empties it too."""
        try:
            self._empty()
            self._to_empty = False
        except Missed:
            self._to_empty = True

    def _signal(self, number: signal.Signals) -> None:
        if self._pid is None:
            raise Missed("the broker is down")
        for pid in (self._pid, *family_of(self._pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _check_answers(self) -> None:
        if self._pid is None or self._frozen or self._starting:
            raise Missed("the broker is down or frozen already")


class Valkey(Broker):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder / "valkey"
        self._server = EmbeddedValkey(self._folder, persist=True)

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def _pid(self) -> int | None:
        return self._server.pid

    def _start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def _kill(self) -> None:
        self._server.kill()

    def forget(self) -> None:
        shutil.rmtree(self._folder / "appendonlydir", ignore_errors=True)

    def wipe(self) -> None:
        with self._client() as client:
            client.flushall()

    def delete_queue(self) -> None:
        with self._client() as client:
            client.delete(_QUEUE)

    def fill(self, disk: bool) -> None:
        with self._client() as client:
            client.config_set("maxmemory", "1")

    def _empty(self) -> None:
        with self._client() as client:
            client.config_set("maxmemory", "0")

    @contextlib.contextmanager
    def _client(self) -> Iterator[redis.Redis]:
        self._check_answers()
        try:
            with redis.Redis.from_url(self.url, socket_timeout=_ADMIN_SECONDS) as client:
                yield client
        except redis.RedisError as error:
            raise Missed(str(error)) from error


class Rabbit(Broker):
    _ALARMS = ("{resource_limit, memory, node()}", "{resource_limit, disk, node()}")

    def __init__(self, folder: Path, name: str = "rabbitmq") -> None:
        super().__init__()
        self._server = RabbitMQ(folder / name)

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def _pid(self) -> int | None:
        return self._server.pid

    def _start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def _kill(self) -> None:
        self._server.kill()

    def forget(self) -> None:
        shutil.rmtree(self._server.data_dir / "mnesia", ignore_errors=True)

    def wipe(self) -> None:
        """As FLUSHALL: the queues stay, their messages and the marker go."""
        self._administer("[rabbit_amqqueue:purge(Q) || Q <- rabbit_amqqueue:list()]")

    def delete_queue(self) -> None:
        self._check_answers()
        with self.channel() as channel:
            channel.queue_delete(_QUEUE)

    @contextlib.contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        """One on a connection of its own."""
        options = pika.URLParameters(self.url)
        options.socket_timeout = options.stack_timeout = options.blocked_connection_timeout = _ADMIN_SECONDS
        try:
            with contextlib.closing(pika.BlockingConnection(options)) as connection:
                yield connection.channel()
        except (pika.exceptions.AMQPError, OSError) as error:
            raise Missed(repr(error)) from error

    def fill(self, disk: bool) -> None:
        self._administer(f"rabbit_alarm:set_alarm({{{self._ALARMS[disk]}, []}})")

    def _empty(self) -> None:
        for alarm in self._ALARMS:
            self._administer(f"rabbit_alarm:clear_alarm({alarm})")

    def _administer(self, expression: str) -> str:
        self._check_answers()
        try:
            return self._server.evaluate(expression)
        except (ServerFailed, OSError) as error:
            raise Missed(str(error)) from error


BROKERS = {"redis": Valkey, "rabbitmq": Rabbit}
