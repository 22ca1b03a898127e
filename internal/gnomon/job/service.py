"""JobService: what the API, the CLI and the library ask for. Decides; the stores carry out."""

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice, takewhile
from typing import Any
from uuid import UUID, uuid4, uuid5

from gnomon.job import announced
from gnomon.job.address import EgressPolicy
from gnomon.job.announced import Announced
from gnomon.job.document import (
    NAME,
    NAME_RULE,
    SCHEDULE_FIELDS,
    complete,
    merge_patch,
    parse_instant,
    read_definition,
    replace_document,
    write_definition,
)
from gnomon.job.errors import Conflict, InvalidJob, NameTaken, NotFound, RevisionMismatch, Unavailable
from gnomon.job.model import Action, Definition, Execution, Job, JobStatus
from gnomon.job.ports import (
    Catalog,
    Event,
    ExecutionQuery,
    HistoryStore,
    JobChange,
    JobQuery,
    JobStore,
    NewJob,
    Once,
    Page,
    Requested,
    RunStore,
)
from gnomon.job.preview import Preview, preview
from gnomon.job.quotas import Quotas
from gnomon.job.schedule import At, Cron, Every, first_run, moments_from
from gnomon.job.sealing import Seal, no_seal, sealed
from gnomon.job.target import closed_to

NAME_PREFIX = "name:"
BACKFILL_LIMIT = 1_000
# Of a job that may overlap itself: its targets were not built for a year of moments in one second.
BACKFILL_PACE = timedelta(milliseconds=100)
_REQUESTS = UUID("6f9d6b1e-3f0c-5b53-9c53-0d3a6f1f6b8e")  # a namespace of our own, for ids made of Idempotency-Keys


