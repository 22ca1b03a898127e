"""The top of the minute: very many jobs due at one second. How long until the last request has left, and who waited.

The measure is what the worker's HTTP engine needs for as many calls by itself, in one process with as many places as a
worker has.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

from support.world import World

from bench import seed
from bench.bed import NO_LOOK_AHEAD, Bed
from bench.case import Case, Figures, Goal, Scale, Section, ratio
from bench.engine import run_engine
from bench.lateness import curve, latenesses
from bench.recorded import recorded, wait_recorded
from gnomon.settings import Worker

JOBS = (10_000, 50_000)
SHORT_JOBS = (300,)
WARM_UP = 300  # jobs before: connections are open and code is loaded, as in a process that runs for hours
BROKER = "redis"
NO_SETTINGS: Mapping[str, str] = {}


def name_of(jobs: int, who: str) -> str:
    return f"minute/{jobs}-jobs/{BROKER}/{who}"


def cases(scale: Scale) -> Sequence[Case]:
    variants: dict[str, Callable[..., Figures]] = {
        "gnomon": measure,
        "engine": measure_engine,
        "gnomon-2-workers": partial(measure, workers=2),
        "gnomon-0s": partial(measure, settings=NO_LOOK_AHEAD),
    }
    return [
        Case(name=name_of(jobs, who), measure=partial(measured, jobs=jobs))
        for jobs in (SHORT_JOBS if scale.short else JOBS)
        for who, measured in variants.items()
    ]


def measure(bed: Bed, *, jobs: int, workers: int = 1, settings: Mapping[str, str] = NO_SETTINGS) -> Figures:
    """Seconds and milliseconds after the moment; each job has a cron schedule that names it."""
    with (
        bed.database() as database_url,
        bed.queue(BROKER) as queue_url,
        bed.world(database_url) as world,
        bed.stack(database_url=database_url, queue_url=queue_url, **settings) as stack,
    ):
        stack.start_ready("scheduler", *["worker"] * workers)
        _run(bed, world, WARM_UP)
        late = _run(bed, world, jobs)
    return _figures(late)


def measure_engine(bed: Bed, *, jobs: int) -> Figures:
    bed.sink.clear()
    run_engine(bed.sink.url(), count=jobs, places=Worker().concurrency)
    late = latenesses(bed.sink.arrivals(), since=1.0)  # without those before, which were due long ago
    assert len(late) == jobs, f"of {jobs} calls {len(late)} arrived"
    return _figures(late)


def _run(bed: Bed, world: World, jobs: int) -> list[float]:
    """Milliseconds, ascending."""
    total = recorded(world)

    def make(due: datetime) -> None:
        nonlocal total
        total += jobs
        target = {"url": bed.sink.url(), "method": "POST", "body": "{}"}
        second = _second_after(due)
        model = world.create(cron_schedule=f"{second:%-S %-M %-H} * * *", http_job=target)
        seed.copy(world, model, jobs, due=second)
        world.service.delete(str(model.id))

    bed.sink.clear()
    due = seed.in_time(world, jobs, make=make, end=lambda: wait_recorded(world, total))
    wait_recorded(world, total)
    late = latenesses(bed.sink.arrivals(), since=due.timestamp())
    assert len(late) == jobs, f"of {jobs} executions {len(late)} arrived"
    return late


def _second_after(moment: datetime) -> datetime:
    return moment.replace(microsecond=0) + timedelta(seconds=1)


def _figures(late: Sequence[float]) -> Figures:
    return {"requests_per_s": 1_000 * len(late) / late[-1], "last_left_s": late[-1] / 1_000, **curve(late)}


def _goals() -> Iterator[Goal]:
    for jobs in JOBS:
        yield Goal(
            text=f"top of the minute, {jobs:,} jobs: every request has left within 2 x what the HTTP engine needs",
            value=ratio(name_of(jobs, "gnomon"), name_of(jobs, "engine"), "last_left_s"),
            at_most=2.0,
        )


SECTION = Section(name="minute", cases=cases, goals=[*_goals()])
