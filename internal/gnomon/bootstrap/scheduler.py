"""The scheduler process: turns time into messages."""

import logging
import threading
from datetime import timedelta

from gnomon.bootstrap.database import open_engine
from gnomon.bootstrap.instances import identity_of
from gnomon.bootstrap.logs import start_logging
from gnomon.job.instance import Role
from gnomon.job.ports import ExecutionQueue
from gnomon.process.chore import run_chore
from gnomon.process.connect import wait_until_available
from gnomon.process.heartbeat import Heartbeat
from gnomon.process.last_resort import EXIT_CODE, end_process, end_within
from gnomon.process.signals import StopSignal
from gnomon.queue.celery.app import create_app
from gnomon.queue.celery.publisher import CeleryQueue
from gnomon.scheduler.dispatch import Dispatcher
from gnomon.scheduler.housekeeping import Housekeeper
from gnomon.scheduler.loop import SchedulerLoop
from gnomon.scheduler.publish import Publisher
from gnomon.scheduler.rescue import Rescuer
from gnomon.scheduler.watchdog import SendWatchdog
from gnomon.settings import Settings
from gnomon.storage.postgres.dispatch import PostgresDispatchStore
from gnomon.storage.postgres.housekeeping import PostgresHousekeepingStore
from gnomon.storage.postgres.instances import PostgresInstanceStore
from gnomon.storage.postgres.migrate import require_latest
from gnomon.storage.postgres.waker import PostgresWaker

log = logging.getLogger(__name__)

# A worker runs few sync handlers at once, and an id that waits in its message keeps other workers from it.
BATCH_SIZES = {"handlers": 1}
# What is queued for the broker when the process stops is sent within this time, or published by another scheduler.
FLUSH = timedelta(seconds=6)
# A batch takes a few seconds at most, unless the database is frozen.
LONGEST_STOP = timedelta(seconds=20)
# The orderly end of a scheduler whose publisher hangs for good: a batch, FLUSH, and as much for the connection.
GIVE_UP = timedelta(seconds=15)


def run(settings: Settings) -> int:
    """Runs until SIGTERM or SIGINT; finishes the batch it is in. The exit code."""
    stop = StopSignal()
    stop.install()
    start_logging(settings, role="scheduler")
    end_within(LONGEST_STOP, stop)
    engine = open_engine(settings, by_index=True)
    code = 0
    if wait_until_available("waiting for the database", lambda: require_latest(engine), stop):
        identity = identity_of(settings, Role.SCHEDULER)
        instances = PostgresInstanceStore(engine)
        heartbeat = Heartbeat(instances, identity)
        heartbeat.start()
        housekeeper = Housekeeper(
            PostgresHousekeepingStore(engine), instances, me=identity.id, retention=settings.retention.policy()
        )
        housekeeper.start(stop)
        app = create_app(settings.queue_url(), queue_type=settings.queue.type, ca_file=settings.tls.ca_file)
        queue = CeleryQueue(app, batch_sizes=BATCH_SIZES)
        waker = PostgresWaker(engine)
        stop.on_stop(waker.wake)
        store = PostgresDispatchStore(engine, instance=identity.id, ahead=settings.scheduler.ahead)
        code = _run_loop(settings, store, queue, waker, stop)
        waker.close()
        queue.close()
        housekeeper.join()
        heartbeat.stop()
    engine.dispose()
    return code


def _run_loop(
    settings: Settings, store: PostgresDispatchStore, queue: ExecutionQueue, waker: PostgresWaker, stop: StopSignal
) -> int:
    hangs = threading.Event()

    def give_up() -> None:
        hangs.set()
        end_process(stop.set, within=GIVE_UP)

    publisher = Publisher(store, queue, SendWatchdog(queue, give_up=give_up))
    loop = SchedulerLoop(
        store=store,
        dispatcher=Dispatcher(store, publisher, batch=settings.scheduler.max_concurrent_jobs),
        publisher=publisher,
        rescuer=Rescuer(store, spread=settings.scheduler.max_job_lock_time),
        waker=waker,
        interval=settings.scheduler.interval,
        stopping=stop.is_set,
    )
    publisher.start()
    log.info("scheduler %s is ready", settings.scheduler.id)
    run_chore("dispatch", loop.turn, stop)
    publisher.stop(FLUSH)
    return EXIT_CODE if hangs.is_set() else 0
