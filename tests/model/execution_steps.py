"""The steps of one execution, under the letters and verbs of the code, and what befalls them.

`broken` names the guards that are left out; see mutants.py.
"""

from collections.abc import Iterator

from model.execution import FINAL, IDLE, Row, Worker, World
from model.explore import Move, Steps

STEPS: Steps[World] = Steps()
Moves = Iterator[Move[World]]
Broken = frozenset[str]


def at(world: World, place: str) -> Iterator[tuple[int, Worker]]:
    return ((who, worker) for who, worker in enumerate(world.workers) if worker.at == place)


def newest(world: World, worker: Worker) -> bool:
    """What W, S, L and RENEW look for: RUNNING, and by this attempt."""
    return world.row.state == "RUNNING" and world.row.attempt == worker.attempt


@STEPS.step("D", "INSERT_EXECUTIONS")
def dispatch(world: World, broken: Broken) -> Moves:
    """Creates the row and commits; the id is in memory, to be published."""
    if world.row.state != "UNBORN" or world.deleted:
        return
    if "publish before commit" not in broken:
        yield Move(world._replace(row=Row(state="PENDING"), outbox=True))
    elif not world.half:
        yield Move(world._replace(half="published", broker=True), "publish before the commit")
    else:
        yield Move(world._replace(half="", row=Row(state="PENDING")), "commit")


@STEPS.step("P")
def publish(world: World, broken: Broken) -> Moves:
    if world.outbox:
        yield Move(world._replace(outbox=False, broker=True))
        yield Move(world._replace(outbox=False), "the scheduler is killed, or the broker away", fault=True)


@STEPS.step("R1", "REPUBLISH", "REPUBLISH_NAMED")
def republish(world: World, broken: Broken) -> Moves:
    """Whenever a message had its time."""
    if world.row.state == "PENDING" and not world.outbox and "no republish" not in broken:
        yield Move(world._replace(outbox=True))


@STEPS.step("B")
def broker(world: World, broken: Broken) -> Moves:
    """Delivers to a worker, loses, and delivers again."""
    if not world.broker:
        return
    if "broker that loses" not in broken:
        yield Move(world._replace(broker=False), "loses the message", fault=True)
    for who, _ in at(world, "idle"):
        taken = world.with_worker(who, Worker("claiming"))
        yield Move(taken._replace(broker=False), "delivers the message", who)
        yield Move(taken, "delivers the message, and keeps it", who, fault=True)


@STEPS.step("C", "CLAIM")
def claim(world: World, broken: Broken) -> Moves:
    """What an earlier claim of this delivery took comes back as well; anything else is dropped."""
    row = world.row
    for who, worker in at(world, "claiming"):
        if row.state == "PENDING" or ("blind claim" in broken and row.state == "RUNNING"):
            attempt = row.attempt + ("claim keeps the attempt" not in broken)
            running = row._replace(state="RUNNING", attempt=attempt, leased=True)
            after = world._replace(row=running).owned_by(who)
            yield Move(after.with_worker(who, Worker("claimed", attempt, owns=True)), f"claim attempt {attempt}", who)
            yield Move(after, f"claim attempt {attempt}, but the reply is lost", who, fault=True)
        elif row.state == "RUNNING" and worker.owns:
            yield Move(world.with_worker(who, worker._replace(at="claimed", attempt=row.attempt)), "claim again", who)
        else:
            yield Move(world.with_worker(who, IDLE), "drop what can't be claimed", who)


@STEPS.step("S", "START")
def start(world: World, broken: Broken) -> Moves:
    """At most once only; an attempt that is refused has nothing left but L."""
    for who, worker in at(world, "claimed"):
        ready = world.with_worker(who, worker._replace(at="ready"))
        if not world.once or "no start mark" in broken:
            yield Move(ready, "go on without a mark", who)
            continue
        held = world.row.leased or "start without a lease" in broken
        owned = worker.owns or "start by anybody" in broken
        if (newest(world, worker) and owned and held) or "unfenced start" in broken:
            row = world.row._replace(started=True)
            yield Move(ready._replace(row=row), "start", who)
            yield Move(world._replace(row=row), "start, but the reply is lost", who, fault=True)


