"""RepeatStore on Postgres: trying many executions again at once."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, Row, Select, func, literal, select, text

from gnomon.job.errors import CountDiffers
from gnomon.job.ids import id_bounds, manual_id, moment_of, repeat_id
from gnomon.job.model import Execution, Overlap, State, Trigger
from gnomon.job.ports import ExecutionQuery, Once, Refusal, Repeatable, Repeated, RepeatQuery
from gnomon.storage.postgres.births import Birth, insert_executions, insert_wanted
from gnomon.storage.postgres.engine import autocommit, translated
from gnomon.storage.postgres.history import filtered, read_executions
from gnomon.storage.postgres.keys import known_resource, remember
from gnomon.storage.postgres.sessions import announce, database_clock
from gnomon.storage.postgres.tables import executions, jobs

COUNTED = 100_000
MILLISECOND = timedelta(milliseconds=1)
# Twins with one key go one after the other, whichever jobs they find.
LOCK_KEY = text("select pg_advisory_xact_lock(hashtextextended('gnomon repeat ' || :key, 0))")


class PostgresRepeatStore:
    """RepeatStore on Postgres. Counts no further than 100,000."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._autocommit = autocommit(engine)

    def matching(self, query: RepeatQuery, *, limit: int) -> Repeatable:
        """Two statements: what ends in between may be in one and not in the other."""
        with translated(), self._autocommit.connect() as connection:
            chosen = _matching(query, select(executions)).order_by(executions.c.id).limit(limit)
            return Repeatable(count=_count(connection, query), oldest=read_executions(connection, chosen))

    def repeat(
        self,
        query: RepeatQuery,
        *,
        limit: int,
        expected: int | None,
        same_revision: bool,
        may_wait: bool,
        pace: timedelta,
        once: Once | None,
    ) -> Repeated:
        """Holds the row locks of all jobs concerned, taken in order of their ids, so that no dispatch is in between."""
        with translated(), self._engine.begin() as connection:
            if once is not None:
                connection.execute(LOCK_KEY, {"key": once.key})
                if (known := known_resource(connection, once)) is not None:
                    return _made_before(connection, known)
            matched = _count(connection, query)
            if expected not in (None, matched):
                raise CountDiffers(f"{matched} match, not {expected}: look at them with dry_run, or expect {matched}")
            rows = _candidates(connection, query, limit)
            request_id, births, refused = _prepare(connection, query, rows, same_revision=same_revision, pace=pace)
            if once is not None:
                remember(connection, once, request_id)
            created, overlapping = _create(connection, births, may_wait=may_wait)
            chosen = select(executions).where(executions.c.id.in_(created)).order_by(executions.c.id)
            made = read_executions(connection, chosen) if created else []
            return Repeated(matched=matched, created=made, refused=[*refused, *overlapping], replayed=False)


def _matching(query: RepeatQuery, chosen: Select[Any]) -> Select[Any]:
    asked = ExecutionQuery(states=query.states, trigger=query.trigger, since=query.since, until=query.until)
    chosen = filtered(chosen, asked)
    if query.job_id is not None:
        chosen = chosen.where(executions.c.job_id == query.job_id)
    if not query.again:
        other = executions.alias("other")
        chosen = chosen.where(~select(literal(1)).where(other.c.repeats == executions.c.id).exists())
    return chosen


def _count(connection: Connection, query: RepeatQuery) -> int:
    found = _matching(query, select(executions.c.id)).limit(COUNTED).subquery()
    count: int = connection.execute(select(func.count()).select_from(found)).scalar_one()
    return count


def _candidates(connection: Connection, query: RepeatQuery, limit: int) -> Sequence[Row[Any]]:
    columns = executions.c
    wanted = (columns.id, columns.job_id, columns.revision, columns.kind, columns.queue, columns.max_attempts)
    return connection.execute(_matching(query, select(*wanted)).order_by(columns.id).limit(limit)).all()


