"""One action on many jobs. Each job is a transaction of its own: what was done stays done, whatever stops the rest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from gnomon.job.errors import Conflict, CountDiffers, InvalidJob, NotFound, Overlapping, RevisionMismatch
from gnomon.job.model import Job
from gnomon.job.ports import JobQuery, OverviewStore
from gnomon.job.service import JobService

BULK_LIMIT = 1_000
SAMPLE = 10

Act = Callable[[Job], UUID | None]  # what is done to one; the id of the execution that it made, if it made one


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """How many jobs match, and the newest of them."""

    count: int
    newest: Sequence[Job]


@dataclass(frozen=True, kw_only=True)
class Done:
    """A job to which it was done."""

    job: Job
    execution_id: UUID | None


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A job to which it was not done. `code` is a short stable word."""

    job: Job
    code: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`matched`: how many there were, those beyond the limit included; `cursor` goes on with these."""

    matched: int
    done: Sequence[Done]
    refused: Sequence[Refused]
    cursor: str | None


class Bulk:
    """Like JobService, for many jobs."""

    def __init__(self, service: JobService, overview: OverviewStore) -> None:
        self._service = service
        self._overview = overview

    def matching(self, query: JobQuery) -> Chosen:
        """What `act` would be done to. Raises InvalidJob, as that would."""
        _check(query)
        newest = self._service.list(replace(query, limit=SAMPLE)).items
        return Chosen(count=self._overview.count_jobs(query), newest=newest)

    def act(self, query: JobQuery, act: Act, *, expected: int | None) -> Outcome:
        """Does it to up to `query.limit` of those that match, the newest first; each that refuses does so by itself.

        Raises InvalidJob, and CountDiffers where another number than `expected` matches.
        """
        _check(query)
        matched = self._overview.count_jobs(query)
        if expected not in (None, matched):
            raise CountDiffers(f"{matched} match, not {expected}: look at them with dry_run, or expect {matched}")
        page = self._service.list(query)
        results = [_done(act, job) for job in page.items]
        return Outcome(
            matched=matched,
            done=[result for result in results if isinstance(result, Done)],
            refused=[result for result in results if isinstance(result, Refused)],
            cursor=page.cursor,
        )


def _check(query: JobQuery) -> None:
    if not 1 <= query.limit <= BULK_LIMIT:
        raise InvalidJob.at("/limit", f"must lie between 1 and {BULK_LIMIT}")


def _done(act: Act, job: Job) -> Done | Refused:
    try:
        return Done(job=job, execution_id=act(job))
    except NotFound:
        return Refused(job=job, code="deleted", reason="it was deleted by somebody else")
    except RevisionMismatch as error:
        return Refused(job=job, code="changed", reason=str(error))
    except Overlapping as error:
        return Refused(job=job, code="overlapping", reason=str(error))
    except InvalidJob as error:
        return Refused(job=job, code="invalid", reason=str(error))
    except Conflict as error:
        return Refused(job=job, code="conflict", reason=str(error))
