"""Lateness of a steady load: from a call's moment to its request at the target, and what each process uses meanwhile.

Nine jobs in ten have an interval of ten seconds, their moments spread evenly; one in ten has a cron schedule, and cron
knows no parts of a second: these come together at each full one. The first seconds after the start are not looked at:
processes meet each statement and each connection for the first time there.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from support.cluster import wait_until
from support.world import World

from bench import seed
from bench.bed import NO_LOOK_AHEAD, Bed
from bench.case import Case, Figures, Goal, Scale, Section, figure_of
from bench.lateness import latenesses, percentile

RATES = (10, 100, 1_000)
SHORT_RATES = (10,)
BROKERS = ("redis", "rabbitmq")
VARIANTS: Mapping[str, Mapping[str, str]] = {"gnomon": {}, "gnomon-0s": NO_LOOK_AHEAD}
PERIOD = 10  # seconds between two runs of a job
CRON_SHARE = 10  # one job in so many
WARM_UP = 10.0  # seconds: each job has run once then
SHORT_WARM_UP = 1.0
LEAD = timedelta(seconds=3)  # until the first moment: time to make the jobs
PATIENCE = 600  # seconds for what was due to end, where the stack can't keep up
# What is due before the end stays due, however late it is; nothing is due after it.
END = """
set local lock_timeout = 0;
update jobs set ends_at = :end, status = case when next_run < :end then status else 'COMPLETED' end,
    next_run = case when next_run < :end then next_run end
where status = 'RUNNING'
"""
IS_OVER = """
select not exists (select from jobs where status = 'RUNNING')
    and not exists (select from executions where state in ('PENDING', 'RUNNING'))
"""
PERCENTS = {"p50_ms": 50.0, "p99_ms": 99.0, "p999_ms": 99.9, "max_ms": 100.0}


def name_of(rate: int, broker: str, who: str) -> str:
    return f"steady/{rate}-per-s/{broker}/{who}"


def cases(scale: Scale) -> Sequence[Case]:
    measured = partial(measure, warm_up=SHORT_WARM_UP if scale.short else WARM_UP, seconds=scale.seconds)
    return [
        Case(name=name_of(rate, broker, who), measure=partial(measured, rate=rate, broker=broker, settings=settings))
        for rate in (SHORT_RATES if scale.short else RATES)
        for broker in (BROKERS[:1] if scale.short else BROKERS)
        for who, settings in VARIANTS.items()
    ]


def measure(
    bed: Bed, *, rate: int, broker: str, settings: Mapping[str, str], warm_up: float, seconds: float
) -> Figures:
    with (
        bed.database() as database_url,
        bed.queue(broker) as queue_url,
        bed.world(database_url) as world,
        bed.stack(database_url=database_url, queue_url=queue_url, **settings) as stack,
    ):
        stack.start_ready("scheduler", "worker")
        bed.sink.clear()
        begins = _start(world, bed.sink.url(), rate * PERIOD) + warm_up
        _sleep_until(begins)
        meter = stack.meter()
        _sleep_until(begins + seconds)
        used, elapsed = meter.used(), meter.elapsed()
        memory = {name: usage.pss_bytes / 1e6 for name, usage in stack.usage().items()}
        _finish(world, datetime.fromtimestamp(begins + seconds, UTC))
        late = latenesses(bed.sink.arrivals(), since=begins, until=begins + seconds)
    return {
        **{name: percentile(late, percent) for name, percent in PERCENTS.items()},
        "runs_per_s": len(late) / seconds,
        **{f"{name}_cpu_percent": 100 * cpu / elapsed for name, cpu in used.items()},
        **{f"{name}_pss_mb": value for name, value in memory.items()},
    }


def _start(world: World, url: str, jobs: int) -> float:
    """Makes the jobs. When the first of them is due, in seconds of the epoch."""
    call = {"url": url, "method": "POST", "body": "{}"}
    target = {"http_job": call, "overlap": "allow"}  # a run that is late keeps no other from being made
    timed = world.create(cron_schedule=f"*/{PERIOD} * * * * *", spread_seconds=PERIOD, **target)
    every = world.create(interval_seconds=PERIOD, **target)
    first = (seed.now(world) + LEAD).replace(microsecond=0)
    for model, count in ((timed, jobs // CRON_SHARE), (every, jobs - jobs // CRON_SHARE)):
        seed.copy(world, model, count, due=first, over_seconds=PERIOD)
        world.service.delete(str(model.id))
    return first.timestamp()


def _finish(world: World, end: datetime) -> None:
    """Returns when all that was due has run. Were it not waited for, the latest would be missing."""
    world.sql(END, end=end)
    wait_until("all that was due has run", lambda: world.one(IS_OVER), seconds=PATIENCE)


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.time()))


def _goals() -> Iterator[Goal]:
    for broker in BROKERS:
        for rate, figure, at_most in ((100, "p50_ms", 8.0), (100, "p99_ms", 20.0), (1_000, "p99_ms", 50.0)):
            yield Goal(
                text=f"lateness at {rate:,} runs/s, {broker}: {figure.removesuffix('_ms')} <= {at_most:g} ms",
                value=figure_of(name_of(rate, broker, "gnomon"), figure),
                at_most=at_most,
            )


SECTION = Section(name="steady", cases=cases, goals=[*_goals()])