class JobService:
    """Every call answers with values of job/model.py or raises an error of job/errors.py.

    `seal`: what secrets of jobs pass through before they are stored; without it jobs that have some are refused.
    `egress` is for warnings: what workers may call is decided by their own settings, at the time of the call.
    """

    def __init__(
        self,
        *,
        jobs: JobStore,
        runs: RunStore,
        history: HistoryStore,
        catalog: Catalog,
        seal: Seal = no_seal,
        quotas: Quotas = Quotas(),  # noqa: B008 - it is immutable
        egress: EgressPolicy | None = None,
    ) -> None:
        self._jobs = jobs
        self._quotas = quotas
        self._runs = runs
        self._history = history
        self._catalog = catalog
        self._seal = seal
        self._egress = egress

    def create(self, document: Mapping[str, Any]) -> Job:
        """Raises InvalidJob (nothing is stored) and NameTaken."""
        return self._jobs.create(self.prepared(document))

    def prepared(
        self, document: Mapping[str, Any], *, job_id: UUID | None = None, status: JobStatus = JobStatus.RUNNING
    ) -> Callable[[datetime], NewJob]:
        """What makes a new job of a document, by a store's clock. It raises InvalidJob.

        One that is born COMPLETED must have no moment left.
        """
        wanted = complete(document)
        known = announced.ask(self._catalog, wanted)
        if status is JobStatus.COMPLETED:
            return lambda now: self._born_complete(self._read(wanted, known, None, now), now, job_id or uuid4())
        return lambda now: self._born(self._read(wanted, known, None, now), now, job_id)

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

        A job whose definition can't be read is mended by a patch that is a complete one. Raises InvalidJob, NotFound,
        NameTaken, and RevisionMismatch when the job is not at `if_revision`.
        """
        before = self.get(reference)
        # asked before the transaction begins: it holds a connection, and there may not be a second one
        known = announced.ask(self._catalog, _patched(before, patch))

        def decide(job: Job, now: datetime) -> JobChange | None:
            RevisionMismatch.check(job.id, job.revision, if_revision)
            return self._as_defined(job, self._read(_patched(job, patch), known, job.definition, now), now)

        return self._jobs.update(before.id, decide)

    def next_runs(self, reference: str, *, since: datetime | None, now: datetime, count: int) -> Preview:
        """What the job's schedule would do from `since` on, also where the job is paused; by default from what is next.

        Raises NotFound, and Conflict where the definition can't be read.
        """
        job = self.get(reference)
        timing = _readable(job).timing
        return preview(timing, since or job.next_run or now, count=count, shift=timing.shift(job.id))

    def put(
        self, name: str, document: Mapping[str, Any], *, exists: bool | None = None, if_revision: int | None = None
    ) -> tuple[Job, bool]:
        """The job of this name as the whole document says, and whether it was created for it.

        What the document leaves out is the default, but for secrets that read "***" and the anchor of an interval that
        stays. Raises InvalidJob, and RevisionMismatch where a job of the name exists and should not (or the other way
        round), or is not at `if_revision`.
        """
        if not NAME.fullmatch(name):
            raise InvalidJob.at("/name", NAME_RULE)
        wanted = {**document, "name": name}
        while True:
            try:
                before = self._jobs.get_by_name(name)
            except NotFound:
                if exists or if_revision is not None:
                    raise RevisionMismatch(f"no job is named {name!r}: it is created without If-Match") from None
                with contextlib.suppress(NameTaken):  # a twin was quicker: see what it made
                    return self.create(wanted), True
                continue
            if exists is False:
                raise RevisionMismatch(f"a job is named {name!r} already: it is replaced without If-None-Match")
            with contextlib.suppress(NotFound):  # deleted or renamed meanwhile
                return self._replace(before, wanted, if_revision), False

    def _replace(self, before: Job, wanted: Mapping[str, Any], if_revision: int | None) -> Job:
        replacement = self.replacement(wanted)

        def decide(job: Job, now: datetime) -> JobChange | None:
            if job.name != before.name:
                raise NotFound(f"job {job.id} bears another name by now")
            RevisionMismatch.check(job.id, job.revision, if_revision)
            return replacement(job, now)

        return self._jobs.update(before.id, decide)

    def replacement(self, wanted: Mapping[str, Any]) -> Callable[[Job, datetime], JobChange | None]:
        """What makes of a job what the whole document says. It raises InvalidJob."""
        known = announced.ask(self._catalog, wanted)

        def decide(job: Job, now: datetime) -> JobChange | None:
            stored = {} if job.definition is None else write_definition(job.definition, secrets=True)
            definition = self._read(replace_document(stored, wanted), known, job.definition, now)
            return self._as_defined(job, _anchored(definition, job.definition, wanted), now)

        return decide

    def warnings(self, job: Job) -> Sequence[str]:
        """What keeps the job from running as defined: a handler that no worker has now, an address that is closed."""
        if job.definition is None:
            return []
        closed = [] if self._egress is None else closed_to(job.definition.target, self._egress)
        named = {"type": job.kind, "retry": {"strategy": job.definition.retry.strategy}}
        try:
            known = announced.ask(self._catalog, named)
        except Unavailable:  # the change is made: not knowing this must not make it look as if it were not
            return ["whether a worker has what the job names could not be found out now"]
        return [*closed, *announced.warnings(job.definition, known)]

    def ensure(self, name: str, define: Callable[[Job | None, datetime], Definition]) -> Job:
        """The job of this name as `define` says: created, changed in a new revision, or left alone where it is so.

        `define` is given the job that bears the name, if there is one, and the store's clock; it may be asked more than
        once. Any number of processes may do the same at once. Raises InvalidJob.
        """
        while True:
            try:
                job = self._jobs.get_by_name(name)
                return self._jobs.update(job.id, lambda job, now: self._as_defined(job, define(job, now), now))
            except NotFound:
                with contextlib.suppress(NameTaken):  # a twin was quicker: see what it made
                    return self._jobs.create(lambda now: self._born(define(None, now), now))

    def delete(self, reference: str, *, if_revision: int | None = None) -> None:
        """Executions that run finish their attempt; what waits is cancelled.

        Raises NotFound, and RevisionMismatch when the job is not at `if_revision`.
        """
        self._jobs.delete(self.id_of(reference), if_revision=if_revision)

    def pause(
        self, reference: str, *, reason: str | None = None, until: str | None = None, if_revision: int | None = None
    ) -> Job:
        """No new moments; what has been created goes on. With `until` (RFC 3339) the job resumes by itself then.

        Pausing a paused job changes its reason and its end. Raises InvalidJob, NotFound, RevisionMismatch, and Conflict
        for a job without further moments.
        """
        end = None if until is None else parse_instant(until, "/until")

        def decide(job: Job, now: datetime) -> JobChange | None:
            RevisionMismatch.check(job.id, job.revision, if_revision)
            return _paused(job, now, reason, end)

        return self._jobs.update(self.id_of(reference), decide)

    def resume(self, reference: str, *, if_revision: int | None = None) -> Job:
        """Goes on at the next moment from now; what passed meanwhile is not owed.

        A running job is left as it is. Raises NotFound, RevisionMismatch, and Conflict where no moment is left.
        """

        def decide(job: Job, now: datetime) -> JobChange | None:
            RevisionMismatch.check(job.id, job.revision, if_revision)
            return _resumed(job, now)

        return self._jobs.update(self.id_of(reference), decide)

    def run_now(self, reference: str, *, may_wait: bool = False, key: str | None = None) -> Requested:
        """An execution beside the schedule, due at once; also of a job that is paused or complete.

        The same `key` (an Idempotency-Key) again gives the same execution. Raises NotFound, KeyReused, and Overlapping
        where the job allows no second execution now; with `may_wait` it waits its turn instead.
        """
        job_id = self.id_of(reference)
        once = None if key is None else Once(key=key, fingerprint=_fingerprint("run", job_id, may_wait))
        return self._runs.run(job_id, may_wait=may_wait, once=once)

    def retry(
        self, execution_id: str, *, same_revision: bool = False, may_wait: bool = False, key: str | None = None
    ) -> Requested:
        """Another execution that repeats one which failed, was cancelled, or whose outcome is unknown.

        It is what the job's definition says now or, with `same_revision`, what it said then. Raises NotFound (also
        where the job was deleted), Conflict for one that did not fail, and else what `run_now` does.
        """
        parsed = _parse_execution_id(execution_id)
        request = _fingerprint("retry", parsed, same_revision, may_wait)
        once = None if key is None else Once(key=key, fingerprint=request)
        return self._runs.retry(parsed, same_revision=same_revision, may_wait=may_wait, once=once)

    def backfill(
        self, reference: str, *, since: str, until: str, dry_run: bool = False, key: str | None = None
    ) -> Sequence[datetime]:
        """Executions for the past moments in [since, until] (RFC 3339) that have none, or none but a SKIPPED one.

        Returns the moments; with `dry_run` nothing is created. Raises InvalidJob, also for more than 1,000 moments,
        NotFound, and Conflict.
        """
        job_id = self.id_of(reference)
        first, last = parse_instant(since, "/from"), parse_instant(until, "/to")
        if last < first:
            raise InvalidJob.at("/to", "must not be earlier than from")
        return self._runs.backfill(
            job_id,
            lambda job, now: _past_moments(job, now, first, last),
            request_id=uuid4() if key is None else uuid5(_REQUESTS, key),
            pace=BACKFILL_PACE,
            dry_run=dry_run,
        )

    def cancel(self, execution_id: str) -> Execution:
        """Ends an execution, at once or, where it runs, within seconds. Cancelling it again changes nothing.

        Raises NotFound, and Conflict for one that ended otherwise.
        """
        return self._runs.cancel(_parse_execution_id(execution_id))

    def execution(self, execution_id: str) -> Execution:
        """Raises NotFound."""
        return self._history.get(_parse_execution_id(execution_id))

    def executions(self, reference: str | None, query: ExecutionQuery) -> Page[Execution]:
        """History of one job or of all, newest first; that of a deleted job stays readable by its id.

        Raises NotFound.
        """
        return self._history.list(None if reference is None else self.id_of(reference), query)

    def _born_complete(self, definition: Definition, now: datetime, job_id: UUID) -> NewJob:
        timing = definition.timing
        if first_run(timing, now, shift=timing.shift(job_id)) is not None:
            raise InvalidJob.at("/status", "is COMPLETED, but the schedule has moments left", "leave it out")
        stored = sealed(definition, job_id=job_id, seal=self._seal)
        return NewJob(id=job_id, definition=stored, next_run=None)

    def _born(self, definition: Definition, now: datetime, job_id: UUID | None = None) -> NewJob:
        job_id = job_id or uuid4()
        stored = sealed(definition, job_id=job_id, seal=self._seal)
        return NewJob(id=job_id, definition=stored, next_run=_first_run(job_id, definition, now, now))

    def _as_defined(self, job: Job, definition: Definition, now: datetime) -> JobChange | None:
        """A secret that is given again differs from the one that is stored, which can't be read to compare them."""
        if definition == job.definition:
            return None
        stored = sealed(definition, job_id=job.id, seal=self._seal, before=job.definition)
        return _edited(job, stored, now)

    def _read(
        self, document: Mapping[str, Any], known: Announced, before: Definition | None, now: datetime
    ) -> Definition:
        """Raises InvalidJob, and Conflict where the document names others than were asked about."""
        try:
            definition = read_definition(document, now=now)
        except InvalidJob as error:
            raise announced.refusal(error, known, before) from error
        if not known.is_about(definition):
            raise Conflict("the job was changed at the same time: repeat the change")
        field = next((field for field in SCHEDULE_FIELDS if document.get(field) is not None), "cron_schedule")
        schedule_before = None if before is None else before.timing.schedule
        self._quotas.check_schedule(definition.timing.schedule, schedule_before, pointer=f"/{field}")
        return announced.settled(definition, known, before)

    def id_of(self, reference: str) -> UUID:
        """Of a name that no job bears raises NotFound; an id is not looked up."""
        return self.get(reference).id if reference.startswith(NAME_PREFIX) else _parse_id(reference)


