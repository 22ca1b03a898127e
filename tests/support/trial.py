"""One cell of the kill matrix: real jobs, one armed process, a healthy one beside it, and what must hold in the end."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from servers.target import Behaviour, Connection, Request, Target, answer, hang

from gnomon.job.ids import manual_id
from gnomon.job.ports import Token
from support.cluster import KEYS
from support.failpoints import AMQP, POINTS, Action, Point, Role
from support.launcher import LEASE, Launcher, Process
from support.ledger import Promise, complaints
from support.post import Post
from support.world import World

REACH_SECONDS = 30.0
FINISH_SECONDS = 60.0
SLOW_SECONDS = 1.2  # more than a third of the lease, so that it is renewed; and E.middle lies within it
PATIENT_LEASE = 3 * LEASE
ONCE = "at_most_once"


@dataclass(frozen=True, order=True, kw_only=True)
class Cell:
    """One combination. `ahead`: what falls due within two seconds is dispatched, and held by workers."""

    broker: str
    point: str
    action: Action
    delivery: str
    ahead: bool = False

    def __str__(self) -> str:
        return f"{self.broker}-{self.delivery}-{self.point}-{self.action}{'-ahead' if self.ahead else ''}"

    @property
    def replay(self) -> str:
        """The command that runs this cell alone."""
        return (
            f"./scripts/matrix --broker {self.broker} --point {self.point} --action {self.action} "
            f"--delivery {self.delivery} --ahead {str(self.ahead).lower()}"
        )


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a cell takes place. The database has the audit of support/ledger.py."""

    launcher: Launcher
    database_url: str
    queue_url: str
    folder: Path


def run_trial(cell: Cell, place: Place) -> None:
    """Raises AssertionError, saying all that is wrong."""
    with Target() as target, _opened_post(cell, place) as post:
        world = World(place.database_url)
        trial = Trial(cell, place, world, target, post)
        try:
            trial.run()
        finally:
            trial.end_all()
            world.close()


def _opened_post(cell: Cell, place: Place) -> contextlib.AbstractContextManager[Post | None]:
    """Where the point is in publishing, the short jobs publish."""
    if POINTS[cell.point].step != AMQP:
        return contextlib.nullcontext()
    return Post(place.queue_url, confirm_seconds=SLOW_SECONDS if cell.point == f"{AMQP}.middle" else 0.0)


