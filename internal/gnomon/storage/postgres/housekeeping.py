"""HousekeepingStore on Postgres: what is removed, in parts that take some milliseconds each.

All of it happens under an advisory lock that nobody waits for, and only rows are removed that never change any more. So
nothing else meets it, and two leaders for a moment cost nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, TextClause, text

from gnomon.job.ids import EPOCH, id_bounds
from gnomon.job.ports import Swept, Untidy
from gnomon.job.retention import Retention
from gnomon.storage.postgres.engine import autocommit, translated
from gnomon.storage.postgres.literals import uuid_array

LOCK_KEY = 0x6B656570  # "keep": beside the one of migrations, as little likely to be another's
NOBODY = UUID(int=0)
LAST = UUID(int=2**128 - 1)

PART = 1_000
JOBS_PART = 100  # each may have as many executions looked at as it keeps
KEYS_PART = 1_000

SUCCEEDED = "state in ('SUCCEEDED', 'SKIPPED')"
FAILED = "state in ('FAILED', 'UNKNOWN', 'CANCELLED')"

BEGIN: TextClause = text("select pg_try_advisory_xact_lock(:key) as locked, now() as now")

# A request that is repeated with its key is answered with what it made the first time.
UNANSWERED = "not exists (select from idempotency_keys k where k.resource_id = {id} and k.expires_at > now())"

# What was tried again must not look as if it had not been. A value, so that it is looked up by id and never hashed.
REPEATS_NOTHING = "not coalesce((select true from executions o where o.id = e.repeats), false)"

# Ids begin with their moments, and nothing ends before its moment: so a walk along the primary key finds what is old,
# and meets besides what is old and kept: what failed, and the newest of each job.
PRUNE_AGED: TextClause = text(f"""
with span as materialized (
    select id, job_id, state, finished_at from executions
    where id > :after and id < :before order by id limit :part
), aged as materialized (
    select id, job_id from span
    where {SUCCEEDED} and finished_at < now() - make_interval(secs => :succeeded)
        or {FAILED} and finished_at < now() - make_interval(secs => :failed)
), kept as materialized (
    select present.job_id, case when j.id is null or j.deleted_at is not null or :newest = 0 then cast(:last as uuid)
        else (
            select e.id from executions e where e.job_id = present.job_id order by e.id desc
            offset greatest(:newest - 1, 0) limit 1
        ) end as since
    from (select distinct job_id from aged) as present left join jobs j on j.id = present.job_id
), removed as (
    delete from executions e where e.id = any(array(
        select aged.id from aged join kept on kept.job_id = aged.job_id
        where aged.id < kept.since and {UNANSWERED.format(id="aged.id")}
    )) and {REPEATS_NOTHING}
    returning e.trigger, coalesce(e.skipped_until, e.scheduled_at) as moment
), noted as (
    insert into prunings as p (job_id, until)
    select :nobody, max(moment) from removed where trigger = 'SCHEDULE' having count(*) > 0
    on conflict (job_id) do update set until = greatest(p.until, excluded.until)
)
select (select count(*) from removed) as removed, (select count(*) from span) as seen,
    (select id from span order by id desc limit 1) as last
""")


def _prune_crowded(kind: str) -> TextClause:
    return text(f"""
with crowd as materialized (
    select id from executions e where job_id = :job_id and {kind} and {REPEATS_NOTHING}
    order by id desc offset :per_job limit :part
), removed as (
    delete from executions e where e.id = any(array(select id from crowd where {UNANSWERED.format(id="crowd.id")}))
    returning e.trigger, coalesce(e.skipped_until, e.scheduled_at) as moment
), noted as (
    insert into prunings as p (job_id, until)
    select :job_id, max(moment) from removed where trigger = 'SCHEDULE' having count(*) > 0
    on conflict (job_id) do update set until = greatest(p.until, excluded.until)
)
select count(*) from removed
""")


PRUNE_CROWD_OF_FAILED: TextClause = _prune_crowded(FAILED)
PRUNE_CROWD_OF_SUCCEEDED: TextClause = _prune_crowded(SUCCEEDED)

UNTIDY_JOBS: TextClause = text("""
select j.id,
    (
        select e.id from executions e where e.job_id = j.id order by e.id desc offset :per_job limit 1
    ) is not null as crowded,
    exists (
        select from job_revisions r
        where r.job_id = j.id and r.revision < j.revision and r.created_at < now() - make_interval(secs => :young)
    ) as edited,
    j.deleted_at < now() - make_interval(secs => :succeeded)
        and not exists (select from executions e where e.job_id = j.id) as gone