def upcoming(job: Job, count: int) -> list[datetime]:
    """The next `count` moments of a job, the first being its `next_run`."""
    if job.next_run is None or job.definition is None:
        return []
    timing = job.definition.timing
    return list(islice(moments_from(timing, job.next_run, shift=timing.shift(job.id)), count))


def _patched(job: Job, patch: Mapping[str, Any]) -> Mapping[str, Any]:
    return merge_patch({} if job.definition is None else write_definition(job.definition, secrets=True), patch)


def _anchored(definition: Definition, before: Definition | None, document: Mapping[str, Any]) -> Definition:
    """An interval that stays keeps its anchor: the same document sent again changes nothing."""
    if before is None or document.get("anchor_at") is not None:
        return definition
    timing, new, old = definition.timing, definition.timing.schedule, before.timing.schedule
    if not isinstance(new, Every) or not isinstance(old, Every):
        return definition
    stays = (new.seconds, timing.starts_at) == (old.seconds, before.timing.starts_at)
    return replace(definition, timing=replace(timing, schedule=old)) if stays else definition


def _edited(job: Job, definition: Definition, now: datetime) -> JobChange:
    """The books are closed at the old next_run: no moment before it is owed again, and none from it on is dropped."""
    edit = JobChange(
        definition=definition,
        status=job.status,
        next_run=job.next_run,
        event=Event(action=Action.EDITED),
        pause_reason=job.pause_reason,
        paused_until=job.paused_until,
    )
    if job.definition is not None and definition.timing == job.definition.timing:
        return edit
    if job.status is JobStatus.STOPPED:
        _first_run(job.id, definition, now, now)
        next_run = None if job.paused_until is None else _moment_at_end(job.id, definition, job.paused_until)
        return replace(edit, next_run=next_run)
    since = min(job.next_run or now, now)
    next_run = _first_run(job.id, definition, since, now)
    event = Event(action=Action.EDITED, owed_from=since, owed_until=since)
    return replace(edit, status=JobStatus.RUNNING, next_run=next_run, event=event)