class Trial:
    """The phases in order: `run`."""

    def __init__(self, cell: Cell, place: Place, world: World, target: Target, post: Post | None) -> None:
        self.cell = cell
        self.point: Point = POINTS[cell.point]
        self.world = world
        self.target = target
        self.post = post
        self.scene = SCENES.get(self.point.step, Scene())
        self.promises: dict[UUID, Promise] = {}
        self.names: dict[str, UUID] = {}
        self._place = place
        self._processes: list[Process] = []
        self._marker = place.folder / "marker"
        # Where calls only fail, nobody waits for a lease to end, and no busy machine may end one as a death would.
        self._lease = PATIENT_LEASE if self._only_fails else LEASE
        self._slow_seconds = SLOW_SECONDS * (self._lease / LEASE if self.point.step == "renew" else 1)

    @property
    def _only_fails(self) -> bool:
        return self.cell.action in (Action.RAISE, Action.DO_THEN_RAISE) and self.point.step != "R2"

    def run(self) -> None:
        script(self.target, slow_seconds=self._slow_seconds)
        self._create_jobs()
        self.scene.prepare(self)
        victim = self._start_first()
        self._until_reached(victim)
        reached_at = self._database_now()
        self._start_twin()
        if self.cell.action is Action.PAUSE:
            self._until("another worker carries out what the victim held", self._is_taken_over, seconds=FINISH_SECONDS)
            victim.signal(signal.SIGCONT)
        self._until("jobs run again", lambda: self._all_ran_since(reached_at), seconds=FINISH_SECONDS)
        if self.point.role is Role.CLIENT:  # it repeats what it asked for while that still means something
            self._let_go(victim, reached_at)
            victim.wait(REACH_SECONDS)
        self._until("the schedules are stopped", self._stop_schedules)
        self._until("everything is in a final state", lambda: self._unfinished() == 0, seconds=FINISH_SECONDS)
        if self.point.role is not Role.CLIENT:
            self._let_go(victim, reached_at)
        self._end_orderly(victim)
        wrong = [*self._wrong_logs(), *complaints(self.world, self._effects(), self.promises)]
        wrong += [*self._wrong_losses(), *self.scene.wrong(self)]
        assert not wrong, "\n".join(wrong)

    def end_all(self) -> None:
        """Whatever is left ends at once."""
        for process in self._processes:
            process.signal(signal.SIGKILL)
        for process in self._processes:
            process.wait(10)

    # what is to run

    def _create_jobs(self) -> None:
        soon = (datetime.now(UTC) - timedelta(seconds=10.5)).isoformat()
        every = {"interval_seconds": 1, "starts_at": soon}
        for number in range(6):
            self._create(f"steady-{number}", "/hook", overlap="allow", **every)
        for number in range(3):
            self._create(
                f"queued-{number}",
                "/slow",
                Promise(may_be_skipped=True, seconds=self._slow_seconds),
                overlap="queue",
                **every,
            )
        # an answer of 503 is final where nothing may be repeated
        flaky = Promise(may_be_skipped=True, may_fail=self.cell.delivery == ONCE)
        for number in range(2):
            self._create(f"flaky-{number}", "/flaky", flaky, overlap="skip", **every)
        for number in range(3):
            self._create(f"once-{number}", "/hook", delay_seconds=1)
        self._create("broken", "/broken", Promise(may_fail=True), delay_seconds=1, retry={**RETRY, "max_attempts": 2})

    def _create(self, name: str, path: str, promise: Promise = Promise(), **document: Any) -> None:  # noqa: B008
        given = {**self.document(name, path), **document}
        job = self.world.service.create(given)
        self.names[name] = job.id
        self.promise(job.id, promise)

    def document(self, name: str, path: str) -> dict[str, Any]:
        """A job of this cell's delivery without its schedule."""
        call = {"url": self.target.url(path), "method": "POST", "body": "{}"}
        what: dict[str, Any] = {"type": "HTTP", "http_job": call}
        if self.post is not None and path == "/hook":
            what = {"type": "AMQP", "amqp_job": self.post.message()}
        return {"name": name, "delivery": self.cell.delivery, "retry": RETRY, "timeout_seconds": 5, **what}

    def promise(self, job_id: UUID, promise: Promise) -> None:
        """What may become of a job's executions."""
        self.promises[job_id] = replace(promise, at_most_once=self.cell.delivery == ONCE)

    # who runs it

    def _start_first(self) -> Process:
        if self.point.role is Role.CLIENT:
            self.start(Role.SCHEDULER)
            self.start(Role.WORKER)
            self.target.wait_for(lambda seen: len(seen) > 3, timeout=REACH_SECONDS)
            self._until("every schedule has begun", lambda: self._unbegun() == 0)
            return self.start(Role.CLIENT, armed=True)
        victim = self.start(self.point.role, armed=True, **self.scene.settings)
        self.start(Role.WORKER if self.point.role is Role.SCHEDULER else Role.SCHEDULER)
        return victim

    def _start_twin(self) -> None:
        """With what runs already: a healthy scheduler and a healthy worker. A client that did not finish tries anew."""
        if self.point.role is not Role.CLIENT:
            self.start(self.point.role)
        elif self.cell.action in (Action.KILL, Action.STOP):
            assert self.start(Role.CLIENT).wait(REACH_SECONDS) == 0

    def start(self, role: Role, *, armed: bool = False, **settings: str) -> Process:
        """A process of this cell."""
        name = f"{role}-victim" if armed else f"{role}-{len(self._processes)}"
        environment = {**self._environment, **KEYS.get(role, {}), "SCHEDULER_ID": name, **settings}
        if armed:
            environment["FAILPOINT"] = f"{self.cell.point}={self.cell.action}"
            environment["FAILPOINT_MARKER"] = str(self._marker)
        if role is Role.CLIENT:
            environment["CLIENT_CALL"] = json.dumps(self._call)
        log = self._place.folder / f"{name}.log"
        process = self._place.launcher.start(role, environment, log=log, name=name)
        self._processes.append(process)
        return process

    @cached_property
    def _call(self) -> Mapping[str, Any]:
        """The same each time: a client that did not hear the answer repeats its question."""
        return self.scene.call(self)

    @cached_property
    def _environment(self) -> Mapping[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("SCHEDULER_")},
            "SCHEDULER_DB_URL": self._place.database_url,
            "SCHEDULER_QUEUE_URL": self._place.queue_url,
            "SCHEDULER_EGRESS_ALLOW": "127.0.0.0/8",
            "SCHEDULER_LOG_FORMAT": "text",
            "SCHEDULER_MAX_JOB_LOCK_TIME": f"{self._lease.total_seconds():g}s",
            "SCHEDULER_WORKER_THREADS": "4",
            "SCHEDULER_AHEAD": "2s" if self.cell.ahead else "0s",
        }

    # what is waited for

    def _until_reached(self, victim: Process) -> None:
        def reached() -> bool:
            self.scene.stir(self, victim)
            return bool(self._marks("reached")) or victim.code is not None

        self._until(f"{self.cell.point} is reached", reached, seconds=REACH_SECONDS)
        assert self._marks("reached"), f"{self.cell.point} was not reached: {victim.name} ended with {victim.code}"
        if self.cell.action is Action.KILL:
            assert victim.wait(10) == -signal.SIGKILL
        if self.cell.point.endswith(".middle") and self.point.role is Role.WORKER:
            (mark,) = self._marks("reached")
            self._until("it is with the target", lambda: any(one.key == mark["execution"] for one in self._effects()))
            if self.post is not None:
                self.post.hasten()

    def _effects(self) -> Sequence[Request]:
        return [*self.target.requests, *(self.post.requests() if self.post is not None else ())]

    def dispatched(self) -> list[UUID]:
        """Executions made by a scheduler that died before it published them."""
        ids: list[UUID] = []

        def something_was_due() -> bool:
            ids.extend(self.world.dispatched())
            return bool(ids)

        self._until("something is due", something_was_due)
        return ids

    def led(self) -> bool:
        """Whether the victim is on its way to the point."""
        return bool(self._marks("led"))

    def _marks(self, happened: str) -> Sequence[Mapping[str, str]]:
        with contextlib.suppress(FileNotFoundError):
            marks = map(json.loads, self._marker.read_text().splitlines())
            return [mark for mark in marks if mark["event"] == happened]
        return []

    def _all_ran_since(self, moment: datetime) -> bool:
        ran = self.world.one(
            "select count(distinct job_id) from executions e join jobs j on j.id = e.job_id "
            "where e.state = 'SUCCEEDED' and e.scheduled_at > :moment and j.name like 'steady-%'",
            moment=moment,
        )
        waiting = self.world.one("select count(*) from jobs where execute_at is not null and status = 'RUNNING'")
        return ran == 6 and waiting == 0 and self.scene.done(self)

    def _is_taken_over(self) -> bool:
        condition = "e.state = 'RUNNING' and e.worker not like '%-victim'"
        lost = "exists (select 1 from attempts a where a.execution_id = e.id and a.worker like '%-victim')"
        return self.count(f"{condition} and {lost}") > 0

    def _stop_schedules(self) -> bool:
        try:
            self.world.sql("update jobs set status = 'STOPPED' where status = 'RUNNING'")
        except Exception as error:  # the rows may be locked by whoever was stopped
            print(f"{self.cell}: {error}")
            return False
        return True

    def _unfinished(self) -> int:
        count: int = self.world.one("select count(*) from executions where state in ('WAITING', 'PENDING', 'RUNNING')")
        return count

    def _unbegun(self) -> int:
        """Schedules that owe their first execution yet."""
        count: int = self.world.one(
            "select count(*) from jobs j where status = 'RUNNING' and execute_at is null "
            "and not exists (select from executions e where e.job_id = j.id)"
        )
        return count

    def count(self, condition: str) -> int:
        """How many executions fulfil it."""
        found: int = self.world.one(
            f"select count(*) from executions e join jobs j on j.id = e.job_id where {condition}"
        )
        return found

    def _database_now(self) -> datetime:
        now: datetime = self.world.one("select clock_timestamp()")
        return now

    def _let_go(self, victim: Process, reached_at: datetime) -> None:
        """A stopped victim comes back when others have long finished its work, and goes on where it was."""
        if self.cell.action not in (Action.STOP, Action.PAUSE):
            return
        long_ago = reached_at + self._lease + timedelta(seconds=1)
        self._until("every lease has ended", lambda: self._database_now() > long_ago)
        victim.signal(signal.SIGCONT)
        self._until("the victim has ended the step it was stopped in", lambda: bool(self._marks("left")))

    def _end_orderly(self, victim: Process) -> None:
        for process in self._processes:
            if process is not victim or self.point.role is not Role.CLIENT:
                process.signal(signal.SIGTERM)
        for process in self._processes:
            code = process.wait(30)
            if process is not victim or self.cell.action is not Action.KILL:
                assert code == 0, f"{process.name} ended with {code}:\n{process.text[-3000:]}"
        assert self._unfinished() == 0, "the victim brought work back that was finished"

    def _until(self, what: str, condition: Callable[[], bool], *, seconds: float = REACH_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:g} s: {what}\n{self._state()}")
            time.sleep(0.1)

    def _state(self) -> str:
        rows = self.world.sql(
            "select j.name, e.* from executions e join jobs j on j.id = e.job_id "
            "where state in ('WAITING', 'PENDING', 'RUNNING') order by e.id limit 5"
        )
        return "\n".join(
            f"{row.name}: {row.id} {row.state}, attempt {row.attempt} by {row.worker}, lease until "
            f"{row.lease_expires_at}, available {row.available_at}, published {row.publish_count} times, "
            f"next {row.next_publish_at}"
            for row in rows
        )

    def _wrong_losses(self) -> Iterator[str]:
        """A call that fails once costs a moment, not an attempt: nobody died."""
        if self._only_fails:
            for row in self.world.sql(
                "select execution_id, attempt from attempts where outcome = 'LOST' "
                "union all select id, attempt from executions where error_code = 'lost'"
            ):
                yield f"attempt {row.attempt} of execution {row.execution_id} was lost, though nobody died"

    def _wrong_logs(self) -> Iterator[str]:
        """An ERROR asks for a person. There is nothing here that one could do."""
        for process in self._processes:
            for line in process.text.splitlines():
                alarming = any(word in line for word in (" ERROR ", " CRITICAL ", "Traceback"))
                if alarming and not any(words in line for words in self._to_be_expected()):
                    yield f"{process.name} logged: {line[:1000]}"

    def _to_be_expected(self) -> Iterator[str]:
        if self.point.step in ("E", AMQP):
            yield "in _act |"  # where the failpoint raised: frames of a fault are logged, not its text
        if isinstance(self.scene, Leaving) and self.cell.action in (Action.STOP, Action.PAUSE):
            # it was frozen beyond the time that it had to end
            yield "gnomon.process.last_resort"
            yield "outcomes could not be recorded"


