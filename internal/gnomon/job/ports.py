"""What the rooms need of each other, grouped by who uses it. `bootstrap` hands the implementations over.

The verbs of ExecutionStore are the arrows of the state machine in docs/protocol.md. Each is atomic, and each but
`dispatch` is one statement. All of them raise Unavailable when the store does not answer.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, Literal, Protocol, TypeVar
from uuid import UUID

from gnomon.job.api_key import ApiKey, NewKey
from gnomon.job.errors import GnomonError
from gnomon.job.handlers import HandlerInfo, HandlerSpec
from gnomon.job.instance import Identity, Instance
from gnomon.job.model import Action, Definition, Execution, Job, JobStatus, State, Trigger
from gnomon.job.outcome import Outcome, Succeeded
from gnomon.job.overview import Evidence, QueueDepth, Stats
from gnomon.job.plan import DueJob, Plan
from gnomon.job.retention import Retention

Item = TypeVar("Item")
Place = TypeVar("Place", UUID, int)

Clock = Callable[[], datetime]  # aware, and never asked to sleep


@dataclass(frozen=True, kw_only=True)
class Page(Generic[Item]):
    """One page of a list. `cursor` continues it; None when it was the last."""

    items: Sequence[Item]
    cursor: str | None


@dataclass(frozen=True, kw_only=True)
class JobQuery:
    """Which jobs to list, newest first. A job must bear every tag of `tags`.

    `next_run_after` and `next_run_before` bound the next run, both included; `queue` is where executions go.
    """

    limit: int = 50
    cursor: str | None = None
    offset: int = 0
    status: JobStatus | None = None
    kind: str | None = None
    tags: Collection[str] = ()
    name_contains: str | None = None
    queue: str | None = None
    next_run_after: datetime | None = None
    next_run_before: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class ExecutionQuery:
    """Which executions to list, the latest moments first. `since` and `until` bound the moments, both included."""

    limit: int = 50
    cursor: str | None = None
    offset: int = 0
    states: Collection[State] = ()
    trigger: Trigger | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A job about to be born."""

    id: UUID
    definition: Definition
    next_run: datetime | None


@dataclass(frozen=True, kw_only=True)
class Event:
    """An entry of a job's audit trail, and what it means for the moments that the schedule owes.

    Moments of the schedule so far are owed up to `owed_until`, exclusive; those of the revision that holds from now on
    are owed from `owed_from` on, inclusive. Where both are None nothing changes in that.
    """

    action: Action
    owed_from: datetime | None = None
    owed_until: datetime | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class JobChange:
    """What becomes of a job, decided while its row was locked. Another definition makes a new revision."""

    definition: Definition | None
    status: JobStatus
    next_run: datetime | None
    event: Event
    pause_reason: str | None = None
    paused_until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Once:
    """An Idempotency-Key and a fingerprint of the request that it came with."""

    key: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Requested:
    """An execution that was asked for. `replayed`: by an earlier request with the same Idempotency-Key."""

    execution: Execution
    replayed: bool


class JobStore(Protocol):
    """Job definitions. Changes that make a moment due sooner wake the schedulers."""

    def create(self, prepare: Callable[[datetime], NewJob]) -> Job:
        """Stores what `prepare` makes of the store's clock. Raises NameTaken."""

    def get(self, job_id: UUID) -> Job:
        """Raises NotFound, also for a deleted job."""

    def get_by_name(self, name: str) -> Job:
        """Raises NotFound, also for a deleted job."""

    def list(self, query: JobQuery) -> Page[Job]:
        """Living jobs, newest first."""

    def update(self, job_id: UUID, decide: Callable[[Job, datetime], JobChange | None]) -> Job:
        """Applies what `decide` makes of the job, under its row lock, and of the store's clock; None changes nothing.

        Raises NotFound, NameTaken, and whatever `decide` raises; then nothing changed.
        """

    def delete(self, job_id: UUID, *, if_revision: int | None = None) -> None:
        """Stops the schedule and cancels what is waiting or pending.

        Raises NotFound, and RevisionMismatch where the job is at another revision than one that is given.
        """


@dataclass(frozen=True, kw_only=True)
class Created:
    """A job that was asked for. `replayed`: an earlier request with the same Idempotency-Key made it."""

    job: Job
    replayed: bool


