"""Do dispatch and claim get slower while retention removes a million executions?

Run as a program (`python -m bench.pruning DATABASE_URL`) it keeps house as a leading scheduler does, until it is ended.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from socket import gethostname
from uuid import uuid4

from support.world import World

from bench import seed
from bench.bed import Bed
from bench.case import Case, Figures, Goal, Scale, Section, ratio
from bench.turnover import Turnover, model
from gnomon import __version__
from gnomon.job.instance import Identity, Role
from gnomon.job.retention import Retention
from gnomon.process.heartbeat import Heartbeat
from gnomon.scheduler.housekeeping import LOOK, Housekeeper
from gnomon.storage.postgres.engine import create_engine
from gnomon.storage.postgres.housekeeping import PostgresHousekeepingStore
from gnomon.storage.postgres.instances import PostgresInstanceStore

EXECUTIONS = 1_000_000
SHORT_EXECUTIONS = 20_000
EACH = 100  # of them to a job
RECENT = 20  # executions of each job that are too young to be removed
BATCHES = 5  # made due at a time
NOT_BEFORE = timedelta(hours=12)  # no job is due by itself
OLD = "select count(*) from executions where finished_at < now() - make_interval(secs => :age)"
QUIET, UNDER_WAY = "pruning/without/gnomon", "pruning/under-way/gnomon"


def cases(scale: Scale) -> Sequence[Case]:
    measured = partial(measure, old=SHORT_EXECUTIONS if scale.short else EXECUTIONS, seconds=scale.seconds)
    return [
        Case(name=QUIET, measure=partial(measured, keeper=lambda _: contextlib.nullcontext())),
        Case(name=UNDER_WAY, measure=partial(measured, keeper=_keeper)),
    ]


def measure(
    bed: Bed,
    *,
    old: int,
    seconds: float,
    keeper: Callable[[str], AbstractContextManager[subprocess.Popen[bytes] | None]],
) -> Figures:
    """Whole lives of executions, one batch after the other, while there is still something to remove."""
    url = bed.keep("pruning", partial(_database, bed, old // EACH))
    with bed.world(url) as world:
        if missing := (old - _old_ones(world)) * EACH // old:
            with seed.indexes_later(world, "executions"):
                seed.history(world, missing, until=seed.now(world) - 2 * Retention().succeeded, over_seconds=86_400)
            world.sql("checkpoint")
        turnover, before = Turnover(world), _old_ones(world)
        with keeper(url) as keeping:
            begun = time.monotonic()
            while time.monotonic() < begun + seconds and (keeping is None or keeping.poll() is None):
                turnover.make_due(BATCHES)
                while ids := turnover.dispatch():
                    turnover.record(turnover.claim(ids))
            lasted = time.monotonic() - begun
        return {**turnover.figures(), "removed_per_s": (before - _old_ones(world)) / lasted}


@contextlib.contextmanager
def _database(bed: Bed, jobs: int) -> Iterator[str]:
    with bed.database() as url:
        with bed.world(url) as world:
            seed.copy(world, model(world), jobs - 1, due=seed.now(world) + NOT_BEFORE, over_seconds=86_400)
            seed.history(world, RECENT, until=seed.now(world), over_seconds=86_400)
        yield url


def _old_ones(world: World) -> int:
    found: int = world.one(OLD, age=Retention().succeeded.total_seconds())
    return found


@contextlib.contextmanager
def _keeper(database_url: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of this module, from when it has begun to remove."""
    process = subprocess.Popen([sys.executable, "-m", "bench.pruning", database_url], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline(), "the process that keeps house ended before it began"
        try:
            yield process
        finally:
            process.terminate()


def main(database_url: str) -> None:
    """One round of a leader's housekeeping."""
    engine = create_engine(database_url)
    instances = PostgresInstanceStore(engine)
    identity = Identity(
        id=uuid4(), name="keeper", role=Role.SCHEDULER, host=gethostname(), pid=os.getpid(), version=__version__
    )
    Heartbeat(instances, identity).start()
    house = Housekeeper(PostgresHousekeepingStore(engine), instances, me=identity.id, retention=Retention())
    instances.beat(identity)
    rest = house.step()
    print("began", flush=True)
    while rest < LOOK:
        time.sleep(rest.total_seconds())
        rest = house.step()


def _goals() -> Iterator[Goal]:
    for step, figure in {"dispatch": "due_us", "claim": "claim_us"}.items():
        text = f"{step} while {EXECUTIONS:,} executions are removed <= 1.3 x without"
        yield Goal(text=text, value=ratio(UNDER_WAY, QUIET, figure), at_most=1.3)


SECTION = Section(name="pruning", cases=cases, goals=[*_goals()])

if __name__ == "__main__":
    main(sys.argv[1])