RETRY: Mapping[str, Any] = {"max_attempts": 10, "initial_seconds": 0.2, "multiplier": 1, "max_seconds": 0.5}


def script(target: Target, *, slow_seconds: float) -> None:
    """How the paths of the jobs answer."""
    target.on("/hook", answer(delay=0.05))
    target.on("/edited", answer(delay=0.05))
    target.on("/slow", answer(delay=slow_seconds))
    target.on("/endless", hang())
    target.on("/broken", answer(500))
    target.on("/refused", answer(404))
    target.on("/flaky", _first_refused())


def _first_refused() -> Behaviour:
    """503 to the first call for each execution, 200 to the others."""
    known: set[str | None] = set()
    refuse, accept = answer(503), answer(200)

    async def behave(request: Request, connection: Connection) -> None:
        first = request.key not in known
        known.add(request.key)
        await (refuse if first else accept)(request, connection)

    return behave


class Scene:
    """What a step needs besides jobs that run."""

    settings: Mapping[str, str] = {}

    def prepare(self, trial: Trial) -> None:
        """Before the first process starts."""

    def stir(self, trial: Trial, victim: Process) -> None:
        """Again and again until the point is reached."""

    def call(self, trial: Trial) -> Mapping[str, Any]:
        """What a client asks for."""
        raise NotImplementedError

    def done(self, trial: Trial) -> bool:
        """Whether what the client asked for shows."""
        return True

    def wrong(self, trial: Trial) -> list[str]:
        """What else must not be."""
        return []


