"""A network of its own, in which it is counted what a worker's executors send. Run by `run_lab`, in a namespace.

There are two hosts. One is the worker's, with loopback and an interface. Behind that interface is all the rest of the
world, in a namespace of its own: whatever address is called there, one server answers. So a call that is let out
arrives, wherever it goes, and its packets are seen on the way: all that leave the worker's host or go round its
loopback are, by a packet socket, and each case is charged with those that went anywhere but where it may.
"""

import asyncio
import contextlib
import json
import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from support.calls import make_call, unchecked
from support.ssrf import CLOSED, DATABASE, FORMS, NAME_SERVER, NAMES, PUBLIC, PUBLIC_NAME, WORKER, WORKER_6, Form

from gnomon.job.address import EgressPolicy, Server
from gnomon.job.amqp import Broker
from gnomon.job.outcome import Failed, Outcome
from gnomon.job.target import AmqpTarget, HttpTarget
from gnomon.worker.executors import resolver
from gnomon.worker.executors.amqp import AmqpExecutor
from gnomon.worker.executors.egress import EgressGuard
from gnomon.worker.executors.http import HttpExecutor
from gnomon.worker.executors.premises import Premises

GATEWAY, GATEWAY_6 = "93.184.216.1", "2606:2800:220:1::1"
ALLOWED = {(NAME_SERVER, 53), (PUBLIC, 80), (GATEWAY_6, 80)}
CONTROLS = ("127.0.0.1", "[::1]", WORKER, "10.9.9.9", "169.254.169.254", DATABASE + ":5433", PUBLIC + ":6379")
PORTS = (80, 5433, 5672, 6379)
TIMEOUT = timedelta(seconds=20)
ETH_P_ALL, PACKET_OUTGOING = 3, 4
ICMP_6, NO_HEADER, OPTIONS = 58, 59, 0

Packet = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What became of one form on one path. `outcome` is the failure's code, or "succeeded"."""

    path: str
    form: str
    outcome: str
    packets: list[Packet]


# The world outside


def be_the_world() -> None:
    """Answers every address: HTTP, and questions for names."""
    print("ready", flush=True)
    sys.stdin.readline()  # the interface is there
    sh("ip link set lo up", "ip link set inside up", f"ip addr add {NAME_SERVER}/32 dev lo")
    sh(f"ip addr add {GATEWAY} peer {WORKER} dev inside", f"ip addr add {GATEWAY_6}/128 dev inside nodad")
    sh(f"ip -6 route add {WORKER_6}/128 dev inside")
    sh(
        "ip route add local 0.0.0.0/1 dev lo",
        "ip route add local 128.0.0.0/1 dev lo",
        "ip -6 route add local ::/0 dev lo table main",
    )
    serve_names()
    for port in PORTS:
        serve_http(port)
    print("serving", flush=True)
    sys.stdin.readline()


def serve_http(port: int) -> None:
    """On every address that leads here. /redirect/N leads on to the form of that number."""
    server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)

    def talk(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, IndexError):
            path = connection.recv(4096).split(b" ")[1].decode()
            head, location = "HTTP/1.1 200 OK", ""
            if path.startswith("/redirect/"):
                form = FORMS[int(path.rpartition("/")[2])]
                head, location = "HTTP/1.1 302 Found", f"Location: http://{form.authority}/\r\n"
            text = f"{head}\r\n{location}Content-Length: 0\r\nConnection: close\r\n\r\n"
            connection.sendall(text.encode("utf-8"))

    def serve() -> None:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()


