"""Jobs from the database to a queue, through the processes that run them; and where they do not get."""

from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pika
from support.cluster import cluster, wait_until
from support.world import World

from gnomon.job.model import Job, State
from gnomon.job.ports import ExecutionQuery


def test_message_of_a_job_arrives_once_and_bears_the_id_of_its_execution(
    world: World, database_url: str, redis_url: str, rabbitmq_url: str, tmp_path: Path
) -> None:
    with pika.BlockingConnection(pika.URLParameters(rabbitmq_url)) as connection:
        channel = connection.channel()
        channel.exchange_declare("my_exchange", "direct")
        channel.queue_declare("orders")
        channel.queue_bind("orders", "my_exchange", "my_routing_key")
        message = {
            "connection": rabbitmq_url,
            "exchange": "my_exchange",
            "routing_key": "my_routing_key",
            "body": "Hello",
        }
        jobs = [
            world.create(type="AMQP", http_job=None, amqp_job=message, delay_seconds=0, delivery=delivery)
            for delivery in ("at_least_once", "at_most_once")
        ]
        with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path) as started:
            started.start_ready("scheduler", "worker")
            for job in jobs:
                wait_until("it has run", partial(done, world, job), seconds=60)
        executions = [succeeded(world, job) for job in jobs]
        assert [len(ended) for ended in executions] == [1, 1]
        got = [channel.basic_get("orders", auto_ack=True) for _ in range(3)]
    assert got[2] == (None, None, None)
    assert [body for _, _, body in got[:2]] == [b"Hello"] * 2
    assert {properties.message_id for _, properties, _ in got[:2]} == {str(ended[0]) for ended in executions}


def test_job_can_not_call_the_servers_that_the_worker_itself_depends_on(
    world: World, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """Though loopback is open, and Redis would take a line of HTTP for a command."""
    database, broker = urlsplit(database_url).port, urlsplit(redis_url).port
    jobs = [
        world.create(http_job={"url": f"http://127.0.0.1:{database}/"}, delay_seconds=0),
        world.create(http_job={"url": f"http://localhost:{broker}/"}, delay_seconds=0),
        world.create(
            type="AMQP", http_job=None, amqp_job={"connection": f"amqp://127.0.0.2:{broker}/"}, delay_seconds=0
        ),
    ]
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path) as started:
        started.start_ready("scheduler", "worker")
        wait_until("all have failed", lambda: all(failures(world, job) for job in jobs), seconds=60)
    (to_database, to_broker, published) = (failures(world, job)[0] for job in jobs)
    assert f"127.0.0.1 port {database} is Gnomon's own database" in to_database
    assert f"port {broker} is Gnomon's own broker, which no setting opens" in to_broker
    assert f"127.0.0.2 port {broker} is Gnomon's own broker, which the setting egress-allow-own-broker" in published


def failures(world: World, job: Job) -> list[str]:
    """What is said of the executions of the job that failed."""
    page = world.service.executions(str(job.id), ExecutionQuery())
    return [execution.error_message or "" for execution in page.items if execution.state is State.FAILED]


def done(world: World, job: Job) -> bool:
    """Whether an execution of the job succeeded."""
    return bool(succeeded(world, job))


def succeeded(world: World, job: Job) -> list[UUID]:
    """The executions of the job that succeeded."""
    page = world.service.executions(str(job.id), ExecutionQuery())
    return [execution.id for execution in page.items if execution.state is State.SUCCEEDED]