class LostMessages(Scene):
    """Executions whose messages are gone. `overdue`: their publish slots have passed as well."""

    def __init__(self, *, overdue: bool) -> None:
        self._overdue = overdue

    def prepare(self, trial: Trial) -> None:
        trial.dispatched()
        if self._overdue:
            trial.world.sql("update executions set next_publish_at = now() where state = 'PENDING'")


class OldHistory(Scene):
    """Executions of eight days ago, of a job that runs on: more of it than is kept in any case."""

    COUNT = 20

    def prepare(self, trial: Trial) -> None:
        for number in range(self.COUNT):
            ended = datetime.now(UTC) - timedelta(days=8, seconds=number)
            trial.world.sql(
                "insert into executions (id, job_id, revision, kind, queue, scheduled_at, trigger, state, max_attempts,"
                " overlap, available_at, finished_at) "
                "values (:id, :job, 1, 'HTTP', 'io', :at, 'MANUAL', 'SUCCEEDED', 1, 'allow', :at, :at)",
                id=manual_id(ended),
                job=trial.names["steady-0"],
                at=ended,
            )

    def done(self, trial: Trial) -> bool:
        return trial.count("e.scheduled_at < now() - interval '7 days'") == 0


class DeadWorker(Scene):
    """Attempts whose worker died before, half of them after their effect had been marked as started."""

    def prepare(self, trial: Trial) -> None:
        world, delivery = trial.world, uuid4()
        claimed = world.claim(trial.dispatched(), delivery=delivery)
        if trial.cell.delivery == ONCE:
            tokens = [Token(id=one.id, attempt=one.attempt) for one in claimed[::2]]
            assert world.executions.start(tokens, delivery=delivery, margin=timedelta(0))
        world.sql("update executions set lease_expires_at = now() - interval '1 second' where state = 'RUNNING'")


