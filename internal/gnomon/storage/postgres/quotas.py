"""What the operator lets jobs be, where only the database can tell: how many there are, and how many wait."""

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, Row, TextClause, text

from gnomon.job.errors import Contended, QuotaExceeded
from gnomon.job.quotas import Quotas
from gnomon.storage.postgres.sessions import principal_of

QUOTAS = "gnomon_quotas"

# Held until the transaction ends; a number of our own. Far from the limit any number create at once: there are fewer of
# them than NEAR. Near it one after the other, and the last place goes to one.
TOGETHER = text("select pg_advisory_xact_lock_shared(7022130498011)")
ALONE = text("select pg_advisory_xact_lock(7022130498011)")
NEAR = 1_000
# Triggers keep the counts, in a few rows for each owner: counting a million jobs would take a tenth of a second.
COUNT_JOBS = text("""
select coalesce(sum(count), 0)::bigint as all_jobs,
    coalesce(sum(count) filter (where owner = :owner), 0)::bigint as own
from job_counts
""")
COUNT_BACKLOG = text("""
select count(*) from executions where job_id = :job_id and state in ('WAITING', 'PENDING')
""")
COUNT_WAITING = text("select count(*) from executions where job_id = :job_id and state = 'WAITING'")


def limited_by(engine: Engine, quotas: Quotas) -> Engine:
    """The same pool; what is created through it keeps to these quotas."""
    return engine.execution_options(**{QUOTAS: quotas})


def quotas_of(connection: Connection) -> Quotas:
    """Those of its engine."""
    found: Quotas = connection.get_execution_options().get(QUOTAS, Quotas())
    return found


def has_job_quotas(engine: Engine) -> bool:
    """Whether there is a limit to how many jobs there are."""
    quotas: Quotas = engine.get_execution_options().get(QUOTAS, Quotas())
    return bool(quotas.jobs or quotas.jobs_per_key)


def create_alone(connection: Connection) -> None:
    """Before several jobs are created in one transaction: where there is a limit, nobody else does until it ends."""
    quotas = quotas_of(connection)
    if quotas.jobs or quotas.jobs_per_key:
        connection.execute(ALONE)


def check_jobs(connection: Connection) -> None:
    """After jobs were created: one in the transaction, or several after `create_alone`.

    Raises QuotaExceeded, and Contended where others have come near the limit just now. Counted anew under the lock:
    only then all is seen that was created before.
    """
    quotas = quotas_of(connection)
    if not quotas.jobs and not quotas.jobs_per_key:
        return
    alone = _is_near(quotas, _counted(connection))
    connection.execute(ALONE if alone else TOGETHER)
    count = _counted(connection)
    if not alone and _is_near(quotas, count):
        raise Contended("others create jobs, too, and there may not be many more: try again", retry_after_seconds=1)
    _check_count(quotas, count)


def _counted(connection: Connection) -> Row[Any]:
    return connection.execute(COUNT_JOBS, {"owner": principal_of(connection)}).one()


def _is_near(quotas: Quotas, count: Row[Any]) -> bool:
    held = ((quotas.jobs, int(count.all_jobs)), (quotas.jobs_per_key, int(count.own)))
    return any(limit and limit - used < NEAR for limit, used in held)


def _check_count(quotas: Quotas, count: Row[Any]) -> None:
    if quotas.jobs and count.all_jobs > quotas.jobs:
        raise QuotaExceeded(
            f"there may be {quotas.jobs} jobs in all, and there are as many: delete some, or ask the operator to raise "
            "limits.jobs"
        )
    if quotas.jobs_per_key and count.own > quotas.jobs_per_key:
        raise QuotaExceeded(
            f"each key may have {quotas.jobs_per_key} jobs, and this one has as many: delete some that it created, or "
            "ask the operator to raise limits.jobs_per_key"
        )


def check_waiting(connection: Connection, job_id: UUID) -> None:
    """After a run was made that waits its turn, under the job's lock. Raises QuotaExceeded."""
    _check_backlog(connection, job_id, COUNT_WAITING)


def check_backlog(connection: Connection, job_id: UUID) -> None:
    """After a backfill, under the job's lock. Raises QuotaExceeded."""
    _check_backlog(connection, job_id, COUNT_BACKLOG)


def _check_backlog(connection: Connection, job_id: UUID, count_them: TextClause) -> None:
    limit = quotas_of(connection).backlog
    if not limit:
        return
    count = connection.execute(count_them, {"job_id": job_id}).scalar_one()
    if count > limit:
        raise QuotaExceeded(
            f"job {job_id} may have {limit} executions that wait, and this would make {count}: let some end or cancel "
            "them, or ask the operator to raise limits.backlog"
        )
