"""Celery as the carrier of messages, on real brokers, which are emptied, killed, stopped and lied to."""

import json
import os
import pickle
import signal
import socket
import threading
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from struct import pack
from typing import Any
from uuid import UUID

import amqp
import kombu
import pytest
import redis
from servers.certificates import Certificate, self_signed
from servers.queue_worker import QueueWorker
from servers.rabbitmq import RabbitMQ
from support.cluster import wait_until

from gnomon.embedded.valkey import EmbeddedValkey
from gnomon.job.errors import ConfigurationError, Unavailable
from gnomon.queue.celery.app import TASK_NAME, create_app
from gnomon.queue.celery.publisher import CeleryQueue

LIMIT = 1.0  # seconds a call may take on a broker that hangs


@dataclass(frozen=True, kw_only=True)
class Broker:
    """A real broker and the means to harm it."""

    url: str
    server: EmbeddedValkey | RabbitMQ

    def kill(self) -> None:
        self.server.kill()

    def start(self) -> None:
        """Empty, after `kill`."""
        self.server.start()

    @contextmanager
    def hung(self) -> Iterator[None]:
        """SIGSTOP: connections stay open and nobody answers."""
        pid = self.server.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def depth(self, queue: str = "io") -> int:
        """Messages that no worker has."""
        with kombu.Connection(self.url) as connection:
            channel = connection.default_channel
            if isinstance(self.server, EmbeddedValkey):
                return int(channel.client.llen(queue))
            return int(channel.queue_declare(queue, durable=True, auto_delete=False).message_count)

    def send(
        self,
        body: bytes,
        *,
        headers: Mapping[str, Any],
        content_type: str | None = "application/json",
        content_encoding: str | None = "utf-8",
    ) -> None:
        """Any message at all to the queue `io`."""
        with kombu.Connection(self.url) as connection:
            connection.Producer().publish(
                body,
                routing_key="io",
                headers=dict(headers),
                content_type=content_type,
                content_encoding=content_encoding,
                declare=[kombu.Queue("io", kombu.Exchange(""), routing_key="io", durable=True)],
            )


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Broker:
    server = request.getfixturevalue({"redis": "valkey", "rabbitmq": "rabbitmq"}[request.param])
    return Broker(url=request.getfixturevalue(f"{request.param}_url"), server=server)


@pytest.fixture
def queue(broker: Broker) -> Iterator[CeleryQueue]:
    opened = CeleryQueue(create_app(broker.url), timeout=LIMIT)
    yield opened
    opened.close()


@pytest.fixture
def worker(broker: Broker, tmp_path: Path) -> Iterator[QueueWorker]:
    with QueueWorker(broker.url, tmp_path) as started:
        yield started.wait_ready()


def new_ids(count: int) -> list[UUID]:
    return [uuid.uuid4() for _ in range(count)]