class Cancellation(Scene):
    """Somebody cancels what runs of one job."""

    def prepare(self, trial: Trial) -> None:
        job_id = trial.names["queued-0"]
        trial.promise(job_id, replace(trial.promises[job_id], may_be_cancelled=True))

    def stir(self, trial: Trial, victim: Process) -> None:
        trial.world.sql(
            "update executions set cancel_requested_at = now() "
            "where job_id = :id and state = 'RUNNING' and cancel_requested_at is null",
            id=trial.names["queued-0"],
        )


class Leaving(Scene):
    """The worker is told to stop while a message is half admitted."""

    def __init__(self, leave: Callable[[Trial], bool], **settings: str) -> None:
        self._leave = leave
        self.settings = settings

    def stir(self, trial: Trial, victim: Process) -> None:
        if self._leave(trial):
            victim.signal(signal.SIGTERM)


class Creation(Scene):
    """A client creates a job."""

    def call(self, trial: Trial) -> Mapping[str, Any]:
        document = {**trial.document("created", "/hook"), "interval_seconds": 1, "overlap": "allow"}
        return {"verb": "create", "arguments": [document]}

    def done(self, trial: Trial) -> bool:
        rows = trial.world.sql(
            "select e.job_id from executions e join jobs j on j.id = e.job_id where j.name = 'created'"
        )
        for row in rows:
            trial.promise(row.job_id, Promise())
        return bool(rows)

    def wrong(self, trial: Trial) -> list[str]:
        count = trial.world.one("select count(*) from jobs where name = 'created'")
        return [] if count == 1 else [f"the job was created {count} times"]


