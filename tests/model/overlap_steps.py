"""The steps of one job and its executions. A statement that a unique index refuses is no move: it is rolled back."""

from collections.abc import Iterable, Iterator
from itertools import islice

from model.explore import Move, Steps
from model.overlap import ASKED_FOR, Row, World, in_state, promoted, refused, taken_back

STEPS: Steps[World] = Steps()
Moves = Iterator[Move[World]]
Broken = frozenset[str]


def ended_or_pending(world: World, changes: Iterable[Row], broken: Broken, note: str) -> Moves:
    """Writes these rows and makes way for the next, as W, L, R2 and CANCEL do.

    Which one is the next it knew when it began: should that be cancelled meanwhile, none is promoted.
    """
    changes = list(changes)
    ended = [row for row in changes if row.state == "ENDED"]
    written = world.changed(*changes)
    after = promoted(written, ended, broken)
    if "index lets promotions pass" not in broken and refused(after.rows + after.births, broken):
        return
    yield Move(after, note)
    if after != written and not world.births:
        chosen = next(in_state(world, "WAITING"))
        cancelled = written.changed(chosen._replace(state="ENDED", last=True))
        yield Move(cancelled, f"{note}, while {chosen.moment} is cancelled", fault=True)


def again(row: Row, *, failed: bool) -> Row:
    """PENDING for another attempt, if it may have one: two failures are too many."""
    over = row.last or (row.failed and failed)
    return row._replace(state="ENDED" if over else "PENDING", failed=row.failed or failed)


@STEPS.step("D1", "INSERT_EXECUTIONS")
def dispatch(world: World, broken: Broken) -> Moves:
    """Locks the job and inserts what is due, as PENDING, where the index lets it."""
    if world.births or world.deleted:
        return
    due = range(world.next_run, world.come)
    for count in {1, len(due)} if due else ():
        births: list[Row] = []
        for moment in due[:count]:
            serial = count > 1 and world.overlap != "allow"
            birth = Row(moment, "serial" if serial else world.overlap, "PENDING")
            if refused((*world.rows, *births, birth), broken):
                birth = birth._replace(state="undecided")
            births.append(birth)
        before = world._replace(next_run=due[count - 1] + 1) if "advance by itself" in broken else world
        yield Move(before._replace(births=tuple(births)), f"dispatch {count}")


@STEPS.step("A", "INSERT_EXECUTIONS")
def dispatch_ahead(world: World, broken: Broken) -> Moves:
    """One moment that is still to come. Where the index refuses it, it is left for its moment."""
    if world.births or world.deleted or not world.come <= world.next_run < world.moments:
        return
    birth = Row(world.next_run, world.overlap, "PENDING")
    if not refused((*world.rows, birth), broken):
        yield Move(world._replace(births=(birth,)))
    elif "judge overlap ahead" in broken:
        yield Move(world._replace(births=(birth._replace(state="undecided"),)))


@STEPS.step("T")
def moment_comes(world: World, broken: Broken) -> Moves:
    if world.come < world.moments:
        yield Move(world._replace(come=world.come + 1), f"{world.come} has come")


@STEPS.step("D2", "INSERT_EXECUTIONS")
def wait_or_skip(world: World, broken: Broken) -> Moves:
    """What was refused, in statements of its own: others may have committed in between."""
    if not any(birth.state == "undecided" for birth in world.births):
        return
    births: list[Row] = []
    for birth in world.births:
        if birth.state == "undecided":
            waiting = birth._replace(state="WAITING")
            may_wait = birth.overlap in ("queue", "serial") and not refused((*world.rows, *births, waiting), broken)
            births.append(waiting if may_wait else birth._replace(state="SKIPPED"))
        else:
            births.append(birth)
    yield Move(world._replace(births=tuple(births)))


@STEPS.step("D5", "ADVANCE")
def commit(world: World, broken: Broken) -> Moves:
    """`next_run` moves with the rows, or not at all."""
    if not world.births:
        return
    yield Move(world._replace(births=()), "the scheduler is killed: rolled back", fault=True)
    if all(birth.state != "undecided" for birth in world.births):
        after = world._replace(next_run=world.births[-1].moment + 1)
        kept = [birth for birth in world.births if "dispatch drops" not in broken or birth.state == "PENDING"]
        yield Move(after.born(kept))
        if "random ids" in broken:
            yield Move(world.born(kept), "insert, and be killed before next_run moves", fault=True)


@STEPS.step("C", "CLAIM")
def claim(world: World, broken: Broken) -> Moves:
    for row in in_state(world, "PENDING"):
        if row.moment < world.come or "claim before the moment" in broken:
            yield Move(world.changed(row._replace(state="RUNNING")), f"claim {row.moment}")


@STEPS.step("T")
def lease_ends(world: World, broken: Broken) -> Moves:
    for row in in_state(world, "RUNNING"):
        yield Move(world.changed(row._replace(state="LOST")), f"the lease of {row.moment} ends", fault=True)