# --- the app


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("memory://", "begins with 'memory': write redis://, rediss://, amqp:// or amqps://"),
        ("kafka://user:hush@host", "begins with 'kafka'"),
        ("nonsense", "begins with ''"),
        ("redis://:hush@/0", "names no server"),
        ("amqp://user:hush@host:99999//", "port"),
        ("redis://:hush@host:hush/0", "port"),
        ("redis://:hush@host/hush", "database"),
        ("redis://:hush@[host/0", "IPv6"),
        ("rediss://:hush@host/0?ssl_cert_reqs=none", "options"),
        ("amqps://user:hush@host/v?ssl_check_hostname=false", "options"),
    ],
)
def test_wrong_url_is_refused_naming_the_setting_and_never_the_password(url: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        create_app(url)
    assert str(caught.value).startswith("queue-url ")
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_environment_of_another_celery_app_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"):
        monkeypatch.setenv(name, "redis://elsewhere:1/0")
    app = create_app("redis://here:2/0")
    assert app.connection_for_read().hostname == app.connection_for_write().hostname == "here"


# --- publishing


def test_ids_are_cut_into_messages_of_a_hundred(broker: Broker, queue: CeleryQueue, worker: QueueWorker) -> None:
    ids = new_ids(250)
    queue.publish("io", ids)
    worker.wait_for_ids(ids)
    assert sorted(len(event["ids"]) for event in worker.events("admit")) == [50, 100, 100]
    assert worker.admitted == set(map(str, ids))
    assert worker.stop() == 0


def test_queue_with_a_batch_size_of_its_own_gets_one_id_a_message(broker: Broker) -> None:
    queue = CeleryQueue(create_app(broker.url), batch_sizes={"handlers": 1})
    queue.publish("handlers", new_ids(3))
    queue.publish("io", new_ids(3))
    assert (broker.depth("handlers"), broker.depth("io")) == (3, 1)
    queue.close()


def test_nothing_to_publish_sends_nothing(broker: Broker, queue: CeleryQueue) -> None:
    queue.publish("io", [])
    assert broker.depth() == 0


def test_dead_broker_is_reported_without_the_password_and_used_again_when_it_is_back(
    broker: Broker, queue: CeleryQueue
) -> None:
    queue.publish("io", new_ids(1))
    broker.kill()
    for call in (lambda: queue.publish("io", new_ids(1)), queue.probe, queue.lost_messages):
        started = time.monotonic()
        with pytest.raises(Unavailable, match=r"the broker at 127\.0\.0\.1:\d+ does not take messages") as caught:
            call()
        assert time.monotonic() - started < LIMIT
        password = kombu.Connection(broker.url).password
        assert password not in f"{caught.value} {caught.value.__cause__} {caught.value.__context__}"
    broker.start()
    queue.probe()
    queue.publish("io", new_ids(1))
    assert broker.depth() == 1


def test_hung_broker_holds_a_call_up_no_longer_than_the_limit(broker: Broker, queue: CeleryQueue) -> None:
    queue.publish("io", new_ids(1))
    with broker.hung():
        for _ in range(2):  # on the old connection, then on a new one
            started = time.monotonic()
            with pytest.raises(Unavailable):
                queue.publish("io", new_ids(1000))
            assert time.monotonic() - started < 1.5 * LIMIT
    queue.probe()
    queue.publish("io", new_ids(1))
    assert broker.depth() >= 2


def test_restart_of_the_broker_between_two_calls_goes_unnoticed(broker: Broker, queue: CeleryQueue) -> None:
    queue.publish("io", new_ids(1))
    broker.kill()
    broker.start()
    queue.publish("io", new_ids(1))
    assert broker.depth() == 1


def test_server_out_of_memory_takes_no_messages_but_can_be_emptied(
    redis_url: str, valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    queue = CeleryQueue(create_app(redis_url))
    ids = new_ids(300)
    queue.publish("io", ids)
    with redis.Redis.from_url(redis_url) as client, QueueWorker(redis_url, tmp_path) as worker:
        client.config_set("maxmemory", "1")
        try:
            with pytest.raises(Unavailable):
                queue.publish("io", new_ids(1))
            with pytest.raises(Unavailable):
                queue.probe()
            worker.wait_ready().wait_for_ids(ids)
        finally:
            client.config_set("maxmemory", "0")
    queue.publish("io", new_ids(1))
    queue.close()


def test_rabbitmq_that_refuses_messages_for_want_of_memory_is_unavailable(
    rabbitmq_url: str, rabbitmq: RabbitMQ
) -> None:
    queue = CeleryQueue(create_app(rabbitmq_url), timeout=LIMIT)
    queue.publish("io", new_ids(1))
    alarm = "{resource_limit, memory, node()}"
    rabbitmq.evaluate(f"rabbit_alarm:set_alarm({{{alarm}, []}})")
    try:
        for call in (lambda: queue.publish("io", new_ids(101)), queue.probe):
            started = time.monotonic()
            with pytest.raises(Unavailable):
                call()
            assert time.monotonic() - started < 1.5 * LIMIT
    finally:
        rabbitmq.evaluate(f"rabbit_alarm:clear_alarm({alarm})")
    queue.probe()
    queue.publish("io", new_ids(1))
    queue.close()


def test_queue_deleted_behind_the_publisher_is_made_again(rabbitmq_url: str, tmp_path: Path) -> None:
    queue = CeleryQueue(create_app(rabbitmq_url))
    with QueueWorker(rabbitmq_url, tmp_path) as worker, kombu.Connection(rabbitmq_url) as connection:
        worker.wait_ready()
        for _ in range(8):  # the worker is as new to each queue as can be
            queue.publish("io", ids := new_ids(1))
            worker.wait_for_ids(ids)
            connection.default_channel.queue_delete("io")
        queue.publish("io", ids := new_ids(1))
        worker.wait_for_ids(ids)
    queue.close()


# --- TLS


class TlsServer:
    """Shows a certificate and writes down the first bytes that a client tells it after the handshake."""

    def __init__(self, certificate: Certificate) -> None:
        self.heard: list[bytes] = []
        self._context = certificate.server_context()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            with suppress(OSError), self._context.wrap_socket(link, server_side=True) as secured:
                self.heard.append(secured.recv(100))


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return self_signed(tmp_path, names="DNS:localhost")


@pytest.fixture
def tls_server(certificate: Certificate) -> Iterator[TlsServer]:
    server = TlsServer(certificate)
    yield server
    server.close()


@pytest.mark.parametrize("scheme", ["rediss", "amqps"])
@pytest.mark.parametrize(
    ("host", "trusted", "spoken_to"),
    [("localhost", False, False), ("127.0.0.1", True, False), ("localhost", True, True)],
)
def test_only_a_server_with_a_valid_certificate_for_its_name_is_spoken_to(
    monkeypatch: pytest.MonkeyPatch,
    certificate: Certificate,
    tls_server: TlsServer,
    scheme: str,
    host: str,
    trusted: bool,
    spoken_to: bool,
) -> None:
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.certificate))
    queue = CeleryQueue(create_app(f"{scheme}://user:hush@{host}:{tls_server.port}/0"), timeout=LIMIT)
    with pytest.raises(Unavailable):
        queue.probe()
    assert bool(b"".join(tls_server.heard)) is spoken_to


