"""The AMQP executor against a real RabbitMQ: what arrives there, and how every way to fail is told."""

import asyncio
import contextlib
import itertools
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pika
import pytest
from servers.certificates import self_signed
from servers.proxy import Proxy
from servers.rabbitmq import RabbitMQ
from support.calls import LOOPS, callers, make_call

from gnomon.job.address import EgressPolicy, Server
from gnomon.job.outcome import Failed, Outcome, Sent, Succeeded
from gnomon.job.target import AmqpTarget
from gnomon.worker.executors import BrokenOff, Call
from gnomon.worker.executors.amqp import AmqpExecutor
from gnomon.worker.executors.premises import Premises

LOOPBACK = EgressPolicy.parse(["127.0.0.0/8"])
QUEUE = "orders"
SHORT = timedelta(seconds=1)


class Caller:
    """An executor on a loop of its own. Calling it makes one attempt."""

    def __init__(self, loop_factory: Callable[[], asyncio.AbstractEventLoop], **settings: Any) -> None:
        self.runner = asyncio.Runner(loop_factory=loop_factory)
        self.executor = AmqpExecutor(**{"policy": LOOPBACK, **settings})

    def __call__(self, url: str, **fields: Any) -> Outcome:
        return self.runner.run(self.attempt(url, **fields))

    async def attempt(self, url: str, **fields: Any) -> Outcome:
        call = make_call(**{name: fields.pop(name) for name in list(fields) if name in Call.__dataclass_fields__})
        target = AmqpTarget(connection=url, **{"routing_key": QUEUE, "body": "hello", **fields})
        return await self.executor.execute(target, call)

    def close(self) -> None:
        self.runner.run(self.executor.aclose())
        self.runner.close()


class Broker:
    """The test's own view of its vhost."""

    def __init__(self, url: str) -> None:
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.channel.queue_declare(QUEUE, arguments={"x-max-length": 100_000})

    def get(self, queue: str = QUEUE) -> tuple[pika.BasicProperties, bytes] | None:
        method, properties, body = self.channel.basic_get(queue, auto_ack=True)
        return None if method is None else (properties, body)

    def count(self) -> int:
        count: int = self.channel.queue_declare(QUEUE, passive=True).method.message_count
        return count


@pytest.fixture(params=LOOPS)
def make_caller(request: pytest.FixtureRequest) -> Iterator[Callable[..., Caller]]:
    with callers(partial(Caller, LOOPS[request.param])) as make:
        yield make


@pytest.fixture
def caller(make_caller: Callable[..., Caller]) -> Caller:
    return make_caller()


@pytest.fixture
def broker(rabbitmq_url: str) -> Iterator[Broker]:
    opened = Broker(rabbitmq_url)
    yield opened
    with contextlib.suppress(pika.exceptions.AMQPError):
        opened.connection.close()


@contextlib.contextmanager
def alarm(rabbitmq: RabbitMQ) -> Iterator[None]:
    """The broker takes no messages, as when its disk is full."""
    rabbitmq.evaluate("rabbit_alarm:set_alarm({{resource_limit, disk, node()}, []})")
    try:
        yield
    finally:
        rabbitmq.evaluate("rabbit_alarm:clear_alarm({resource_limit, disk, node()})")


def failure(outcome: Outcome) -> tuple[str, Sent, bool]:
    assert isinstance(outcome, Failed)
    assert "secret" not in outcome.message
    return outcome.code, outcome.sent, outcome.permanent


def connections(rabbitmq: RabbitMQ) -> int:
    return int(rabbitmq.evaluate("length(rabbit_networking:connections_local())"))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


def test_message_arrives_with_all_its_properties(caller: Caller, broker: Broker, rabbitmq_url: str) -> None:
    call = make_call(attempt=3)
    headers = {"x-number": 2**40, "x-true": True, "x-table": {"a": [-(2**63), "b", {"c": None}]}}
    target = AmqpTarget(
        connection=rabbitmq_url, routing_key=QUEUE, headers=headers, body="Grüße", content_type="text/plain"
    )
    assert caller.runner.run(caller.executor.execute(target, call)) == Succeeded()
    properties, body = broker.get() or pytest.fail("nothing arrived")
    assert body == "Grüße".encode()
    assert properties.message_id == str(call.execution_id)
    assert properties.headers == {**headers, **call.headers()}
    assert properties.headers["X-Scheduler-Attempt"] == "3"
    assert (properties.content_type, properties.delivery_mode) == ("text/plain", 2)
    assert abs(properties.timestamp - time.time()) < 60
    assert broker.get() is None