class CreationStore(Protocol):
    """New jobs, for requests that may be sent twice, and for those that only ask. Each call is one transaction."""

    def create(self, prepare: Callable[[datetime], NewJob], *, once: Once) -> Created:
        """As JobStore.create; the key is kept with the job, or not at all.

        Raises NameTaken, KeyReused, KeyInFlight while another request with the key is under way, and CreatedIsGone
        where what the key made was deleted since.
        """

    def rehearse(self, prepare: Callable[[datetime], NewJob]) -> Job:
        """The job as it would be created now; nothing is stored. Raises NameTaken."""


@dataclass(frozen=True, kw_only=True)
class ImportStep:
    """A job that comes in: which one it is, and what makes it of nothing, or of the one that is here.

    `stop` pauses one that was created; called where `status` is STOPPED. All may raise InvalidJob or Conflict.
    """

    name: str | None
    job_id: UUID | None
    prepare: Callable[[datetime], NewJob]
    replace: Callable[[Job, datetime], JobChange | None]
    stop: Callable[[Job, datetime], JobChange | None]
    status: JobStatus


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What became of one: 'created', 'replaced', 'unchanged', or 'refused' for a reason."""

    outcome: Literal["created", "replaced", "unchanged", "refused"]
    error: GnomonError | None = None


class ImportStore(Protocol):
    """Many jobs at a time."""

    def put(self, steps: Sequence[ImportStep], *, dry_run: bool) -> Sequence[Imported]:
        """In order, in one transaction, which a dry run rolls back. What is refused changes nothing."""


class RunStore(Protocol):
    """Executions that people ask for, beside the schedule, and no longer want. Each call is one transaction."""

    def run(self, job_id: UUID, *, may_wait: bool, once: Once | None) -> Requested:
        """Creates an execution that is due at once; with `may_wait` it waits its turn where the job does not overlap.

        Raises NotFound, Overlapping, and KeyReused.
        """

    def retry(self, execution_id: UUID, *, same_revision: bool, may_wait: bool, once: Once | None) -> Requested:
        """As `run`: another execution that repeats this one, as the job is defined now, or was then.

        Raises Conflict too, for an execution that did not fail.
        """

    def backfill(
        self,
        job_id: UUID,
        choose: Callable[[Job, datetime], Sequence[datetime]],
        *,
        request_id: UUID,
        pace: timedelta,
        dry_run: bool,
    ) -> Sequence[datetime]:
        """Creates an execution for each of the moments that has none yet, or none but a SKIPPED one; returns these.

        `choose` names the moments, under the job's row lock and by the store's clock. They run one after the other
        where the job does not overlap, else one each `pace`. Raises NotFound, and whatever `choose` raises.
        """

    def cancel(self, execution_id: UUID) -> Execution:
        """Ends an execution that is not running yet; one that runs is aborted by its worker within seconds.

        Raises NotFound, and Conflict for one that ended otherwise.
        """


@dataclass(frozen=True, kw_only=True)
class RepeatQuery:
    """Which executions to try again; `since` and `until` bound their moments, both included.

    One that was tried again before is left out unless `again`.
    """

    states: Collection[State]
    job_id: UUID | None = None
    trigger: Trigger | None = None
    since: datetime | None = None
    until: datetime | None = None
    again: bool = False


@dataclass(frozen=True, kw_only=True)
class Repeatable:
    """How many executions match, counted no further than the store does, and the oldest of them."""

    count: int
    oldest: Sequence[Execution]


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An execution that was not tried again. `code` is a short stable word."""

    execution_id: UUID
    code: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """What came of trying many again. `matched`: how many there were, those beyond the limit included.

    `replayed`: an earlier request with the same Idempotency-Key did it; of that only what it created is known.
    """

    matched: int
    created: Sequence[Execution]
    refused: Sequence[Refusal]
    replayed: bool


class RepeatStore(Protocol):
    """Trying many executions again at once."""

    def matching(self, query: RepeatQuery, *, limit: int) -> Repeatable:
        """Up to `limit` of those that match, the oldest first."""

    def repeat(
        self,
        query: RepeatQuery,
        *,
        limit: int,
        expected: int | None,
        same_revision: bool,
        may_wait: bool,
        pace: timedelta,
        once: Once | None,
    ) -> Repeated:
        """As RunStore.retry for up to `limit` of those that match, the oldest first, in one transaction.

        Of a job that may overlap itself one starts each `pace`. What can't be tried again is refused by itself.
        Raises CountDiffers where another number than `expected` matches, and KeyReused.
        """