# --- noticing what was lost


def test_each_process_notices_an_emptied_broker_once(redis_url: str) -> None:
    app = create_app(redis_url)
    first, second = CeleryQueue(app), CeleryQueue(app)
    assert [first.lost_messages(), first.lost_messages(), first.lost_messages()] == [True, False, False]
    assert [second.lost_messages(), second.lost_messages(), first.lost_messages()] == [True, False, False]
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    assert [first.lost_messages(), first.lost_messages()] == [True, False]
    assert [second.lost_messages(), second.lost_messages()] == [True, False]


def test_restart_of_the_broker_is_noticed_once(broker: Broker, queue: CeleryQueue) -> None:
    queue.publish("io", new_ids(1))
    assert [queue.lost_messages(), queue.lost_messages()] == [True, False]
    broker.kill()
    broker.start()
    assert broker.depth() == 0
    assert [queue.lost_messages(), queue.lost_messages()] == [True, False]


def test_restart_that_reads_old_data_counts_as_a_loss(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path, persist=True) as server:
        queue = CeleryQueue(create_app(server.url))
        assert [queue.lost_messages(), queue.lost_messages()] == [True, False]
        server.restart()
        assert [queue.lost_messages(), queue.lost_messages()] == [True, False]
        queue.close()


def test_loss_is_noticed_by_a_user_who_may_not_ask_for_the_run_id(redis_url: str, valkey: EmbeddedValkey) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.acl_setuser("modest", enabled=True, passwords=["+pw"], keys=["*"], categories=["+@all", "-@dangerous"])
        queue = CeleryQueue(create_app(f"redis://modest:pw@127.0.0.1:{valkey.port}/0"))
        try:
            assert [queue.lost_messages(), queue.lost_messages()] == [True, False]
            client.flushall()
            assert [queue.lost_messages(), queue.lost_messages()] == [True, False]
        finally:
            queue.close()
            client.acl_deluser("modest")


# --- consuming


