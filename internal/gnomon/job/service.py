"""JobService: what the API, the CLI and the library ask for. Decides; the stores carry out."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from gnomon.job.document import NAME, merge_patch, read_definition, write_definition
from gnomon.job.errors import InvalidJob, NotFound, RevisionMismatch
from gnomon.job.model import Definition, Execution, Job, JobStatus
from gnomon.job.ports import ExecutionQuery, HistoryStore, JobChange, JobQuery, JobStore, NewJob, Page
from gnomon.job.schedule import At, Cron, first_run, next_run_after

NAME_PREFIX = "name:"


class JobService:
    """Every call answers with values of job/model.py or raises an error of job/errors.py."""

    def __init__(self, *, jobs: JobStore, history: HistoryStore) -> None:
        self._jobs = jobs
        self._history = history

    def create(self, document: Mapping[str, Any]) -> Job:
        """Raises InvalidJob (nothing is stored) and NameTaken."""

        def prepare(now: datetime) -> NewJob:
            definition = read_definition(document, now=now)
            job_id = uuid4()
            return NewJob(id=job_id, definition=definition, next_run=_first_run(job_id, definition, now, now))

        return self._jobs.create(prepare)

    def get(self, reference: str) -> Job:
        """`reference` is an id or `name:` and a name. Raises NotFound."""
        if reference.startswith(NAME_PREFIX):
            return self._jobs.get_by_name(_parse_name(reference))
        return self._jobs.get(_parse_id(reference))

    def list(self, query: JobQuery) -> Page[Job]:
        """Living jobs, newest first."""
        return self._jobs.list(query)

    def update(self, reference: str, patch: Mapping[str, Any], *, if_revision: int | None = None) -> Job:
        """Merges `patch` into the definition as a new revision; a patch that changes nothing makes none.

        Raises InvalidJob, NotFound, NameTaken, and RevisionMismatch when the job is not at `if_revision`.
        """

        def decide(job: Job, now: datetime) -> JobChange:
            _check_revision(job, if_revision)
            merged = merge_patch(write_definition(job.definition, secrets=True), patch)
            definition = read_definition(merged, now=now)
            if definition.timing == job.definition.timing:
                return JobChange(definition=definition, status=job.status, next_run=job.next_run)
            return _rescheduled(job, definition, now)

        return self._jobs.update(self._id_of(reference), decide)

    def delete(self, reference: str) -> None:
        """Raises NotFound. Executions that run finish their attempt; what waits is cancelled."""
        self._jobs.delete(self._id_of(reference))

    def executions(self, reference: str, query: ExecutionQuery) -> Page[Execution]:
        """History of one job, newest first; that of a deleted job stays readable by its id. Raises NotFound."""
        return self._history.list(self._id_of(reference), query)

    def _id_of(self, reference: str) -> UUID:
        return self.get(reference).id if reference.startswith(NAME_PREFIX) else _parse_id(reference)


def upcoming(job: Job, count: int) -> list[datetime]:
    """The next `count` moments of a running job, the first being its `next_run`."""
    moments: list[datetime] = []
    moment = job.next_run
    shift = job.definition.timing.shift(job.id)
    while moment is not None and len(moments) < count:
        moments.append(moment)
        moment = next_run_after(job.definition.timing, moment, shift=shift)
    return moments


def _parse_name(reference: str) -> str:
    name = reference.removeprefix(NAME_PREFIX)
    if not NAME.fullmatch(name):  # the store need not cope with what no name can hold
        raise NotFound(f"no job is named {name[:200]!r}")
    return name


def _parse_id(reference: str) -> UUID:
    try:
        parsed = UUID(reference)
    except ValueError:
        parsed = None
    if parsed is None or str(parsed) != reference.lower():
        raise NotFound(f"no job {reference[:80]!r}: an id is a UUID, a name is written name:…")
    return parsed


def _check_revision(job: Job, if_revision: int | None) -> None:
    if if_revision is not None and job.revision != if_revision:
        raise RevisionMismatch(
            f"job {job.id} is at revision {job.revision}, not {if_revision}: read it again and repeat the change"
        )


def _rescheduled(job: Job, definition: Definition, now: datetime) -> JobChange:
    """The books are closed at the old next_run: no moment before it is owed again, and none from it on is dropped."""
    if job.status is JobStatus.STOPPED:
        _first_run(job.id, definition, now, now)
        return JobChange(definition=definition, status=job.status, next_run=None)
    since = min(job.next_run or now, now)
    next_run = _first_run(job.id, definition, since, now)
    return JobChange(definition=definition, status=JobStatus.RUNNING, next_run=next_run)


def _first_run(job_id: UUID, definition: Definition, since: datetime, now: datetime) -> datetime:
    timing = definition.timing
    if isinstance(timing.schedule, At) and timing.schedule.at < now:
        raise InvalidJob.at("/execute_at", f"has passed: the database clock reads {now.isoformat()}")
    moment = first_run(timing, since, shift=timing.shift(job_id))
    if moment is None:
        pointer = "/ends_at" if timing.ends_at else "/cron_schedule" if isinstance(timing.schedule, Cron) else ""
        raise InvalidJob.at(pointer, "the schedule has no moment from now on", "move ends_at, or change the schedule")
    return moment