def _paused(job: Job, now: datetime, reason: str | None, until: datetime | None) -> JobChange | None:
    if job.status is JobStatus.COMPLETED:
        raise Conflict(f"job {job.id} is COMPLETED: it has no further moment that could be paused")
    if job.status is JobStatus.STOPPED and (job.pause_reason, job.paused_until) == (reason, until):
        return None
    if until is not None and until <= now:
        raise InvalidJob.at("/until", f"has passed: the database clock reads {now.isoformat()}")
    next_run = None
    if until is not None:
        next_run = _moment_at_end(job.id, _readable(job), until)
    owed_until = job.next_run if job.status is JobStatus.RUNNING else None
    return JobChange(
        definition=job.definition,
        status=JobStatus.STOPPED,
        next_run=next_run,
        event=Event(action=Action.PAUSED, owed_until=owed_until, reason=reason),
        pause_reason=reason,
        paused_until=until,
    )


def stopped_at_birth(job: Job, now: datetime, *, reason: str | None, until: datetime | None) -> JobChange | None:
    """A new job paused as another was; one whose pause would be over by now is not."""
    return None if until is not None and until <= now else _paused(job, now, reason, until)


def _resumed(job: Job, now: datetime) -> JobChange | None:
    if job.status is JobStatus.RUNNING:
        return None
    timing = _readable(job).timing
    next_run = first_run(timing, now, shift=timing.shift(job.id))
    if next_run is None:
        raise Conflict(
            f"the schedule of job {job.id} has no moment from now on: set a new execute_at or schedule, or run it now"
        )
    event = Event(action=Action.RESUMED, owed_from=now)
    return JobChange(definition=job.definition, status=JobStatus.RUNNING, next_run=next_run, event=event)


