"""Does the cost of an execution grow with the number of jobs, and with history?

By the product's own stores, in one process. Each size has a database of its own, made once; jobs that are due lie all
over it.
"""

import contextlib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial

from support.world import World

from bench import seed
from bench.bed import Bed
from bench.case import Case, Figures, Goal, Scale, Section, figure_of, ratio
from bench.turnover import Turnover, model

HISTORY = 10  # executions in history for each job
BATCHES = 5  # in one round
LARGEST = 10_000_000
NOT_BEFORE = timedelta(hours=12)  # no job is due by itself
FROM, TO = 10_000, 1_000_000


def name_of(jobs: int) -> str:
    return f"scale/{jobs}-jobs/gnomon"


def cases(scale: Scale) -> Sequence[Case]:
    sizes = [*scale.jobs] if scale.short else [*scale.jobs, LARGEST]
    return [Case(name=name_of(jobs), measure=partial(measure, jobs=jobs), long=jobs == LARGEST) for jobs in sizes]


def measure(bed: Bed, *, jobs: int) -> Figures:
    world = bed.keep(name_of(jobs), partial(_grown, bed, jobs))
    turnover = Turnover(world)
    turnover.make_due(BATCHES)
    while ids := turnover.dispatch():
        turnover.republish(ids)
        turnover.rescue(turnover.claim(ids))
        turnover.record(turnover.claim(ids))
    for _ in range(BATCHES):
        turnover.ask()
    return turnover.figures()


@contextlib.contextmanager
def _grown(bed: Bed, jobs: int) -> Iterator[World]:
    with bed.database() as url, bed.world(url) as world:
        with seed.indexes_later(world, "jobs", "executions"):
            seed.copy(world, model(world), jobs - 1, due=seed.now(world) + NOT_BEFORE, over_seconds=86_400)
            for hours in range(HISTORY - 1, -1, -1):
                seed.history(world, 1, until=seed.now(world) - timedelta(hours=hours), over_seconds=3_600)
        world.sql("checkpoint")  # what was written until now is not written while something is measured
        yield world


def _goals() -> Iterator[Goal]:
    few, many = name_of(FROM), name_of(TO)
    for step, figure in {
        "due scan": "due_us",
        "claim": "claim_us",
        "record": "record_us",
        "republish": "republish_us",
        "rescue": "rescue_us",
    }.items():
        text = f"scale, {step}: {TO:,} jobs <= 1.3 x {FROM:,}"
        yield Goal(text=text, value=ratio(many, few, figure), at_most=1.3)
    for question, figure in {"wake-up time": "horizon_ms", "due scan that finds nothing": "idle_scan_ms"}.items():
        text = f"scale, idle poll, {question}: {TO:,} jobs <= 1 ms"
        yield Goal(text=text, value=figure_of(many, figure), at_most=1.0)


SECTION = Section(name="scale", cases=cases, goals=[*_goals()])
