"""Secrets of jobs go through all that can happen to a job; then what is kept and shown is searched for them."""

import base64
import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pika
import pytest
import redis
import requests
from click.testing import CliRunner
from servers.certificates import self_signed
from servers.rabbitmq import RabbitMQ
from servers.target import Behaviour, Connection, Request, Target, answer, hang, raw
from sqlalchemy import text
from support.canaries import Canaries, forms
from support.cluster import Cluster, cluster, wait_until
from support.executing import ended, running
from support.keys import FOR_WORKER
from support.missing import give_up
from support.world import World

from gnomon.cli.main import gnomon
from gnomon.embedded.binaries import find_postgres
from gnomon.embedded.ports import free_port
from gnomon.job.model import State
from gnomon.job.secret import Sealed
from gnomon.sealing.keys import PrivateKey
from gnomon.worker.executors.scrub import Scrubber

RETRY = {"max_attempts": 2, "initial_seconds": 0, "max_seconds": 0}
LATIN = '/+="<&é'
TOKEN = "/+="
END_SECONDS = 120


def echo(status: int = 200, *, headers: Mapping[str, str] | None = None, fill: int = 0) -> Behaviour:
    """Answers with the headers of the request in every form, in the body and in headers."""

    async def behave(request: Request, connection: Connection) -> None:
        said = [value for name, value in request.headers if name.lower() not in ("host", "accept")]
        for value in list(said):
            sort, _, credentials = value.partition(" ")
            if sort == "Basic":
                said.append(base64.b64decode(credentials).decode())
        body = "\n".join(
            shown
            for value in said
            for shown in (
                value,
                json.dumps(value),
                quote(value),
                value.encode().hex(),
                base64.b64encode(f"echo:{value}".encode()).decode(),
                base64.urlsafe_b64encode(f"{value}.".encode()).decode(),
            )
        ).encode()
        body = (body * (1 + fill // len(body)))[: fill or None]
        echoed = {f"X-Echo-{number}": value for number, value in enumerate(said)} | dict(headers or {})
        lines = [f"HTTP/1.1 {status} Echo", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in echoed.items()]
        await connection.send("\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body)

    return behave


async def echo_and_reset(request: Request, connection: Connection) -> None:
    said = " ".join(value for _, value in request.headers).encode("latin-1", "replace")
    await connection.send(b"HTTP/1.1 500 Broken\r\nContent-Length: 100000\r\nX-Echo: " + said + b"\r\n\r\n" + said)
    connection.reset()


async def echo_garbage(request: Request, connection: Connection) -> None:
    await connection.send(" ".join(value for _, value in request.headers).encode("latin-1", "replace") + b"\r\n\r\n")
    connection.close()


@dataclass
class Crowd:
    """The jobs, and every answer of the API."""

    url: str
    key: str
    canaries: Canaries
    answers: list[bytes] = field(default_factory=list)
    jobs: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, *, status: int | None = None, **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.key}", **options.pop("headers", {})}
        response = requests.request(method, f"{self.url}{path}", timeout=30, headers=headers, **options)
        self.answers.append(f"{response.status_code} {response.headers}\n".encode() + response.content)
        assert response.status_code < 500, response.text
        assert status in (None, response.status_code), response.text
        kind = response.headers.get("Content-Type", "").removesuffix("; charset=utf-8")
        return response.json() if kind in ("application/json", "application/problem+json") else None

    def http(
        self, name: str, url: str, options: Mapping[str, Any] | None = None, *, basic: bool = False, **more: Any
    ) -> None:
        """A job with a secret in every place of an HTTP call that holds one."""
        new = self.canaries.new
        auth = (
            {"type": "basic", "username": "me", "password": new(f"{name}: password")}
            if basic
            else {"type": "bearer", "token": new(f"{name}: token", special=TOKEN)}
        )
        http = {
            "url": url,
            "auth": auth,
            "headers": {
                "X-Api-Key": new(f"{name}: header", special=LATIN),
                "Cookie": f"sid={new(f'{name}: cookie', special=TOKEN)}; a=b",
                "X-Mine": new(f"{name}: named header", special=LATIN),
            },
            "secret_headers": ["X-Mine"],
            "signing_secrets": [self.canaries.signing(f"{name}: signing secret")],
            **(options or {}),
        }
        self.create(name, type="HTTP", http_job=http, **more)

    def amqp(self, name: str, url: str, **more: Any) -> None:
        """A job with a secret for the password of a URL that has `PASSWORD` in its place."""
        secret = quote(self.canaries.new(f"{name}: password"), safe="")
        message = {"connection": url.replace("PASSWORD", secret), "routing_key": "nowhere", "body": "x"}
        self.create(name, type="AMQP", amqp_job=message, **more)

    def create(self, name: str, **more: Any) -> None:
        document = {
            "name": name.replace(" ", "-"),
            "interval_seconds": 86_400,
            "retry": RETRY,
            "timeout_seconds": 2,
            **more,
        }
        key = {"Idempotency-Key": name.replace(" ", "-")}
        for _ in range(2):  # and again: a replay
            self.jobs[name] = self.ask("POST", "/v1/jobs", json=document, headers=key, status=201)["id"]

    def histories(self) -> dict[str, list[dict[str, Any]]]:
        return {name: self.ask("GET", f"/v1/jobs/{job}/executions", status=200) for name, job in self.jobs.items()}


def create_all(crowd: Crowd, target: Target, secure: Target, amqp: str) -> None:
    """A job for each way in which a call can end."""
    behaviours: dict[str, Behaviour] = {
        "echo 200": echo(),
        "echo 400": echo(400),
        "echo 503": echo(503, headers={"Retry-After": "0"}),
        "redirect": echo(302, headers={"Location": "/elsewhere?token=x"}),
        "followed": echo(307, headers={"Location": "/echo-503"}),
        "echo without end": echo(500, fill=70_001),
        "hang": hang(),
        "reset": echo_and_reset,
        "garbage": echo_garbage,
        "large headers": raw(b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"a" * 400_000 + b"\r\n\r\n"),
        "fine": answer(),
    }
    for number, (name, behaviour) in enumerate(behaviours.items()):
        path = "/" + name.replace(" ", "-")
        target.on(path, behaviour)
        timeout = {"timeout_seconds": 0.5} if name == "hang" else {}
        follow = {"follow_redirects": 2} if name == "followed" else {}
        crowd.http(name, target.url(path), follow, basic=number % 2 == 0, **timeout)
    crowd.http("no such host", "http://nowhere.invalid/")
    crowd.http("refused", f"http://127.0.0.1:{free_port()}/")
    crowd.http("plain for https", target.url("/").replace("http://", "https://"), basic=True)
    crowd.http("bad certificate", secure.url("/"))
    crowd.http("blocked", "http://10.1.2.3/latest", basic=True)
    crowd.http("swapped", target.url("/swapped"))
    crowd.http("unreadable", target.url("/unreadable"))
    user, _, place = amqp.removeprefix("amqp://").partition(":")
    host = place.rpartition("@")[2]
    crowd.amqp("wrong password", f"amqp://{user}:PASSWORD@{host}")
    crowd.amqp("wrong user", f"amqp://nobody:PASSWORD@{host}")
    crowd.amqp("broker refuses", f"amqp://{user}:PASSWORD@127.0.0.1:{free_port()}/v")
    crowd.amqp("no such broker", "amqp://me:PASSWORD@nowhere.invalid/v")
    crowd.amqp("no TLS there", f"amqps://{user}:PASSWORD@{host}")
    crowd.amqp("blocked broker", "amqp://me:PASSWORD@10.1.2.3/v")


def change_all(crowd: Crowd, target: Target) -> None:
    """Every way to change a job, and many that are refused."""
    merge = {"Content-Type": "application/merge-patch+json"}
    fine, new = crowd.jobs["fine"], crowd.canaries.new

    def patch(document: Mapping[str, Any], status: int) -> Any:
        return crowd.ask("PATCH", f"/v1/jobs/{fine}", data=json.dumps(document), headers=merge, status=status)

    patch({"http_job": {"auth": {"type": "bearer", "token": new("patched: token", special=TOKEN)}}}, 200)
    patch({"http_job": {"headers": {"Authorization": new("patched: second", special=TOKEN)}}}, 422)
    patch({"http_job": {"signing_secrets": [crowd.canaries.signing("patched: signing"), "***"]}}, 200)
    patch({"http_job": {"signing_secrets": [new("patched: no base64")]}}, 422)
    patch({"http_job": {"url": "https://elsewhere.example/"}}, 422)
    patch({"http_job": {"auth": {"password": new("patched: wrong place")}}}, 422)
    patch({"http_job": {"auth": {"tokn": new("patched: misspelt")}}}, 422)
    patch({"http_job": {"auth": new("patched: no object")}}, 422)
    patch({"http_job": {"headers": {"X-Api-Key": new("patched: control", special="\x01")}}}, 422)
    patch({"http_job": {"url": f"https://u:{new('patched: in a URL', special='')}@example.com"}}, 422)
    patch({"http_job": {"url": f"https://u:{new('patched: cut by a slash', special='')}/ss@example.com"}}, 422)
    shown = crowd.ask("GET", f"/v1/jobs/{fine}", status=200)
    shown["http_job"]["auth"] = {"type": "basic", "username": "me", "password": new("put: password")}
    crowd.ask("PUT", f"/v1/jobs/{fine}", json=shown, status=200)
    by_name = {"type": "HTTP", "interval_seconds": 86_400, "http_job": {"url": target.url("/fine")}}
    by_name["http_job"]["auth"] = {"type": "bearer", "token": new("by name: token", special=TOKEN)}  # type: ignore[index]
    crowd.jobs["by name"] = crowd.ask("PUT", "/v1/jobs/by-name/by-name", json=by_name, status=201)["id"]
    crowd.ask("POST", "/v1/jobs?validate_only=true", json={**by_name, "name": "trial"}, status=200)
    for url in ("amqp://u:{}@[/v", "http://u:{}@h/v", "amqp://u:{}@h/a/b", "amqp://u:{}@h:0/", "amqp://u:{}%FF@h/"):
        secret = new(f"refused URL {url}", special="")
        message = {"connection": url.format(secret), "routing_key": "q"}
        crowd.ask("POST", "/v1/jobs", json={"type": "AMQP", "interval_seconds": 60, "amqp_job": message}, status=422)
    broken = f'{{"type": "HTTP", "http_job": {{"auth": {{"password": "{new("broken JSON", special="")}", }}}}}}'
    crowd.ask("POST", "/v1/jobs", data=broken, headers={"Content-Type": "application/json"}, status=400)


def tamper(world: World, crowd: Crowd) -> None:
    """What only somebody with the database can do."""
    world.sql(
        "update job_revisions a set definition = jsonb_set(a.definition, '{http_job,auth}', "
        "(select definition #> '{http_job,auth}' from job_revisions where job_id = :other limit 1)) where job_id = :id",
        id=crowd.jobs["swapped"],
        other=crowd.jobs["refused"],
    )
    world.sql(
        """update job_revisions set definition = jsonb_set(definition, '{http_job,method}', '"BREW"') """
        "where job_id = :id",
        id=crowd.jobs["unreadable"],
    )


def run_all(crowd: Crowd) -> None:
    """Each job once, and some of those that failed again."""
    for job in crowd.jobs.values():
        crowd.ask("POST", f"/v1/jobs/{job}/run", status=202)
    wait_until("all have ended", lambda: all_ended(crowd), seconds=END_SECONDS, pause=0.5)
    failed = [history[0]["id"] for history in crowd.histories().values() if not history[0]["success"]]
    for execution in failed[::5]:
        crowd.ask("POST", f"/v1/executions/{execution}/retry", status=202)
    wait_until("all have ended again", lambda: all_ended(crowd), seconds=END_SECONDS, pause=0.5)
    crowd.ask("POST", "/v1/executions/retry", json={"states": ["FAILED"], "dry_run": True})


def all_ended(crowd: Crowd) -> bool:
    return all(one["end_time"] for history in crowd.histories().values() for one in history)


def read_all(crowd: Crowd) -> None:
    """Whatever can be asked without a body, by the API's own description of itself."""
    document = crowd.ask("GET", "/openapi.json", status=200)
    execution = crowd.histories()["echo 503"][0]["id"]
    for path, operations in document["paths"].items():
        if "get" in operations and "{name}" not in path:
            for job in crowd.jobs.values() if "{reference}" in path else [""]:
                place = path.replace("{reference}", job).replace("{execution_id}", execution)
                if "{" not in place:
                    crowd.ask("GET", place)
    crowd.ask("GET", "/v1/executions?failed_only=true&limit=500", status=200)
    crowd.ask("GET", "/metrics", status=200)
    job = crowd.jobs["echo 503"]
    span = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-03T00:00:00Z"}
    crowd.ask("POST", f"/v1/jobs/{job}/backfill", json=span)
    crowd.ask("POST", f"/v1/jobs/{job}/pause", json={"reason": "enough"})


def tables_of(world: World) -> dict[str, bytes]:
    """Every row of every table as text."""
    names = world.sql("select table_name from information_schema.tables where table_schema = 'public'")
    found = {}
    with world.engine.connect() as connection:
        for (name,) in names:
            rows = connection.execute(text(f'select t::text from "{name}" t')).scalars()
            found[f"table {name}"] = "\n".join(rows).encode()
    return found


def dump_of(database_url: str) -> bytes:
    program = find_postgres() / "pg_dump"
    if not program.exists():
        give_up("SERVER MISSING: pg_dump is not beside the Postgres that was found")
    return subprocess.run([program, "--inserts", database_url], check=True, capture_output=True, timeout=120).stdout


class RedisWatch:
    """Every command that a Redis is sent, and in the end all that it holds."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.commands = bytearray()
        parts = urlsplit(url)
        self._line = socket.create_connection((parts.hostname, parts.port))
        self._line.sendall(f"AUTH {parts.password}\r\nMONITOR\r\n".encode())
        assert self._line.recv(10, socket.MSG_WAITALL) == b"+OK\r\n+OK\r\n"
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while got := self._line.recv(65_536):
                self.commands += got

    def held(self) -> bytes:
        with redis.Redis.from_url(self._url) as client:
            keys = list(client.scan_iter())
            readers: dict[bytes, Callable[[bytes], Any]] = {
                b"string": client.get,
                b"hash": client.hgetall,
                b"list": lambda key: client.lrange(key, 0, -1),
                b"set": client.smembers,
                b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
            }
            return b"\n".join(key + b" " + repr(readers[client.type(key)](key)).encode() for key in keys)

    def close(self) -> None:
        self._line.shutdown(socket.SHUT_RDWR)
        self._line.close()


def messages_in(vhost_url: str, queues: list[str]) -> bytes:
    """What lies in these queues of a RabbitMQ, which stays there."""
    found = []
    with closing(pika.BlockingConnection(pika.URLParameters(vhost_url))) as connection:
        channel = connection.channel()
        for queue in queues:
            while (got := channel.basic_get(queue))[0] is not None:
                found.append(f"{got[1]} ".encode() + (got[2] or b""))
    return b"\n".join(found)


@contextmanager
def watched(url: str) -> Iterator[RedisWatch]:
    watch = RedisWatch(url)
    try:
        yield watch
    finally:
        watch.close()


def processes_of(started: Cluster) -> dict[str, bytes]:
    """Logs, and what every user of the machine can see of the processes."""
    found: dict[str, bytes] = {}
    for role in started.roles:
        found[f"log of {role.name}"] = role.text.encode()
        if role.running:
            found[f"command of {role.name}"] = Path(f"/proc/{role.pid}/cmdline").read_bytes()
    return found


def test_no_secret_is_shown_or_kept_whatever_happens_to_a_job(
    world: World, database_url: str, redis_url: str, rabbitmq_url: str, target: Target, tmp_path: Path
) -> None:
    canaries = Canaries()
    port = free_port()
    settings = {
        "SCHEDULER_LOG_LEVEL": "DEBUG",
        "SCHEDULER_CACHE_URL": redis_url,
        "SCHEDULER_WEB_API_HOST": f"127.0.0.1:{port}",
    }
    tls = self_signed(tmp_path).server_context()
    with (
        Target(tls=tls) as secure,
        watched(redis_url) as watch,
        cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path, **settings) as started,
    ):
        started.start("api")
        worker = started.start_ready("scheduler", "worker")[1]
        crowd = Crowd(url=f"http://127.0.0.1:{port}", key=new_key(database_url, canaries), canaries=canaries)
        wait_until("the API is ready", lambda: is_ready(crowd.url), seconds=60)
        create_all(crowd, target, secure, rabbitmq_url)
        change_all(crowd, target)
        tamper(world, crowd)
        run_all(crowd)
        read_all(crowd)
        worker.stop()
        stranger = {**FOR_WORKER, "SCHEDULER_SECRETS_PRIVATE_KEYS": PrivateKey.generate().reveal()}
        started.start("worker", **stranger).wait_ready()
        crowd.ask("POST", f"/v1/jobs/{crowd.jobs['fine']}/run", status=202)
        wait_until("it has failed", lambda: all_ended(crowd), seconds=END_SECONDS, pause=0.5)
        codes = {name: history[0]["error_code"] for name, history in crowd.histories().items()}
        time.sleep(0.2)  # for the last lines of the logs; what comes later is no other than these
        places = {
            **{f"answer {number}": shown for number, shown in enumerate(crowd.answers)},
            **processes_of(started),
            **tables_of(world),
            "pg_dump": dump_of(database_url),
            "what Redis was sent": bytes(watch.commands),
            "what Redis holds": watch.held(),
        }
    assert len(canaries.given) >= 40
    # the search has something to search, and every failure took place
    assert codes.items() >= EXPECTED.items()
    assert {request.header("X-Mine") is not None for request in target.received("/echo-503")} == {True}
    assert b"gnomon:definitions" in places["what Redis holds"]
    assert b"gnomon:definitions" in places["what Redis was sent"]
    assert b"sealed" in places["table job_revisions"]
    assert len(places["pg_dump"]) > 50_000
    assert b"***" in places["table executions"]
    assert canaries.found_in(places) == []


def new_key(database_url: str, canaries: Canaries) -> str:
    """A key to the API, whose secret is a canary too."""
    done = CliRunner().invoke(
        gnomon, ["keys", "create", "crowd", "--role", "admin"], env={"SCHEDULER_DB_URL": database_url}
    )
    assert done.exit_code == 0, done.output
    key = done.stdout.strip()
    canaries.given["key to the API"] = key.rpartition("_")[2]
    return key


EXPECTED = {
    "echo 200": None,
    "echo 400": "http_status",
    "echo 503": "http_status",
    "redirect": "http_status",
    "followed": "http_status",
    "echo without end": "http_status",
    "hang": "timeout",
    "reset": "reset",
    "garbage": "bad_response",
    "large headers": "response_too_large",
    "fine": "secret_unreadable",
    "no such host": "dns",
    "refused": "refused",
    "bad certificate": "tls",
    "blocked": "egress_blocked",
    "swapped": "secret_unreadable",
    "unreadable": "definition_unreadable",
    "wrong password": "auth",
    "wrong user": "auth",
    "broker refuses": "refused",
    "no such broker": "dns",
    "no TLS there": "tls",
    "blocked broker": "egress_blocked",
}


def is_ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/health/ready", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def test_messages_of_rabbitmq_hold_ids_and_nothing_else(
    world: World, database_url: str, rabbitmq: RabbitMQ, rabbitmq_url: str, tmp_path: Path
) -> None:
    canaries = Canaries()
    auth = {"type": "bearer", "token": canaries.new("token", special=TOKEN)}
    job = world.create(http_job={"url": "http://127.0.0.1:9/", "auth": auth})
    with cluster(database_url=database_url, queue_url=rabbitmq_url, folder=tmp_path) as started:
        started.start_ready("scheduler", "worker")[1].stop()  # it has made the queue
        execution = world.service.run_now(str(job.id)).execution
        wait_until("it is published", lambda: messages_in(rabbitmq_url, ["io"]) != b"")
        shown = messages_in(rabbitmq_url, ["io"])
        places = {"messages": shown, **processes_of(started)}
    assert str(execution.id).encode() in shown or execution.id.bytes in shown
    assert canaries.found_in(places) == []


@pytest.mark.parametrize("how", [how for how, _ in forms("A" * 10 + "b" * 10)])
def test_search_finds_a_secret_in_each_form(how: str) -> None:
    canaries = Canaries()
    canaries.new("secret")
    needle = dict(forms(canaries.given["secret"]))[how]
    found = canaries.found_in({"here": b"x" + needle + b"y", "there": b"nothing"})
    assert f"here shows secret {how}" in found
    assert not [line for line in found if line.startswith("there")]


def test_search_finds_what_a_seal_that_does_not_seal_would_store(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaky(secret: str, _binding: bytes) -> Sealed:
        return Sealed(key="k", box=base64.b64encode(b"v1" + secret.encode()).decode())

    canaries = Canaries()
    monkeypatch.setattr(world.service, "_seal", leaky)
    auth = {"type": "bearer", "token": canaries.new("token", special=TOKEN)}
    world.create(http_job={"url": "https://example.com", "auth": auth})
    assert any("table job_revisions shows token in base64" in line for line in canaries.found_in(tables_of(world)))


def test_search_finds_what_a_scrubber_that_does_not_scrub_would_keep(
    world: World, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    canaries = Canaries()
    target.on("/", echo(500))
    auth = {"type": "bearer", "token": canaries.new("token", special=TOKEN)}
    job = world.create(retry={"max_attempts": 1}, http_job={"url": target.url("/"), "auth": auth})
    monkeypatch.setattr(Scrubber, "clean", lambda _self, data, whole=True: data)
    with running(world) as runner:
        assert ended(world, runner, job).state is State.FAILED
    assert any("table executions shows token" in line for line in canaries.found_in(tables_of(world)))
