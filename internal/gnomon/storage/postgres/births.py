"""New executions: rows for INSERT_EXECUTIONS."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from gnomon.job.ids import id_bounds
from gnomon.job.model import State, Trigger
from gnomon.storage.postgres import planned, statements
from gnomon.storage.postgres.literals import json_rows

# id, job_id and scheduled_at; `serial` for those that run one at a time; what else INSERT_EXECUTIONS reads. What is
# left out follows from the job as it is now.
Birth = dict[str, Any]


def insert_executions(
    connection: Connection, births: Sequence[Birth], state: State, *, trigger: Trigger, slot: int | None
) -> set[UUID]:
    """Creates what no unique index refuses, and returns its ids. `slot`: seconds of the first publish slot."""
    if not births:
        return set()
    parameters = {"rows": json_rows(births), "state": state.value, "trigger": trigger.value, "slot": slot}
    return set(planned.execute(connection, statements.INSERT_EXECUTIONS, parameters).scalars())


def insert_wanted(connection: Connection, births: Sequence[Birth], *, trigger: Trigger, now: datetime) -> set[UUID]:
    """Creates what somebody asks for of locked jobs, due for R1 at once, as far as no unique index refuses it.

    What was dispatched of these jobs ahead of its moment is in nobody's way: it is taken back.
    """
    created = insert_executions(connection, births, State.PENDING, trigger=trigger, slot=None)
    begun = {birth["job_id"] for birth in births if birth["id"] in created}
    freed = {job for job in {birth["job_id"] for birth in births} - begun if _made_way(connection, job, now)}
    again = [birth for birth in births if birth["job_id"] in freed]
    return created | insert_executions(connection, again, State.PENDING, trigger=trigger, slot=None)


def _made_way(connection: Connection, job_id: UUID, now: datetime) -> bool:
    """Whether there was anything to take back. The job is left for that moment, when overlap is judged anew."""
    taken = connection.execute(statements.TAKE_BACK, {"id": job_id, "first": id_bounds(now)[0]}).one()
    if taken.next_run is None:
        return False
    connection.execute(statements.LEAVE_FOR_MOMENT, {"id": job_id, "next_run": taken.next_run})
    return True
