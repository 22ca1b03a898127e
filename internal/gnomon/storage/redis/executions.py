"""The worker's side of executions: C, S, W, L and the renewal of leases, of docs/protocol.md."""

import logging
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import redis

from gnomon.job.model import Definition
from gnomon.job.ports import Claimed, Record, Token, Unrecordable
from gnomon.storage.redis.database import RedisDatabase, instant, parts, present, token_rows
from gnomon.storage.redis.documents import read_document

log = logging.getLogger(__name__)


class RedisExecutionStore:
    """ExecutionStore on Redis. `worker` names this process in the executions."""

    def __init__(self, database: RedisDatabase, *, worker: str) -> None:
        self._database = database
        self._worker = worker

    def claim(self, ids: Collection[UUID], *, delivery: UUID, lease: timedelta) -> Sequence[Claimed]:
        """C."""
        return [
            _claimed(row)
            for part in parts(dict.fromkeys(ids))
            for row in self._database.run("claim", ids=part, delivery=delivery, lease=lease, worker=self._worker)
        ]

    def definitions(self, revisions: Collection[tuple[UUID, int]]) -> Mapping[tuple[UUID, int], Definition]:
        """Immutable, so what this returns may be kept for ever."""
        found: dict[tuple[UUID, int], Definition] = {}
        for part in parts(revisions, 100):
            keys = [{"job_id": job_id, "revision": revision} for job_id, revision in part]
            for key, text in zip(part, self._database.run("definitions", revisions=keys), strict=True):
                if text is not None and (definition := _read(*key, text)) is not None:
                    found[key] = definition
        return found

    def start(self, tokens: Collection[Token], *, delivery: UUID, margin: timedelta) -> set[UUID]:
        """S."""
        return self._ids("start", tokens, delivery=delivery, margin=margin)

    def record(self, records: Sequence[Record]) -> set[UUID]:
        """W."""
        try:
            return {
                UUID(written)
                for part in parts(records)
                for written in self._database.run("record", records=[_record_row(record) for record in part])
            }
        except (UnicodeEncodeError, redis.DataError) as error:
            raise Unrecordable(f"{len(records)} outcomes hold what UTF-8 can't carry") from error

    def recorded_before(self, records: Sequence[Record]) -> set[UUID]:
        """W leaves the owner on the row, so that a lost reply can be told from a lost lease."""
        rows = [{"id": r.token.id, "attempt": r.token.attempt, "owner": r.owner} for r in records]
        return {UUID(known) for part in parts(rows) for known in self._database.run("recorded_before", records=part)}

    def renew(self, tokens: Collection[Token], *, lease: timedelta) -> set[UUID]:
        """Extends leases."""
        return self._ids("renew", tokens, lease=lease)

    def cancel_requested(self, tokens: Collection[Token]) -> set[UUID]:
        """Which to abort."""
        return self._ids("cancel_requested", tokens)

    def release(self, tokens: Collection[Token], *, delay: timedelta) -> set[UUID]:
        """L."""
        return self._ids("release", tokens, delay=delay)

    def pending(self, ids: Collection[UUID]) -> Mapping[UUID, tuple[UUID, int]]:
        """What a claim would look at."""
        return {
            UUID(execution_id): (UUID(job_id), int(revision))
            for part in parts(ids)
            for execution_id, job_id, revision in self._database.run("pending", ids=part)
        }

    def return_slots(
        self, ids: Collection[UUID], *, delay: timedelta = timedelta(0), spread: timedelta = timedelta(0)
    ) -> None:
        """Gives publish slots back."""
        for part in parts(ids):
            self._database.run("return_slots", ids=part, delay=delay, spread=spread, seed=secrets.randbits(31))

    def overlooked(self, queues: Collection[str], *, oldest: timedelta, newest: timedelta) -> int:
        """Those published twice or more are in an order of their own, for each queue."""
        return int(self._database.run("overlooked", queues=list(queues), oldest=oldest, newest=newest))

    def _ids(self, script: str, tokens: Iterable[Token], **arguments: Any) -> set[UUID]:
        return {
            UUID(changed)
            for part in parts(tokens)
            for changed in self._database.run(script, tokens=token_rows(part), **arguments)
        }


def _claimed(row: Sequence[str]) -> Claimed:
    execution_id, attempt, job_id, revision, failures, scheduled_at = row
    return Claimed(
        id=UUID(execution_id),
        attempt=int(attempt),
        job_id=UUID(job_id),
        revision=int(revision),
        failures=int(failures),
        scheduled_at=instant(scheduled_at),
    )


def _record_row(record: Record) -> dict[str, Any]:
    return present(
        {
            "id": record.token.id,
            "attempt": record.token.attempt,
            "state": record.state.value,
            "delay": record.delay,
            "failed": record.failed,
            "duration": record.duration,
            "error_code": record.error_code,
            "error_message": record.error_message,
            "response_status": record.response_status,
            "response_excerpt": record.response_excerpt,
        }
    )


def _read(job_id: UUID, revision: int, document: str) -> Definition | None:
    definition = read_document(document)
    if isinstance(definition, Definition):
        return definition
    log.error(
        "job %s: revision %s can't be read (%s); its executions fail until it is edited",
        job_id,
        revision,
        definition,
        extra={"job_id": str(job_id)},
    )
    return None
