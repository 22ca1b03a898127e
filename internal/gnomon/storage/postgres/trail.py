"""TrailStore on Postgres: who did what to a job."""

from typing import Any
from uuid import UUID

from sqlalchemy import Engine, Row, Select, select

from gnomon.job.model import Action
from gnomon.job.ports import Entry, Page
from gnomon.storage.cursors import read_place, write_place
from gnomon.storage.postgres.engine import autocommit, translated
from gnomon.storage.postgres.tables import api_keys, job_events, jobs
from gnomon.storage.refusals import no_job


class PostgresTrailStore:
    """TrailStore on Postgres."""

    def __init__(self, engine: Engine) -> None:
        self._engine = autocommit(engine)

    def list(self, job_id: UUID, *, limit: int, cursor: str | None) -> Page[Entry]:
        """In the order of their ids."""
        events = job_events.c
        chosen = _select().where(events.job_id == job_id)
        if cursor is not None:
            chosen = chosen.where(events.id < read_place(cursor))
        with translated(), self._engine.connect() as connection:
            rows = connection.execute(chosen.order_by(events.id.desc()).limit(limit + 1)).all()
            if not rows and connection.execute(select(jobs.c.id).where(jobs.c.id == job_id)).first() is None:
                raise no_job(job_id)
        more = len(rows) > limit
        return Page(
            items=[_read(row) for row in rows[:limit]], cursor=write_place(rows[limit - 1].id) if more else None
        )


def _select() -> Select[Any]:
    """Names of keys never change, and their rows stay: so the name is that of the time."""
    events = job_events.c
    return select(
        events.id, events.at, events.action, events.revision, events.reason, events.principal, events.changed,
        api_keys.c.name,
    ).outerjoin(api_keys, api_keys.c.id == events.principal)  # fmt: skip


def _read(row: Row[Any]) -> Entry:
    return Entry(
        at=row.at,
        action=Action(row.action),
        revision=row.revision,
        reason=row.reason,
        principal_id=row.principal or None,
        principal_name=row.name or row.principal or None,
        changed=tuple(row.changed),
    )