class CreationOnce(Creation):
    """A client creates a job, with an Idempotency-Key: no name keeps a second one out."""

    def call(self, trial: Trial) -> Mapping[str, Any]:
        document = {**trial.document("created", "/hook"), "interval_seconds": 1, "overlap": "allow"}
        document["tags"] = [document.pop("name")]
        return {"verb": "create_once", "arguments": [document], "options": {"key": "one"}}

    def done(self, trial: Trial) -> bool:
        rows = trial.world.sql(
            "select e.job_id from executions e join jobs j on j.id = e.job_id where 'created' = any(j.tags)"
        )
        for row in rows:
            trial.promise(row.job_id, Promise())
        return bool(rows)

    def wrong(self, trial: Trial) -> list[str]:
        count = trial.world.one("select count(*) from jobs where 'created' = any(tags)")
        return [] if count == 1 else [f"{count} jobs came of one request"]


class Edit(Scene):
    """A client changes a job's target."""

    def call(self, trial: Trial) -> Mapping[str, Any]:
        return {"verb": "update", "arguments": ["name:steady-0", {"http_job": {"url": trial.target.url("/edited")}}]}

    def done(self, trial: Trial) -> bool:
        return bool(trial.target.received("/edited"))

    def wrong(self, trial: Trial) -> list[str]:
        revision = trial.world.one("select revision from jobs where name = 'steady-0'")
        return [] if revision == 2 else [f"one edit led to revision {revision}"]


class Deletion(Scene):
    """A client deletes a job of which one execution runs and another waits."""

    def prepare(self, trial: Trial) -> None:
        job_id = trial.names["queued-0"]
        promise = replace(trial.promises[job_id], may_be_cancelled=True, may_fail=True)
        trial.promise(job_id, promise)

    def call(self, trial: Trial) -> Mapping[str, Any]:
        return {"verb": "delete", "arguments": ["name:queued-0"]}

    def done(self, trial: Trial) -> bool:
        deleted = trial.world.one("select deleted_at is not null from jobs where id = :id", id=trial.names["queued-0"])
        return bool(deleted)


class Pause(Scene):
    """A client pauses a job of which one execution runs and another waits."""

    def call(self, trial: Trial) -> Mapping[str, Any]:
        return {"verb": "pause", "arguments": ["name:queued-0"], "options": {"reason": "maintenance"}}

    def done(self, trial: Trial) -> bool:
        status: str = trial.world.one("select status from jobs where name = 'queued-0'")
        return status == "STOPPED"

    def wrong(self, trial: Trial) -> list[str]:
        return _wrong_events(trial, "queued-0", "PAUSED")


class Resumption(Scene):
    """A client resumes a job."""

    def prepare(self, trial: Trial) -> None:
        trial.world.service.pause("name:queued-0")

    def call(self, trial: Trial) -> Mapping[str, Any]:
        return {"verb": "resume", "arguments": ["name:queued-0"]}

    def done(self, trial: Trial) -> bool:
        return trial.count("name = 'queued-0' and state = 'SUCCEEDED'") > 0

    def wrong(self, trial: Trial) -> list[str]:
        return _wrong_events(trial, "queued-0", "RESUMED")


def _wrong_events(trial: Trial, name: str, action: str) -> list[str]:
    """The trail has one entry for what was asked once, however often it was repeated."""
    count = trial.world.one(
        "select count(*) from job_events where job_id = :id and action = :action", id=trial.names[name], action=action
    )
    return [] if count == 1 else [f"{count} entries say {action}"]


class Run(Scene):
    """A client asks for an execution, with an Idempotency-Key."""

    def call(self, trial: Trial) -> Mapping[str, Any]:
        return {"verb": "run_now", "arguments": ["name:queued-0"], "options": {"may_wait": True, "key": "one"}}

    def done(self, trial: Trial) -> bool:
        return trial.count("trigger = 'MANUAL' and state = 'SUCCEEDED'") > 0

    def wrong(self, trial: Trial) -> list[str]:
        count = trial.count("trigger = 'MANUAL'")
        return [] if count == 1 else [f"{count} executions came of one request"]


class RetryCall(Scene):
    """A client asks for another try of an execution that failed, with an Idempotency-Key."""

    def prepare(self, trial: Trial) -> None:
        trial._create("refused", "/refused", Promise(may_fail=True), delay_seconds=1)

    def call(self, trial: Trial) -> Mapping[str, Any]:
        trial._until("it has failed", lambda: trial.count("name = 'refused' and state = 'FAILED'") == 1)
        execution_id = trial.world.one("select id from executions where job_id = :id", id=trial.names["refused"])
        return {"verb": "retry", "arguments": [str(execution_id)], "options": {"key": "one"}}

    def done(self, trial: Trial) -> bool:
        return trial.count("trigger = 'RETRY_OF' and state = 'FAILED'") > 0

    def wrong(self, trial: Trial) -> list[str]:
        count = trial.count("trigger = 'RETRY_OF'")
        return [] if count == 1 else [f"{count} executions came of one request"]


