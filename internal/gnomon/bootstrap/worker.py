"""The worker process: turns messages into outcomes."""

import logging
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import uvloop

from gnomon.bootstrap.database import open_engine
from gnomon.bootstrap.instances import identity_of
from gnomon.bootstrap.logs import start_logging
from gnomon.job.address import EgressPolicy
from gnomon.job.instance import Role
from gnomon.process.connect import wait_until_available
from gnomon.process.heartbeat import Heartbeat
from gnomon.process.last_resort import end_within
from gnomon.process.signals import StopSignal
from gnomon.queue.celery.app import create_app
from gnomon.queue.celery.consumer import run_worker
from gnomon.queue.celery.watchdog import ConsumeWatchdog
from gnomon.settings import Settings
from gnomon.storage.cache import DefinitionCache
from gnomon.storage.postgres.executions import PostgresExecutionStore
from gnomon.storage.postgres.instances import PostgresInstanceStore
from gnomon.storage.postgres.migrate import require_latest
from gnomon.worker.executors import Executors
from gnomon.worker.executors.amqp import AmqpExecutor
from gnomon.worker.executors.http import HttpExecutor
from gnomon.worker.runner import Runner

log = logging.getLogger(__name__)

# Beside what is in flight, a stop takes a second until it is noticed and up to five for a broker that does not answer.
FAREWELL = timedelta(seconds=8)


def run(settings: Settings) -> int:
    """Runs until SIGTERM or SIGINT; finishes or gives back what is in flight. The exit code."""
    stop = StopSignal()
    stop.install()
    start_logging(settings, role="worker")
    make_executors = _executors(settings)
    cache_url = settings.cache_url()
    cache = None if cache_url is None else DefinitionCache(cache_url)
    app = create_app(settings.queue_url(), queues=settings.worker.queues, task_events=settings.queue.task_events)
    end_within(settings.worker.shutdown_timeout + FAREWELL, stop)
    engine = open_engine(settings)
    if not wait_until_available("waiting for the database", lambda: require_latest(engine), stop):
        return 0
    identity = identity_of(settings, Role.WORKER, queues=settings.worker.queues)
    heartbeat = Heartbeat(PostgresInstanceStore(engine), identity)
    heartbeat.start()
    store = PostgresExecutionStore(engine, instance=identity.id, worker=identity.name, cache=cache)
    runner = Runner(
        store=store,
        executors=make_executors,
        new_loop=uvloop.new_event_loop,
        concurrency=settings.worker.concurrency,
        lease=settings.scheduler.max_job_lock_time,
    )
    runner.start()
    code = run_worker(
        app,
        admit=runner.admit,
        drain=lambda: runner.drain(settings.worker.shutdown_timeout),
        queues=settings.worker.queues,
        threads=settings.worker.threads,
        hostname=settings.scheduler.id,
        stopping=stop.is_set,
        watchdog=ConsumeWatchdog(
            overlooked=partial(store.overlooked, settings.worker.queues), is_busy=lambda: runner.in_flight > 0
        ),
        patience=settings.worker.shutdown_timeout + FAREWELL,
        on_ready=lambda: log.info("worker %s is ready", settings.scheduler.id),
    )
    heartbeat.stop()
    if cache is not None:
        cache.close()
    engine.dispose()
    return code


def _executors(settings: Settings) -> Callable[[], Executors]:
    """Reads the policy now, so that a wrong setting ends the start; the executors are built on their loop."""
    policy = EgressPolicy.parse(settings.egress.allow)
    return lambda: Executors(
        http=HttpExecutor(policy=policy, max_connections=settings.worker.concurrency),
        amqp=AmqpExecutor(policy=policy),
    )
