"""The sealed secrets of stored definitions: the one thing about a revision that changes, when keys do."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, Engine, bindparam, select, update
from sqlalchemy.dialects.postgresql import JSONB

from gnomon.job.errors import SecretUnreadable
from gnomon.job.model import Definition
from gnomon.storage.postgres.engine import translated
from gnomon.storage.postgres.rows import Unreadable, definition_document, read_stored_definition
from gnomon.storage.postgres.tables import job_revisions, jobs

AnotherSeal = Callable[[UUID, Definition], Definition]
Changed = tuple[UUID, int, Definition]


@dataclass(frozen=True, kw_only=True)
class SealedPart:
    """What became of the revisions of some jobs. `last` is the last of these; None when there were none left.

    `failures` say in words which revision could not be changed, and why.
    """

    changed: int
    failures: Sequence[str]
    last: UUID | None


class PostgresSealedDefinitions:
    """All revisions of all jobs, deleted ones included: any of them may be run again, or lie in a backup."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def seal_anew(self, change: AnotherSeal, *, after: UUID | None, limit: int) -> SealedPart:
        """Replaces what `change` makes another definition of, for the `limit` jobs after this one. One transaction.

        The jobs are locked as for an edit, so that none copies an old ciphertext into a new revision meanwhile. Raises
        Contended.
        """
        with translated(), self._engine.begin() as connection:
            ids = _lock_jobs(connection, after, limit)
            failures: list[str] = []
            changed = [*_changed(connection, ids, change, failures)]
            if changed:
                _replace(connection, changed)
        return SealedPart(changed=len(changed), failures=failures, last=ids[-1] if ids else None)


def _lock_jobs(connection: Connection, after: UUID | None, limit: int) -> list[UUID]:
    chosen = select(jobs.c.id).order_by(jobs.c.id).limit(limit).with_for_update(key_share=True)
    return [*connection.execute(chosen if after is None else chosen.where(jobs.c.id > after)).scalars()]


def _changed(
    connection: Connection, ids: Sequence[UUID], change: AnotherSeal, failures: list[str]
) -> Iterator[Changed]:
    revisions = job_revisions.c
    chosen = select(revisions.job_id, revisions.revision, revisions.definition).where(revisions.job_id.in_(ids))
    for job_id, revision, document in connection.execute(chosen.order_by(revisions.job_id, revisions.revision)):
        stored = read_stored_definition(document)
        if isinstance(stored, Unreadable):
            failures.append(f"job {job_id}, revision {revision}: it can't be read ({stored.reason})")
            continue
        try:
            definition = change(job_id, stored)
        except SecretUnreadable as error:
            failures.append(f"job {job_id}, revision {revision}: {error}")
            continue
        if definition != stored:
            yield job_id, revision, definition


def _replace(connection: Connection, changed: Sequence[Changed]) -> None:
    chosen = (job_revisions.c.job_id == bindparam("of_job"), job_revisions.c.revision == bindparam("of_revision"))
    statement = update(job_revisions).where(*chosen).values(definition=bindparam("sealed", type_=JSONB))
    connection.execute(
        statement,
        [
            {"of_job": job_id, "of_revision": revision, "sealed": definition_document(definition)}
            for job_id, revision, definition in changed
        ],
    )
