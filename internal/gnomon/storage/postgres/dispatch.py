"""The scheduler's side of executions: D, A, R1 and R2 of docs/protocol.md."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, Row
from sqlalchemy.exc import DBAPIError, IntegrityError

from gnomon.job.errors import InvalidJob
from gnomon.job.ids import EPOCH, scheduled_id
from gnomon.job.model import Misfire, MisfirePolicy, Overlap, State, Trigger
from gnomon.job.plan import DueJob, Plan
from gnomon.job.ports import Dispatched, Hold, Horizon, PlanBatch, Rescued
from gnomon.storage.postgres import planned, statements
from gnomon.storage.postgres.births import Birth, insert_executions
from gnomon.storage.postgres.engine import CONTENTION, autocommit, error_code, translated
from gnomon.storage.postgres.literals import json_rows, uuid_array
from gnomon.storage.postgres.rows import read_timing
from gnomon.storage.postgres.sessions import database_clock

AGAIN_AFTER_LOSS = "lost"
FREED_AT_ONCE = 5_000
BEHIND_SHARE = 10  # of a batch of so many jobs, one may have fallen behind
TICKS = 4  # in a look-ahead: so often it is looked what came into it


class PostgresDispatchStore:
    """DispatchStore on Postgres. `instance` names this process in the tallies.

    With `names`, asked at each call, only jobs of these names are dispatched and published: for a process that can't
    hand the others to anybody. What was lost is rescued whatever its name.

    Jobs that fall due within `ahead` are dispatched as well, one moment each (A): workers have to hold what they get
    until then. Not for a process with `names`.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        instance: UUID,
        names: Callable[[], Collection[str]] | None = None,
        ahead: timedelta = timedelta(0),
    ) -> None:
        assert names is None or not ahead
        self._engine = engine
        self._autocommit = autocommit(engine)
        self._instance = instance
        self._names = names
        self._ahead = ahead.total_seconds()

    def dispatch(self, decide: PlanBatch, *, limit: int) -> Dispatched:
        """D. One transaction: pauses that are over end; due jobs are locked, planned, booked and advanced."""
        with translated(), self._engine.begin() as connection:
            planned.execute(connection, statements.RESUME, {"limit": limit})
            behind_limit = max(1, limit // BEHIND_SHARE)
            rows = self._due(connection, limit=limit, behind_limit=behind_limit)
            if not rows:
                return Dispatched(jobs=0, published={}, held={}, full=False, behind=False)
            plans = _planned(rows, decide)
            published, left = self._book(connection, plans)
            advanced = {"rows": json_rows([_advance(row, plan, left) for row, plan in plans])}
            planned.execute(connection, statements.ADVANCE, advanced)
        return Dispatched(
            jobs=len(rows),
            published=published,
            held={row.id: plan.reason for row, plan in plans if isinstance(plan, Hold)},
            full=len(rows) >= limit or sum(row.is_behind for row in rows) >= behind_limit,
            behind=any(isinstance(plan, Plan) and not plan.reached_now for _, plan in plans),
        )

    def republish(self, *, limit: int) -> Mapping[str, Sequence[UUID]]:
        """R1."""
        slots = {"slot": statements.PUBLISH_SLOT_SECONDS, "longest": statements.PUBLISH_SLOT_MAX_SECONDS}
        republish = statements.REPUBLISH if self._names is None else statements.REPUBLISH_NAMED
        with translated(), self._autocommit.connect() as connection:
            rows = connection.execute(republish, {"limit": limit, **slots, **self._whose()}).all()
        return _by_queue((row.queue, row.id) for row in sorted(rows, key=lambda row: row.id))

    def free_slots(self) -> int:
        """R1, when the broker has lost its messages: all that were published are due again. Returns their number."""
        freed = 0
        with translated(), self._autocommit.connect() as connection:
            # without this those that are published again meanwhile would be freed again
            part = {"limit": FREED_AT_ONCE, "before": database_clock(connection)}
            while count := connection.execute(statements.FREE_SLOTS, part).rowcount:
                freed += count
        return freed

    def return_slots(self, ids: Collection[UUID]) -> None:
        """Gives publish slots back."""
        with translated(), self._autocommit.connect() as connection:
            connection.execute(statements.RETURN_SLOTS, {"ids": uuid_array(ids)})

    def rescue(
        self, *, grace: timedelta, spare: timedelta | None, spread: timedelta = timedelta(seconds=30)
    ) -> Rescued:
        """R2, and the promotion of what waits for nothing."""
        parameters = {
            "grace": grace.total_seconds(),
            "spare": None if spare is None else spare.total_seconds(),
            "spread": spread.total_seconds(),
            "longest": statements.LOST_AGAIN_MAX_SECONDS,
            "instance": self._instance,
            "again": AGAIN_AFTER_LOSS,
        }
        with translated(), self._autocommit.connect() as connection:
            rows = connection.execute(statements.RESCUE, parameters).all()
            counts = {row.state: row.total for row in rows}
            return Rescued(
                requeued=counts.get("PENDING", 0),
                failed=counts.get("FAILED", 0),
                unknown=counts.get("UNKNOWN", 0),
                cancelled=counts.get("CANCELLED", 0),
                promoted=counts.get("PROMOTED", 0) + self._promote_idle(connection),
            )

    def horizon(self) -> Horizon:
        """The wake-up time."""
        horizon = statements.HORIZON if self._names is None else statements.HORIZON_NAMED
        parameters: dict[str, Any] = self._whose()
        if self._ahead:
            horizon, parameters = statements.HORIZON_AHEAD, {"ahead": self._ahead, "tick": self._ahead / TICKS}
        with translated(), self._autocommit.connect() as connection:
            row = planned.execute(connection, horizon, parameters).one()
        return Horizon(now=row.now, at=row.at)

    def _due(self, connection: Connection, *, limit: int, behind_limit: int) -> Sequence[Row[Any]]:
        due = statements.DUE if self._names is None else statements.DUE_NAMED
        wanted: dict[str, Any] = {"limit": limit, "behind_limit": behind_limit, **self._whose()}
        if self._ahead:
            due, wanted["ahead"] = statements.DUE_AHEAD, self._ahead
        return planned.execute(connection, due, wanted).all()

    def _whose(self) -> dict[str, list[str]]:
        return {} if self._names is None else {"names": sorted(self._names())}

    def _promote_idle(self, connection: Connection) -> int:
        """None where a dispatch makes another execution of such a job active just then: it is promoted after that."""
        try:
            return sum(row.total for row in connection.execute(statements.PROMOTE_IDLE))
        except IntegrityError:
            return 0
        except DBAPIError as error:
            if error_code(error) in CONTENTION:
                return 0
            raise

    def _book(
        self, connection: Connection, plans: list[tuple[Row[Any], Plan | Hold]]
    ) -> tuple[Mapping[str, Sequence[UUID]], set[UUID]]:
        """What to publish, and the jobs that are left for their moment, because something is in the way now."""
        births = [birth for row, plan in plans if isinstance(plan, Plan) for birth in _births(row, plan)]
        skips = [skip for row, plan in plans if isinstance(plan, Plan) for skip in _skips(row, plan)]
        created = _insert(connection, births, State.PENDING)
        ahead = {row.id for row, _ in plans if _is_ahead(row)}
        refused = [birth for birth in births if birth["id"] not in created]
        left = {birth["job_id"] for birth in refused} & ahead
        refused = [birth for birth in refused if birth["job_id"] not in left]
        waiting = _insert(connection, [birth for birth in refused if birth["may_wait"]], State.WAITING)
        overlapping = [_overlap_skip(birth) for birth in refused if birth["id"] not in waiting]
        _insert(connection, [*skips, *overlapping], State.SKIPPED)
        return _by_queue((birth["queue"], birth["id"]) for birth in births if birth["id"] in created), left


def _insert(connection: Connection, births: Sequence[Birth], state: State) -> set[UUID]:
    return insert_executions(connection, births, state, trigger=Trigger.SCHEDULE, slot=statements.PUBLISH_SLOT_SECONDS)


def _planned(rows: Sequence[Row[Any]], decide: PlanBatch) -> list[tuple[Row[Any], Plan | Hold]]:
    """Each row with its plan. A row that can't even be read is held, so that it can't stop the others."""
    readable: list[tuple[Row[Any], DueJob]] = []
    held: list[tuple[Row[Any], Plan | Hold]] = []
    for row in rows:
        try:
            readable.append((row, _due_job(row)))
        except Exception as error:  # whatever was written past the API
            held.append((row, _hold(error)))
    plans = decide([job for _, job in readable], rows[0].now)
    return [*zip((row for row, _ in readable), plans, strict=True), *held]


def _hold(error: Exception) -> Hold:
    kind = "" if isinstance(error, InvalidJob) else f"{type(error).__name__}: "
    return Hold(reason=f"the schedule can't be read: {kind}{error}"[:500])


def _due_job(row: Row[Any]) -> DueJob:
    if row.next_run < EPOCH:
        raise ValueError(f"no id can hold the moment {row.next_run}")
    return DueJob(
        id=row.id,
        revision=row.revision,
        timing=read_timing(row),
        misfire=_misfire(row.misfire_policy, row.misfire_grace_seconds, row.misfire_limit),
        next_run=row.next_run,
        misfires_run=row.misfires_run,
    )


@lru_cache(maxsize=1024)
def _misfire(policy: str, grace: float, limit: int) -> Misfire:
    return Misfire(policy=MisfirePolicy(policy), grace=timedelta(seconds=grace), limit=limit)


def _births(row: Row[Any], plan: Plan) -> Iterable[Birth]:
    for serial, moments in ((True, plan.serial), (False, plan.runs)):
        for moment in moments:
            yield {
                "id": scheduled_id(row.id, moment),
                "job_id": row.id,
                "queue": row.queue,
                "scheduled_at": moment,
                "serial": serial,
                "may_wait": serial or row.overlap == Overlap.QUEUE,
            }


def _skips(row: Row[Any], plan: Plan) -> Iterable[Birth]:
    for skip in plan.skips:
        yield {
            "id": scheduled_id(row.id, skip.first),
            "job_id": row.id,
            "scheduled_at": skip.first,
            "serial": False,
            "reason": skip.reason,
            "count": skip.count,
            "until": skip.last,
        }


def _overlap_skip(birth: Birth) -> Birth:
    return {**birth, "reason": "overlap", "count": 1, "until": birth["scheduled_at"]}


def _is_ahead(row: Row[Any]) -> bool:
    return bool(row.next_run > row.now)


def _advance(row: Row[Any], plan: Plan | Hold, left: Collection[UUID]) -> dict[str, Any]:
    if isinstance(plan, Hold):
        return {"id": row.id, "hold_reason": plan.reason}
    if row.id in left:
        return {"id": row.id, "next_run": row.next_run, "held_until": row.next_run}
    if plan.next_run is None and _is_ahead(row):  # COMPLETED only when its last moment has come
        return {"id": row.id, "held_until": row.next_run}
    return {"id": row.id, "next_run": plan.next_run, "misfires_run": plan.misfires_run}


def _by_queue(pairs: Iterable[tuple[str, UUID]]) -> Mapping[str, Sequence[UUID]]:
    queues: dict[str, list[UUID]] = {}
    for queue, execution_id in pairs:
        queues.setdefault(queue, []).append(execution_id)
    return queues
