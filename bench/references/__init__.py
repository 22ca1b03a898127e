"""What Gnomon is measured against in the same run: a floor without promises, and Celery as its first steps show it."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import psycopg2

from bench.bed import Bed
from bench.burst import WARM_UP, costs
from bench.case import Case, Figures, Goal, Scale, Section, ratio
from bench.programs import Programs, programs

HERE = Path(__file__).parent
BROKERS = ("redis", "rabbitmq")
LEAD_SECONDS = 1.5
READY_SECONDS = 300.0  # on a machine that is busy with something else; it takes some
PATIENCE_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A program of this folder. `worker` is how one worker process is asked for."""

    who: str
    program: str
    worker: Sequence[str]

    @property
    def path(self) -> Path:
        return HERE / f"{self.program}.py"

    @property
    def table(self) -> str:
        return f"{self.program}_jobs"


FLOOR = Reference(who="floor", program="floor", worker=["multi"])
FLOOR_SAME_CLIENT = Reference(who="floor-same-client", program="floor", worker=["async"])
TEXTBOOK = Reference(who="textbook-celery", program="textbook", worker=["1"])
# What the textbook does in some seconds; the others do what Gnomon does.
TEXTBOOK_JOBS = {0: 2_000, 100: 200}
SHORT_TEXTBOOK_JOBS = 50


def measure(
    bed: Bed, *, reference: Reference, broker: str, workers: int, delay_ms: int, count: int, strict: bool = True
) -> Figures:
    """From the moment that all jobs are due at until the last outcome is in the table.

    Raises RuntimeError where they were due before the last was made, unless only the work counts (not `strict`).
    """
    with bed.database(migrated=False) as database_url, bed.queue(broker) as queue_url:
        environment = {
            "BENCH_DATABASE_URL": database_url,
            "BENCH_QUEUE_URL": queue_url,
            "BENCH_URL": bed.sink.url(delay_ms),
        }
        with programs(bed, python=Path(sys.executable), environment=environment, name=reference.who) as started:
            started.run(reference.path, "install")
            started.start("dispatcher", reference.path, "dispatcher")
            for _ in range(workers):
                started.start("worker", reference.path, "worker", *reference.worker)
            for role in started.roles:
                role.wait_ready(READY_SECONDS)
            run = partial(_run, bed, started, reference, database_url, strict=strict)
            warm_up = min(WARM_UP, count // 10)
            run(first=-warm_up, count=warm_up)
            return run(first=0, count=count)


def _run(
    bed: Bed, started: Programs, reference: Reference, database_url: str, *, first: int, count: int, strict: bool
) -> Figures:
    bed.sink.clear()
    due = float(started.run(reference.path, "seed", first, count, LEAD_SECONDS))
    if strict and (late := time.time() - due) > 0:
        raise RuntimeError(f"the jobs were due {late:.1f} s before the last was seeded; the rate would say nothing")
    meter = started.meter()
    ended = _wait(started, reference, database_url, first, count)
    used = meter.used()
    arrived = [arrival.key for arrival in bed.sink.arrivals()]
    if sorted(arrived) != sorted(str(number) for number in range(first, first + count)):
        raise RuntimeError(f"{len(arrived)} requests ({len(set(arrived))} different) arrived for {count} jobs")
    return {"jobs_per_s": count / (ended - due), "jobs": count, **costs(used, count)}


def _wait(started: Programs, reference: Reference, database_url: str, first: int, count: int) -> float:
    """When the last of them was written down, in seconds of the epoch. Raises RuntimeError where one went wrong."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    statement = (
        "select count(*), count(*) filter (where status <> 200), extract(epoch from max(finished_at))::float8 "
        f"from {reference.table} where state = 'DONE' and id >= %s and id < %s"
    )
    session = psycopg2.connect(database_url)
    session.autocommit = True
    with session.cursor() as cursor:
        while True:
            cursor.execute(statement, (first, first + count))
            done, wrong, ended = cursor.fetchone() or (0, 0, 0.0)
            if wrong:
                raise RuntimeError(f"{wrong} of {count} calls of {reference.who} were not answered with 200")
            if done == count:
                session.close()
                return float(ended)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{reference.who} did {done} of {count} jobs\n{started.logs()}")
            time.sleep(0.2)


def _cases(scale: Scale) -> Iterator[Case]:
    for delay_ms, broker, workers, reference in _rows(scale):
        most = SHORT_TEXTBOOK_JOBS if scale.short else TEXTBOOK_JOBS[delay_ms]
        count = min(scale.burst, most) if reference is TEXTBOOK else scale.burst
        yield Case(
            name=name_of(delay_ms, broker, workers, reference.who),
            measure=partial(
                measure,
                reference=reference,
                broker=broker,
                workers=workers,
                delay_ms=delay_ms,
                count=count,
                strict=not scale.short,
            ),
        )


def _rows(scale: Scale) -> Iterator[tuple[int, str, int, Reference]]:
    if scale.short:
        yield from ((0, "redis", 1, FLOOR), (0, "rabbitmq", 1, FLOOR_SAME_CLIENT), (0, "redis", 1, TEXTBOOK))
        return
    yield from product((0, 100), BROKERS, (1, 2), (FLOOR, FLOOR_SAME_CLIENT, TEXTBOOK))


def name_of(delay_ms: int, broker: str, workers: int, who: str) -> str:
    return f"burst/http-{delay_ms}ms/{broker}/{workers}-workers/{who}"


def _goals() -> Iterator[Goal]:
    """With as many worker processes as the machine that the goals are meant for has cores."""
    promised = (
        (0, TEXTBOOK, 15.0, "textbook Celery"),
        (0, FLOOR_SAME_CLIENT, 0.6, "the floor with the same client"),
        (100, TEXTBOOK, 150.0, "textbook Celery"),
        (100, FLOOR_SAME_CLIENT, 0.8, "the floor with the same client"),
    )
    for (delay_ms, reference, at_least, said), broker in product(promised, BROKERS):
        ours, theirs = (name_of(delay_ms, broker, 2, who) for who in ("gnomon", reference.who))
        yield Goal(
            text=f"burst, HTTP {delay_ms} ms, {broker}: >= {at_least:g} x {said}",
            value=ratio(ours, theirs, "jobs_per_s"),
            at_least=at_least,
        )


SECTION = Section(name="references", cases=lambda scale: [*_cases(scale)], goals=[*_goals()])
