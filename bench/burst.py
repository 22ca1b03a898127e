"""Many jobs due at one instant: jobs a second from that instant until the last is recorded, and what each costs."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pika
from support.world import World

from bench import seed
from bench.bed import Bed, Stack
from bench.case import Case, Figures, Scale, Section

WARM_UP = 300  # jobs before the burst: connections are open and code is loaded, as in a process that runs for hours
_LEAD = timedelta(seconds=2)
_POLL_SECONDS = 0.01
_PATIENCE_SECONDS = 600
_QUEUE = "bench"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the jobs do. `delay_ms` is the sink's, where it is the target."""

    jobs: int
    document: Callable[[Bed, str], Mapping[str, Any]]
    settings: Mapping[str, str] = field(default_factory=dict)
    delay_ms: int | None = None


def _http(delay_ms: int, jobs: int) -> Work:
    def document(bed: Bed, _queue_url: str) -> Mapping[str, Any]:
        return {"type": "HTTP", "http_job": {"url": bed.sink.url(delay_ms), "method": "POST", "body": "{}"}}

    return Work(jobs=jobs, document=document, delay_ms=delay_ms)


def _amqp(jobs: int) -> Work:
    def document(_bed: Bed, queue_url: str) -> Mapping[str, Any]:
        with pika.BlockingConnection(pika.URLParameters(queue_url)) as connection:
            connection.channel().queue_declare(_QUEUE)
        target = {"connection": queue_url, "exchange": "", "routing_key": _QUEUE, "body": "{}"}
        return {"type": "AMQP", "http_job": None, "amqp_job": target}

    return Work(jobs=jobs, document=document, settings={"SCHEDULER_EGRESS_ALLOW_OWN_BROKER": "true"})


def _handler(name: str, queue: str, jobs: int) -> Work:
    def document(_bed: Bed, _queue_url: str) -> Mapping[str, Any]:
        return {"type": name, "http_job": None, "payload": {}}

    settings = {
        "SCHEDULER_WORKER_QUEUES": queue,
        "SCHEDULER_WORKER_HANDLERS": "bench.handlers",
        "SCHEDULER_WORKER_PROCESSES": "2",
    }
    return Work(jobs=jobs, document=document, settings=settings)


def measure(bed: Bed, *, work: Work, broker: str, workers: int) -> Figures:
    """One burst through a stack of its own."""
    with (
        bed.database() as database_url,
        bed.queue(broker) as queue_url,
        bed.world(database_url) as world,
        bed.stack(database_url=database_url, queue_url=queue_url, **work.settings) as stack,
    ):
        stack.start_ready("scheduler", *["worker"] * workers)
        document = work.document(bed, queue_url)
        _run(bed, world, stack, document, work, WARM_UP)
        return _run(bed, world, stack, document, work, work.jobs)


def _run(bed: Bed, world: World, stack: Stack, document: Mapping[str, Any], work: Work, count: int) -> Figures:
    """`count` jobs due at one instant, done and counted."""
    recorded = _recorded(world)
    if work.delay_ms is not None:
        bed.sink.clear()
    far = seed.now(world) + timedelta(days=1)
    model = world.create(**document, execute_at=far.isoformat())
    due = seed.now(world) + _LEAD
    seed.copy(world, model, count, due=due)
    if (late := (seed.now(world) - due).total_seconds()) > 0:
        raise RuntimeError(f"the jobs were due {late:.1f} s before the last was seeded; the rate would say nothing")
    world.sql("select pg_notify('gnomon_wake', extract(epoch from cast(:at as timestamptz))::text)", at=due)
    meter = stack.meter()
    ended = _wait(world, recorded + count)
    used = meter.used()
    _check(bed, world, due, count, work)
    return {"jobs_per_s": count / (ended - due).total_seconds(), **costs(used, count)}


def _recorded(world: World) -> int:
    return int(world.one("select coalesce(sum(count), 0) from tallies where outcome = 'succeeded'"))


def _wait(world: World, total: int) -> datetime:
    """When that many were recorded in all, by the database's clock. The tallies are counted in the recording commit."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    with world.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while True:
            row = connection.exec_driver_sql(
                "select coalesce(sum(count), 0), clock_timestamp() from tallies where outcome = 'succeeded'"
            ).one()
            if row[0] >= total:
                return row[1]
            if time.monotonic() > deadline:
                raise TimeoutError(f"{total - row[0]} of the last {total} executions were not recorded")
            time.sleep(_POLL_SECONDS)


def _check(bed: Bed, world: World, due: datetime, count: int, work: Work) -> None:
    """Each once, and at the target too."""
    states = dict(world.sql("select state, count(*) from executions where scheduled_at = :due group by 1", due=due))
    if states != {"SUCCEEDED": count}:
        raise RuntimeError(f"of {count} executions: {states}")
    if work.delay_ms is not None and len({arrival.key for arrival in bed.sink.arrivals()}) != count:
        raise RuntimeError(f"{len(bed.sink.arrivals())} requests arrived for {count} executions")


def costs(used: Mapping[str, float], count: int) -> dict[str, float]:
    """Microseconds of CPU per execution, summed over the processes of each kind."""
    sums: dict[str, float] = {}
    for process, seconds in used.items():
        kind = process.rpartition("-")[0] or process
        sums[f"{kind}_cpu_us"] = sums.get(f"{kind}_cpu_us", 0.0) + seconds * 1e6 / count
    return sums


def _cases(scale: Scale) -> Sequence[Case]:
    everything = [
        *(
            (f"http-{delay_ms}ms", broker, workers, _http(delay_ms, scale.burst))
            for delay_ms in (0, 100)
            for broker in ("redis", "rabbitmq")
            for workers in (1, 2)
        ),
        *(("amqp", "rabbitmq", workers, _amqp(scale.burst)) for workers in (1, 2)),
        *(("async-noop", "redis", workers, _handler("bench_async", "async", scale.burst)) for workers in (1, 2)),
        ("sync-noop", "redis", 1, _handler("bench_sync", "handlers", scale.burst // 4)),
    ]
    return [
        Case(
            name=f"burst/{what}/{broker}/{workers}-workers/gnomon",
            measure=partial(measure, work=work, broker=broker, workers=workers),
        )
        for what, broker, workers, work in everything
    ]


SECTION = Section(name="burst", cases=_cases)