class HistoryStore(Protocol):
    """What became of executions."""

    def get(self, execution_id: UUID) -> Execution:
        """Raises NotFound."""

    def list(self, job_id: UUID | None, query: ExecutionQuery) -> Page[Execution]:
        """Those of one job, or of all. Raises NotFound if there never was such a job."""

    def tallies(self) -> Sequence["Tally"]:
        """What all workers counted since the beginning, summed over the processes."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What was done to a job, and by whom; by nobody where the schedule itself did it.

    `changed` names the fields that an edit changed.
    """

    at: datetime
    action: Action
    revision: int
    reason: str | None
    principal_id: str | None
    principal_name: str | None
    changed: Sequence[str]


class TrailStore(Protocol):
    """Audit trails."""

    def list(self, job_id: UUID, *, limit: int, cursor: str | None) -> Page[Entry]:
        """What was done to one job, the latest first; also to one that was deleted. Raises NotFound."""


class OverviewStore(Protocol):
    """What people look at to see how it goes. Changes nothing."""

    def count_jobs(self, query: JobQuery) -> int:
        """How many jobs match, wherever the page begins; counted no further than 100,000."""

    def count_executions(self, job_id: UUID | None, query: ExecutionQuery) -> int:
        """As `count_jobs`, of one job or of all."""

    def queues(self) -> Sequence[QueueDepth]:
        """Those with something unfinished, by name."""

    def stats(self, window: timedelta) -> Stats:
        """Of the moments in the window that ends now."""

    def evidence(self, job_id: UUID) -> Evidence:
        """Raises NotFound, also for a deleted job."""


DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How often attempts of one kind ended one way.

    `outcome` is 'started', or the state an attempt led to, or 'retried' or 'lost'. `duration_buckets` are not
    cumulative: one count for each bound of DURATION_BUCKETS (seconds) and one for what took longer.
    """

    kind: str
    outcome: str
    count: int
    duration_sum: float
    duration_buckets: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Hold:
    """A job whose schedule could not be computed: it is left alone for a while, and the reason shown."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Dispatched:
    """What one dispatch did. `published` maps each queue to the ids to publish now, in order of their moments.

    `full`: there may be more that is due. `behind`: some job was left with moments that are due already.
    """

    jobs: int
    published: Mapping[str, Sequence[UUID]]
    held: Mapping[UUID, str]
    full: bool
    behind: bool


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """What lies ahead, by the store's clock; `at` is None when nothing does."""

    now: datetime
    at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A worker's right to one attempt. (id, attempt) is the fencing token of every later step."""

    id: UUID
    attempt: int
    job_id: UUID
    revision: int
    failures: int
    scheduled_at: datetime


@dataclass(frozen=True, kw_only=True)
class Token:
    """Names one attempt; stale as soon as another claim raised the attempt."""

    id: UUID
    attempt: int


@dataclass(frozen=True, kw_only=True)
class Record:
    """How an attempt ended. `state` is final, or PENDING for a retry `delay` from now.

    `owner` is the delivery that claimed it.
    """

    token: Token
    owner: UUID
    state: State
    duration: timedelta
    delay: timedelta = timedelta(0)
    failed: bool = False
    error_code: str | None = None
    error_message: str | None = None
    response_status: int | None = None
    response_excerpt: str | None = None

    def without_texts(self) -> "Record":
        """The same verdict with nothing a target wrote: what is stored when the store refuses the texts."""
        return Record(
            token=self.token,
            owner=self.owner,
            state=self.state,
            duration=self.duration,
            delay=self.delay,
            failed=self.failed,
            error_code="unrecordable",
            error_message="the outcome could not be stored with the target's own texts",
            response_status=self.response_status,
        )


class Unrecordable(Exception):
    """The store refuses these rows as they are; a smaller group or shorter texts may pass."""


@dataclass(frozen=True, kw_only=True)
class Rescued:
    """How many lost attempts each way out took."""

    requeued: int = 0
    failed: int = 0
    unknown: int = 0
    cancelled: int = 0
    promoted: int = 0

    @property
    def total(self) -> int:
        """Rows that changed."""
        return self.requeued + self.failed + self.unknown + self.cancelled + self.promoted


PlanBatch = Callable[[Sequence[DueJob], datetime], Sequence[Plan | Hold]]