from (select id, revision, deleted_at from jobs where id > :after order by id limit :part) as j
order by j.id
""")

# Of the entries that began a stretch of owed moments, the last one before everything that may have been pruned: what
# lies before it is needed by nobody who looks at the books.
BOOKS_BEGIN = """(
    select max(o.id) from job_events o where o.job_id = {job_id} and o.owed_from is not null
        and o.owed_from <= (select max(p.until) from prunings p where p.job_id in ({job_id}, :nobody))
)"""

UNUSED_REVISIONS = f"""
where r.job_id = :job_id and r.revision < (select revision from jobs where id = :job_id)
    and not exists (select from executions e where e.job_id = :job_id and e.revision = r.revision)
    and not exists (
        select from job_events v
        where v.job_id = :job_id and v.revision = r.revision and v.owed_from is not null
            and v.id >= coalesce({BOOKS_BEGIN.format(job_id=":job_id")}, 0)
    )
"""
# The lock first, so that the next statement sees all that was committed before: a new execution may be born with the
# revision of an old one that is pruned just now. A dispatch passes over the job meanwhile, so there must be a reason.
HAS_UNUSED_REVISIONS: TextClause = text(f"select exists (select from job_revisions r {UNUSED_REVISIONS})")
LOCK_JOB: TextClause = text("select from jobs where id = :job_id for no key update skip locked")
DROP_REVISIONS: TextClause = text(f"delete from job_revisions r {UNUSED_REVISIONS}")

DROP_JOBS: TextClause = text("""
with pick as materialized (
    select j.id from jobs j
    where j.id = any(cast(:ids as uuid[])) and j.deleted_at < now() - make_interval(secs => :succeeded)
        and not exists (select from executions e where e.job_id = j.id)
    order by j.id for update skip locked
), unnoted as (
    delete from prunings p using pick where p.job_id = pick.id
)
delete from jobs j using pick where j.id = pick.id
""")

TRIM_TRAIL: TextClause = text(f"""
with span as materialized (
    select id, job_id, at from job_events where id > :after order by id limit :part
), begins as materialized (
    select present.job_id, case when j.id is null then cast({2**63 - 1} as bigint)
        else {BOOKS_BEGIN.format(job_id="present.job_id")} end as since
    from (select distinct job_id from span where at < now() - make_interval(secs => :trail)) as present
    left join jobs j on j.id = present.job_id
), removed as (
    delete from job_events v where v.id = any(array(
        select span.id from span join begins on begins.job_id = span.job_id
        where span.at < now() - make_interval(secs => :trail) and span.id < begins.since
    ))
    returning v.id
)
select (select count(*) from removed) as removed, (select count(*) from span) as seen,
    (select max(id) from span where at < now() - make_interval(secs => :trail)) as last
