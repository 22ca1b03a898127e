"""Many jobs and executions by one statement each: real rows, copied from a job that the API's service has created."""

import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from support.world import World

from gnomon.job.model import Job
from gnomon.storage.postgres.tables import jobs as table

_OWN = {"id", "execute_at", "anchor_at", "next_run", "created_at"}
_COPIED = ", ".join(column.name for column in table.columns if column.name not in _OWN)
# As document.py writes it.
_IN_JSON = """to_jsonb(to_char({} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))"""
_COPY = f"""
with given as materialized (select * from jobs where id = :id),
copied as (
    insert into jobs (id, execute_at, anchor_at, next_run, {_COPIED})
    select gen_random_uuid(), case when execute_at is null then null else moment end,
        case when anchor_at is null then null else moment - make_interval(secs => 100 * interval_seconds) end,
        moment, {_COPIED}
    from given, lateral (
        select cast(:due as timestamptz) + make_interval(secs => cast(:over_seconds as float8) * number / :count)
            as moment
        from generate_series(0, :count - 1) number
    ) moments
    returning id, execute_at, anchor_at, next_run
),
revised as (
    insert into job_revisions (job_id, revision, definition)
    select copied.id, given.revision, given_revision.definition || jsonb_strip_nulls(jsonb_build_object(
        'execute_at', {_IN_JSON.format("copied.execute_at")}, 'anchor_at', {_IN_JSON.format("copied.anchor_at")}))
    from copied, given
    join job_revisions given_revision on given_revision.job_id = given.id and given_revision.revision = given.revision
)
insert into job_events (job_id, action, revision, owed_from)
select copied.id, 'CREATED', given.revision, copied.next_run from copied, given
"""

# Ids begin with their moment, as those that dispatch makes; rows are stored in the order of time, as they are in life.
_HISTORY = """
insert into executions (id, job_id, revision, kind, queue, scheduled_at, trigger, state, attempt, max_attempts, overlap,
    available_at, next_publish_at, publish_count, lease_owner, published_at, claimed_at, first_started_at, finished_at,
    created_at, response_status, worker)
select cast(lpad(to_hex(cast(extract(epoch from moment) * 1000 as bigint)), 12, '0') || '7'
        || substr(digest, 1, 3) || '8' || substr(digest, 4, 15) as uuid),
    id, revision, type, queue, moment, 'SCHEDULE', 'SUCCEEDED', 1, max_attempts, overlap,
    moment, moment + interval '15 s', 1, id, moment, moment, moment, moment + interval '20 ms',
    moment, 200, 'worker-1'
from (
    select jobs.*, moment, md5(jobs.id::text || moment) as digest
    from generate_series(1, :each) number, jobs, lateral (
        select cast(:until as timestamptz)
            - make_interval(secs => :over_seconds * (1 - (number - random()) / :each))
                as moment
    ) spread
    where deleted_at is null
    order by moment
) ended
"""

_INDEXES = """
select indexrelid::regclass::text as name, pg_get_indexdef(indexrelid) as definition
from pg_index where indrelid = cast(:name as regclass) and not indisprimary
"""

_LEADS = (2.0, 8.0, 32.0, 128.0)  # seconds until jobs are due, in which they are made; the first is enough when idle
_MADE_PER_SECOND = 4_000


def copy(world: World, job: Job, count: int, *, due: datetime, over_seconds: float = 0.0) -> None:
    """Adds `count` jobs like this one, due at that moment, or one after the other within `over_seconds` from it on."""
    values = {"id": job.id, "count": count, "due": due, "over_seconds": over_seconds}
    world.sql(_COPY, **values)
    settle(world, "jobs", "job_revisions", "job_events")


def history(world: World, each: int, *, until: datetime, over_seconds: float) -> None:
    """Gives each job that many executions that succeeded in the time before `until`."""
    world.sql(_HISTORY, each=each, until=until, over_seconds=over_seconds)
    settle(world, "executions")


def settle(world: World, *tables: str) -> None:
    """What autovacuum would have done some minutes later."""
    with world.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("set statement_timeout = 0; set lock_timeout = 0")  # autovacuum may be at it
        for name in tables:
            connection.exec_driver_sql(f"vacuum (analyze) {name}")
        connection.exec_driver_sql("reset statement_timeout; reset lock_timeout")


def now(world: World) -> datetime:
    """By the database's clock."""
    moment: datetime = world.one("select clock_timestamp()")
    return moment


def in_time(world: World, count: int, *, make: Callable[[datetime], object], end: Callable[[], object]) -> datetime:
    """A moment, and all of the `count` jobs that `make` makes due then were made before it.

    Those that were due too early say nothing of a burst: `end` waits until they are over, and there is more time.
    """
    for lead in _LEADS:
        due = now(world) + timedelta(seconds=lead + count / _MADE_PER_SECOND)
        make(due)
        if now(world) < due:
            return due
        end()
    raise TimeoutError(f"{count} jobs can't be made within {_LEADS[-1]:g} s")


@contextlib.contextmanager
def indexes_later(world: World, *tables: str) -> Iterator[None]:
    """For millions of rows: these tables have nothing but their primary keys until the end, which takes far less."""
    indexes = [row for name in tables for row in world.sql(_INDEXES, name=name)]
    for row in indexes:
        world.sql(f"drop index {row.name}")
    yield
    for row in indexes:
        world.sql(f"set local maintenance_work_mem = '512MB'; {row.definition}")
    settle(world, *tables)
