"""What a larger deployment puts between its parts: a pool of connections before Postgres, replicated queues."""

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import pytest
from conftest import start_or_skip
from servers.pgbouncer import PgBouncer
from servers.rabbitmq import RabbitMQ
from servers.target import Target
from support.cluster import Cluster, cluster, wait_until
from support.world import World

JOBS = 40
PAGE = Path(__file__).parents[2] / "docs/scaling.md"


@contextmanager
def bouncer(folder: Path, *, before: str, mode: str) -> Iterator[PgBouncer]:
    server = PgBouncer(folder, before=before, mode=mode)
    start_or_skip(server.start)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def role_of_the_docs(world: World) -> Iterator[None]:
    """The database's user with the limits that docs/scaling.md gives it."""
    (statements,) = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)
    world.sql(statements)
    yield
    world.sql("alter role gnomon reset all")


def run_each_once(world: World, target: Target, processes: Cluster) -> None:
    """Jobs that are due at once, and one that comes again and again, created while all of it runs."""
    processes.start_ready("scheduler", "scheduler", "worker", "worker")
    for number in range(JOBS):
        world.create(http_job={"url": target.url(f"/{number}"), "body": "{}"}, delay_seconds=1)
    world.create(http_job={"url": target.url("/again"), "body": "{}"}, interval_seconds=1)
    wait_until("each was called", lambda: len({request.path for request in target.received()}) == JOBS + 1, seconds=60)
    wait_until("again and again", lambda: len(target.received("/again")) >= 3, seconds=60)
    wait_until(
        "all is recorded",
        lambda: world.one("select count(*) from executions where state = 'SUCCEEDED'") >= JOBS + 3,
        seconds=60,
    )
    assert set(target.keys().values()) == {1}


@pytest.mark.usefixtures("role_of_the_docs")
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_each_execution_runs_once_behind_a_pool_of_connections(
    mode: str, world: World, database_url: str, redis_url: str, target: Target, tmp_path: Path
) -> None:
    with (
        bouncer(tmp_path / "pgbouncer", before=database_url, mode=mode) as pool,
        cluster(database_url=pool.url, queue_url=redis_url, folder=tmp_path) as processes,
    ):
        run_each_once(world, target, processes)
        assert limit_of(database_url) == limit_of(pool.url) == "10s"


def limit_of(url: str) -> str:
    """How long a session there may keep a transaction open, if it says nothing itself."""
    with closing(psycopg2.connect(url)) as session, session.cursor() as cursor:
        cursor.execute("show idle_in_transaction_session_timeout")
        return str(cursor.fetchall()[0][0])


def test_each_execution_runs_once_over_quorum_queues(
    world: World, database_url: str, rabbitmq: RabbitMQ, rabbitmq_url: str, target: Target, tmp_path: Path
) -> None:
    vhost = rabbitmq_url.rpartition("/")[2]
    quorum = {"SCHEDULER_QUEUE_TYPE": "quorum"}
    with cluster(database_url=database_url, queue_url=rabbitmq_url, folder=tmp_path, **quorum) as processes:
        run_each_once(world, target, processes)
        assert kind_of(rabbitmq, vhost, "io") == "rabbit_quorum_queue"


def kind_of(rabbitmq: RabbitMQ, vhost: str, queue: str) -> str:
    name = f'rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)'
    return rabbitmq.evaluate(f"{{ok, Q}} = rabbit_amqqueue:lookup({name}), amqqueue:get_type(Q)")
