"""CreationStore on Postgres: new jobs, for requests that may be sent twice, and for those that only ask."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, Engine

from gnomon.job.errors import NotFound
from gnomon.job.model import Job
from gnomon.job.ports import Created, NewJob, Once
from gnomon.storage.postgres.engine import translated
from gnomon.storage.postgres.jobs import insert_job, read_job
from gnomon.storage.postgres.keys import known_resource, remember, take_key
from gnomon.storage.refusals import created_is_gone


class PostgresCreationStore:
    """CreationStore on Postgres."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(self, prepare: Callable[[datetime], NewJob], *, once: Once) -> Created:
        """The key is taken before it is looked up, so that of twins one creates, and no other looks too early."""
        with translated(), self._engine.begin() as connection:
            take_key(connection, once)
            if (known := known_resource(connection, once)) is not None:
                return Created(job=_made_before(connection, known, once), replayed=True)
            job = insert_job(connection, prepare)
            remember(connection, once, job.id)
            return Created(job=job, replayed=False)

    def rehearse(self, prepare: Callable[[datetime], NewJob]) -> Job:
        """Creates it and rolls back: so all that the database has to say against it is said."""
        with translated(), self._engine.connect() as connection:
            job = insert_job(connection, prepare)
            connection.rollback()
            return job


def _made_before(connection: Connection, job_id: UUID, once: Once) -> Job:
    try:
        return read_job(connection, job_id)
    except NotFound as error:
        raise created_is_gone(once, job_id) from error