def test_worker_whose_threads_are_busy_leaves_messages_on_the_broker(
    broker: Broker, queue: CeleryQueue, tmp_path: Path
) -> None:
    with QueueWorker(broker.url, tmp_path, threads=8) as worker:
        worker.hold()
        worker.wait_ready()
        for one in new_ids(20):
            queue.publish("io", [one])
        worker.wait_for("admit", count=8)
        wait_until("one more message is held in reserve", lambda: broker.depth() == 20 - 8 - 1)
        for _ in range(20):  # and it stays so
            assert (broker.depth(), len(worker.events("admit"))) == (11, 8)
            time.sleep(0.05)
        worker.let_go()
        worker.wait_for("admitted", count=20)
        assert broker.depth() == 0


def test_worker_hears_messages_after_the_broker_was_emptied(redis_url: str, tmp_path: Path) -> None:
    queue = CeleryQueue(create_app(redis_url))
    with QueueWorker(redis_url, tmp_path) as worker, redis.Redis.from_url(redis_url) as client:
        worker.wait_ready()
        queue.publish("io", ids := new_ids(1))
        worker.wait_for_ids(ids)
        client.flushall()
        queue.publish("io", ids := new_ids(101))
        worker.wait_for_ids(ids)
        assert client.keys("*kombu*") == []
    queue.close()


def test_worker_hears_messages_after_the_broker_was_killed_and_its_tasks_go_on_meanwhile(
    broker: Broker, queue: CeleryQueue, worker: QueueWorker
) -> None:
    for _ in range(2):
        done = len(worker.events("admitted"))
        worker.hold()
        queue.publish("io", ids := new_ids(1))
        worker.wait_for_ids(ids)
        broker.kill()
        worker.let_go()
        worker.wait_for("admitted", count=done + 1)
        broker.start()
        queue.publish("io", ids := new_ids(101))
        worker.wait_for_ids(ids)
    assert "Unrecoverable" not in worker.log
    worker.hold()
    busy = len(worker.events("admit")) + 8
    for one in new_ids(12):
        queue.publish("io", [one])
    worker.wait_for("admit", count=busy)
    wait_until("still no more than one message is held in reserve", lambda: broker.depth() == 12 - 8 - 1)
    assert worker.stop() == 0


def test_worker_that_starts_before_its_broker_waits_for_it(broker: Broker, queue: CeleryQueue, tmp_path: Path) -> None:
    broker.kill()
    with QueueWorker(broker.url, tmp_path) as worker:
        wait_until("it says so", lambda: "does not answer" in worker.log)
        broker.start()
        queue.publish("io", ids := new_ids(1))
        worker.wait_for_ids(ids)


@pytest.mark.long
def test_worker_leaves_a_broker_that_hangs_and_hears_it_when_it_goes_on(
    broker: Broker, queue: CeleryQueue, worker: QueueWorker
) -> None:
    with broker.hung():
        wait_until("the worker gives the connection up", lambda: "does not answer" in worker.log, seconds=90)
    queue.publish("io", ids := new_ids(1))
    worker.wait_for_ids(ids)


def test_message_that_is_not_admitted_costs_one_line(broker: Broker, queue: CeleryQueue, worker: QueueWorker) -> None:
    worker.refuse()
    queue.publish("io", new_ids(3))
    worker.wait_for("refused")
    worker.accept()
    queue.publish("io", ids := new_ids(1))
    worker.wait_for_ids(ids)
    assert len(worker.events("refused")) == 1
    lines = [line for line in worker.log.splitlines() if "not admitted" in line]
    assert len(lines) == 1
    assert "3 executions" in lines[0]
    assert broker.depth() == 0


def test_flower_sees_tasks_when_events_are_on(broker: Broker, queue: CeleryQueue, tmp_path: Path) -> None:
    app = create_app(broker.url)
    seen: list[dict[str, Any]] = []
    with QueueWorker(broker.url, tmp_path, task_events=True) as worker, app.connection_for_read() as first:
        worker.wait_ready()
        receiver = app.events.Receiver(first, handlers={"*": seen.append})
        with receiver.consumer_context() as (connection, _, _):
            ids = new_ids(2)

            def heard() -> bool:
                queue.publish("io", ids)  # again and again: on Redis events are heard from the first reading on only
                with suppress(TimeoutError):
                    connection.drain_events(timeout=0.2)
                return {"task-received", "task-succeeded"} <= {event["type"] for event in seen}

            wait_until("the task's events", heard)
    received = next(event for event in seen if event["type"] == "task-received")
    assert received["name"] == TASK_NAME
    assert str(ids[0]) in received["kwargs"]
    assert "2 in all" in received["kwargs"]