def test_body_in_base64_is_sent_as_bytes(caller: Caller, broker: Broker, rabbitmq_url: str) -> None:
    assert caller(rabbitmq_url, body="/wAB", body_encoding="base64") == Succeeded()
    assert (broker.get() or pytest.fail("nothing arrived"))[1] == b"\xff\x00\x01"


def test_body_longer_than_a_frame_arrives_whole(caller: Caller, broker: Broker, rabbitmq_url: str) -> None:
    assert caller(rabbitmq_url, body="x" * 131_072) == Succeeded()
    assert len((broker.get() or pytest.fail("nothing arrived"))[1]) == 131_072


def test_exchange_routes_the_message(caller: Caller, broker: Broker, rabbitmq_url: str) -> None:
    broker.channel.exchange_declare("events", "topic")
    broker.channel.queue_bind(QUEUE, "events", "order.*")
    assert caller(rabbitmq_url, exchange="events", routing_key="order.new") == Succeeded()
    assert broker.count() == 1


def test_message_that_no_queue_gets_is_a_failure_for_good(caller: Caller, broker: Broker, rabbitmq_url: str) -> None:
    assert failure(caller(rabbitmq_url, routing_key="nobody")) == ("unroutable", Sent.ANSWERED, True)
    assert caller(rabbitmq_url) == Succeeded()  # the channel is as good as before


def test_message_with_a_delay_need_not_have_a_queue_yet(caller: Caller, rabbitmq_url: str) -> None:
    assert caller(rabbitmq_url, routing_key="nobody", headers={"x-delay": 10000}) == Succeeded()


