"""E, what becomes of it by worker/verdict.py, and what people ask for: steps of one execution, continued."""

from model.execution import Worker, World
from model.execution_steps import STEPS, Broken, Moves, at, newest
from model.explore import Move


@STEPS.step("E")
def send(world: World, broken: Broken) -> Moves:
    """From here on nobody asks the database: an attempt that was stopped for long sends all the same."""
    for who, worker in at(world, "ready"):
        sent = world._replace(effects=min(world.effects + 1, 1 + world.once))
        if "record before the answer" in broken:
            yield Move(
                sent.with_worker(who, worker._replace(at="done", outcome="SUCCEEDED")), "send, not listening", who
            )
        else:
            yield Move(sent.with_worker(who, worker._replace(at="sent")), "send", who)
        yield _over(world, who, worker, "RETRY", "is not sent")
        if world.once:
            yield _over(world, who, worker, "UNKNOWN", "may have been sent, but was not")
        yield _over(world, who, worker, "AGAIN", "is broken off before it is sent: the worker stops")


@STEPS.step("E")
def answer(world: World, broken: Broken) -> Moves:
    """A failure that was answered is final where a second effect is forbidden; no answer leaves it unknown."""
    for who, worker in at(world, "sent"):
        heard = worker._replace(at="done", outcome="SUCCEEDED", heard=True)
        yield Move(_in_memory(world, who, heard, broken), "is acknowledged", who)
        if world.once:
            yield _over(world, who, worker, "FAILED", "is answered by an error")
            yield _over(world, who, worker, "UNKNOWN", "is not answered")
        else:
            yield _over(world, who, worker, "RETRY", "is not answered")
            yield _over(world, who, worker, "AGAIN", "is broken off: the worker stops")


@STEPS.step("E")
def abort(world: World, broken: Broken) -> Moves:
    """The worker asks for cancellations every two seconds (CANCEL_REQUESTED)."""
    if world.row.cancel:
        for who, worker in enumerate(world.workers):
            if worker.at in ("ready", "sent") and newest(world, worker):
                doubtful = world.once and worker.at == "sent"
                yield _over(world, who, worker, "UNKNOWN" if doubtful else "CANCELLED", "is broken off: cancelled")


def _over(world: World, who: int, worker: Worker, outcome: str, note: str) -> Move[World]:
    return Move(world.with_worker(who, worker._replace(at="done", outcome=outcome)), note, who, fault=True)


def _in_memory(world: World, who: int, worker: Worker, broken: Broken) -> World:
    after = world.with_worker(who, worker)
    if "free the attempt before W" in broken and newest(world, worker):
        return after._replace(row=world.row.ended("PENDING"))
    return after


@STEPS.step("CANCEL", "CANCEL")
def cancel(world: World, broken: Broken) -> Moves:
    row = world.row
    if row.cancel:
        return
    if row.state == "PENDING" or (row.state == "RUNNING" and "cancel what runs" in broken):
        yield Move(world._replace(row=row.ended("CANCELLED", cancel=True)), fault=True)
    elif row.state == "RUNNING":
        yield Move(world._replace(row=row._replace(cancel=True)), "cancel: asked of its worker", fault=True)


@STEPS.step("DELETE", "DELETE")
def delete(world: World, broken: Broken) -> Moves:
    """`half` is what a statement without row locks has seen, which another has changed since."""
    if world.deleted:
        return
    if "delete by its snapshot" not in broken or world.row.state == "UNBORN":
        yield Move(_deleted(world, world.row.state, broken), fault=True)
    elif not world.half:
        yield Move(world._replace(half=world.row.state), "look", fault=True)
    else:
        seen = world.row.state if world.row.state == world.half else ""
        yield Move(_deleted(world, seen, broken)._replace(half=""), "write where nothing changed since", fault=True)


def _deleted(world: World, seen: str, broken: Broken) -> World:
    row = world.row
    if seen == "PENDING" and "delete leaves what is pending" not in broken:
        row = row.ended("CANCELLED")
    elif seen == "RUNNING" and "delete leaves what runs" not in broken:
        row = row._replace(barred=True)
    return world._replace(row=row, deleted=True)