# --- stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_takes_no_more_messages_then_drains_then_ends_the_threads(
    broker: Broker, queue: CeleryQueue, tmp_path: Path, number: signal.Signals
) -> None:
    with QueueWorker(broker.url, tmp_path, threads=2) as worker:
        worker.hold()
        worker.wait_ready()
        for one in new_ids(6):
            queue.publish("io", [one])
        worker.wait_for("admit", count=2)
        wait_until("one message is in reserve", lambda: broker.depth() == 3)
        worker.drain_slowly()
        worker.process.send_signal(number)
        worker.wait_for("drain")
        queue.publish("io", late := new_ids(1))
        worker.process.send_signal(number)  # changes nothing
        worker.finish_drain()
        assert worker.process.wait(20) == 0
        names = [event["event"] for event in worker.events()]
        assert names[: names.index("drain")] == ["ready", "admit", "admit"]
        assert names.count("drain") == 1
        assert names[-1] == "end"
        assert worker.events("end")[0]["sigterms"] == (2 if number is signal.SIGTERM else 0)  # the caller's own handler
        assert all(event["drained"] for event in worker.events("admitted"))
        assert str(late[0]) not in worker.admitted
        assert len(worker.admitted) + broker.depth() >= 7  # the one in reserve was admitted in vain, or went back


def test_stop_asked_for_before_the_worker_had_started_is_obeyed(broker: Broker, tmp_path: Path) -> None:
    with QueueWorker(broker.url, tmp_path, stopping=True) as worker:
        assert worker.process.wait(20) == 0
        assert worker.events("drain", "end")


def test_stop_while_the_broker_is_away_is_orderly(broker: Broker, worker: QueueWorker) -> None:
    broker.kill()
    wait_until("the worker notices", lambda: "does not answer" in worker.log)
    assert worker.stop() == 0
    assert [event["event"] for event in worker.events()] == ["ready", "drain", "end"]


def test_stop_while_the_broker_hangs_is_orderly(broker: Broker, queue: CeleryQueue, worker: QueueWorker) -> None:
    worker.hold()
    queue.publish("io", ids := new_ids(1))
    worker.wait_for_ids(ids)
    with broker.hung():
        started = time.monotonic()
        assert worker.stop(30) == 0
        assert time.monotonic() - started < 15  # each word of a farewell is waited for, but not long
    assert [event["event"] for event in worker.events()] == ["ready", "admit", "drain", "admitted", "end"]


def test_sigquit_ends_the_worker_at_once(broker: Broker, queue: CeleryQueue, worker: QueueWorker) -> None:
    worker.hold()
    queue.publish("io", ids := new_ids(1))
    worker.wait_for_ids(ids)
    worker.process.send_signal(signal.SIGQUIT)
    assert worker.process.wait(5) == os.EX_SOFTWARE
    assert worker.events("drain", "end") == []


# --- lies

OURS = {"task": TASK_NAME, "id": "forged", "lang": "py"}
DONE = json.dumps([[], {"ids": []}, {}]).encode()


def naming(ids: Sequence[object], **embedded: object) -> bytes:
    return json.dumps([[], {"ids": ids}, embedded]).encode()


