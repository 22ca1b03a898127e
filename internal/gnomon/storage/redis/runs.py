"""RunStore on Redis: executions that people ask for, or no longer want."""

import hashlib
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from gnomon.job.ids import backfill_id, id_bounds
from gnomon.job.model import Execution, Job
from gnomon.job.ports import Once, Requested
from gnomon.storage.redis.database import RedisDatabase, instant, micros
from gnomon.storage.redis.documents import job_version, read_execution, read_job
from gnomon.storage.refusals import key_reused, no_execution, no_job, not_failed, overlapping, refuse_cancel

KEPT = timedelta(hours=24)


class RedisRunStore:
    """RunStore on Redis. Each verb is one script, so that no dispatch is in between."""

    def __init__(self, database: RedisDatabase) -> None:
        self._database = database

    def run(self, job_id: UUID, *, may_wait: bool, once: Once | None) -> Requested:
        """The key is written with the execution, or not at all."""
        return self._request(once, may_wait=may_wait, job_id=job_id)

    def retry(self, execution_id: UUID, *, same_revision: bool, may_wait: bool, once: Once | None) -> Requested:
        """As `run`."""
        return self._request(once, may_wait=may_wait, execution_id=execution_id, same_revision=same_revision)

    def backfill(
        self,
        job_id: UUID,
        choose: Callable[[Job, datetime], Sequence[datetime]],
        *,
        request_id: UUID,
        pace: timedelta,
        dry_run: bool,
    ) -> Sequence[datetime]:
        """`choose` is asked again where a change or a dispatch was quicker.

        Moments up to the latest whose execution is no longer kept are left out: nobody knows whether they ran.
        """

        def attempt() -> list[datetime] | None:
            found = self._database.run("job", id=job_id)
            if found is None:
                raise no_job(job_id)
            now, shown = found
            chosen = choose(read_job(shown), instant(now))
            booked = self._database.run(
                "backfill",
                job_id=job_id,
                version=job_version(shown),
                pace=pace,
                dry_run=dry_run,
                births=[_birth(request_id, job_id, moment) for moment in chosen],
            )
            if booked == "not_found":
                raise no_job(job_id)
            return None if booked == "changed" else [instant(moment) for moment in booked]

        return self._database.decided(attempt, f"job {job_id}")

    def cancel(self, execution_id: UUID) -> Execution:
        """One script; the job may be deleted already."""
        shown = self._database.run("cancel", id=execution_id)
        if shown is None:
            raise no_execution(execution_id)
        execution = read_execution(shown)
        refuse_cancel(execution)
        return execution

    def _request(self, once: Once | None, **wanted: Any) -> Requested:
        answer, *details = self._database.run(
            "run",
            once=None if once is None else hashlib.sha256(once.key.encode()).hexdigest(),
            fingerprint=None if once is None else once.fingerprint,
            kept=KEPT,
            random=_random_bits(),
            **wanted,
        )
        if answer in ("created", "replayed"):
            return Requested(execution=read_execution(details[0]), replayed=answer == "replayed")
        raise _refusal(answer, details, once, wanted.get("execution_id"))


def _refusal(answer: str, details: Sequence[str], once: Once | None, execution_id: UUID | None) -> Exception:
    match answer, details:
        case "key_reused", _ if once is not None:
            return key_reused(once)
        case "no_execution", [missing]:
            return no_execution(UUID(missing))
        case "no_job", [missing]:
            return no_job(UUID(missing))
        case "not_failed", [state]:
            return not_failed(execution_id, state)
        case "overlapping", [job_id, active, state]:
            return overlapping(UUID(job_id), (UUID(active), state))
    return AssertionError(f"no script answers {answer!r}")


def _birth(request_id: UUID, job_id: UUID, moment: datetime) -> dict[str, Any]:
    first_id, last_id = id_bounds(moment)
    return {
        "id": backfill_id(request_id, job_id, moment),
        "at": micros(moment),
        "serial": True,
        "first_id": first_id,
        "last_id": last_id,
    }


def _random_bits() -> str:
    """What follows the time in a UUIDv7."""
    bits = f"{secrets.randbits(76):019x}"
    return f"7{bits[:3]}-{'89ab'[secrets.randbelow(4)]}{bits[3:6]}-{bits[6:18]}"