def test_full_queue_refuses_and_is_tried_again(caller: Caller, broker: Broker, rabbitmq_url: str) -> None:
    broker.channel.queue_declare("full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    assert caller(rabbitmq_url, routing_key="full") == Succeeded()
    assert failure(caller(rabbitmq_url, routing_key="full")) == ("nacked", Sent.ANSWERED, False)


def test_unknown_exchange_costs_no_other_message_anything(caller: Caller, broker: Broker, rabbitmq_url: str) -> None:
    async def mixed() -> list[Outcome]:
        return await asyncio.gather(
            *(caller.attempt(rabbitmq_url, exchange="missing" if place % 2 else "") for place in range(100))
        )

    outcomes = caller.runner.run(mixed())
    assert outcomes[::2] == [Succeeded()] * 50
    assert {failure(outcome) for outcome in outcomes[1::2]} == {("unknown_exchange", Sent.ANSWERED, True)}
    assert broker.count() == 50


def test_exchange_that_may_not_be_written_to_is_a_failure_for_good(
    caller: Caller, broker: Broker, rabbitmq_url: str
) -> None:
    broker.channel.exchange_declare("inner", "fanout", internal=True)
    assert failure(caller(rabbitmq_url, exchange="inner")) == ("forbidden", Sent.ANSWERED, True)


def test_thousand_messages_at_once_share_one_connection(
    caller: Caller, broker: Broker, rabbitmq: RabbitMQ, rabbitmq_url: str
) -> None:
    before = connections(rabbitmq)

    async def all_at_once() -> list[Outcome]:
        return await asyncio.gather(
            *(caller.attempt(rabbitmq_url, fresh_connection=place % 10 == 0) for place in range(1000))
        )

    assert caller.runner.run(all_at_once()) == [Succeeded()] * 1000
    assert broker.count() == 1000
    ids = set()
    while (message := broker.get()) is not None:
        ids.add(message[0].message_id)
    assert len(ids) == 1000
    assert connections(rabbitmq) == before + 1


def test_refused_connection(caller: Caller) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        outcome = caller(f"amqp://user:secret@127.0.0.1:{port}/")
    assert failure(outcome) == ("refused", Sent.NOT_SENT, False)
    assert isinstance(outcome, Failed)
    assert outcome.message == f"127.0.0.1:{port} could not be reached: connection refused"


def test_name_that_does_not_resolve(make_caller: Callable[..., Caller]) -> None:
    def lookup(host: str) -> tuple[str, ...]:
        raise OSError(-2, "Name or service not known")

    caller = make_caller(lookup=lookup)
    assert failure(caller("amqp://user:secret@broker.invalid/")) == ("dns", Sent.NOT_SENT, False)


def test_servers_of_our_own_are_refused_although_their_network_is_open(
    make_caller: Callable[..., Caller], broker: Broker, rabbitmq: RabbitMQ, rabbitmq_url: str
) -> None:
    port = urlsplit(rabbitmq_url).port or 5672
    premises = Premises([Server("broker", "127.0.0.1", port)])
    premises.look_up()
    outcome = make_caller(premises=premises)(rabbitmq_url)
    assert failure(outcome) == ("egress_blocked", Sent.NOT_SENT, True)
    assert isinstance(outcome, Failed)
    assert "Gnomon's own broker" in outcome.message


@pytest.mark.parametrize("moment", ["connecting", "connected"])
def test_address_is_judged_again_when_its_socket_connects_and_when_it_has(
    make_caller: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    caller = make_caller()
    passed = {"connecting": 1, "connected": 2}[moment]
    verdicts = itertools.chain([None] * passed, itertools.repeat("closed by now"))
    monkeypatch.setattr(caller.executor._guard, "_judge", lambda *_: next(verdicts))
    with socket.create_server(("127.0.0.1", 0)) as server:
        outcome = caller(f"amqp://127.0.0.1:{server.getsockname()[1]}/")
        server.setblocking(False)
        if moment == "connecting":
            with pytest.raises(BlockingIOError):
                server.accept()
        else:
            connection, _ = server.accept()
            assert connection.recv(100) == b""
            connection.close()
    assert failure(outcome) == ("egress_blocked", Sent.NOT_SENT, True)


@pytest.mark.parametrize("addresses", [("10.0.0.1",), ("169.254.169.254", "10.1.1.1")])
def test_address_that_must_not_be_called_is_refused(
    make_caller: Callable[..., Caller], addresses: tuple[str, ...]
) -> None:
    caller = make_caller(lookup=lambda host: addresses)
    assert failure(caller("amqp://user:secret@broker.example/")) == ("egress_blocked", Sent.NOT_SENT, True)


def test_name_is_called_at_the_address_that_was_judged(
    make_caller: Callable[..., Caller], broker: Broker, rabbitmq_url: str
) -> None:
    caller = make_caller(lookup=lambda host: ("10.0.0.1", "127.0.0.1"))
    assert caller(rabbitmq_url.replace("127.0.0.1", "broker.invalid")) == Succeeded()


def test_wrong_password_and_unknown_vhost_are_tried_again(caller: Caller, rabbitmq_url: str) -> None:
    login, _, rest = rabbitmq_url.partition("@")
    wrong = f"{login.rpartition(':')[0]}:secret@{rest}"
    assert failure(caller(wrong)) == ("auth", Sent.NOT_SENT, False)
    outcome = caller(f"{rabbitmq_url.rpartition('/')[0]}/missing")
    assert failure(outcome) == ("auth", Sent.NOT_SENT, False)
    assert isinstance(outcome, Failed)
    assert "has no vhost 'missing'" in outcome.message


def test_server_that_speaks_something_else(caller: Caller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        outcome = caller(f"amqp://127.0.0.1:{server.getsockname()[1]}/")
        thread.join()
    assert isinstance(outcome, Failed)
    assert (outcome.sent, outcome.permanent) == (Sent.NOT_SENT, False)
    assert outcome.code in ("bad_response", "reset")


def test_server_that_says_nothing_is_given_up_at_the_deadline(caller: Caller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.monotonic()
        outcome = caller(f"amqp://127.0.0.1:{server.getsockname()[1]}/", timeout=SHORT)
    assert failure(outcome) == ("timeout", Sent.NOT_SENT, False)
    assert time.monotonic() - began < 5


def test_process_that_was_frozen_while_it_connected_gives_up_without_ado(
    make_caller: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All limits pass at one time then."""
    caller = make_caller()
    monkeypatch.setattr("gnomon.worker.executors.amqp.CONNECT_TIMEOUT", timedelta(seconds=0.3))
    complaints: list[dict[str, Any]] = []

    async def scenario(port: int) -> Outcome:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        attempt = asyncio.create_task(caller.attempt(f"amqp://127.0.0.1:{port}/"))
        await until(lambda: bool(caller.executor._opening))
        await asyncio.sleep(0.05)
        time.sleep(0.5)
        return await attempt

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # they fill its queue, so that nobody else gets through
            other = stack.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(server.getsockname())
        outcome = caller.runner.run(scenario(server.getsockname()[1]))
    assert failure(outcome) == ("timeout", Sent.NOT_SENT, False)
    assert complaints == []


@pytest.mark.parametrize("delivery", ["shared", "fresh"])
def test_connection_killed_before_the_confirmation_leaves_open_whether_it_arrived(
    caller: Caller, broker: Broker, rabbitmq_url: str, delivery: str
) -> None:
    fresh = delivery == "fresh"
    with Proxy.before(rabbitmq_url) as link:
        url = link.url(rabbitmq_url)
        assert caller(url) == Succeeded()
        link.lose_reply(b"hello")
        assert failure(caller(url, fresh_connection=fresh)) == ("reset", Sent.MAYBE_SENT, False)
        assert broker.count() == 2
        assert caller(url, fresh_connection=fresh) == Succeeded()  # on a new connection


def test_confirmation_that_does_not_come_is_given_up_at_the_deadline(
    caller: Caller, broker: Broker, rabbitmq_url: str
) -> None:
    with Proxy.before(rabbitmq_url) as link:
        url = link.url(rabbitmq_url)
        assert caller(url) == Succeeded()
        link.half_open()
        assert failure(caller(url, timeout=SHORT)) == ("timeout", Sent.MAYBE_SENT, False)
        assert failure(caller(url, timeout=SHORT, fresh_connection=True)) == ("timeout", Sent.NOT_SENT, False)
        link.heal()
        assert caller(url) == Succeeded()
    assert broker.count() == 3


def test_connection_that_died_while_idle_is_replaced_unnoticed(
    caller: Caller, broker: Broker, rabbitmq_url: str
) -> None:
    with Proxy.before(rabbitmq_url) as link:
        url = link.url(rabbitmq_url)
        assert caller(url) == Succeeded()
        link.cut()
        assert caller(url, fresh_connection=True) == Succeeded()
        link.cut()
        caller.runner.run(asyncio.sleep(0.1))  # the loop sees the end of the connection
        assert caller(url) == Succeeded()
    assert broker.count() == 3


def test_broker_that_is_blocked_gets_the_message_once_it_takes_some_again(
    caller: Caller, broker: Broker, rabbitmq: RabbitMQ, rabbitmq_url: str
) -> None:
    async def blocked() -> tuple[Outcome, Outcome]:
        assert await caller.attempt(rabbitmq_url) == Succeeded()
        link = caller.executor._links[rabbitmq_url]
        with alarm(rabbitmq):
            first = asyncio.create_task(caller.attempt(rabbitmq_url))
            await until(lambda: not link._passable.is_set())
            given_up = await caller.attempt(rabbitmq_url, timeout=timedelta(seconds=0.5))
            assert not first.done()
        return await first, given_up

    first, given_up = caller.runner.run(blocked())
    assert first == Succeeded()
    assert failure(given_up) == ("timeout", Sent.NOT_SENT, False)
    assert broker.count() == 2


def test_cancelled_attempt_says_how_far_it_got(caller: Caller, broker: Broker, rabbitmq_url: str) -> None:
    async def cancel_after(url: str, ready: Callable[[], bool]) -> Sent:
        task = asyncio.create_task(caller.attempt(url))
        await until(ready)
        task.cancel()
        with pytest.raises(BrokenOff) as raised:
            await task
        return raised.value.sent

    with Proxy.before(rabbitmq_url) as link:
        url = link.url(rabbitmq_url)
        link.stall()
        assert caller.runner.run(cancel_after(url, lambda: bool(caller.executor._opening))) is Sent.NOT_SENT
        link.heal()
        assert caller(url) == Succeeded()
        link.half_open()
        assert caller.runner.run(cancel_after(url, lambda: broker.count() == 2)) is Sent.MAYBE_SENT
        link.heal()
        assert caller(url) == Succeeded()


def test_cancelling_one_that_connects_leaves_the_others_their_connection(
    caller: Caller, broker: Broker, rabbitmq_url: str
) -> None:
    async def scenario(url: str, link: Proxy) -> Outcome:
        link.stall()
        first, second = (asyncio.create_task(caller.attempt(url)) for _ in range(2))
        await until(lambda: bool(caller.executor._opening))
        first.cancel()
        with pytest.raises(BrokenOff):
            await first
        link.heal()
        return await second

    with Proxy.before(rabbitmq_url) as link:
        assert caller.runner.run(scenario(link.url(rabbitmq_url), link)) == Succeeded()


def test_closing_aborts_what_is_under_way(caller: Caller, rabbitmq_url: str, broker: Broker) -> None:
    async def scenario(url: str, link: Proxy) -> list[Outcome]:
        assert await caller.attempt(url) == Succeeded()
        link.half_open()
        under_way = [asyncio.create_task(caller.attempt(url)) for _ in range(3)]
        await until(lambda: broker.count() == 2)
        await caller.executor.aclose()
        return [*await asyncio.gather(*under_way), await caller.attempt(url)]

    with Proxy.before(rabbitmq_url) as link:
        outcomes = caller.runner.run(scenario(link.url(rabbitmq_url), link))
    assert [failure(outcome)[0] for outcome in outcomes] == ["cancelled"] * 4
    assert Sent.MAYBE_SENT in {failure(outcome)[1] for outcome in outcomes[:3]}
    assert failure(outcomes[3])[1] is Sent.NOT_SENT


def test_idle_connection_is_closed_and_made_again(
    make_caller: Callable[..., Caller], rabbitmq: RabbitMQ, rabbitmq_url: str, broker: Broker
) -> None:
    caller = make_caller(idle_time=timedelta(seconds=0.3))
    before = connections(rabbitmq)
    assert caller(rabbitmq_url) == Succeeded()
    assert connections(rabbitmq) == before + 1
    caller.runner.run(until(lambda: connections(rabbitmq) == before))
    assert not caller.executor._links
    assert caller(rabbitmq_url) == Succeeded()


@contextlib.asynccontextmanager
async def tls_front(url: str, context: ssl.SSLContext) -> AsyncIterator[int]:
    """Ends TLS before a broker, as RabbitMQ's own TLS listener would; its port."""
    parameters = pika.URLParameters(url)

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while data := await source.read(65_536):
                sink.write(data)
        sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_broker, to_broker = await asyncio.open_connection(parameters.host, parameters.port)
        await asyncio.gather(pump(reader, to_broker), pump(from_broker, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize(
    ("names", "trusted", "code"),
    [
        ("DNS:broker.example", True, None),
        ("DNS:other.example", True, "tls"),
        ("DNS:broker.example", False, "tls"),
    ],
)
def test_tls_checks_the_certificate_against_the_name(
    make_caller: Callable[..., Caller],
    tmp_path: Path,
    broker: Broker,
    rabbitmq_url: str,
    names: str,
    trusted: bool,
    code: str | None,
) -> None:
    shown = self_signed(tmp_path, names=names)
    settings = {"ca_file": str(shown.certificate)} if trusted else {}
    caller = make_caller(lookup=lambda host: ("127.0.0.1",), **settings)

    async def scenario() -> Outcome:
        async with tls_front(rabbitmq_url, shown.server_context()) as port:
            login, _, rest = rabbitmq_url.removeprefix("amqp://").partition("@")
            vhost = rest.partition("/")[2]
            outcome = await caller.attempt(f"amqps://{login}@broker.example:{port}/{vhost}")
            await caller.executor.aclose()
            return outcome

    outcome = caller.runner.run(scenario())
    if code is None:
        assert outcome == Succeeded()
        assert broker.count() == 1
    else:
        assert failure(outcome) == (code, Sent.NOT_SENT, False)