@STEPS.step("RENEW", "RENEW")
def renew(world: World, broken: Broken) -> Moves:
    for row in in_state(world, "LOST"):
        yield Move(world.changed(row._replace(state="RUNNING")), f"renew {row.moment}", fault=True)


@STEPS.step("W", "RECORD")
def record(world: World, broken: Broken) -> Moves:
    """A worker that is LOST only records where it is at work again (RENEW): nothing relies on that."""
    for row in in_state(world, "RUNNING"):
        yield from ended_or_pending(world, [row._replace(state="ENDED")], broken, f"record the end of {row.moment}")
        yield from ended_or_pending(world, [again(row, failed=True)], broken, f"record a failure of {row.moment}")


@STEPS.step("L", "RELEASE")
def release(world: World, broken: Broken) -> Moves:
    for row in in_state(world, "RUNNING"):
        yield from ended_or_pending(world, [again(row, failed=False)], broken, f"release {row.moment}")


@STEPS.step("R2", "RESCUE")
def rescue(world: World, broken: Broken) -> Moves:
    """One statement for all that is lost."""
    if lost := [again(row, failed=True) for row in in_state(world, "LOST")]:
        yield from ended_or_pending(world, lost, broken, f"rescue {', '.join(str(row.moment) for row in lost)}")


@STEPS.step("R2", "PROMOTE_IDLE")
def look_for_idle(world: World, broken: Broken) -> Moves:
    """The second statement of a rescue, in two parts: its snapshot, and its update."""
    waiting = list(in_state(world, "WAITING"))
    busy = any(row.alone for row in world.rows) and "promotion ignores the active one" not in broken
    if waiting and not busy and world.idle is None and "no idle promotion" not in broken:
        yield Move(world._replace(idle=waiting[0].moment), f"find {waiting[0].moment} waiting for nothing")


@STEPS.step("R2", "PROMOTE_IDLE")
def promote_idle(world: World, broken: Broken) -> Moves:
    """What it found is looked at again as its row is locked; what the index refuses is left for the next round."""
    if world.idle is None:
        return
    after = world._replace(idle=None)
    for row in in_state(world, "WAITING"):
        if row.moment == world.idle:
            due = after.changed(row._replace(state="PENDING"))
            if "index lets promotions pass" in broken or not refused(due.rows + due.births, broken):
                yield Move(due, f"promote {row.moment}")
                return
    yield Move(after, "promote nothing")


@STEPS.step("CANCEL", "CANCEL")
def cancel(world: World, broken: Broken) -> Moves:
    """Under the job's lock, so neither during a dispatch nor during another cancel."""
    if world.births:
        return
    for row in world.rows:
        ended = row._replace(state="ENDED", last=True)
        if row.state == "PENDING" or (row.state == "RUNNING" and "cancel what runs" in broken):
            for move in islice(ended_or_pending(world, [ended], broken, f"cancel {row.moment}"), 1):
                yield move._replace(fault=True)
        elif row.state == "WAITING":
            yield Move(world.changed(ended), f"cancel {row.moment}", fault=True)
        elif row.state in ("RUNNING", "LOST") and not row.last:
            yield Move(world.changed(row._replace(last=True)), f"ask for the end of {row.moment}", fault=True)


@STEPS.step("DELETE", "TAKE_BACK", "DELETE")
def delete(world: World, broken: Broken) -> Moves:
    if world.deleted or (world.births and "delete without the job's lock" not in broken):
        return
    left = taken_back(world, broken)
    rows = tuple(
        row._replace(state="ENDED" if row.state in ("WAITING", "PENDING") else row.state, last=True)
        for row in left.rows
    )
    yield Move(left._replace(rows=rows, deleted=True), fault=True)


@STEPS.step("EDIT", "TAKE_BACK")
def edit(world: World, broken: Broken) -> Moves:
    """Executions keep the policy they were born with, so those of two policies meet."""
    if world.edit_to and not world.births and not world.deleted:
        edited = taken_back(world, broken)._replace(overlap=world.edit_to, edit_to="")
        yield Move(edited, f"make it {world.edit_to!r}", fault=True)


@STEPS.step("RUN", "INSERT_EXECUTIONS", "TAKE_BACK", "LEAVE_FOR_MOMENT")
def run(world: World, broken: Broken) -> Moves:
    """Somebody asks for an execution now. What is ahead of its moment makes way."""
    if not world.may_ask or world.births or world.deleted:
        return
    before = world._replace(may_ask=False)
    birth = Row(ASKED_FOR, world.overlap, "PENDING")
    for after in (before, before if "run leaves what is ahead" in broken else taken_back(before, broken)):
        if not refused((*after.rows, birth), broken):
            yield Move(after.born([birth]), fault=True)
            return
    yield Move(before._replace(refused=True), "run: refused", fault=True)
