"""A scheduler and a worker inside a process of somebody else's, over one store."""

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta

from gnomon.bootstrap.stores import House, Limits, Stores
from gnomon.job.retention import Retention
from gnomon.process.chore import run_chore
from gnomon.process.heartbeat import Heartbeat
from gnomon.process.signals import StopSignal
from gnomon.queue.memory import MemoryQueue
from gnomon.scheduler.dispatch import Dispatcher
from gnomon.scheduler.housekeeping import Housekeeper
from gnomon.scheduler.loop import SchedulerLoop
from gnomon.scheduler.publish import Publisher
from gnomon.scheduler.rescue import Rescuer
from gnomon.worker.executors.local import LocalExecutor
from gnomon.worker.handlers import Handler, declared_strategies
from gnomon.worker.runner import Runner

BATCH = 100
FLUSH = timedelta(seconds=2)
# How much longer a process whose places are all taken leaves what is due to the others. It could not start it anyway.
COURTESY_SECONDS = 0.5


class Housekeeping:
    """Says that this process lives, and tidies up where it is the one that does; with the default retention."""

    def __init__(self, house: House, stop: StopSignal) -> None:
        self._stop = stop
        self._heartbeat = Heartbeat(house.instances, house.identity)
        self._housekeeper = Housekeeper(
            house.housekeeping, house.instances, me=house.identity.id, retention=Retention()
        )

    def start(self) -> None:
        """Both in threads of their own."""
        self._heartbeat.start()
        self._housekeeper.start(self._stop)

    def join(self) -> None:
        """After the stop."""
        self._housekeeper.join()
        self._heartbeat.stop()


class Embedded:
    """Dispatches what is due and runs it here. Started once, and stopped once."""

    def __init__(self, stores: Stores, find: Callable[[str], Handler | None], limits: Limits) -> None:
        self._stores = stores
        self._limits = limits
        self._stop = StopSignal()
        self._runner = Runner(
            store=stores.executions,
            executors=lambda: self._executor,
            new_loop=asyncio.new_event_loop,
            concurrency=limits.concurrency,
            lease=limits.lease,
            strategies=declared_strategies(),
        )
        self._executor = LocalExecutor(find, keep_place=self._runner.keep_place)
        self._queue = MemoryQueue(self._runner.admit, give_back=stores.dispatch.return_slots)
        self._publisher = Publisher(stores.dispatch, self._queue, None)
        self._loop = SchedulerLoop(
            store=stores.dispatch,
            dispatcher=Dispatcher(stores.dispatch, self._publisher, batch=BATCH),
            publisher=self._publisher,
            rescuer=Rescuer(stores.dispatch, spread=limits.lease),
            waker=stores.waker,
            interval=limits.interval,
            stopping=self._stop.is_set,
        )
        self._house = None if stores.house is None else Housekeeping(stores.house, self._stop)
        self._thread = threading.Thread(target=self._dispatch, name="gnomon-dispatch", daemon=True)

    def start(self) -> None:
        """Starts the threads."""
        self._runner.start()
        self._queue.start()
        self._publisher.start()
        self._thread.start()
        if self._house is not None:
            self._house.start()

    def stop(self, grace: timedelta) -> None:
        """Nothing new begins; what is under way may finish within `grace`, the rest is given back or broken off."""
        self._stop.set()
        self._stores.waker.wake()
        self._queue.refuse()
        self._thread.join(FLUSH.total_seconds())
        self._publisher.stop(FLUSH)
        self._runner.drain(grace)
        self._queue.close(FLUSH)
        if self._house is not None:
            self._house.join()

    def runs_this_thread(self) -> bool:
        """Whether a handler of ours is the caller: it can't wait for its own end."""
        return self._executor.runs_this_thread() or self._runner.runs_this_thread()

    def _dispatch(self) -> None:
        run_chore("gnomon", self._turn, self._stop)

    def _turn(self) -> None:
        if self._runner.in_flight >= self._limits.concurrency:
            self._stop.wait(COURTESY_SECONDS)
        self._loop.turn()
