"""New executions: rows for INSERT_EXECUTIONS."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

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
