"""Any sequence of verbs leaves a store as it leaves a model of dicts and lists: states, attempts, moments, answers.

Examples repeat themselves as far as chance within a store allows: rules pick by the order of creation, and none has a
condition, which could hold in one run and not in the next.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from support.store_model import Model, ModelExecution, ModelJob
from support.stores import STORES
from support.timed import TICK, TimedScene

from gnomon.job.document import format_instant
from gnomon.job.errors import GnomonError
from gnomon.job.ids import scheduled_id
from gnomon.job.model import Execution, State
from gnomon.job.ports import ExecutionQuery, JobQuery, Record, Token

Item = TypeVar("Item")
MINUTE = timedelta(minutes=1)
HALF = timedelta(seconds=30)
LEASE = timedelta(seconds=90)
MOST_JOBS = 4
OUTCOMES = ["SUCCEEDED", "SUCCEEDED", "FAILED", "UNKNOWN", "CANCELLED", "PENDING", "PENDING"]
SOME = st.integers(0, 1_000)  # picks one of what there is by then
OVERLAPS = st.sampled_from(["skip", "allow", "queue"])
POLICIES = st.fixed_dictionaries(
    {
        "overlap": OVERLAPS,
        "policy": st.sampled_from(["run_once", "run_all", "skip"]),
        "max_attempts": st.integers(1, 4),
        "minutes": st.sampled_from([1, 2, 5]),
    }
)
MINUTES = st.sampled_from([1, 1, 1, 2, 2, 3, 10, 60, 60 * 25])
KEYS = st.sampled_from([None, None, "one", "two"])


def some(items: Sequence[Item], number: int, count: int = 1) -> Sequence[Item]:
    """Nothing where there is nothing: a rule then has nothing to do."""
    return items[number % len(items) :][:count] if items else []


class StoreMachine(RuleBasedStateMachine):
    def __init__(self, world: TimedScene) -> None:
        super().__init__()
        world.clear()
        self.world = world
        # the clock moves to the next full minute
        self.world.advance(MINUTE - (world.now() - datetime.min.replace(tzinfo=world.now().tzinfo)) % MINUTE)
        self.model = Model(world.now)
        self.deliveries: list[UUID] = [uuid4()]
        self.tokens: list[tuple[UUID, int, UUID]] = []

    @property
    def jobs(self) -> list[ModelJob]:
        return list(self.model.jobs.values())

    @property
    def living(self) -> list[ModelJob]:
        return [job for job in self.jobs if not job.deleted]

    @property
    def executions(self) -> list[ModelExecution]:
        """In order of their creation: that of ids owes something to chance, and an example must repeat itself."""
        return list(self.model.executions.values())

    @initialize(policies=st.lists(POLICIES, min_size=2, max_size=3))
    def begin(self, policies: Sequence[Mapping[str, Any]]) -> None:
        for policy in policies:
            self._create(**policy)
        self.world.advance(MINUTE)
        self._dispatch()

    @rule(policies=POLICIES)
    def create(self, policies: Mapping[str, Any]) -> None:
        if len(self.jobs) < MOST_JOBS:
            self._create(**policies)

    def _create(self, overlap: str, policy: str, max_attempts: int, minutes: int) -> None:
        anchor = self.world.now() + HALF
        job = self.world.create(
            interval_seconds=60 * minutes,
            starts_at=format_instant(anchor),
            overlap=overlap,
            misfire={"policy": policy, "limit": 3},
            retry={"max_attempts": max_attempts},
            delivery="at_most_once",
        )
        self.model.jobs[job.id] = ModelJob(
            id=job.id,
            anchor=anchor,
            step=minutes * MINUTE,
            overlap=overlap,
            policy=policy,
            limit=3,
            max_attempts=max_attempts,
            next_run=anchor,
        )

    @rule(minutes=MINUTES)
    def time_passes(self, minutes: int) -> None:
        self.world.advance(minutes * MINUTE)

    @rule(minutes=MINUTES)
    def dispatch_after(self, minutes: int) -> None:
        self.world.advance(minutes * MINUTE)
        self._dispatch()

    @rule()
    def dispatch(self) -> None:
        self._dispatch()

    def _dispatch(self) -> None:
        published = self.world.dispatched()
        assert sorted(published) == sorted(self.model.dispatch(scheduled_id))

    @rule()
    def republish(self) -> None:
        published = [one for ids in self.world.dispatch.republish(limit=1_000).values() for one in ids]
        must, may = self.model.republish(published)
        assert must <= set(published) <= may
        assert len(published) == len(set(published))

    @rule(number=SOME, count=st.integers(1, 3))
    def return_slots(self, number: int, count: int) -> None:
        ids = [one.id for one in some(self.executions, number, count)]
        self.world.dispatch.return_slots([*ids, uuid4()])
        self.model.return_slots(ids)

    @rule()
    def free_slots(self) -> None:
        self.world.advance(TICK)
        freed = self.world.dispatch.free_slots()
        least, most = self.model.free_slots()
        assert least <= freed <= most

    @rule(spread=st.sampled_from([timedelta(0), HALF]), minutes=st.integers(0, 3))
    def rescue(self, spread: timedelta, minutes: int) -> None:
        self.world.advance(minutes * MINUTE)
        lost = self.model.lost(timedelta(seconds=2))
        waiting = {one.id for one in self.executions if one.state == "WAITING"}
        done = self.world.dispatch.rescue(grace=timedelta(seconds=2), spare=None, spread=spread)
        ways = []
        for one in lost:
            state, longest = self.model.rescue(one, spread)
            ways.append(state)
            if state == "PENDING":  # chance has decided: adopt it, within its bounds
                available = self.world.history.get(one.id).available_at
                assert self.world.now() <= available <= self.world.now() + longest
                one.available, one.publish = available, (available, available)
        promoted = sum(self.model.executions[one].state == "PENDING" for one in waiting)
        assert (done.requeued, done.failed) == (ways.count("PENDING"), ways.count("FAILED"))
        assert (done.unknown, done.cancelled) == (ways.count("UNKNOWN"), ways.count("CANCELLED"))
        assert done.promoted == promoted

    @rule(number=SOME, count=st.integers(1, 4), again=st.booleans())
    def claim(self, number: int, count: int, again: bool) -> None:
        """Messages may repeat ids or name what nobody knows; a delivery asks again after a lost reply."""
        ids = [one.id for one in some(self.executions, number, count)]
        (delivery,) = some(self.deliveries, number) if again else [uuid4()]
        self._claim(ids, delivery)

    def _claim(self, ids: Sequence[UUID], delivery: UUID) -> None:
        self.deliveries.append(delivery)
        claimed = self.world.claim([*ids, *ids, uuid4()], delivery=delivery, lease=LEASE)
        assert sorted(one.id for one in claimed) == sorted(self.model.claim(ids, delivery, LEASE))
        for one in claimed:
            known = self.model.executions[one.id]
            assert (one.attempt, one.failures, one.revision) == (known.attempt, known.failures, known.revision)
            assert (one.job_id, one.scheduled_at) == (known.job.id, known.at)
            self.tokens.append((one.id, one.attempt, delivery))

    @rule(starts=st.booleans(), outcomes=st.lists(st.sampled_from(OUTCOMES), max_size=3))
    def work(self, starts: bool, outcomes: Sequence[str]) -> None:
        """What a worker does with whatever is pending; it is lost with what it has no outcome for."""
        self._claim([one.id for one in self.executions if one.state == "PENDING"], uuid4())
        held = [one for one in self.tokens if self.model.running(*one[:2])]
        for execution, attempt, delivery in held if starts else []:
            self._start(execution, attempt, delivery, timedelta(0))
        for (execution, attempt, owner), state in zip(held, outcomes, strict=False):
            self._record(execution, attempt, owner, state, failed=state != "SUCCEEDED", delay=timedelta(0))

    @rule(number=SOME, margin=st.sampled_from([timedelta(0), HALF, timedelta(minutes=5)]), ours=st.booleans())
    def start(self, number: int, margin: timedelta, ours: bool) -> None:
        for execution, attempt, delivery in some(self.tokens, number):
            self._start(execution, attempt, delivery if ours else uuid4(), margin)

    def _start(self, execution: UUID, attempt: int, delivery: UUID, margin: timedelta) -> None:
        started = self.world.executions.start([token(execution, attempt)], delivery=delivery, margin=margin)
        assert started == self.model.start(execution, attempt, delivery, margin)

    @rule(number=SOME)
    def renew(self, number: int) -> None:
        for execution, attempt, _ in some(self.tokens, number):
            renewed = self.world.executions.renew([token(execution, attempt)], lease=LEASE)
            assert renewed == self.model.renew(execution, attempt, LEASE)

    @rule(number=SOME, delay=st.sampled_from([timedelta(0), HALF]))
    def release(self, number: int, delay: timedelta) -> None:
        for execution, attempt, _ in some(self.tokens, number):
            released = self.world.executions.release([token(execution, attempt)], delay=delay)
            assert released == self.model.release(execution, attempt, delay)

    @rule(
        number=SOME,
        state=st.sampled_from(OUTCOMES),
        failed=st.booleans(),
        delay=st.sampled_from([timedelta(0), HALF, timedelta(minutes=5, seconds=30)]),
        twice=st.booleans(),
    )
    def record(self, number: int, state: str, failed: bool, delay: timedelta, twice: bool) -> None:
        """Also of attempts that are long over, and again after a lost reply."""
        for execution, attempt, owner in some(self.tokens, number):
            failed = failed or state in ("FAILED", "UNKNOWN")
            for _ in range(1 + twice):
                self._record(execution, attempt, owner, state, failed=failed, delay=delay)

    def _record(
        self, execution: UUID, attempt: int, owner: UUID, state: str, *, failed: bool, delay: timedelta
    ) -> None:
        error = "http_status" if failed else None
        outcome = Record(
            token=token(execution, attempt),
            owner=owner,
            state=State(state),
            duration=timedelta(seconds=1),
            delay=delay,
            failed=failed,
            error_code=error,
        )
        written = self.world.executions.record([outcome])
        assert written == self.model.record(execution, attempt, state, failed=failed, delay=delay, error=error)
        before = self.world.executions.recorded_before([outcome])
        assert before == self.model.recorded_before(execution, attempt, owner)

    @rule(number=SOME, may_wait=st.booleans(), key=KEYS)
    def run(self, number: int, may_wait: bool, key: str | None) -> None:
        for job in some(self.jobs, number):
            self.world.advance(TICK)  # ids are in the order of their creation
            expected = self.model.run(job, may_wait=may_wait, key=key)
            run = partial(self.world.service.run_now, str(job.id), may_wait=may_wait, key=key)
            asked = self._ask(expected, run)
            if asked is not None and expected is None:
                self.model.ran(
                    job, asked.execution.id, asked.execution.scheduled_at, request=("run", job.id, may_wait), key=key
                )

    @rule(number=SOME, same_revision=st.booleans(), may_wait=st.booleans(), key=KEYS)
    def retry(self, number: int, same_revision: bool, may_wait: bool, key: str | None) -> None:
        for failed in some(self.executions, number):
            self.world.advance(TICK)
            expected = self.model.retry(failed, same_revision=same_revision, may_wait=may_wait, key=key)
            retry = partial(self.world.service.retry, str(failed.id), same_revision=same_revision)
            asked = self._ask(expected, partial(retry, may_wait=may_wait, key=key))
            if asked is not None and expected is None:
                request = ("retry", failed.id, same_revision, may_wait)
                self.model.ran(failed.job, asked.execution.id, asked.execution.scheduled_at, request=request, key=key)

    def _ask(self, expected: type[Exception] | UUID | None, ask: Callable[[], Any]) -> Any:
        if isinstance(expected, type):
            with pytest.raises(GnomonError) as raised:
                ask()
            assert type(raised.value) is expected
            return None
        asked = ask()
        assert asked.replayed is (expected is not None)
        assert expected in (None, asked.execution.id)
        return asked

    @rule(number=SOME, minutes=st.integers(1, 12))
    def backfill(self, number: int, minutes: int) -> None:
        for job in some(self.living, number):
            since, until = self.world.now() - minutes * MINUTE, self.world.now()
            expected = self.model.to_backfill(job, since, until)
            asked = {"since": format_instant(since), "until": format_instant(until)}
            assert list(self.world.service.backfill(str(job.id), **asked, dry_run=True)) == expected
            assert list(self.world.service.backfill(str(job.id), **asked)) == expected
            made = [one for one in self._stored() if one.id not in self.model.executions]
            assert [one.scheduled_at for one in made] == expected
            self.model.backfilled(job, [(one.id, one.scheduled_at) for one in made])

    @rule(number=SOME)
    def cancel(self, number: int) -> None:
        for one in some(self.executions, number):
            expected = self.model.cancel(one)
            if expected is None:
                assert self.world.service.cancel(str(one.id)).id == one.id
            else:
                with pytest.raises(expected):
                    self.world.service.cancel(str(one.id))

    @rule(number=SOME, overlap=OVERLAPS, max_attempts=st.integers(1, 4))
    def edit(self, number: int, overlap: str, max_attempts: int) -> None:
        for job in some(self.living, number):
            self.world.service.update(str(job.id), {"overlap": overlap, "retry": {"max_attempts": max_attempts}})
            self.model.edit(job, overlap=overlap, max_attempts=max_attempts)

    @rule(number=SOME, minutes=st.sampled_from([None, 2, 7]))
    def pause(self, number: int, minutes: int | None) -> None:
        for job in some(self.living, number):
            until = None if minutes is None else self.world.now() + minutes * MINUTE + HALF
            self.world.service.pause(str(job.id), until=None if until is None else format_instant(until))
            self.model.pause(job, until)

    @rule(number=SOME)
    def resume(self, number: int) -> None:
        for job in some(self.living, number):
            self.world.service.resume(str(job.id))
            self.model.resume(job)

    @rule(number=SOME, sure=st.integers(0, 3))
    def delete(self, number: int, sure: int) -> None:
        if sure == 0:  # else there would soon be nothing to try
            for job in some(self.living, number):
                self.world.service.delete(str(job.id))
                self.model.delete(job)

    @invariant()
    def executions_are_those_of_the_model(self) -> None:
        stored = self._stored()
        assert [one.id for one in stored] == sorted(self.model.executions)
        for one in stored:
            known = self.model.executions[one.id]
            assert seen(one) == expected(known), one

    @invariant()
    def jobs_are_those_of_the_model(self) -> None:
        stored = {job.id: job for job in self.world.service.list(JobQuery(limit=50)).items}
        assert stored.keys() == {job.id for job in self.jobs if not job.deleted}
        for job_id, job in stored.items():
            known = self.model.jobs[job_id]
            assert (job.status.value, job.revision) == (known.status, known.revision)
            assert (job.next_run, job.paused_until) == (known.next_run, known.paused_until)
            assert (job.locked_by is not None) == any(one.state == "RUNNING" for one in self.model.of(known))

    @invariant()
    def horizon_is_that_of_the_model(self) -> None:
        at = self.world.dispatch.horizon().at
        least, most = self.model.horizon()
        if least is None or most is None:
            assert at is None
        else:
            assert at is not None
            assert least <= at <= most

    @invariant()
    def cancellations_are_asked_for(self) -> None:
        for execution, attempt, _ in self.tokens[-3:]:
            asked = self.world.executions.cancel_requested([token(execution, attempt)])
            assert asked == self.model.cancel_requested(execution, attempt)

    def _stored(self) -> list[Execution]:
        """In order of their ids."""
        return list(reversed(self.world.history.list(None, ExecutionQuery(limit=10_000)).items))


def token(execution: UUID, attempt: int) -> Token:
    return Token(id=execution, attempt=attempt)


def seen(one: Execution) -> dict[str, object]:
    return {
        "job": one.job_id,
        "state": one.state.value,
        "trigger": one.trigger.value,
        "at": (one.scheduled_at, one.available_at),
        "revision": one.revision,
        "attempts": (one.attempt, one.failures, one.max_attempts),
        "past": [(attempt.attempt, attempt.outcome) for attempt in one.attempts],
        "cancel": one.cancel_requested_at is not None,
        "error": one.error_code,
        "skipped": (one.skipped_count, one.skipped_until),
        "repeats": one.repeats,
        "ended": one.finished_at is not None,
        "began": one.first_started_at is not None,
    }


def expected(known: ModelExecution) -> dict[str, object]:
    return {
        "job": known.job.id,
        "state": known.state,
        "trigger": known.trigger,
        "at": (known.at, known.available),
        "revision": known.revision,
        "attempts": (known.attempt, known.failures, known.max_attempts),
        "past": known.past,
        "cancel": known.cancel,
        "error": known.error,
        "skipped": (known.skipped, known.until),
        "repeats": known.repeats,
        "ended": known.ended,
        "began": known.attempt > 0,
    }


UNHURRIED = settings(
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
EXAMPLES = {"memory": 60, "redis": 10, "postgres": 5}


def play(request: pytest.FixtureRequest, store: str, *, examples: int, steps: int) -> None:
    world = STORES[store](request)
    try:
        run_state_machine_as_test(
            lambda: StoreMachine(world), settings=settings(UNHURRIED, max_examples=examples, stateful_step_count=steps)
        )
    finally:
        world.close()


@pytest.mark.parametrize("store", STORES)
def test_any_sequence_of_verbs_leaves_the_store_as_it_leaves_the_model(
    request: pytest.FixtureRequest, store: str
) -> None:
    play(request, store, examples=EXAMPLES.get(store, 10), steps=30)


@pytest.mark.long
@pytest.mark.parametrize("store", STORES)
def test_long_sequences_of_verbs_leave_the_store_as_they_leave_the_model(
    request: pytest.FixtureRequest, store: str
) -> None:
    play(request, store, examples=20 * EXAMPLES.get(store, 10), steps=80)