def _prepare(
    connection: Connection, query: RepeatQuery, rows: Sequence[Row[Any]], *, same_revision: bool, pace: timedelta
) -> tuple[UUID, Sequence[Birth], Sequence[Refusal]]:
    """Locks the jobs. The moments of the births end now and are a millisecond apart, so that their ids are in order."""
    living = _lock_jobs(connection, {row.job_id for row in rows})
    untouched = _still_matching(connection, query, [row.id for row in rows])
    refused = list(_refusals(rows, living, untouched))
    excluded = {refusal.execution_id for refusal in refused}
    left = [row for row in rows if row.id not in excluded]
    now = database_clock(connection)
    first = now.replace(microsecond=now.microsecond // 1000 * 1000) - MILLISECOND * len(left)
    request_id = manual_id(first)
    places: Counter[UUID] = Counter()
    births: list[Birth] = []
    for number, row in enumerate(left):
        moment = first + MILLISECOND * number
        births.append(
            {
                "id": repeat_id(request_id, row.id, moment),
                "job_id": row.job_id,
                "scheduled_at": moment,
                "available_at": now + pace * places[row.job_id],
                "serial": False,
                "repeats": row.id,
                "overlap": living[row.job_id],
                **(_as_it_was(row) if same_revision else {}),
            }
        )
        places[row.job_id] += 1
    return request_id, births, refused


def _lock_jobs(connection: Connection, ids: Collection[UUID]) -> Mapping[UUID, str]:
    """The living ones of these jobs and what they say of overlap; dispatch passes over them until the end."""
    chosen = select(jobs.c.id, jobs.c.overlap).where(jobs.c.id.in_(ids), jobs.c.deleted_at.is_(None))
    locked = connection.execute(chosen.order_by(jobs.c.id).with_for_update(key_share=True))
    return {row.id: row.overlap for row in locked}


def _still_matching(connection: Connection, query: RepeatQuery, ids: Sequence[UUID]) -> set[UUID]:
    """Somebody else may have tried some of them again before the jobs were locked."""
    chosen = _matching(query, select(executions.c.id)).where(executions.c.id.in_(ids))
    return set(connection.execute(chosen).scalars())


def _refusals(rows: Iterable[Row[Any]], living: Collection[UUID], untouched: Collection[UUID]) -> Iterable[Refusal]:
    for row in rows:
        if row.job_id not in living:
            yield Refusal(execution_id=row.id, code="deleted", reason=f"job {row.job_id} was deleted")
        elif row.id not in untouched:
            yield Refusal(execution_id=row.id, code="tried_again", reason="somebody else was quicker to try it again")


def _as_it_was(row: Row[Any]) -> Birth:
    return {"revision": row.revision, "kind": row.kind, "queue": row.queue, "max_attempts": row.max_attempts}


def _create(
    connection: Connection, births: Sequence[Birth], *, may_wait: bool
) -> tuple[Collection[UUID], Sequence[Refusal]]:
    """Of a job that does not overlap the oldest comes first; no other has a chance beside it."""
    oldest = {birth["job_id"]: birth["id"] for birth in reversed(births)}
    first = [birth for birth in births if birth["overlap"] == Overlap.ALLOW or birth["id"] == oldest[birth["job_id"]]]
    created = insert_wanted(connection, first, trigger=Trigger.RETRY_OF, now=database_clock(connection))
    if created:
        announce(connection, min(birth["available_at"] for birth in first))
    rest = [birth for birth in births if birth["id"] not in created]
    if may_wait:
        waiting = [{**birth, "serial": True} for birth in rest]
        return created | insert_executions(connection, waiting, State.WAITING, trigger=Trigger.RETRY_OF, slot=None), []
    return created, [_overlapping(birth) for birth in rest]


def _overlapping(birth: Birth) -> Refusal:
    reason = f"job {birth['job_id']} does not overlap and has an execution unfinished: wait for it, or ask with queue"
    return Refusal(execution_id=birth["repeats"], code="overlapping", reason=reason)


def _made_before(connection: Connection, request_id: UUID) -> Repeated:
    """All that the request made begins with moments from its own on, and bears ids that follow from it."""
    first = moment_of(request_id)
    chosen = select(executions).where(
        executions.c.id.between(id_bounds(first)[0], id_bounds(first + timedelta(seconds=1))[1]),
        executions.c.trigger == Trigger.RETRY_OF.value,
    )
    made = [one for one in read_executions(connection, chosen.order_by(executions.c.id)) if _is_of(request_id, one)]
    return Repeated(matched=len(made), created=made, refused=[], replayed=True)


def _is_of(request_id: UUID, execution: Execution) -> bool:
    repeats, moment = execution.repeats, execution.scheduled_at
    return repeats is not None and execution.id == repeat_id(request_id, repeats, moment)