class RepeatCall(Scene):
    """A client asks for another try of all that failed, with an Idempotency-Key."""

    def prepare(self, trial: Trial) -> None:
        for number in range(2):
            trial._create(f"refused-{number}", "/refused", Promise(may_fail=True), delay_seconds=1)

    def call(self, trial: Trial) -> Mapping[str, Any]:
        trial._until("both have failed", lambda: trial.count("name like 'refused-%' and state = 'FAILED'") == 2)
        return {"verb": "repeat", "arguments": [], "options": {"key": "one"}}

    def done(self, trial: Trial) -> bool:
        return trial.count("trigger = 'RETRY_OF' and name like 'refused-%' and state = 'FAILED'") == 2

    def wrong(self, trial: Trial) -> list[str]:
        count = trial.count("trigger = 'RETRY_OF' and name like 'refused-%'")
        return [] if count == 2 else [f"{count} executions came of one request for two"]


class Backfill(Scene):
    """A client asks for the moments before the job was created."""

    MOMENTS = 5

    def call(self, trial: Trial) -> Mapping[str, Any]:
        first = trial.world.one("select starts_at from jobs where name = 'steady-0'")
        last = first + timedelta(seconds=self.MOMENTS - 1)
        span = {"since": first.isoformat(), "until": last.isoformat(), "key": "one"}
        return {"verb": "backfill", "arguments": ["name:steady-0"], "options": span}

    def done(self, trial: Trial) -> bool:
        return trial.count("trigger = 'BACKFILL' and state = 'SUCCEEDED'") > 0

    def wrong(self, trial: Trial) -> list[str]:
        count = trial.count("trigger = 'BACKFILL'")
        return [] if count == self.MOMENTS else [f"{count} executions came of {self.MOMENTS} moments"]


class CancelCall(Scene):
    """A client cancels an execution that would run for longer than anybody waits."""

    def prepare(self, trial: Trial) -> None:
        promise = Promise(may_be_cancelled=True)
        trial._create("endless", "/endless", promise, delay_seconds=1, timeout_seconds=600)

    def call(self, trial: Trial) -> Mapping[str, Any]:
        trial._until("it runs", lambda: trial.count("name = 'endless' and state = 'RUNNING'") == 1)
        execution_id = trial.world.one("select id from executions where job_id = :id", id=trial.names["endless"])
        return {"verb": "cancel", "arguments": [str(execution_id)]}

    def wrong(self, trial: Trial) -> list[str]:
        """What was sent, and may be sent at most once, ends in doubt."""
        state = trial.world.one("select state from executions where job_id = :id", id=trial.names["endless"])
        expected = "UNKNOWN" if trial.cell.delivery == ONCE else "CANCELLED"
        return [] if state == expected else [f"the cancelled execution is {state}"]


SCENES: Mapping[str, Scene] = {
    "R1": LostMessages(overdue=True),
    "free_slots": LostMessages(overdue=False),
    "R2": DeadWorker(),
    "prune": OldHistory(),
    "cancel_poll": Cancellation(),
    "L": Leaving(Trial.led, SCHEDULER_WORKER_SHUTDOWN_TIMEOUT="1s"),
    "worker.return_slots": Leaving(
        lambda trial: len(trial.target.received("/slow")) > 0,
        SCHEDULER_WORKER_CONCURRENCY="2",
        SCHEDULER_WORKER_CONCURRENCY_PER_HOST="2",
    ),
    "create": Creation(),
    "create_once": CreationOnce(),
    "update": Edit(),
    "delete": Deletion(),
    "pause": Pause(),
    "resume": Resumption(),
    "run": Run(),
    "retry": RetryCall(),
    "repeat": RepeatCall(),
    "backfill": Backfill(),
    "cancel": CancelCall(),
}