def serve_names() -> None:
    """rebind-N-… is first the public server and then the closed address of that number; others are in a table."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((NAME_SERVER, 53))
    asked: dict[tuple[str, int], int] = {}

    def addresses(name: str, kind: int) -> tuple[str, ...]:
        if not name.startswith("rebind-"):
            return NAMES.get(name, ())
        asked[name, kind] = asked.get((name, kind), 0) + 1
        return (PUBLIC,) if asked[name, kind] == 1 else (CLOSED[int(name.split("-")[1])],)

    def serve() -> None:
        while True:
            question, client = server.recvfrom(512)
            name, end = read_name(question)
            kind = struct.unpack("!H", question[end : end + 2])[0]
            family, size = {1: (socket.AF_INET, 4), 28: (socket.AF_INET6, 16)}.get(kind, (None, 0))
            found = (
                [one for one in addresses(name, kind) if (":" in one) is (family is socket.AF_INET6)] if family else []
            )
            records = [
                struct.pack("!HHHIH", 0xC00C, kind, 1, 0, size) + socket.inet_pton(family or 0, address)
                for address in found
            ]
            head = question[:2] + struct.pack("!HHHHH", 0x8180, 1, len(records), 0, 0)
            server.sendto(head + question[12 : end + 4] + b"".join(records), client)

    threading.Thread(target=serve, daemon=True).start()


def read_name(question: bytes) -> tuple[str, int]:
    """The name asked for, and where it ends."""
    labels, at = [], 12
    while size := question[at]:
        labels.append(question[at + 1 : at + 1 + size].decode("latin-1"))
        at += 1 + size
    return ".".join(labels).lower(), at + 1


# The worker's host


@contextlib.contextmanager
def world() -> Iterator[None]:
    """Both hosts, connected; names are asked for at the other."""
    sh("ip link set lo up")
    command = ["unshare", "--net", sys.executable, __file__, "world"]
    with (
        tempfile.NamedTemporaryFile("w", suffix=".conf") as names,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as outside,
    ):
        assert outside.stdin is not None
        assert outside.stdout is not None
        assert outside.stdout.readline() == "ready\n"
        sh(f"ip link add outside type veth peer name inside netns {outside.pid}")
        sh("ip link set outside up", f"ip addr add {WORKER} peer {GATEWAY} dev outside")
        sh(f"ip addr add {WORKER_6}/128 dev outside nodad", f"ip -6 route add {GATEWAY_6}/128 dev outside")
        sh(f"ip route add default via {GATEWAY}")
        print("connected", file=outside.stdin, flush=True)
        assert outside.stdout.readline() == "serving\n"
        sh(f"ip -6 route add default via {GATEWAY_6}")
        names.write(f"nameserver {NAME_SERVER}\noptions timeout:1 attempts:3\n")
        names.flush()
        sh(f"mount --bind {names.name} /etc/resolv.conf")
        for port in PORTS:
            serve_http(port)
        wait_for_the_world()
        yield
        outside.kill()


def wait_for_the_world() -> None:
    """Until both families get through: an interface takes a moment."""
    for host in (PUBLIC, GATEWAY_6):
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection((host, 80), timeout=1):
                break
            select.select([], [], [], 0.1)
        else:
            raise TimeoutError(f"no way leads to {host}")


class Wire:
    """Sees what leaves this host, and what goes round its loopback."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 16 * 1024 * 1024)  # SO_RCVBUFFORCE
        self._socket.setblocking(False)

    def seen(self) -> list[Packet]:
        """Where packets have gone since the last time, each place once; without those that may be called."""
        found: dict[Packet, None] = {}
        while True:
            try:
                data, (_, _, kind, _, _) = self._socket.recvfrom(256)
            except BlockingIOError:
                return [packet for packet in found if packet not in ALLOWED]
            if kind == PACKET_OUTGOING and (packet := destination(data)) is not None and not is_answer(data):
                found[packet] = None


def destination(data: bytes) -> Packet | None:
    """Address and port of an IP packet; None for what is none, and for what IPv6 has in place of ARP."""
    version = data[0] >> 4
    if version == 4:
        return socket.inet_ntop(socket.AF_INET, data[16:20]), port_in(data[9], data[(data[0] & 15) * 4 :])
    if version == 6 and data[6] not in (ICMP_6, OPTIONS, NO_HEADER):
        return socket.inet_ntop(socket.AF_INET6, data[24:40]), port_in(data[6], data[40:])
    return None


def is_answer(data: bytes) -> bool:
    """From one of our servers; who asked was seen."""
    start = (data[0] & 15) * 4 if data[0] >> 4 == 4 else 40
    kind = data[9] if data[0] >> 4 == 4 else data[6]
    return kind == 6 and struct.unpack("!H", data[start : start + 2])[0] in PORTS


def port_in(kind: int, segment: bytes) -> int:
    return int(struct.unpack("!H", segment[2:4])[0]) if kind in (6, 17) and len(segment) >= 4 else 0


# The cases


