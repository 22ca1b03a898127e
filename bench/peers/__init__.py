"""The peers that can be installed from PyPI, each set up for throughput as its documentation says, on the same work.

Each has a program here that runs in the bench's own environment. A peer's jobs are counted when their bodies end, which
is before most of them have written down that they did; Gnomon's are counted when they are recorded.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from struct import Struct

from bench.bed import Bed
from bench.burst import costs
from bench.case import Case, Figures, Goal, Medians, Scale, Section
from bench.lateness import latenesses, percentile
from bench.programs import Programs, programs

HERE = Path(__file__).parent
WARM_UP = 50
SHORT_JOBS = 20
READY_SECONDS = 300.0  # on a machine that is busy with something else; it takes some
START_SECONDS = 8.0  # until the processes of a peer that start after their jobs were made are surely up
PATIENCE_SECONDS = 600.0
RATE = 100  # of the steady load, and for how long
STEADY_SECONDS = 10.0
HTTP, NOOP = "http-0ms", "async-noop"
MARK = Struct("<qd")  # as effect.py writes it

Command = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A program of this folder.

    `processes`: what is started for so many workers, each with the arguments of the program. `jobs`: as many as it does
    in some seconds, at most the bench's. `seed_seconds`: no job takes longer to make. `installs`: it has tables.
    `seeded_first`: its jobs must be there when it starts, and are made for so many workers.
    """

    who: str
    processes: Callable[[int], Sequence[Command]]
    jobs: int
    seed_seconds: float
    installs: bool = False
    seeded_first: bool = False

    @property
    def path(self) -> Path:
        return HERE / f"with_{self.who.replace('-', '_')}.py"


def _workers(count: int) -> Sequence[Command]:
    return [("worker",)] * count


def _huey(count: int) -> Sequence[Command]:
    return [("consumer", str(count))]


def _redbeat(count: int) -> Sequence[Command]:
    return [("beat",), ("worker", str(count))]


def _apscheduler(count: int) -> Sequence[Command]:
    return [("scheduler", str(index)) for index in range(count)]


def _rq_scheduler(count: int) -> Sequence[Command]:
    return [("scheduler",), *_workers(count)]


PEERS = (
    Peer(who="pgqueuer", processes=_workers, jobs=20_000, seed_seconds=0.0005, installs=True),
    Peer(who="procrastinate", processes=_workers, jobs=1_500, seed_seconds=0.005, installs=True),
    Peer(who="huey", processes=_huey, jobs=2_000, seed_seconds=0.001),
    Peer(who="apscheduler", processes=_apscheduler, jobs=1_000, seed_seconds=0.006, seeded_first=True),
    Peer(who="rq-scheduler", processes=_rq_scheduler, jobs=1_000, seed_seconds=0.004),
    Peer(who="redbeat", processes=_redbeat, jobs=1_000, seed_seconds=0.004),
)


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a peer did: when each job ended, in the order that they did."""

    due: float
    ended: Sequence[float]
    used: Figures


def burst(bed: Bed, *, peer: Peer, workers: int, http: bool, count: int, strict: bool = True) -> Figures:
    """All due at one moment; from it until the last body has ended.

    Raises RuntimeError where jobs were due before the peer was ready, unless only the work counts (not `strict`).
    """
    done = _do(bed, peer=peer, workers=workers, http=http, count=count, spacing=0.0, strict=strict)
    begun = min(done.due, done.ended[0])  # some begin up to a second early
    return {"jobs_per_s": count / (done.ended[-1] - begun), "jobs": count, **done.used}


def steady(bed: Bed, *, peer: Peer, seconds: float) -> Figures:
    """One due each hundredth of a second: from a job's moment to its request at the sink."""
    count = round(RATE * seconds)
    done = _do(bed, peer=peer, workers=1, http=True, count=count, spacing=1 / RATE)
    late = latenesses(bed.sink.arrivals(), since=done.due - 0.001)
    percents = {f"p{percent}_ms": percentile(late, percent) for percent in (50, 99)}
    return {**percents, "runs_per_s": count / (done.ended[-1] - done.due), "jobs": count, **done.used}


