"""Scheduler: jobs on a schedule inside a process of your own. docs/library.md is the guide."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import socket
import threading
import weakref
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self, TypeVar
from uuid import uuid4

from gnomon.bootstrap.stores import Limits, check_namespace, check_url, open_stores, secured_url
from gnomon.job.errors import ConfigurationError, NotFound
from gnomon.library.durations import read_duration, utc_now

# What a program that imports this may never use is imported where it is used: most import it, and run later.
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from types import FrameType, TracebackType

    from gnomon.bootstrap.library import Embedded
    from gnomon.bootstrap.stores import Stores
    from gnomon.job.model import Delivery, Execution, Job, Misfire, MisfirePolicy, Overlap
    from gnomon.job.retry import RetryPolicy
    from gnomon.job.service import JobService
    from gnomon.library.durations import Duration
    from gnomon.library.registration import Registration
    from gnomon.library.schedules import Schedule
    from gnomon.worker.handlers import Handler

    Function = TypeVar("Function", bound=Callable[..., Any])

log = logging.getLogger(__name__)

MOST_LISTED = 500


class Scheduler:
    """Runs what is registered here, when it is due, in threads of this process.

    `url` says where jobs and executions are kept: `memory://` (nothing outlives the process), `redis://…` or
    `postgresql://…`, where any number of processes share them within a `namespace` (Postgres: a schema of its own;
    Redis: the keys' prefix). Nothing is connected before `start`, or the first call that asks the store.

    `concurrency`: executions at a time, sync or async. `lease`: how long after a process was killed what it ran is
    tried again by another. `interval`: the longest sleep between looks at the store. `grace`: what `stop` gives to
    executions under way, at the end of the process too.

    A store on another machine is asked for a valid certificate, for which those in `ca_file` vouch; `disable_tls` is
    for networks that are trusted themselves.
    """

    def __init__(
        self,
        url: str = "memory://",
        *,
        namespace: str = "gnomon_library",
        concurrency: int = 10,
        lease: Duration = 30.0,
        interval: Duration = 1.0,
        grace: Duration = 10.0,
        disable_tls: bool = False,
        ca_file: str | None = None,
    ) -> None:
        """Raises ConfigurationError for what can't work; a server that is away is only found by `start`."""
        self._url = secured_url(url, disable_tls=disable_tls, ca_file=ca_file)
        self._kind = check_url(url)
        self._namespace = check_namespace(namespace)
        self._limits = _limits(concurrency, read_duration(lease), read_duration(interval))
        self._grace = read_duration(grace)
        self._registrations: dict[str, Registration] = {}
        self._unstored: list[str] = []
        self._clock = utc_now
        self._stores: Stores | None = None
        self._embedded: Embedded | None = None
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._goodbye: Callable[[], None] | None = None

    def __repr__(self) -> str:
        state = "running" if self._embedded is not None else "stopped"
        return f"<Scheduler {self._kind} {self._namespace!r} {state}, {len(self._registrations)} jobs>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def register(
        self,
        name: str,
        schedule: Schedule,
        handler: Callable[..., Any],
        *,
        payload: Mapping[str, Any] | None = None,
        timezone: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: Duration = 30.0,
        misfire: Misfire | MisfirePolicy | str = "run_once",
        overlap: Overlap | str = "skip",
        delivery: Delivery | str = "at_least_once",
    ) -> None:
        """Makes `handler` a job: a function that takes nothing, a Context, fields of the payload, or both.

        Before the start and after it. Registering the same again changes nothing; another definition is a new revision
        of the job, whoever stored the old one, and what was due by then stays due. Raises ConfigurationError, also for
        a name that another function of this process has, and InvalidJob, also for a schedule that never fires. Once
        the store is open a moment in the past is found here, else by `start`.
        """
        from gnomon.library.registration import Policies, make_registration

        self._require_own_process()
        policies = Policies(retry=retry, timeout=timeout, misfire=misfire, overlap=overlap, delivery=delivery)
        registration = make_registration(name, schedule, handler, payload, timezone, policies)
        with self._lock:
            self._take(registration)

    def job(
        self,
        name: str,
        schedule: Schedule,
        *,
        payload: Mapping[str, Any] | None = None,
        timezone: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: Duration = 30.0,
        misfire: Misfire | MisfirePolicy | str = "run_once",
        overlap: Overlap | str = "skip",
        delivery: Delivery | str = "at_least_once",
    ) -> Callable[[Function], Function]:
        """`register` as a decorator; the function itself stays as it is."""

        def decorate(function: Function) -> Function:
            self.register(
                name,
                schedule,
                function,
                payload=payload,
                timezone=timezone,
                retry=retry,
                timeout=timeout,
                misfire=misfire,
                overlap=overlap,
                delivery=delivery,
            )
            return function

        return decorate

    def start(self) -> None:
        """Stores what is registered and begins to run it. Returns at once; a second call does nothing.

        Raises Unavailable when the store does not answer, and what `register` raises.
        """
        self._require_own_process()
        with self._lock:
            if self._embedded is not None:
                return
            from gnomon.bootstrap.library import Embedded  # asyncio and more: not where jobs are only declared

            try:
                self._embedded = Embedded(self._open(), self._find, self._limits)
            except BaseException:
                self.stop()  # closes what is open
                raise
            self._embedded.start()
            self._goodbye = _at_exit(self)
        log.info("scheduler started: %s jobs on %s", len(self._registrations), self._kind)

    def stop(self, *, grace: Duration | None = None) -> None:
        """Nothing new begins; what runs may finish within `grace`, the rest is given back to be run by others.

        Waits for that, and closes the store; `start` may follow, and what is kept in memory is still there. From inside
        a handler it does not wait.
        """
        if self._pid != os.getpid():
            return  # a fork of the process that it belongs to
        embedded = self._embedded
        if embedded is not None and embedded.runs_this_thread():
            threading.Thread(target=self.stop, kwargs={"grace": grace}, name="gnomon-stop", daemon=True).start()
            return
        with self._lock:
            embedded, self._embedded = self._embedded, None
            stores = self._stores
            if self._kind != "memory":  # what is only there would be lost
                self._stores = None
            goodbye, self._goodbye = self._goodbye, None
        if goodbye is not None:
            atexit.unregister(goodbye)
        if embedded is not None:
            embedded.stop(self._grace if grace is None else read_duration(grace))
            log.info("scheduler stopped")
        if stores is not None:
            stores.close()

    def run(self) -> None:
        """`start`, then waits for SIGTERM or SIGINT (Ctrl-C), then `stop`. Only in the main thread."""
        asked = threading.Event()

        def ask(_number: int, _frame: FrameType | None) -> None:
            asked.set()

        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            with self:
                while not asked.wait(0.5):
                    pass
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def pause(self, name: str, *, reason: str | None = None) -> Job:
        """No new executions of the job, in any process; what has been created goes on. Raises NotFound, Conflict."""
        return self._service().pause(_reference(name), reason=reason)

    def resume(self, name: str) -> Job:
        """Goes on at the next moment from now; what passed meanwhile is not made up for. Raises NotFound, Conflict."""
        return self._service().resume(_reference(name))

    def remove(self, name: str) -> None:
        """Deletes the job; what runs of it finishes its attempt. Raises NotFound.

        A process that still registers it makes it anew.
        """
        try:
            self._service().delete(_reference(name))
        except NotFound:
            if name not in self._registrations:
                raise
        with self._lock:
            self._registrations.pop(name, None)

    def run_now(self, name: str, *, queue: bool = False) -> Execution:
        """An execution beside the schedule, due at once, also of a paused job; a process that registered it runs it.

        Raises NotFound, and Overlapping where the job allows no second execution now; with `queue` it waits its turn.
        """
        return self._service().run_now(_reference(name), may_wait=queue).execution

    def jobs(self) -> Sequence[Job]:
        """All jobs of the namespace, whoever registered them, by name."""
        from gnomon.job.ports import JobQuery

        service, cursor = self._service(), None
        found: list[Job] = []
        while True:
            page = service.list(JobQuery(limit=MOST_LISTED, cursor=cursor))
            found.extend(page.items)
            cursor = page.cursor
            if cursor is None:
                return sorted(found, key=lambda job: job.name or "")

    def get(self, name: str) -> Job:
        """The job as it is stored. Raises NotFound."""
        return self._service().get(_reference(name))

    def executions(self, name: str, *, limit: int = 50) -> Sequence[Execution]:
        """What became of the job's executions, the latest first. Raises NotFound."""
        from gnomon.job.ports import ExecutionQuery

        return self._service().executions(_reference(name), ExecutionQuery(limit=limit)).items

    def next_run(self, name: str) -> datetime | None:
        """When the job is next due, in UTC; None when it is paused or has no further moment. Raises NotFound."""
        return self.get(name).next_run

    def _take(self, registration: Registration) -> None:
        name = registration.name
        known = self._registrations.get(name)
        if known is not None and known.handler.place != registration.handler.place:
            raise ConfigurationError(
                f"job {name!r} is another function already ({known.handler.place}, now {registration.handler.place}): "
                "choose another name, or remove the job first"
            )
        self._registrations[name] = registration
        if self._stores is None:
            self._unstored.append(name)
            return
        try:
            self._store(registration)
        except BaseException:
            if known is None:
                del self._registrations[name]
            else:
                self._registrations[name] = known
            raise

    def _store(self, registration: Registration) -> None:
        assert self._stores is not None
        with registration.named_errors():
            self._service_of(self._stores).ensure(registration.name, registration.define)

    def _service(self) -> JobService:
        self._require_own_process()
        with self._lock:
            return self._service_of(self._open())

    def _open(self) -> Stores:
        """The stores, with all that was registered in them."""
        if self._stores is None:
            self._stores = open_stores(
                self._url,
                namespace=self._namespace,
                names=self._names,
                worker=f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}",
                clock=self._clock,
            )
        while self._unstored:
            if (registration := self._registrations.get(self._unstored[0])) is not None:
                self._store(registration)
            self._unstored.pop(0)
        return self._stores

    def _service_of(self, stores: Stores) -> JobService:
        from gnomon.job.service import JobService
        from gnomon.library.registration import Registered

        catalog = Registered(self._registrations)
        return JobService(jobs=stores.jobs, runs=stores.runs, history=stores.history, catalog=catalog)

    def _names(self) -> Sequence[str]:
        return list(self._registrations)

    def _find(self, name: str) -> Handler | None:
        registration = self._registrations.get(name)
        return None if registration is None else registration.handler

    def _require_own_process(self) -> None:
        if self._pid != os.getpid():
            raise ConfigurationError(
                f"this Scheduler belongs to process {self._pid}, and this is a fork of it, {os.getpid()}: make a "
                "Scheduler of its own here, after the fork"
            )


def _limits(concurrency: int, lease: timedelta, interval: timedelta) -> Limits:
    if not 1 <= concurrency <= 10_000:
        raise ConfigurationError(f"concurrency={concurrency} must lie between 1 and 10,000")
    if not timedelta(seconds=1) <= lease <= timedelta(days=1):
        raise ConfigurationError(f"lease={lease} must lie between a second and a day")
    if not timedelta(milliseconds=10) <= interval <= timedelta(minutes=1):
        raise ConfigurationError(f"interval={interval} must lie between 10 ms and a minute")
    return Limits(concurrency=concurrency, lease=lease, interval=interval)


def _reference(name: str) -> str:
    return f"name:{name}"


def _at_exit(scheduler: Scheduler) -> Callable[[], None]:
    """Stops it when the interpreter ends, unless it was stopped before; keeps nothing alive."""
    known = weakref.ref(scheduler)

    def stop() -> None:
        if (alive := known()) is not None:
            alive.stop()

    atexit.register(stop)
    return stop
