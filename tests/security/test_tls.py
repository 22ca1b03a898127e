"""TLS on every wire: whose certificate is not in order is not spoken to, and the error says what is wrong with it.

Postgres and RabbitMQ speak TLS themselves; the wheel's Valkey was built without, so a door stands before it.
"""

import asyncio
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pika
import psycopg2
import pytest
import requests
import sqlalchemy
from servers.certificates import Authority, Certificate, self_signed
from servers.rabbitmq import RabbitMQ
from servers.target import Target
from servers.tls_door import TlsDoor
from support.calls import make_call
from support.cluster import PRIVATE, Cluster, cluster, wait_until

from gnomon.bootstrap.stores import secured_url
from gnomon.embedded.ports import free_port
from gnomon.embedded.postgres import EmbeddedPostgres
from gnomon.embedded.processes import NOBODY
from gnomon.job.address import EgressPolicy
from gnomon.job.database_url import driver_url
from gnomon.job.errors import Unavailable
from gnomon.job.outcome import Failed, Outcome
from gnomon.job.rates import Rate
from gnomon.job.target import AmqpTarget, HttpTarget
from gnomon.queue.celery.app import create_app
from gnomon.queue.celery.publisher import CeleryQueue
from gnomon.storage import cache
from gnomon.storage.cache import DefinitionCache
from gnomon.storage.postgres.engine import create_engine, translated
from gnomon.storage.redis import rates
from gnomon.storage.redis.client import connect
from gnomon.storage.redis.database import RedisDatabase
from gnomon.worker.executors.amqp import AmqpExecutor
from gnomon.worker.executors.http import HttpExecutor

POLICY = EgressPolicy.parse(PRIVATE.split(","))
# What OpenSSL says; Postgres's library says less, and libcurl of the name something of its own.
REASONS = {
    "good": "",
    "expired": "certificate has expired",
    "not yet valid": "certificate is not yet valid",
    "self-signed": "self-signed certificate",
    "of another host": "mismatch|does not match",
    "of another authority": "unable to get local issuer certificate",
}
NOT_TOLD = "certificate verify failed .*tls.ca_file"
BAD = [name for name in REASONS if name != "good"]