""")

FORGET_KEYS: TextClause = text("""
delete from idempotency_keys where (principal, key) in (
    select principal, key from idempotency_keys where expires_at <= now()
    order by expires_at limit :part for update skip locked
)
""")

ENDED_LATELY = "coalesce({of}left_at, {of}heartbeat_at) >= now() - make_interval(secs => :gone_for)"

# What processes counted that are gone is added to what NOBODY counted, in the statement that forgets them. A process
# that was only frozen so long counts on, in new rows.
FORGET_INSTANCES: TextClause = text(f"""
with forgotten as (
    delete from instances i where not ({ENDED_LATELY.format(of="i.")}) returning i.id
), unannounced as (
    delete from announced a where a.last_seen_at < now() - make_interval(secs => :unseen_for)
), pick as materialized (
    select t.instance_id, t.kind, t.queue, t.outcome from tallies t
    where t.instance_id <> :nobody
        and not exists (select from instances i where i.id = t.instance_id and {ENDED_LATELY.format(of="i.")})
    order by t.instance_id, t.kind, t.queue, t.outcome limit :part for update skip locked
), gone as (
    delete from tallies t using pick p
    where (t.instance_id, t.kind, t.queue, t.outcome) = (p.instance_id, p.kind, p.queue, p.outcome)
    returning t.*
), folded as (
    insert into tallies as t (instance_id, kind, queue, outcome, count, duration_sum, duration_buckets)
    select :nobody, g.kind, g.queue, g.outcome, sum(g.count), sum(g.duration_sum), (
        select array_agg(total order by place) from (
            select place, sum(value)::bigint as total
            from gone s, unnest(s.duration_buckets) with ordinality as u (value, place)
            where (s.kind, s.queue, s.outcome) = (g.kind, g.queue, g.outcome) group by place
        ) as summed
    )
    from gone g group by g.kind, g.queue, g.outcome order by g.kind, g.queue, g.outcome
    on conflict (instance_id, kind, queue, outcome) do update set
        count = t.count + excluded.count,
        duration_sum = t.duration_sum + excluded.duration_sum,
        duration_buckets = (
            select array_agg(coalesce(old, 0) + coalesce(new, 0) order by place)
            from unnest(t.duration_buckets, excluded.duration_buckets) with ordinality as both_sides (old, new, place)
        )
)
select count(*) from forgotten
""")


class PostgresHousekeepingStore:
    """HousekeepingStore on Postgres."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._autocommit = autocommit(engine)

    def prune_aged(self, retention: Retention, *, after: UUID | None) -> Swept[UUID]:
        """One part of the walk along the primary key."""
        with self._alone() as (connection, now):
            if connection is None:
                return Swept(removed=0, after=None)
            oldest = max(EPOCH, now - _younger(retention))
            parameters = {
                "after": after or NOBODY,
                "before": id_bounds(oldest)[0],
                "newest": retention.newest,
                "last": LAST,
                "nobody": NOBODY,
                "part": PART,
                **_ages(retention),
            }
            row = connection.execute(PRUNE_AGED, parameters).one()
            return Swept(removed=row.removed, after=row.last if row.seen == PART else None)

    def prune_crowded(self, job_id: UUID, retention: Retention) -> int:
        """What failed first: then there is little of it among what succeeded."""
        removed = 0
        with self._alone() as (connection, _):
            if connection is not None:
                parameters = {"job_id": job_id, "per_job": retention.per_job, "part": PART}
                for statement in (PRUNE_CROWD_OF_FAILED, PRUNE_CROWD_OF_SUCCEEDED):
                    if not removed:
                        removed = connection.execute(statement, parameters).scalar_one()
        return removed

    def untidy_jobs(self, retention: Retention, *, after: UUID | None) -> Untidy:
        """A part of all jobs, the deleted ones included."""
        parameters = {
            "after": after or NOBODY,
            "per_job": retention.per_job,
            "young": _younger(retention).total_seconds(),
            "succeeded": retention.succeeded.total_seconds(),
            "part": JOBS_PART,
        }
        with translated(), self._autocommit.connect() as connection:
            rows = connection.execute(UNTIDY_JOBS, parameters).all()
        return Untidy(
            crowded=[row.id for row in rows if row.crowded],
            edited=[row.id for row in rows if row.edited],
            gone=[row.id for row in rows if row.gone],
            after=rows[-1].id if len(rows) == JOBS_PART else None,
        )

    def drop_revisions(self, job_id: UUID) -> int:
        """Under the job's row lock, as whatever makes executions of it; where that is held by another, nothing."""
        with self._alone() as (connection, _):
            parameters = {"job_id": job_id, "nobody": NOBODY}
            if connection is None or not connection.execute(HAS_UNUSED_REVISIONS, parameters).scalar_one():
                return 0
            if connection.execute(LOCK_JOB, parameters).first() is None:
                return 0
            return connection.execute(DROP_REVISIONS, parameters).rowcount

    def drop_jobs(self, job_ids: Sequence[UUID], retention: Retention) -> int:
        """With their revisions. Their audit trail is trimmed by its own age."""
        parameters = {"ids": uuid_array(job_ids), "succeeded": retention.succeeded.total_seconds()}
        return self._count(DROP_JOBS, parameters)

    def trim_trail(self, retention: Retention, *, after: int | None) -> Swept[int]:
        """One part of the walk along the entries, oldest first."""
        with self._alone() as (connection, _):
            if connection is None:
                return Swept(removed=0, after=None)
            parameters = {
                "after": after or 0,
                "trail": retention.trail.total_seconds(),
                "nobody": NOBODY,
                "part": PART,
            }
            row = connection.execute(TRIM_TRAIL, parameters).one()
            return Swept(removed=row.removed, after=row.last if row.seen == PART else None)

    def forget_keys(self) -> int:
        """Those that are over."""
        return self._count(FORGET_KEYS, {"part": KEYS_PART})

    def forget_instances(self, *, gone_for: timedelta, unseen_for: timedelta) -> int:
        """Their tallies are folded in the same statement."""
        parameters = {
            "gone_for": gone_for.total_seconds(),
            "unseen_for": unseen_for.total_seconds(),
            "nobody": NOBODY,
            "part": PART,
        }
        with self._alone() as (connection, _):
            return 0 if connection is None else connection.execute(FORGET_INSTANCES, parameters).scalar_one()

    def _count(self, statement: TextClause, parameters: Mapping[str, Any]) -> int:
        with self._alone() as (connection, _):
            return 0 if connection is None else connection.execute(statement, parameters).rowcount

    @contextmanager
    def _alone(self) -> Iterator[tuple[Connection | None, datetime]]:
        """A transaction, unless another one keeps house right now; and the database's clock."""
        with translated(), self._engine.begin() as connection:
            row = connection.execute(BEGIN, {"key": LOCK_KEY}).one()
            yield connection if row.locked else None, row.now


def _younger(retention: Retention) -> timedelta:
    return min(retention.succeeded, retention.failed)


def _ages(retention: Retention) -> dict[str, float]:
    return {"succeeded": retention.succeeded.total_seconds(), "failed": retention.failed.total_seconds()}