class DispatchStore(Protocol):
    """The scheduler's side of executions."""

    def dispatch(self, decide: PlanBatch, *, limit: int) -> Dispatched:
        """D: creates what is due of up to `limit` jobs and advances them, in one transaction.

        `decide` gets the due jobs and the store's clock, and answers one plan for each, in order. The publish slots of
        what is returned are taken: publish them, or give the slots back with `return_slots`.
        """

    def republish(self, *, limit: int) -> Mapping[str, Sequence[UUID]]:
        """R1: takes the next publish slot of pending executions whose last message has had its time."""

    def return_slots(self, ids: Collection[UUID]) -> None:
        """Makes pending executions due for `republish` at once: their message was not, or will not be, heard."""

    def free_slots(self) -> int:
        """R1, when the broker has lost its messages: all that was published is due for `republish` at once.

        Returns how many executions that are.
        """

    def rescue(
        self, *, grace: timedelta, spare: timedelta | None, spread: timedelta = timedelta(seconds=30)
    ) -> Rescued:
        """R2: ends or requeues attempts whose lease ended more than `grace` ago.

        With `spare`, those that ended less than that ago are left to workers that still live. What was lost before, or
        has a single attempt left, waits for a random while of up to `spread` and more, so that what ends its workers
        does not take others along each time.
        """

    def horizon(self) -> "Horizon":
        """When the earliest next run or publish is."""


class ExecutionStore(Protocol):
    """The worker's side of executions."""

    def claim(self, ids: Collection[UUID], *, delivery: UUID, lease: timedelta) -> Sequence[Claimed]:
        """C: takes the right to one attempt of each execution that is pending and due; the others are dropped.

        Calling again with the same `delivery` after a lost reply returns what the first call had claimed.
        """

    def definitions(self, revisions: Collection[tuple[UUID, int]]) -> Mapping[tuple[UUID, int], Definition]:
        """The definitions of (job id, revision). One that can't be read is left out."""

    def start(self, tokens: Collection[Token], *, delivery: UUID, margin: timedelta) -> set[UUID]:
        """S: marks the effect as started where the attempt still holds a lease of at least `margin`.

        Only the ids returned may be sent.
        """

    def record(self, records: Sequence[Record]) -> set[UUID]:
        """W: writes outcomes where the attempt is still the newest and unfinished; returns the ids written.

        Raises Unrecordable when the rows themselves are refused.
        """

    def recorded_before(self, records: Sequence[Record]) -> set[UUID]:
        """Which of these, not written by `record`, an earlier call of ours wrote whose reply was lost."""

    def renew(self, tokens: Collection[Token], *, lease: timedelta) -> set[UUID]:
        """Extends the leases of attempts that are still the newest; returns those extended."""

    def cancel_requested(self, tokens: Collection[Token]) -> set[UUID]:
        """Which of these attempts should be aborted."""

    def release(self, tokens: Collection[Token], *, delay: timedelta) -> set[UUID]:
        """L: gives attempts back whose effect has not started; no failure is counted."""

    def pending(self, ids: Collection[UUID]) -> Mapping[UUID, tuple[UUID, int]]:
        """The job and the revision of those that are pending: what a claim would take, at most. Changes nothing."""

    def return_slots(
        self, ids: Collection[UUID], *, delay: timedelta = timedelta(0), spread: timedelta = timedelta(0)
    ) -> None:
        """As DispatchStore.return_slots: for ids of a message that this worker will not admit.

        They are due after `delay`, each a random part of `spread` later.
        """

    def overlooked(self, queues: Collection[str], *, oldest: timedelta, newest: timedelta) -> int:
        """How many executions of these queues are due and unclaimed after a second message or a later one.

        Only where the last message was sent between `oldest` and `newest` ago. Counts no further than 1,000.
        """


class EffectStore(Protocol):
    """Effects in the very database that holds the executions: they stand or fall with the record of their success."""

    def together(self, token: Token, effect: Callable[[Any], Succeeded], *, timeout: timedelta) -> Outcome:
        """Calls `effect` with a connection in a transaction; what it returns is W in the same transaction.

        The answer is a success that is recorded, or a failure that is not: then nothing of the effect is left, unless
        it was sent maybe. Whatever `effect` raises goes on, and rolls back. Raises Unavailable before it is called.
        """


class InstanceStore(Protocol):
    """Which processes take part. Each call is one statement, by the store's clock."""

    def beat(
        self, identity: Identity, *, handlers: Sequence[HandlerSpec] = (), retry_strategies: Sequence[str] = ()
    ) -> None:
        """Says that this process lives and what it can run; the first time, and after it was forgotten, registers it.

        Where two announce different schemas for one name, that of the process which started last holds.
        """

    def leave(self, instance_id: UUID) -> None:
        """This process ends, in an orderly way."""

    def list(self) -> Sequence[Instance]:
        """Those that live, and those that ended and are not forgotten yet; by role, the earliest first."""

    def leader(self) -> UUID | None:
        """The scheduler that keeps house: of those that live, the one that registered first."""