VICTIM = str(uuid.uuid4())  # must never be admitted
FORGERIES: Mapping[str, tuple[bytes, Mapping[str, Any], str | None, str | None]] = {
    "nothing": (b"", {}, None, None),
    "no headers": (naming([VICTIM]), {}, "application/json", "utf-8"),
    "another task": (naming([VICTIM]), OURS | {"task": "os.system"}, "application/json", "utf-8"),
    "a task of Celery": (
        json.dumps([[{"task": TASK_NAME}, [[[VICTIM]]]], {}, {}]).encode(),
        OURS | {"task": "celery.starmap"},
        "application/json",
        "utf-8",
    ),
    "a name without end": (naming([VICTIM]), OURS | {"task": "x" * 50_000}, "application/json", "utf-8"),
    "no id": (naming([VICTIM]), {"task": TASK_NAME}, "application/json", "utf-8"),
    "an id without end": (naming([VICTIM]), OURS | {"id": "x" * 50_000}, "application/json", "utf-8"),
    "an id of another type": (naming([VICTIM]), OURS | {"id": ["x"]}, "application/json", "utf-8"),
    "the old protocol": (
        json.dumps({"task": TASK_NAME, "id": "x", "args": [], "kwargs": {"ids": [VICTIM]}}).encode(),
        {},
        "application/json",
        "utf-8",
    ),
    "both protocols": (
        json.dumps({"task": TASK_NAME, "id": "x", "args": [], "kwargs": {"ids": [VICTIM]}}).encode(),
        OURS,
        "application/json",
        "utf-8",
    ),
    "no JSON": (b"{nonsense" * 1000, OURS, "application/json", "utf-8"),
    "no UTF-8": (b"\xff\xfe\x00", OURS, "application/json", "utf-8"),
    "nested too deep": (b"[" * 60_000, OURS, "application/json", "utf-8"),
    "a number": (b"5", OURS, "application/json", "utf-8"),
    "null": (b"null", OURS, "application/json", "utf-8"),
    "no parts": (b"[]", OURS, "application/json", "utf-8"),
    "no ids": (json.dumps([[], {}, {}]).encode(), OURS, "application/json", "utf-8"),
    "ids that are no list": (json.dumps([[], {"ids": VICTIM}, {}]).encode(), OURS, "application/json", "utf-8"),
    "a further argument": (
        json.dumps([[], {"ids": [VICTIM], "x": 1}, {}]).encode(),
        OURS,
        "application/json",
        "utf-8",
    ),
    "a million ids": (naming([VICTIM] * 1_000_000), OURS, "application/json", "utf-8"),
    "too many ids": (naming([1] * 1_001), OURS, "application/json", "utf-8"),
    "what is no id": (
        naming(["x" * 50_000, 5, None, [], {"a": 1}, "'; drop table"]),
        OURS,
        "application/json",
        "utf-8",
    ),
    "a pickle": (pickle.dumps([[], {"ids": [VICTIM]}, {}]), OURS, "application/x-python-serialize", "binary"),
    "YAML": (b"[[], {ids: []}, {}]", OURS, "application/x-yaml", "utf-8"),
    "an unknown encoding": (naming([VICTIM]), OURS, "application/json", "rot13"),
    "a bomb": (
        zlib.compress(b" " * 50_000_000),
        OURS | {"compression": "application/x-gzip"},
        "application/json",
        "utf-8",
    ),
    "an unknown compression": (naming([VICTIM]), {"compression": "x"}, "application/json", "utf-8"),
    "a follow-up": (
        naming([VICTIM], chain=[{"task": "celery.x", "args": [], "kwargs": {}, "options": {}}]),
        OURS,
        "application/json",
        "utf-8",
    ),
}


def test_forged_messages_have_no_effect_and_cost_one_short_line_each(
    broker: Broker, queue: CeleryQueue, tmp_path: Path
) -> None:
    with QueueWorker(broker.url, tmp_path, threads=2) as worker:
        worker.wait_ready()
        silent = len(worker.log.splitlines())
        for name, (body, headers, content_type, content_encoding) in FORGERIES.items():
            before = len(worker.log.splitlines())
            broker.send(body, headers=headers, content_type=content_type, content_encoding=content_encoding)
            queue.publish("io", ids := new_ids(1))
            worker.wait_for_ids(ids)
            lines = worker.log.splitlines()[before:]
            assert len(lines) == 1, f"{name}: {lines}"
            assert len(lines[0]) < 300, name
        assert len(worker.log.splitlines()) == silent + len(FORGERIES)
        assert VICTIM not in worker.admitted
        assert len(worker.events("admit")) == len(FORGERIES)
        assert worker.stop() == 0


