"""Many jobs due at one instant: jobs a second from that instant until the last is recorded, and what each costs."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pika
from pika.adapters.blocking_connection import BlockingChannel
from support.world import World

from bench import seed
from bench.bed import Bed, Stack
from bench.case import Case, Figures, Scale, Section
from bench.recorded import recorded, wait_recorded
from gnomon.embedded.ports import LOOPBACK

WARM_UP = 300  # jobs before the burst: connections are open and code is loaded, as in a process that runs for hours
_QUEUE = "bench"
# Written to the log by the whole server, and taken up by executions with their indexes.
_BYTES = "select pg_current_wal_insert_lsn() - '0/0' as written, pg_total_relation_size('executions') as stored"
_ADD_GUEST = (
    'case rabbit_auth_backend_internal:exists(<<"guest">>) of true -> ok; '
    'false -> rabbit_auth_backend_internal:add_user(<<"guest">>, <<"guest">>, <<"bench">>) end'
)
_GRANT_GUEST = (
    "rabbit_auth_backend_internal:set_permissions("
    '<<"guest">>, <<"{vhost}">>, <<".*">>, <<".*">>, <<".*">>, <<"bench">>)'
)


class Work:
    """What the jobs do, on one bed and broker: `document` is a job's, without its schedule."""

    settings: ClassVar[Mapping[str, str]] = {}
    document: Mapping[str, Any]

    def __init__(self, bed: Bed, queue_url: str) -> None:
        self.bed = bed
        self.queue_url = queue_url

    def forget(self) -> None:
        """What has arrived at the target up to now."""

    def arrived(self) -> int | None:
        """How many executions have reached the target since then; None where nothing counts."""
        return None


class Http(Work):
    delay_ms = 0

    def __init__(self, bed: Bed, queue_url: str) -> None:
        super().__init__(bed, queue_url)
        target = {"url": bed.sink.url(self.delay_ms), "method": "POST", "body": "{}"}
        self.document = {"type": "HTTP", "http_job": target}

    def forget(self) -> None:
        self.bed.sink.clear()

    def arrived(self) -> int:
        return len({arrival.key for arrival in self.bed.sink.arrivals()})


class SlowHttp(Http):
    delay_ms = 100


class Amqp(Work):
    """Messages to a queue of the broker that carries the executions too.

    As guest, whose password is known: another would be sealed to one job, and could not be copied to others.
    """

    settings: ClassVar = {"SCHEDULER_EGRESS_ALLOW_OWN_BROKER": "true"}

    def __init__(self, bed: Bed, queue_url: str) -> None:
        super().__init__(bed, queue_url)
        vhost = urlsplit(queue_url).path[1:]
        bed.rabbitmq.evaluate(_ADD_GUEST)
        bed.rabbitmq.evaluate(_GRANT_GUEST.format(vhost=vhost))
        connection = f"amqp://{LOOPBACK}:{bed.rabbitmq.port}/{vhost}"
        target = {"connection": connection, "exchange": "", "routing_key": _QUEUE, "body": "{}"}
        self.document = {"type": "AMQP", "http_job": None, "amqp_job": target}

    def forget(self) -> None:
        with pika.BlockingConnection(pika.URLParameters(self.queue_url)) as connection:
            _declared(connection.channel())
            connection.channel().queue_purge(_QUEUE)

    def arrived(self) -> int:
        with pika.BlockingConnection(pika.URLParameters(self.queue_url)) as connection:
            return _declared(connection.channel())


class Handler(Work):
    handler: str

    def __init__(self, bed: Bed, queue_url: str) -> None:
        super().__init__(bed, queue_url)
        self.document = {"type": self.handler, "http_job": None, "payload": {}}


class AsyncHandler(Handler):
    handler = "bench_async"
    settings: ClassVar = {"SCHEDULER_WORKER_QUEUES": "async", "SCHEDULER_WORKER_HANDLERS": "bench.handlers"}


class SyncHandler(Handler):
    """In two child processes."""

    handler = "bench_sync"
    settings: ClassVar = {
        "SCHEDULER_WORKER_QUEUES": "handlers",
        "SCHEDULER_WORKER_HANDLERS": "bench.handlers",
        "SCHEDULER_WORKER_PROCESSES": "2",
    }