def _past_moments(job: Job, now: datetime, first: datetime, last: datetime) -> Sequence[datetime]:
    """Those that the schedule does not owe any more: earlier than `next_run`, and not in the future."""
    timing = _readable(job).timing
    closed = now if job.next_run is None else min(now, job.next_run)
    ahead = moments_from(timing, first, shift=timing.shift(job.id))
    moments = list(islice(takewhile(lambda m: m <= last and m < closed, ahead), BACKFILL_LIMIT + 1))
    if len(moments) > BACKFILL_LIMIT:
        raise InvalidJob.at(
            "/to", f"more than {BACKFILL_LIMIT} moments lie in between", "ask for a part of them at a time"
        )
    return moments


def _readable(job: Job) -> Definition:
    if job.definition is None:
        raise Conflict(f"the definition of job {job.id} can't be read ({job.unreadable}): edit the job to mend it")
    return job.definition


def _moment_at_end(job_id: UUID, definition: Definition, until: datetime) -> datetime:
    """The first moment after a pause. Raises InvalidJob where there would be none."""
    timing = definition.timing
    moment = first_run(timing, until, shift=timing.shift(job_id))
    if moment is None:
        raise InvalidJob.at("/until", "the schedule has no moment after it", "pause without until, or until earlier")
    return moment


def _fingerprint(*parts: object) -> str:
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()


def _parse_name(reference: str) -> str:
    name = reference.removeprefix(NAME_PREFIX)
    if not NAME.fullmatch(name):  # the store need not cope with what no name can hold
        raise NotFound(f"no job is named {name[:200]!r}")
    return name


def _parse_id(reference: str) -> UUID:
    parsed = _uuid(reference)
    if parsed is None:
        raise NotFound(f"no job {reference[:80]!r}: an id is a UUID, a name is written name:…")
    return parsed


def _parse_execution_id(text: str) -> UUID:
    parsed = _uuid(text)
    if parsed is None:
        raise NotFound(f"no execution {text[:80]!r}: an id is a UUID")
    return parsed


def _uuid(text: str) -> UUID | None:
    try:
        parsed = UUID(text)
    except ValueError:
        return None
    return parsed if str(parsed) == text.lower() else None


def _first_run(job_id: UUID, definition: Definition, since: datetime, now: datetime) -> datetime:
    timing = definition.timing
    if isinstance(timing.schedule, At) and timing.schedule.at < now:
        raise InvalidJob.at("/execute_at", f"has passed: the database clock reads {now.isoformat()}")
    moment = first_run(timing, since, shift=timing.shift(job_id))
    if moment is None:
        pointer = "/ends_at" if timing.ends_at else "/cron_schedule" if isinstance(timing.schedule, Cron) else ""
        raise InvalidJob.at(pointer, "the schedule has no moment from now on", "move ends_at, or change the schedule")
    return moment