def _do(bed: Bed, *, peer: Peer, workers: int, http: bool, count: int, spacing: float, strict: bool = True) -> Done:
    warm_up = min(WARM_UP, count // 4)
    marks = bed.folder / "done"
    marks.write_bytes(b"")
    with bed.database(migrated=False) as database_url, bed.queue("redis") as queue_url:
        environment = {
            "BENCH_DATABASE_URL": database_url,
            "BENCH_QUEUE_URL": queue_url,
            "BENCH_URL": bed.sink.url() if http else "",
            "BENCH_DONE": str(marks),
        }
        with programs(bed, python=bed.peers_python, environment=environment, name=peer.who) as started:
            bed.sink.clear()
            lead = _lead(peer, count + warm_up) if strict else 1.0
            due = _prepare(started, peer, workers, count, warm_up, lead, spacing)
            if strict and time.time() > due:
                raise RuntimeError(f"{peer.who} was not ready when its jobs were due; the rate would say nothing")
            meter = started.meter()
            _wait(started, peer, marks, count + warm_up, seconds=due - time.time() + count * spacing + PATIENCE_SECONDS)
            used = costs(meter.used(), count + warm_up)
    done = sorted(MARK.iter_unpack(marks.read_bytes()))
    if [number for number, _ in done] != [*range(-warm_up, count)]:
        raise RuntimeError(f"{peer.who} did {len(done)} jobs instead of each of {count + warm_up} once")
    if http and (arrived := len(bed.sink.arrivals())) != len(done):
        raise RuntimeError(f"{arrived} requests of {peer.who} arrived for {len(done)} jobs")
    return Done(due=due, ended=sorted(at for number, at in done if number >= 0), used=used)


def _lead(peer: Peer, jobs: int) -> float:
    """Seconds within which the jobs are surely made and, where they are made first, the processes started."""
    return 4.0 + jobs * peer.seed_seconds + START_SECONDS * peer.seeded_first


def _prepare(
    started: Programs, peer: Peer, workers: int, count: int, warm_up: int, lead: float, spacing: float
) -> float:
    """Starts the processes and makes the jobs, in the order that the peer needs. When the first is due."""
    if peer.installs:
        started.run(peer.path, "install")
    if not peer.seeded_first:
        _start(started, peer, workers)
    parts = [workers] if peer.seeded_first else []
    due = float(started.run(peer.path, "seed", *parts, count, warm_up, lead, spacing))
    if peer.seeded_first:
        _start(started, peer, workers)
    return due


def _start(started: Programs, peer: Peer, workers: int) -> None:
    for command in peer.processes(workers):
        started.start(command[0], peer.path, *command)
    for role in started.roles:
        role.wait_ready(READY_SECONDS)


def _wait(started: Programs, peer: Peer, marks: Path, total: int, *, seconds: float) -> None:
    """Until so many jobs have ended."""
    deadline = time.monotonic() + seconds
    while (done := marks.stat().st_size // MARK.size) < total:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{peer.who} did {done} of {total} jobs\n{started.logs()}")
        time.sleep(0.05)


def burst_name(work: str, workers: int, who: str) -> str:
    return f"burst/{work}/redis/{workers}-workers/{who}"


def _cases(scale: Scale) -> Iterator[Case]:
    for peer in PEERS:
        count = min(scale.burst, SHORT_JOBS if scale.short else peer.jobs)
        for work, workers in [(HTTP, 1)] if scale.short else product((HTTP, NOOP), (1, 2)):
            measured = partial(
                burst, peer=peer, workers=workers, http=work == HTTP, count=count, strict=not scale.short
            )
            yield Case(name=burst_name(work, workers, peer.who), measure=measured)
        if not scale.short:
            name = f"steady/{RATE}-per-s/redis/{peer.who}"
            yield Case(name=name, measure=partial(steady, peer=peer, seconds=STEADY_SECONDS))


def _in_parts_of_the_fastest(work: str, workers: int) -> Callable[[Medians], float | None]:
    def value(medians: Medians) -> float | None:
        ours = burst_name(work, workers, "gnomon")
        theirs = [medians[name] for peer in PEERS if (name := burst_name(work, workers, peer.who)) in medians]
        if ours not in medians or not theirs:
            return None
        return medians[ours]["jobs_per_s"] / max(figures["jobs_per_s"] for figures in theirs)

    return value


def _goals() -> Iterator[Goal]:
    for work, at_least, said in ((HTTP, 1.3, "HTTP 0 ms"), (NOOP, 1.0, "async handler, no-op")):
        for workers, counted in ((1, "1 worker"), (2, "2 workers")):
            yield Goal(
                text=f"burst, {said}, {counted}: >= {at_least:g} x the fastest peer",
                value=_in_parts_of_the_fastest(work, workers),
                at_least=at_least,
            )


SECTION = Section(name="peers", cases=lambda scale: [*_cases(scale)], goals=[*_goals()])