def measure(bed: Bed, *, kind: type[Work], broker: str, workers: int, jobs: int) -> Figures:
    """One burst through a stack of its own."""
    with (
        bed.database() as database_url,
        bed.queue(broker) as queue_url,
        bed.world(database_url) as world,
        bed.stack(database_url=database_url, queue_url=queue_url, **kind.settings) as stack,
    ):
        stack.start_ready("scheduler", *["worker"] * workers)
        work = kind(bed, queue_url)
        _run(world, stack, work, WARM_UP)
        return _run(world, stack, work, jobs)


def costs(used: Mapping[str, float], count: int) -> dict[str, float]:
    """Microseconds of CPU per execution, summed over the processes of each kind."""
    sums: dict[str, float] = {}
    for process, seconds in used.items():
        kind = process.rpartition("-")[0] or process
        sums[f"{kind}_cpu_us"] = sums.get(f"{kind}_cpu_us", 0.0) + seconds * 1e6 / count
    return sums


def _run(world: World, stack: Stack, work: Work, count: int) -> Figures:
    """`count` jobs due at one instant, done and counted."""
    due, total = _seeded(world, work, count)
    before = world.sql(_BYTES)[0]
    meter = stack.meter()
    ended = wait_recorded(world, total)
    used = meter.used()
    _check(world, work, due, count)
    after = world.sql(_BYTES)[0]
    return {
        "jobs_per_s": count / (ended - due).total_seconds(),
        **costs(used, count),
        "wal_bytes": float(after.written - before.written) / count,
        "stored_bytes": (after.stored - before.stored) / count,
    }


def _seeded(world: World, work: Work, count: int) -> tuple[datetime, int]:
    """When the jobs are due, which is later than now, and how many executions will have been recorded then."""
    model = world.create(**work.document, execute_at=(seed.now(world) + timedelta(days=1)).isoformat())
    total = recorded(world)

    def make(due: datetime) -> None:
        nonlocal total
        total += count
        work.forget()
        seed.copy(world, model, count, due=due)
        world.sql("select pg_notify('gnomon_wake', extract(epoch from cast(:at as timestamptz))::text)", at=due)

    due = seed.in_time(world, count, make=make, end=lambda: wait_recorded(world, total))
    return due, total


def _check(world: World, work: Work, due: datetime, count: int) -> None:
    """Each once, and at the target too."""
    found = {
        row.state: row.executions
        for row in world.sql(
            "select state, count(*) as executions from executions where scheduled_at = :due group by state", due=due
        )
    }
    if found != {"SUCCEEDED": count}:
        raise RuntimeError(f"of {count} executions: {found}")
    if (arrived := work.arrived()) not in (None, count):
        raise RuntimeError(f"{arrived} arrived at the target of {count} executions")


def _declared(channel: BlockingChannel) -> int:
    """The queue is there. How many messages it holds."""
    count: int = channel.queue_declare(_QUEUE).method.message_count
    return count


def _rows(scale: Scale) -> Iterator[tuple[str, type[Work], str, int, int]]:
    """What, its kind, the broker, workers, jobs."""
    if scale.short:  # each kind and broker once
        yield "http-0ms", Http, "redis", 1, scale.burst
        yield "http-100ms", SlowHttp, "rabbitmq", 2, scale.burst
        yield "amqp", Amqp, "rabbitmq", 1, scale.burst
        yield "async-noop", AsyncHandler, "redis", 1, scale.burst
        yield "sync-noop", SyncHandler, "redis", 1, scale.burst
        return
    for what, kind in (("http-0ms", Http), ("http-100ms", SlowHttp)):
        for broker in ("redis", "rabbitmq"):
            for workers in (1, 2):
                yield what, kind, broker, workers, scale.burst
    for workers in (1, 2):
        yield "amqp", Amqp, "rabbitmq", workers, scale.burst
        yield "async-noop", AsyncHandler, "redis", workers, scale.burst
    yield "sync-noop", SyncHandler, "redis", 1, scale.burst // 4


def _cases(scale: Scale) -> Sequence[Case]:
    return [
        Case(
            name=f"burst/{what}/{broker}/{workers}-workers/gnomon",
            measure=partial(measure, kind=kind, broker=broker, workers=workers, jobs=jobs),
        )
        for what, kind, broker, workers, jobs in _rows(scale)
    ]


SECTION = Section(name="burst", cases=_cases)
