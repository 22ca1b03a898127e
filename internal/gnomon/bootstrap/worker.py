"""The worker process: turns messages into outcomes."""

import logging
from datetime import timedelta
from functools import partial
from uuid import UUID

import uvloop

from gnomon.bootstrap import child
from gnomon.bootstrap.database import open_engine
from gnomon.bootstrap.instances import identity_of
from gnomon.bootstrap.logs import start_logging
from gnomon.bootstrap.sealing import open_with
from gnomon.job.handlers import HandlerSpec
from gnomon.job.instance import Role
from gnomon.job.target import HandlerTarget
from gnomon.process.connect import wait_until_available
from gnomon.process.garbage import look_seldom
from gnomon.process.heartbeat import Heartbeat
from gnomon.process.last_resort import end_process, end_within
from gnomon.process.signals import StopSignal
from gnomon.queue.celery.app import create_app
from gnomon.queue.celery.consumer import run_worker, stop_failed
from gnomon.queue.celery.watchdog import ConsumeWatchdog
from gnomon.settings import Settings
from gnomon.settings.kinds import parse_size
from gnomon.storage.cache import DefinitionCache
from gnomon.storage.postgres.executions import PostgresExecutionStore
from gnomon.storage.postgres.instances import PostgresInstanceStore
from gnomon.storage.postgres.migrate import require_latest
from gnomon.worker.children.pool import Pool
from gnomon.worker.children.process import Birth
from gnomon.worker.executors import Executor, Executors
from gnomon.worker.executors.amqp import AmqpExecutor
from gnomon.worker.executors.http import HttpExecutor
from gnomon.worker.executors.premises import Premises
from gnomon.worker.executors.python import NoHandlers
from gnomon.worker.executors.python_async import AsyncExecutor
from gnomon.worker.executors.python_sync import ChildExecutor
from gnomon.worker.flights import TRUSTED
from gnomon.worker.handlers import HandlerRegistry, load_handlers
from gnomon.worker.known import KnownHandlers
from gnomon.worker.runner import Runner

log = logging.getLogger(__name__)

# Beside what is in flight, a stop takes a second until it is noticed and up to five for a broker that does not answer.
FAREWELL = timedelta(seconds=8)
# What is in flight on a blocked loop can't end; what has ended is recorded in less.
BLOCKED = timedelta(seconds=2)
# Of ids whose moment is still to come: enough for large claims, and the others find other workers. What waits here for
# a child is one that others can't take.
HELD_PER_SLOT = 4


def run(settings: Settings) -> int:
    """Runs until SIGTERM or SIGINT; finishes or gives back what is in flight. The exit code."""
    stop = StopSignal()
    stop.install()
    start_logging(settings, role="worker")
    cache_url = settings.cache_url()
    cache = None if cache_url is None else DefinitionCache(cache_url, ca_file=settings.tls.ca_file)
    registry = load_handlers(settings.worker.handlers)
    policy = settings.egress.policy()  # a wrong setting ends the start
    opener = open_with(settings)
    app = create_app(
        settings.queue_url(),
        queues=settings.worker.queues,
        queue_type=settings.queue.type,
        task_events=settings.queue.task_events,
        ca_file=settings.tls.ca_file,
    )
    end_within(settings.worker.shutdown_timeout + FAREWELL, stop)
    engine = open_engine(settings, by_index=True)
    if not wait_until_available("waiting for the database", lambda: require_latest(engine), stop):
        return 0
    identity = identity_of(settings, Role.WORKER, queues=settings.worker.queues)
    heartbeat = Heartbeat(
        PostgresInstanceStore(engine),
        identity,
        handlers=_announced(settings, registry),
        retry_strategies=sorted(registry.retry_strategies),
    )
    heartbeat.start()
    premises = Premises(settings.own_servers())
    published_to = premises.without("broker") if settings.egress.allow_own_broker else premises
    for owned in {premises, published_to}:
        owned.start()
    store = PostgresExecutionStore(engine, instance=identity.id, worker=identity.name, cache=cache, keys=opener.keys)
    concurrency = settings.worker.processes if _runs_children(settings) else settings.worker.concurrency
    runner = Runner(
        store=store,
        executors=lambda: Executors(
            http=HttpExecutor(
                policy=policy,
                premises=premises,
                max_connections=settings.worker.concurrency,
                ca_file=settings.egress.ca_file,
            ),
            amqp=AmqpExecutor(policy=policy, premises=published_to, ca_file=settings.egress.ca_file),
            handlers=_handlers(settings, registry, identity.id),
        ),
        new_loop=uvloop.new_event_loop,
        concurrency=concurrency,
        lease=settings.scheduler.max_job_lock_time,
        strategies=registry.retry_strategies,
        unseal=opener,
        knows=KnownHandlers(registry, on_loop="async" in settings.worker.queues),
        per_host=None if _runs_children(settings) else settings.worker.per_host,
        most_per_host=settings.worker.most_per_host,
        clock=store.clock,
        hold=concurrency * (1 if _runs_children(settings) else HELD_PER_SLOT),
    )
    runner.start()
    code = run_worker(
        app,
        admit=runner.admit,
        drain=lambda: runner.drain(settings.worker.shutdown_timeout),
        queues=settings.worker.queues,
        threads=1 if _runs_children(settings) else settings.worker.threads,
        hostname=settings.scheduler.id,
        stopping=stop.is_set,
        watchdog=ConsumeWatchdog(
            overlooked=partial(store.overlooked, settings.worker.queues), is_busy=lambda: runner.in_flight > 0
        ),
        patience=settings.worker.shutdown_timeout + FAREWELL,
        on_ready=partial(_say_ready, settings),
    )
    heartbeat.stop()
    if cache is not None:
        cache.close()
    engine.dispose()
    return code


def _say_ready(settings: Settings) -> None:
    look_seldom()
    log.info("worker %s is ready", settings.scheduler.id)


def _runs_children(settings: Settings) -> bool:
    """Then one message is taken after the other: one that waits here for a child is one that others can't take."""
    return "handlers" in settings.worker.queues


def _announced(settings: Settings, registry: HandlerRegistry) -> list[HandlerSpec]:
    """The handlers whose queue this worker serves."""
    return [
        HandlerSpec(name=handler.name, queue=handler.queue, schema=handler.schema)
        for handler in registry.handlers
        if handler.queue in settings.worker.queues
    ]


def _handlers(settings: Settings, registry: HandlerRegistry, instance: UUID) -> Executor[HandlerTarget]:
    """On the runner's loop."""
    if _runs_children(settings):
        birth = Birth(
            boot=child.__name__,
            modules=settings.worker.handlers,
            log_level=settings.log.level,
            memory=parse_size(settings.worker.process_memory),
            given=child.worker_given(database_url=settings.database_url(), instance=instance),
        )
        return ChildExecutor(Pool(birth, size=settings.worker.processes, max_calls=settings.worker.process_calls))
    if "async" in settings.worker.queues:
        return AsyncExecutor(
            registry,
            patience=TRUSTED * settings.scheduler.max_job_lock_time,
            give_up=partial(end_process, stop_failed, within=BLOCKED),
        )
    return NoHandlers()