class Catalog(Protocol):
    """What can be named in a definition because some worker announced it, now or some weeks ago."""

    def handler(self, name: str) -> HandlerInfo | None:
        """None for a name that nobody announced."""

    def handlers(self) -> Sequence[HandlerInfo]:
        """By name."""

    def retry_strategies(self) -> Sequence[str]:
        """By name."""


@dataclass(frozen=True, kw_only=True)
class Swept(Generic[Place]):
    """A part of a sweep: how much was removed, and where to go on; None when the sweep is over."""

    removed: int
    after: Place | None


@dataclass(frozen=True, kw_only=True)
class Untidy:
    """Jobs that need a closer look, of one part of all jobs; `after` is where to go on, as in Swept.

    `crowded` have more history than is kept, `edited` have old revisions, `gone` were deleted and have no history left.
    """

    crowded: Sequence[UUID]
    edited: Sequence[UUID]
    gone: Sequence[UUID]
    after: UUID | None


class HousekeepingStore(Protocol):
    """What the leader removes, in small parts. Where two do so at once, one of them finds nothing to do.

    Unfinished executions are never touched, and nothing that dispatches, claims or records has to wait.
    """

    def prune_aged(self, retention: Retention, *, after: UUID | None) -> Swept[UUID]:
        """Removes executions that ended too long ago."""

    def prune_crowded(self, job_id: UUID, retention: Retention) -> int:
        """Removes some of what a job has too many of, the newest are kept. How many; 0 when no more are left."""

    def untidy_jobs(self, retention: Retention, *, after: UUID | None) -> Untidy:
        """Changes nothing."""

    def drop_revisions(self, job_id: UUID) -> int:
        """Removes revisions that neither an execution nor the books of what is kept refer to."""

    def drop_jobs(self, job_ids: Sequence[UUID], retention: Retention) -> int:
        """Removes jobs that were deleted long ago and have no history left."""

    def trim_trail(self, retention: Retention, *, after: int | None) -> Swept[int]:
        """Removes old entries of audit trails that the books of what is kept don't need."""

    def forget_keys(self) -> int:
        """Removes some Idempotency-Keys that are over. How many; 0 when no more are left."""

    def forget_instances(self, *, gone_for: timedelta, unseen_for: timedelta) -> int:
        """Removes processes that ended so long ago, and names that nobody announced for so long.

        What they counted is kept, as the count of nobody: sums of tallies never fall.
        """


class KeyStore(Protocol):
    """API keys. They are never removed, so that the audit trail can name whoever held one."""

    def add(self, key: NewKey) -> ApiKey:
        """Raises NameTaken while another key that is not revoked bears the name."""

    def ensure(self, key: NewKey) -> None:
        """Adds the key unless it is there, be it revoked or expired; another one of the name is then revoked."""

    def find(self, key_id: str) -> ApiKey | None:
        """None for a key that never was."""

    def list(self) -> Sequence[ApiKey]:
        """All of them, revoked and expired ones too, the oldest first."""

    def revoke(self, reference: str, *, by: str) -> ApiKey:
        """By the id, or by the name of a key that is not revoked. A second time changes nothing. Raises NotFound."""

    def used(self, key_id: str) -> None:
        """Notes that it was used just now, to within a minute."""

    def any_made(self) -> bool:
        """Whether there ever was a key."""


class Waker(Protocol):
    """Sleeps until a moment that another process announced, or the time is up."""

    def wait(self, timeout: timedelta, *, before: datetime) -> None:
        """Returns early when a moment before `before` was announced, or when `wake` is called."""

    def wake(self) -> None:
        """Ends the wait; safe in a signal handler."""


class ExecutionQueue(Protocol):
    """Carries ids to workers. It may lose, repeat or reorder them: a message is a hint."""

    def publish(self, queue: str, ids: Sequence[UUID]) -> None:
        """Sends the ids in messages of as many as the queue allows. Raises Unavailable; then any part may be lost."""

    def probe(self) -> None:
        """Raises Unavailable unless the broker takes messages now."""

    def lost_messages(self) -> bool:
        """Whether the broker has lost what was published, since the last call that answered False."""

    def break_off(self) -> None:
        """From another thread: ends the link under a call, which then raises Unavailable. Never waits, never raises."""
