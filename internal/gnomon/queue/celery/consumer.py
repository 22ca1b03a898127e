"""The worker side of Celery: messages become calls of `admit`, and a stop becomes a drain."""

import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import FrameType
from typing import Any
from uuid import UUID

from celery import Celery, bootsteps
from celery.apps.worker import Worker
from celery.exceptions import SecurityWarning
from celery.utils.threads import bound_open_broker_sockets
from celery.worker import state
from celery.worker.consumer import Consumer
from kombu import Connection
from kombu.message import Message

from gnomon.job.errors import Unavailable
from gnomon.process.last_resort import EXIT_CODE, end_process
from gnomon.process.tls import refused_certificate
from gnomon.queue.celery.app import TASK_NAME
from gnomon.queue.celery.sieve import read_ids, refusal
from gnomon.queue.celery.transport import BROKER_ERRORS
from gnomon.queue.celery.watchdog import ConsumeWatchdog

log = logging.getLogger(__name__)

Admit = Callable[[Sequence[UUID]], None]

# Each message means a line or two at INFO, each outage a line at ERROR every few seconds.
_CHATTY = ("celery.worker.strategy", "celery.app.trace", "celery.worker.consumer.connection")


def run_worker(
    app: Celery,
    *,
    admit: Admit,
    drain: Callable[[], None],
    queues: Sequence[str],
    threads: int = 8,
    hostname: str | None = None,
    on_ready: Callable[[], None],
    stopping: Callable[[], bool] = lambda: False,
    watchdog: ConsumeWatchdog | None = None,
    patience: timedelta = timedelta(seconds=30),
) -> int:
    """Takes messages until SIGTERM or SIGINT; the exit code, 0 after these. Only in the main thread, once a process.

    When `watchdog` finds it deaf, it stops in the same order and returns EXIT_CODE; when that takes longer than
    `patience`, because Celery itself hangs, the process ends as it is, with the same code.

    A task is a call of `admit`, which returns when the last id of the message has been admitted: that is the
    back-pressure. Up to `threads` calls run at once, and one more message waits here.

    At the stop no more messages are taken first, then `drain` is called, which makes blocked calls of `admit` return,
    then the threads end. `drain` is called exactly once, whatever happened. A further signal changes nothing; SIGQUIT
    ends the process at once. Handlers that the caller had installed for SIGTERM and SIGINT are called too; `stopping`
    tells of a signal that came before ours were in place.

    The broker may go away and come back at any time: what was admitted goes on.
    """
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("celery.worker.loops").addFilter(_is_news)
    register_task(app, admit)
    drain_once, ended = _Once(drain), threading.Event()
    app.steps["worker"].add(_drain_step(drain_once))
    options = {
        "pool": "threads",
        "concurrency": threads,
        "consumer_cls": _GnomonConsumer,
        "queues": list(queues),
        "hostname": f"{hostname}@gnomon" if hostname else None,
        "without_gossip": True,
        "without_mingle": True,
        "without_heartbeat": not app.conf.worker_send_task_events,
        "quiet": True,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # advises root to use an option that there is not
            worker = _GnomonWorker(app=app, on_ready=on_ready, stopping=stopping, watchdog=watchdog, **options)
        if watchdog is not None:
            arguments = (worker, watchdog, ended, patience)
            threading.Thread(target=_watch, args=arguments, name="consume-watchdog", daemon=True).start()
        worker.start()
    finally:
        ended.set()
        drain_once()
    return int(worker.exitcode or 0)


def _is_news(record: logging.LogRecord) -> bool:
    """Not so what a lost connection still raises while it is put away: Celery tells of the loss right after."""
    return record.exc_info is None or not isinstance(record.exc_info[1], BROKER_ERRORS)


def _watch(worker: "_GnomonWorker", watchdog: ConsumeWatchdog, ended: threading.Event, patience: timedelta) -> None:
    while not ended.wait(watchdog.pause.total_seconds()):
        try:
            overlooked = watchdog.look(connected=worker.is_connected)
        except Exception:
            log.exception("watching over the consumer met an unexpected error; it goes on")
            continue
        if overlooked:
            log.error(
                "this worker is deaf: it is connected to the broker and has heard nothing for %g s, while %s executions"
                " on its queues were published again and nobody took them; it ends with code %s for its supervisor to"
                " start it again",
                watchdog.limit.total_seconds(),
                overlooked,
                EXIT_CODE,
            )
            end_process(stop_failed, within=patience)


def stop_failed() -> None:
    """Asks `run_worker` for an orderly end with EXIT_CODE; from any thread."""
    state.should_stop = EXIT_CODE


def register_task(app: Celery, admit: Admit) -> None:
    """Defines the one task there is.

    Celery's autoretry_for is not used for an `admit` that gives up. A retry is a new message: while the database is
    away each worker would go on taking, failing and sending anew all that is on the broker as fast as it can (measured:
    250 messages a second), and what carries an ETA does not even count against the prefetch limit. `admit` keeps trying
    instead: its thread is taken, so the messages stay where they are. It gives up only when the worker stops.
    """

    @app.task(name=TASK_NAME)  # type: ignore[untyped-decorator]
    def run(*, ids: list[Any]) -> None:
        if read := read_ids(ids):
            try:
                admit(read)
            except Unavailable as error:
                log.warning(
                    "%s executions of a message were not admitted (%s); they are published again", len(read), error
                )


class _Once:
    """Calls a function the first time it is called itself; further callers wait for that call to end."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function: Callable[[], None] | None = function
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            function, self._function = self._function, None
            if function is not None:
                function()


def _drain_step(drain: Callable[[], None]) -> type[bootsteps.StartStopStep]:
    class DrainStep(bootsteps.StartStopStep):  # type: ignore[misc]
        """Stops after the consumer and before the pool, whose threads may be waiting in `admit`."""

        requires = ("celery.worker.components:Pool",)

        def stop(self, _worker: Worker) -> None:
            drain()

        def terminate(self, _worker: Worker) -> None:
            drain()

    return DrainStep


class _GnomonWorker(Worker):  # type: ignore[misc]
    """Celery's worker as a part of our process: logging, title and signals are the process's own."""

    def __init__(
        self,
        *,
        on_ready: Callable[[], None],
        stopping: Callable[[], bool],
        watchdog: ConsumeWatchdog | None,
        **options: Any,
    ) -> None:
        self._on_ready = on_ready
        self._stopping = stopping
        self._watchdog = watchdog
        super().__init__(**options)

    def setup_logging(self, *_: object) -> bool:
        """True: it is set up."""
        return True

    def set_process_status(self, _info: str) -> None:
        """Leaves the title alone."""

    def install_platform_tweaks(self, _worker: Worker) -> None:
        """In place of Celery's signal handlers: those end a threads pool by a second SIGINT, in the middle of things,
        and on SIGHUP start the process anew from its command line.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop_handler(signal.getsignal(number)))
        signal.signal(signal.SIGQUIT, _end_at_once)
        if self._stopping():
            state.should_stop = os.EX_OK

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to the broker, as far as Celery knows; not while it tries to make one."""
        return getattr(getattr(self, "consumer", None), "connection", None) is not None

    def heard(self) -> None:
        """A message has arrived."""
        if self._watchdog is not None:
            self._watchdog.heard()

    def on_consumer_ready(self, consumer: Consumer) -> None:
        """Once, at the first connection."""
        super().on_consumer_ready(consumer)
        self._on_ready()


SignalHandler = Callable[[int, FrameType | None], Any]


def _stop_handler(previous: SignalHandler | int | None) -> SignalHandler:
    """Celery looks at the flag at least once a second."""

    def stop(number: int, frame: FrameType | None) -> None:
        state.should_stop = os.EX_OK
        if callable(previous) and previous is not signal.default_int_handler:
            previous(number, frame)

    return stop


def _end_at_once(_number: int, _frame: FrameType | None) -> None:
    # what is in flight is rescued when its lease ends; an orderly exit would wait for the threads
    os._exit(os.EX_SOFTWARE)


class _GnomonConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer behind a sieve, with one message in reserve, and a broker that may be away for any time."""

    RECONNECT_SECONDS = 5  # Celery's own 30 s would be added to each outage
    FAREWELL_SECONDS = 1.0  # for each of the five answers that one is made of

    def __init__(self, *args: Any, **options: Any) -> None:
        # A message counts until a thread has begun it (early acknowledgement), so Celery's own count, one for each
        # thread, means as many again that wait for a thread while another worker is idle.
        super().__init__(*args, **{**options, "initial_prefetch_count": 1})

    def stop(self) -> None:
        """Takes no more messages."""
        if self.connection:
            bound_open_broker_sockets(self.connection, self.FAREWELL_SECONDS)
        super().stop()

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Message], None]:
        """What is none of ours is acknowledged, with one line in the log."""
        handle = super().create_task_handler(*args, **options)

        def on_message(message: Message) -> None:
            self.controller.heard()
            if reason := refusal(message):
                self._drop(message, reason)
            else:
                handle(message)

        return on_message

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        """Called by kombu for a message that it can't make sense of."""
        self.controller.heard()
        self._drop(message, f"{type(exc).__name__}: {exc!s:.100}")

    def ensure_connected(self, conn: Connection) -> Connection:
        """Tries until the broker answers or the worker is stopped."""
        failures = 0

        def on_error(error: Exception, _seconds: float) -> None:
            nonlocal failures
            if failures == 0:
                reason = refused_certificate(error) or type(error).__name__
                log.warning("the broker at %s does not answer (%s): trying every few seconds", conn.host, reason)
            failures += 1

        conn.ensure_connection(
            on_error,
            None,
            interval_start=1,
            interval_step=1,
            interval_max=self.RECONNECT_SECONDS,
            callback=state.maybe_shutdown,
        )
        if failures:
            log.info("the broker answers again")
        return conn

    def _drop(self, message: Message, reason: str) -> None:
        log.warning("a message is none of ours and dropped: %s", reason)
        message.ack_log_error(log, self.connection_errors)