Certificates = Mapping[str, Certificate]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture(scope="module")
def certificates(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("others")
    return {
        "good": authority.issue("good"),
        "expired": authority.issue("expired", since=timedelta(days=-3)),
        "not yet valid": authority.issue("future", since=timedelta(days=1)),
        "self-signed": self_signed(folder),
        "of another host": authority.issue("other", names="DNS:other.example"),
        "of another authority": Authority(folder / "stranger").issue("strange"),
    }


@pytest.fixture(params=REASONS)
def shown(request: pytest.FixtureRequest) -> str:
    """What kind of certificate the server shows."""
    kind: str = request.param
    return kind


class PostgresTls:
    """The session's Postgres with TLS, which it takes up and changes while it runs."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = server

    def show(self, certificate: Certificate) -> None:
        """From the next connection on."""
        names = [f"tls-{uuid4().hex}{suffix}" for suffix in ("", "-key")]
        for source, name in zip((certificate.certificate, certificate.key), names, strict=True):
            copy = Path(shutil.copy(source, self._server.data_dir / "cluster" / name))
            copy.chmod(0o600)
            if os.geteuid() == 0:
                os.chown(copy, NOBODY, NOBODY)
        self._set(ssl_cert_file=names[0], ssl_key_file=names[1], ssl="on")
        wait_until("Postgres shows it", lambda: self._ask("SHOW ssl_cert_file") == names[0])

    def plain(self) -> None:
        self._server.start()
        self._set(ssl="off")

    def _set(self, **settings: str) -> None:
        with closing(psycopg2.connect(self._server.url)) as session, session.cursor() as cursor:
            session.autocommit = True
            for name, value in settings.items():
                cursor.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            cursor.execute("SELECT pg_reload_conf()")

    def _ask(self, question: str) -> object:
        with closing(psycopg2.connect(self._server.url)) as session, session.cursor() as cursor:
            cursor.execute(question)
            (answer,) = cursor.fetchone() or (None,)
            return answer


@pytest.fixture
def postgres_tls(postgres: EmbeddedPostgres) -> Iterator[PostgresTls]:
    postgres.start()
    server = PostgresTls(postgres)
    yield server
    server.plain()


def secured_database(url: str) -> str:
    return f"{url.replace('127.0.0.1', 'localhost')}?sslmode=verify-full"


def rabbitmq_with(rabbitmq: RabbitMQ, certificate: Certificate, url: str) -> str:
    """The URL of a further listener of RabbitMQ, which shows this certificate."""
    port = free_port()
    # readable for whoever RabbitMQ runs as
    folder = Path(tempfile.mkdtemp(dir=rabbitmq.data_dir))
    paths = [shutil.copy(path, folder) for path in (certificate.certificate, certificate.key)]
    options = f'[{{certfile, "{paths[0]}"}}, {{keyfile, "{paths[1]}"}}]'
    start = f'rabbit_networking:start_ssl_listener({{"127.0.0.1", {port}}}, {options}, 1'
    rabbitmq.evaluate(
        "application:ensure_all_started(ssl),"
        " case erlang:function_exported(rabbit_networking, start_ssl_listener, 3) of"
        f" true -> {start}); false -> {start}, 1) end"
    )
    address = urlsplit(url)
    login = address.netloc.rpartition("@")[0]
    return address._replace(scheme="amqps", netloc=f"{login}@localhost:{port}").geturl()


# --- what is said of each certificate, on each wire


def check(said: str | None, shown: str, *, server: str, instead: Mapping[str, str] = {}) -> None:
    """`said`: why the server was not spoken to, None when it was."""
    if shown == "good":
        assert said is None
        return
    assert said is not None, "it was spoken to"
    assert re.search(instead.get(shown, REASONS[shown]), said), said
    assert server in said


def refusal(action: Callable[[], object]) -> str | None:
    try:
        action()
    except Unavailable as error:
        return str(error)
    return None


def test_postgres(
    postgres: EmbeddedPostgres,
    postgres_tls: PostgresTls,
    authority: Authority,
    certificates: Certificates,
    shown: str,
) -> None:
    postgres_tls.show(certificates[shown])
    url = driver_url(secured_database(postgres.url), password=None, disable_tls=False, authorities=str(authority.file))
    engine = create_engine(url, pool_size=1)

    def ask() -> None:
        with translated(), engine.connect() as session:
            assert session.scalar(sqlalchemy.text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))

    kept_to_itself = dict.fromkeys(set(BAD) - {"of another host"}, NOT_TOLD)
    check(refusal(ask), shown, server=f'"localhost" (127.0.0.1), port {postgres.port}', instead=kept_to_itself)
    engine.dispose()


def test_broker_on_redis(redis_url: str, authority: Authority, certificates: Certificates, shown: str) -> None:
    with TlsDoor.before(redis_url, certificates[shown]) as door:
        queue = CeleryQueue(create_app(door.url(redis_url), ca_file=str(authority.file)))
        check(refusal(queue.probe), shown, server=f"localhost:{door.port}")
        queue.close()


def test_broker_on_rabbitmq(
    rabbitmq: RabbitMQ, rabbitmq_url: str, authority: Authority, certificates: Certificates, shown: str
) -> None:
    url = rabbitmq_with(rabbitmq, certificates[shown], rabbitmq_url)
    queue = CeleryQueue(create_app(url, ca_file=str(authority.file)))
    check(refusal(queue.probe), shown, server=f"localhost:{urlsplit(url).port}")
    queue.close()


def test_cache(
    redis_url: str,
    authority: Authority,
    certificates: Certificates,
    shown: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache, "PATIENCE", 20.0)  # a busy machine may take longer for a handshake
    with TlsDoor.before(redis_url, certificates[shown]) as door, caplog.at_level(logging.WARNING):
        definitions = DefinitionCache(door.url(redis_url), ca_file=str(authority.file))
        definitions.find([(uuid4(), 1)])
        definitions.close()
        check(caplog.text or None, shown, server=f"localhost:{door.port}")


def test_store_on_redis(redis_url: str, authority: Authority, certificates: Certificates, shown: str) -> None:
    with TlsDoor.before(redis_url, certificates[shown]) as door:
        url = secured_url(door.url(redis_url), disable_tls=False, ca_file=str(authority.file))
        database = RedisDatabase(connect(url), namespace="tls")
        check(refusal(database.open), shown, server=f"localhost:{door.port}")
        database.close()


def test_counters_of_requests(
    redis_url: str,
    authority: Authority,
    certificates: Certificates,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rates, "PATIENCE", 20.0)  # a busy machine may take longer for a handshake
    with TlsDoor.before(redis_url, certificates[shown]) as door:
        counters = rates.RedisBuckets(door.url(redis_url), ca_file=str(authority.file))
        said = refusal(lambda: counters.take("somebody", Rate(per_second=1, burst=1)))
        check(said, shown, server=f"localhost:{door.port}")
        counters.close()


def unreached(outcome: Outcome) -> str | None:
    """Why the target was not reached."""
    return f"{outcome.code}: {outcome.message}" if isinstance(outcome, Failed) and outcome.code == "tls" else None


def test_http_target(authority: Authority, certificates: Certificates, shown: str) -> None:
    async def attempt() -> Outcome:
        executor = HttpExecutor(policy=POLICY, ca_file=str(authority.file))
        try:
            return await executor.execute(HttpTarget(url=target.url(host="localhost")), make_call())
        finally:
            await executor.aclose()

    with Target(tls=certificates[shown].server_context()) as target:
        said = unreached(asyncio.run(attempt()))
        check(said, shown, server="localhost:", instead={"of another host": "no alternative certificate subject name"})
        assert bool(target.requests) is (shown == "good")


def test_amqp_target(
    rabbitmq: RabbitMQ, rabbitmq_url: str, authority: Authority, certificates: Certificates, shown: str
) -> None:
    url = rabbitmq_with(rabbitmq, certificates[shown], rabbitmq_url)

    async def attempt() -> Outcome:
        executor = AmqpExecutor(policy=POLICY, ca_file=str(authority.file))
        try:
            return await executor.execute(AmqpTarget(connection=url, routing_key="nowhere"), make_call())
        finally:
            await executor.aclose()

    check(unreached(asyncio.run(attempt())), shown, server=f"localhost:{urlsplit(url).port}")


# --- processes


@contextmanager
def secured_cluster(
    *, database_url: str, queue_url: str, authority: Authority, folder: Path, **settings: str
) -> Iterator[tuple[Cluster, str]]:
    """Processes that speak TLS with everybody, and the API's URL."""
    port = free_port()
    with cluster(
        database_url=secured_database(database_url),
        queue_url=queue_url,
        folder=folder,
        SCHEDULER_WEB_API_HOST=f"127.0.0.1:{port}",
        SCHEDULER_TLS_CA_FILE=str(authority.file),
        SCHEDULER_EGRESS_CA_FILE=str(authority.file),
        **settings,
    ) as built:
        yield built, f"http://127.0.0.1:{port}/v1"


@pytest.fixture(params=["redis", "rabbitmq"])
def secured_queue_url(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[str]:
    url: str = request.getfixturevalue(f"{request.param}_url")
    if request.param == "rabbitmq":
        yield rabbitmq_with(request.getfixturevalue("rabbitmq"), certificates["good"], url)
        return
    with TlsDoor.before(url, certificates["good"]) as door:
        yield door.url(url)


def test_jobs_run_where_every_wire_is_secured(
    database_url: str,
    postgres_tls: PostgresTls,
    secured_queue_url: str,
    redis_url: str,
    rabbitmq: RabbitMQ,
    rabbitmq_url: str,
    authority: Authority,
    certificates: Certificates,
    tmp_path: Path,
) -> None:
    good = certificates["good"]
    postgres_tls.show(good)
    broker = rabbitmq_with(rabbitmq, good, rabbitmq_url)
    with closing(pika.BlockingConnection(pika.URLParameters(rabbitmq_url))) as connection:
        connection.channel().queue_declare("secured")
    with (
        Target(tls=good.server_context()) as target,
        TlsDoor.before(redis_url, good) as cache_door,
        secured_cluster(
            database_url=database_url,
            queue_url=secured_queue_url,
            authority=authority,
            folder=tmp_path,
            SCHEDULER_CACHE_URL=cache_door.url(redis_url),
        ) as (processes, api),
    ):
        processes.start("api")
        processes.start_ready("scheduler", "worker")
        wait_until("the API answers", lambda: answers(f"{api}/health/ready"))
        calls = {"type": "HTTP", "http_job": {"url": target.url(host="localhost")}}
        sends = {"type": "AMQP", "amqp_job": {"connection": broker, "routing_key": "secured"}}
        for document in (calls, sends):
            made = requests.post(f"{api}/jobs", json={**document, "interval_seconds": 3600}, timeout=30)
            assert made.status_code == 201, made.text
            run = requests.post(f"{api}/jobs/{made.json()['id']}/run", timeout=30)
            execution = f"{api}/executions/{run.json()['id']}"
            wait_until("it has succeeded", lambda url=execution: state_of(url) == "SUCCEEDED")  # type: ignore[misc]
        assert target.requests


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=10).ok
    except requests.ConnectionError:
        return False


def state_of(url: str) -> object:
    return requests.get(url, timeout=30).json()["state"]


def test_processes_wait_for_servers_until_their_certificates_are_in_order(
    database_url: str,
    postgres_tls: PostgresTls,
    redis_url: str,
    authority: Authority,
    certificates: Certificates,
    tmp_path: Path,
) -> None:
    postgres_tls.show(certificates["expired"])
    with (
        TlsDoor.before(redis_url, certificates["expired"]) as door,
        secured_cluster(
            database_url=database_url, queue_url=door.url(redis_url), authority=authority, folder=tmp_path
        ) as (processes, api),
    ):
        scheduler, worker, server = (processes.start(role) for role in ("scheduler", "worker", "api"))
        for role in (scheduler, worker):
            wait_until(f"{role.name} says why", lambda role=role: bool(re.search(NOT_TOLD, role.text)))  # type: ignore[misc]
        wait_until("the API serves", lambda: answers(f"{api}/health/live"))
        assert requests.get(f"{api}/health/ready", timeout=30).status_code == 503
        postgres_tls.show(certificates["good"])
        for role in (scheduler, worker):
            wait_until(
                f"{role.name} says why",
                lambda role=role: f"localhost:{door.port}" in role.text and REASONS["expired"] in role.text,  # type: ignore[misc]
                seconds=60,
            )
        wait_until("the API is ready", lambda: answers(f"{api}/health/ready"))
        door.show(certificates["good"])
        for role in (scheduler, worker):
            role.wait_ready()
        logs = "".join(role.text for role in (scheduler, worker, server))
    for url in (database_url, redis_url):
        password = urlsplit(url).password
        assert password
        assert password not in logs


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("SCHEDULER_QUEUE_URL", "redis://:canary@broker.example:6379/0"),
        ("SCHEDULER_QUEUE_URL", "amqp://user:canary@broker.example/"),
        ("SCHEDULER_CACHE_URL", "redis://:canary@10.0.0.1:6379/0"),
    ],
)
def test_process_does_not_start_where_passwords_would_travel_in_clear(variable: str, url: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "gnomon.cli.main", "worker"],
        env={**os.environ, variable: url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode != 0
    assert "leads to another machine without TLS" in ended.stderr
    assert "disable_tls" in ended.stderr
    assert "canary" not in ended.stderr + ended.stdout
