"""Whatever a target or a broker answers costs a worker little memory, and ends by a cap or the deadline."""

import asyncio
import gzip
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop
from servers.hostile_broker import (
    HEARTBEATS,
    PIECE,
    HostileBroker,
    Talk,
    deep_table,
    drip,
    flood,
    giant_frame,
    return_without_end,
    shaken,
)
from servers.target import Target, answer
from servers.target import drip as drip_http
from servers.target import flood as flood_http
from support.calls import make_call

from gnomon.job.address import EgressPolicy
from gnomon.job.outcome import Failed, Outcome, Succeeded
from gnomon.job.target import AmqpTarget, HttpTarget
from gnomon.worker.executors.amqp import AmqpExecutor
from gnomon.worker.executors.http import HttpExecutor
from gnomon.worker.executors.resolver import MAX_ADDRESSES, Resolver

LOOPBACK = EgressPolicy.parse(["127.0.0.0/8"])
MIB = 1024 * 1024
LIMIT = 8 * MIB
SHORT = timedelta(seconds=1)


def run(executor: HttpExecutor | AmqpExecutor, *targets: Any) -> list[Outcome]:
    async def attempts() -> list[Outcome]:
        found = [await executor.execute(target, make_call(timeout=SHORT)) for target in targets]
        await executor.aclose()
        await asyncio.sleep(0.5)  # pika closes what it has given up one step later
        return found

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(attempts())


def status_of_process(name: str) -> int:
    """Bytes, as the kernel counts them for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ZEROS = b"\0" * (100 * MIB)
ANSWERS: dict[str, Any] = {
    "a stream without end": flood_http(),
    "headers without end": flood_http(head=HEAD, piece=b"X: " + b"a" * 60_000 + b"\r\n"),
    "one header without end": flood_http(head=HEAD + b"X: "),
    "early hints without end": flood_http(head=b"", piece=b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 100),
    "a chunk extension without end": flood_http(head=CHUNKED + b"5;a="),
    "chunks of one byte": flood_http(head=CHUNKED, piece=b"1\r\nx\r\n" * 1_000),
    "trailers without end": flood_http(head=CHUNKED + b"0\r\n", piece=b"X: " + b"a" * 60_000 + b"\r\n"),
    "a drip without end": drip_http(b"x", every=0.02),
    "a gzip bomb": answer(body=gzip.compress(ZEROS), headers={"Content-Encoding": "gzip"}),
    "a deflate bomb": answer(body=zlib.compress(ZEROS), headers={"Content-Encoding": "deflate"}),
    "a gzip bomb in gzip": answer(body=gzip.compress(gzip.compress(ZEROS)), headers={"Content-Encoding": "gzip, gzip"}),
    "what says that it is brotli": answer(body=b"\xcf\xff" * 30_000, headers={"Content-Encoding": "br"}),
}
ZEROS = b""


@pytest.mark.parametrize("name", ANSWERS)
def test_answer_costs_little_memory_whatever_it_is(name: str) -> None:
    """Counted for the whole process, the test's own server included."""
    with Target() as target:
        target.on("/hostile", ANSWERS[name])
        run(HttpExecutor(policy=LOOPBACK), HttpTarget(url=target.url("/warm")))
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = status_of_process("VmRSS")
        (outcome,) = run(HttpExecutor(policy=LOOPBACK), HttpTarget(url=target.url("/hostile")))
        grown = status_of_process("VmHWM") - before

    assert grown < LIMIT
    kept = outcome.response_excerpt or ""
    assert len(kept) <= 4_096
    assert "\0" not in kept
    if isinstance(outcome, Failed):
        assert outcome.code in ("timeout", "response_too_large", "bad_response")


TALKS: dict[str, Talk] = {
    "a frame of a gibibyte": giant_frame,
    "tables in tables": deep_table,
    "a handshake that drips": drip,
    "nothing but heartbeats": flood(HEARTBEATS),
    "something else": flood(b"x" * PIECE),
    "another protocol": flood(b"AMQP\x00\x01\x00\x00"),
    "a message that comes back without end": shaken(return_without_end),
    "heartbeats for an answer": shaken(flood(HEARTBEATS)),
    "no answer at all": shaken(lambda connection: None, frame_max=2**31 - 1),
}


@pytest.mark.parametrize("name", TALKS)
def test_broker_costs_little_memory_whatever_it_says(name: str, make_amqp: Callable[[], AmqpExecutor]) -> None:
    with HostileBroker(TALKS[name]) as broker:
        target = AmqpTarget(connection=broker.url, routing_key="x", body="x" * 1_000)
        executor = make_amqp()
        tracemalloc.start()
        (outcome,) = run(executor, target)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert peak < LIMIT
    assert isinstance(outcome, Failed)
    assert outcome.code in ("timeout", "reset", "bad_response", "auth"), outcome


@pytest.fixture
def make_amqp() -> Callable[[], AmqpExecutor]:
    return lambda: AmqpExecutor(policy=LOOPBACK)


def test_broker_that_never_ends_its_handshake_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """pika's own way to give up fails there."""
    monkeypatch.setattr("gnomon.worker.executors.amqp.CONNECT_TIMEOUT", timedelta(seconds=0.5))
    gone = threading.Event()

    def talk(connection: Any) -> None:
        connection.sendall(b"\x01")
        while connection.recv(PIECE):
            pass
        gone.set()

    async def attempt(url: str) -> bool:
        executor = AmqpExecutor(policy=LOOPBACK)
        await executor.execute(AmqpTarget(connection=url), make_call(timeout=timedelta(seconds=10)))
        left = await asyncio.to_thread(gone.wait, 10)
        await executor.aclose()
        return left

    with HostileBroker(talk) as broker:
        assert asyncio.run(attempt(broker.url))


def test_message_that_comes_back_whole_is_unroutable_and_the_connection_stays() -> None:
    """What a broker may send grows with what is sent to it."""
    from pika import BasicProperties, frame, spec
    from servers.hostile_broker import method

    body = "x" * 120_000

    def give_back(connection: Any) -> None:
        connection.sendall(method(1, spec.Basic.Return(312, "NO_ROUTE", "", "x")))
        connection.sendall(frame.Header(1, len(body), BasicProperties()).marshal())
        connection.sendall(frame.Body(1, body.encode()).marshal())
        connection.sendall(method(1, spec.Basic.Ack(delivery_tag=next(tags))))

    tags = iter(range(1, 100))
    with HostileBroker(shaken(give_back)) as broker:
        target = AmqpTarget(connection=broker.url, routing_key="x", body=body)
        outcomes = run(AmqpExecutor(policy=LOOPBACK), *[target] * 20)

    assert [outcome.code for outcome in outcomes if isinstance(outcome, Failed)] == ["unroutable"] * 20


def test_name_with_thousands_of_addresses_is_the_first_of_them() -> None:
    found = tuple(f"10.0.{number // 256}.{number % 256}" for number in range(5_000))

    async def resolve() -> tuple[str, ...]:
        return await Resolver(lambda host: found).resolve("many.test", timeout=10)

    assert asyncio.run(resolve()) == found[:MAX_ADDRESSES]


def test_ordinary_answer_is_a_success() -> None:
    """The measure of these tests lets ordinary ones through."""
    with Target() as target:
        assert run(HttpExecutor(policy=LOOPBACK), HttpTarget(url=target.url())) == [
            Succeeded(response_status=200, response_excerpt="ok")
        ]