@STEPS.step("L", "RELEASE")
def release(world: World, broken: Broken) -> Moves:
    """Gives back what was not sent: S refused it, or the worker stops. What L refuses is left to the recorder."""
    for who, worker in enumerate(world.workers):
        if worker.at == "claimed" or (worker.at == "sent" and "release what was sent" in broken):
            dropped, kept = IDLE, worker._replace(at="done", outcome="AGAIN")
            if not newest(world, worker) or (world.row.started and worker.at == "claimed"):
                yield Move(world.with_worker(who, kept), "release is refused", who)
                continue
            after = world._replace(row=_released(world.row, broken)).owned_by(None)
            yield Move(after.with_worker(who, dropped), "release", who)
            yield Move(after.with_worker(who, kept), "release, but the reply is lost", who, fault=True)


def _released(row: Row, broken: Broken) -> Row:
    cancelled = row.cancel and "release ignores cancel" not in broken
    barred = row.failures >= row.allowed and "release ignores delete" not in broken
    return row.ended("CANCELLED" if cancelled or barred else "PENDING")


@STEPS.step("RENEW", "RENEW")
def renew(world: World, broken: Broken) -> Moves:
    if world.row.state == "RUNNING" and not world.row.leased and "no renewal" not in broken:
        for who, worker in enumerate(world.workers):
            if worker.at in ("ready", "sent") and newest(world, worker):
                yield Move(world._replace(row=world.row._replace(leased=True)), "", who)


@STEPS.step("W", "RECORD")
def record(world: World, broken: Broken) -> Moves:
    """What finds no row was recorded before, its reply lost, or was taken over: `recorded_before` tells the log which.

    The outcome stays in memory until the reply is there.
    """
    for who, worker in at(world, "done"):
        gone = world.with_worker(who, IDLE)
        if _may_record(world, worker, broken):
            row = _recorded(world, worker, broken)
            yield Move(gone._replace(row=row), f"record {row.state}", who)
            yield Move(world._replace(row=row), f"record {row.state}, but the reply is lost", who, fault=True)
            if "forget what was not written" in broken:
                yield Move(gone, "the database is away: the outcome is dropped", who, fault=True)
        else:
            yield Move(gone, "nothing to record any more", who)


def _may_record(world: World, worker: Worker, broken: Broken) -> bool:
    if "record by id" in broken:
        return world.row.state != "UNBORN"
    if "record by state" in broken:
        return world.row.state == "RUNNING"
    freed = "free the attempt before W" in broken and world.row.state == "PENDING"
    return newest(world, worker) or (freed and world.row.attempt == worker.attempt)


def _recorded(world: World, worker: Worker, broken: Broken) -> Row:
    """RECORD's `verdict`."""
    row, failed = world.row, worker.outcome == "RETRY"
    if worker.outcome in FINAL:
        return row.ended(worker.outcome)
    if row.cancel and "retry after cancel" not in broken:
        return row.ended("CANCELLED")
    if row.failures + failed >= row.allowed and (failed or "interruption ignores delete" not in broken):
        return row.ended("FAILED", never_sent=True)
    return row.ended("PENDING", failures=row.failures + failed, started=False)


@STEPS.step("T")
def lease_ends(world: World, broken: Broken) -> Moves:
    """Its worker is dead, stopped for a while, or cut off."""
    if world.row.leased:
        yield Move(world._replace(row=world.row._replace(leased=False)), "the lease ends")


@STEPS.step("R2", "RESCUE")
def rescue(world: World, broken: Broken) -> Moves:
    row = world.row
    stuck = row.state == "RUNNING" and not row.leased
    if "no rescue" in broken:
        return
    if "rescue in two steps" not in broken:
        if stuck:
            yield Move(world._replace(row=_rescued(world, broken)).owned_by(None))
    elif world.half:
        verdict = row.ended(world.half, failures=min(row.failures + 1, row.allowed))
        yield Move(world._replace(row=verdict, half=""), f"update by id: {world.half}")
    elif stuck:
        yield Move(world._replace(half=_rescued(world, broken).state), "select what is stuck")


def _rescued(world: World, broken: Broken) -> Row:
    """RESCUE's `verdict`."""
    row = world.row
    doubtful = row.started and "rescue ignores the start" not in broken
    if doubtful and not (row.cancel and "rescue believes a cancel" in broken):
        return row.ended("UNKNOWN")
    if row.cancel and "rescue ignores cancel" not in broken:
        return row.ended("CANCELLED")
    if row.failures + 1 >= row.allowed and "rescue ignores the failures" not in broken:
        return row.ended("FAILED", never_sent=not row.started)
    return row.ended("PENDING", failures=min(row.failures + 1, row.allowed))


@STEPS.step("X")
def kill(world: World, broken: Broken) -> Moves:
    """With what its recorder had in memory."""
    for who, worker in enumerate(world.workers):
        if worker.at != "idle":
            yield Move(world.with_worker(who, IDLE), "is killed", who, fault=True)