class Lab:
    """The executors as a worker has them, but that names are not remembered."""

    def __init__(self, wire: Wire) -> None:
        premises = Premises([Server("database", "database.test", 5433), Server("broker", "127.0.0.1", 5433)])
        premises.look_up()
        self._wire = wire
        self.http = HttpExecutor(policy=EgressPolicy(), premises=premises)
        self.amqp = AmqpExecutor(policy=EgressPolicy(), premises=premises)
        self.cases: list[Case] = []

    async def case(self, path: str, form: str, attempt: Callable[[], Awaitable[Outcome]]) -> None:
        """Charges an attempt with the packets that it sends."""
        self._wire.seen()
        try:
            outcome = await attempt()
        except ValueError as error:  # what no parser takes
            kind = type(error).__name__
        else:
            kind = outcome.code if isinstance(outcome, Failed) else "succeeded"
        self.cases.append(Case(path=path, form=form, outcome=kind, packets=self._wire.seen()))

    async def run(self, form: Form) -> None:
        target = unchecked(f"http://{form.authority}/")
        await self.case("run", str(form), lambda: self.http.execute(target, call()))

    async def redirect(self, number: int, form: Form) -> None:
        target = HttpTarget(url=f"http://{PUBLIC_NAME}/redirect/{number}", method="GET", follow_redirects=5)
        await self.case("redirect", str(form), lambda: self.http.execute(target, call()))

    async def publish(self, form: Form) -> None:
        target = ToAnywhere(connection="amqp://placeholder.test/")
        host = form.authority.rpartition("@")[2]
        if not host.endswith("]"):
            host = host.rpartition(":")[0] or host
        broker = Broker(tls=False, host=host.strip("[]").lower(), port=form.port, user="u", password="p", vhost="/")
        object.__setattr__(target, "anywhere", broker)
        object.__setattr__(target, "connection", str(form))
        await self.case("amqp", str(form), lambda: self.amqp.execute(target, call()))

    async def rebind(self, run: int) -> None:
        """The name leads to the public server when the call looks it up, and from then on to where it must not go."""
        number = run % len(CLOSED)
        target = HttpTarget(url=f"http://rebind-{number}-{run}.test/", method="GET")
        for path in ("rebinding", "rebound"):
            await self.case(path, CLOSED[number], lambda: self.http.execute(target, call()))

    async def control(self, authority: str) -> None:
        """With the guard taken away: what must not be heard would be."""
        target = unchecked(f"http://{authority}/")
        await self.case("control", authority, lambda: self.http.execute(target, call()))


class ToAnywhere(AmqpTarget):
    """A message for a broker that no URL could name."""

    anywhere: Broker

    @property
    def broker(self) -> Broker:
        return getattr(self, "anywhere", None) or super().broker


def call() -> Any:
    return make_call(timeout=TIMEOUT)


async def run_all(wire: Wire, rebindings: int) -> list[Case]:
    resolver.REMEMBERED_SECONDS = 0.0
    lab = Lab(wire)
    for number, form in enumerate(FORMS):
        await lab.run(form)
        await lab.redirect(number, form)
        await lab.publish(form)
    for run in range(rebindings):
        await lab.rebind(run)
    EgressGuard._judge = lambda *_: None  # type: ignore[method-assign]
    for authority in CONTROLS:
        await lab.control(authority)
    await lab.http.aclose()
    await lab.amqp.aclose()
    return lab.cases


def sh(*commands: str) -> None:
    for command in commands:
        subprocess.run(command.split(), check=True, timeout=20)


# From outside


class NoNamespace(Exception):
    """This machine lets us have none."""


def run_lab(*, rebindings: int) -> list[Case]:
    """All cases. Raises NoNamespace."""
    unshare = ["unshare", "--net", "--mount"]
    if os.geteuid() != 0:
        unshare += ["--user", "--map-root-user"]
    try:
        subprocess.run(
            [*unshare, *["ip", "link", "add", "one", "type", "veth", "peer", "name", "other"]],
            check=True,
            capture_output=True,
            timeout=20,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", b"") or str(error).encode()
        raise NoNamespace(f"no network namespace can be had here: {reason.decode().strip()}") from error
    folder = Path(__file__).parents[1]
    paths = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*unshare, sys.executable, __file__, "worker", str(rebindings)],
        capture_output=True,
        text=True,
        timeout=540,
        env={**os.environ, "PYTHONPATH": paths},
    )
    if done.returncode:
        raise AssertionError(f"the lab ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return [
        Case(**{**case, "packets": [tuple(packet) for packet in case["packets"]]}) for case in json.loads(done.stdout)
    ]


if __name__ == "__main__":
    if sys.argv[1] == "world":
        be_the_world()
    else:
        with world():
            found = asyncio.run(run_all(Wire(), int(sys.argv[2])))
        print(json.dumps([asdict(case) for case in found]))