def test_headers_that_celery_would_obey_have_no_effect(broker: Broker, queue: CeleryQueue, worker: QueueWorker) -> None:
    obeyed = [
        {"eta": "9999-12-31T23:59:59+00:00"},
        {"eta": "nonsense"},
        {"expires": "1999-12-31T23:59:59+00:00"},
        {"timelimit": ["x", "y"]},
        {"shadow": "x" * 50_000, "argsrepr": "x" * 50_000, "origin": {"x": 1}},
        {"stamped_headers": 5, "stamps": 6, "retries": "x", "group": [], "ignore_result": "x", "unknown": {"x": [1]}},
        {"callbacks": 1, "errbacks": 2, "chord": 3, "reply_to": 4, "compression": "x"},
    ]
    for extra in obeyed:
        ids = new_ids(1)
        broker.send(naming([str(ids[0])]), headers=OURS | extra)
        worker.wait_for_ids(ids)
    assert worker.stop() == 0


def test_ids_of_a_message_are_read_once_each_and_what_is_none_is_left_out(broker: Broker, worker: QueueWorker) -> None:
    one, other = new_ids(2)
    broker.send(naming([str(one), "nonsense", str(other), one.hex, None]), headers=OURS)
    worker.wait_for_ids([one, other])
    assert worker.events("admit")[-1]["ids"] == [str(one), str(other)]
    assert "2 ids of a message name no execution" in worker.log


RAW_ITEMS = (
    b"garbage",
    b"\xff\xfe",
    b"[" * 100_000,
    b"[]",
    b"1",
    b"null",
    b"{}",
    b'{"headers": {}, "properties": {}}',
    b'{"headers": [1], "properties": {"delivery_tag": "x"}}',
    b'{"headers": {}, "body": "e30=", "properties": {"delivery_tag": ["x"], "body_encoding": "base64"}}',
    b'{"headers": {}, "body": "%%%", "properties": {"delivery_tag": "x", "body_encoding": "base64"}}',
    b'{"headers": {}, "body": 5, "properties": {"delivery_tag": "x", "body_encoding": "base64"}}',
    b'{"headers": {}, "body": "e30=", "properties": {"delivery_tag": "x", "body_encoding": "unknown"}}',
    b'{"headers": null, "body": null, "properties": {"delivery_tag": "x", "delivery_info": 5}}',
)


def test_items_on_redis_that_are_no_messages_are_dropped_with_one_short_line_each(
    redis_url: str, tmp_path: Path
) -> None:
    queue = CeleryQueue(create_app(redis_url))
    with QueueWorker(redis_url, tmp_path, threads=2) as worker, redis.Redis.from_url(redis_url) as client:
        worker.wait_ready()
        for item in RAW_ITEMS:
            before = len(worker.log.splitlines())
            client.lpush("io", item)
            queue.publish("io", ids := new_ids(1))
            worker.wait_for_ids(ids)
            lines = worker.log.splitlines()[before:]
            assert len(lines) == 1, item[:80]
            assert len(lines[0]) < 300
        assert worker.stop() == 0
    queue.close()


class _WithProperties(amqp.Message):
    """A message whose properties are these bytes."""

    def __init__(self, properties: bytes) -> None:
        super().__init__("x")
        self._bytes = properties

    def _serialize_properties(self) -> bytes:
        return self._bytes


def _header_table(items: bytes) -> bytes:
    return pack(">HI", 1 << 13, len(items)) + items


UNREADABLE = {
    "a time after the year 9999": _header_table(b"\x01x" + b"T" + pack(">Q", 2**63 - 1)),
    "text that is no UTF-8": pack(">HB", 1 << 10, 2) + b"\xff\xfe",  # the correlation id
}


@pytest.mark.parametrize("properties", UNREADABLE.values(), ids=UNREADABLE)
def test_message_on_rabbitmq_whose_headers_python_cannot_hold_is_dropped(
    rabbitmq_url: str, tmp_path: Path, properties: bytes
) -> None:
    queue = CeleryQueue(create_app(rabbitmq_url))
    with QueueWorker(rabbitmq_url, tmp_path, threads=2) as worker, kombu.Connection(rabbitmq_url) as connection:
        worker.wait_ready()
        connection.default_channel.basic_publish(_WithProperties(properties), exchange="", routing_key="io")
        queue.publish("io", ids := new_ids(1))
        worker.wait_for_ids(ids)
        assert worker.log.count("none of ours") == 1
        assert "Connection to broker lost" not in worker.log
    queue.close()
