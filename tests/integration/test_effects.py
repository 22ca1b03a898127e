"""A handler's transaction: what it wrote is there exactly if its execution succeeded by that very attempt."""

import asyncio
import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import uvloop
from sqlalchemy import Connection
from support.world import World, record, token

from gnomon.bootstrap import child
from gnomon.job.model import State
from gnomon.job.outcome import Failed, Outcome, Sent, Succeeded
from gnomon.job.ports import Claimed
from gnomon.job.target import HandlerTarget
from gnomon.storage.postgres.effects import PostgresEffects
from gnomon.storage.postgres.engine import create_engine
from gnomon.worker.children.pool import Pool
from gnomon.worker.children.process import Birth
from gnomon.worker.executors import Call
from gnomon.worker.executors.python_sync import ChildExecutor


class Bench:
    """A world with a table for effects, and children that write to it."""

    def __init__(self, world: World, database_url: str) -> None:
        self.world = world
        world.sql("create table effects (execution_id uuid, attempt int)")
        given = child.worker_given(database_url=database_url, instance=uuid4())
        self.birth = Birth(boot=child.__name__, modules=("servers.mortal",), log_level="INFO", memory=None, given=given)
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.runner.run(self._open())

    async def _open(self) -> None:
        self.executor = ChildExecutor(Pool(self.birth, size=2, max_calls=1000))

    def close(self) -> None:
        self.runner.run(self.executor.aclose())
        self.runner.close()

    def claimed(self) -> Claimed:
        self.world.due(overlap="allow")
        return self.claim(self.world.dispatched()[0])

    def claim(self, execution_id: UUID) -> Claimed:
        return self.world.claim([execution_id])[0]

    async def execute(self, claimed: Claimed, timeout: float = 60.0, **payload: Any) -> Outcome:
        call = Call(
            execution_id=claimed.id,
            job_id=claimed.job_id,
            attempt=claimed.attempt,
            scheduled_at=claimed.scheduled_at,
            timeout=timedelta(seconds=timeout),
        )
        return await self.executor.execute(HandlerTarget(name="effect", payload=payload), call)

    def run(self, claimed: Claimed, **options: Any) -> Outcome:
        return self.runner.run(self.execute(claimed, **options))

    def state(self, claimed: Claimed) -> str:
        return self.world.history.get(claimed.id).state.value

    def effects(self, claimed: Claimed) -> list[int]:
        """The attempts whose effect is there."""
        rows = self.world.sql("select attempt from effects where execution_id = :id", id=claimed.id)
        return [row.attempt for row in rows]

    def record(self, claimed: Claimed, outcome: Outcome) -> None:
        """What the worker's recorder does with it: a failure is due again at once."""
        if not (isinstance(outcome, Succeeded) and outcome.recorded):
            state = State.SUCCEEDED if isinstance(outcome, Succeeded) else State.PENDING
            self.world.executions.record([record(claimed, state)])


@pytest.fixture
def bench(world: World, database_url: str) -> Iterator[Bench]:
    opened = Bench(world, database_url)
    yield opened
    opened.close()


def test_success_is_recorded_with_the_effect(bench: Bench) -> None:
    claimed = bench.claimed()
    assert bench.run(claimed) == Succeeded(response_excerpt="written", recorded=True)
    execution = bench.world.history.get(claimed.id)
    assert (execution.state, execution.response_excerpt) == (State.SUCCEEDED, "written")
    assert bench.effects(claimed) == [1]
    assert [(t.outcome, t.count) for t in bench.world.history.tallies() if t.outcome != "started"] == [("SUCCEEDED", 1)]


def test_effect_of_a_handler_that_raises_is_rolled_back(bench: Bench) -> None:
    claimed = bench.claimed()
    outcome = bench.run(claimed, die="raise")
    assert isinstance(outcome, Failed)
    assert outcome.code == "handler_error"
    assert (bench.effects(claimed), bench.state(claimed)) == ([], "RUNNING")


def test_effect_of_an_attempt_that_was_taken_over_is_rolled_back(bench: Bench) -> None:
    old = bench.claimed()
    bench.world.executions.record([record(old, State.PENDING)])
    new = bench.claim(old.id)
    outcome = bench.run(old)
    assert isinstance(outcome, Failed)
    assert outcome.code == "lost"
    assert bench.effects(old) == []
    assert bench.run(new) == Succeeded(response_excerpt="written", recorded=True)
    assert bench.effects(old) == [2]


def test_handler_that_commits_itself_is_refused(bench: Bench) -> None:
    claimed = bench.claimed()
    outcome = bench.run(claimed, die="end")
    assert isinstance(outcome, Failed)
    assert "TransactionEnded: a handler can't end its transaction" in outcome.message
    assert (bench.effects(claimed), bench.state(claimed)) == ([], "RUNNING")


def test_transaction_that_was_ended_in_sql_is_not_taken_for_a_success(bench: Bench) -> None:
    claimed = bench.claimed()
    outcome = bench.run(claimed, die="end_raw")
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.permanent) == ("transaction_ended", True)
    assert bench.state(claimed) == "RUNNING"


@pytest.mark.parametrize(("point", "done"), [("before", False), ("middle", False), ("commit", False), ("after", True)])
def test_effect_is_there_exactly_if_the_execution_succeeded_wherever_the_child_is_killed(
    bench: Bench, point: str, done: bool
) -> None:
    claimed = bench.claimed()
    outcome = bench.run(claimed, die=point)
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.sent) == ("crashed", Sent.MAYBE_SENT)
    bench.record(claimed, outcome)
    assert (bench.effects(claimed), bench.state(claimed)) == (([1], "SUCCEEDED") if done else ([], "PENDING"))


@pytest.mark.parametrize("seed", range(3))
def test_effect_is_there_once_after_many_kills_at_any_time(bench: Bench, seed: int) -> None:
    """Each attempt is killed after a random while, until one gets through."""
    chance = random.Random(seed)
    claims = [bench.claimed() for _ in range(6)]

    async def until_done(claimed: Claimed) -> Claimed:
        while True:
            attempt = asyncio.create_task(bench.execute(claimed, timeout=chance.uniform(0.002, 0.03)))
            outcome = await attempt
            bench.record(claimed, outcome)
            if bench.state(claimed) == "SUCCEEDED":
                return claimed
            claimed = bench.claim(claimed.id)
            if claimed.attempt > 3:
                outcome = await bench.execute(claimed)
                bench.record(claimed, outcome)
                return claimed

    for last in [bench.runner.run(until_done(claimed)) for claimed in claims]:
        execution = bench.world.history.get(last.id)
        assert execution.state is State.SUCCEEDED
        assert bench.effects(last) == [execution.attempt]


def test_what_is_refused_in_the_middle_leaves_nothing(world: World, database_url: str) -> None:
    """In this process: the connection goes back to its pool as clean as it came."""
    effects = PostgresEffects(create_engine(database_url, pool_size=1, max_open=1), instance=uuid4())
    world.due()
    claimed = world.claim(world.dispatched())[0]

    def roll_back(connection: Connection) -> Succeeded:
        connection.rollback()
        return Succeeded()

    with pytest.raises(Exception, match="can't end its transaction"):
        effects.together(token(claimed), roll_back, timeout=timedelta(seconds=9))

    def savepoint(connection: Connection) -> Succeeded:
        with connection.begin_nested():
            return Succeeded(response_excerpt="nested")

    outcome = effects.together(token(claimed), savepoint, timeout=timedelta(seconds=9))
    assert outcome == Succeeded(response_excerpt="nested", recorded=True)


def test_session_that_is_lost_before_the_record_is_a_failure(world: World, database_url: str) -> None:
    engine = create_engine(database_url, pool_size=1, max_open=1)
    world.due()
    claimed = world.claim(world.dispatched())[0]

    def cut(connection: Connection) -> Succeeded:
        session = connection.exec_driver_sql("select pg_backend_pid()").scalar_one()
        world.sql("select pg_terminate_backend(:session)", session=session)
        return Succeeded()

    outcome = PostgresEffects(engine, instance=uuid4()).together(token(claimed), cut, timeout=timedelta(seconds=9))
    assert isinstance(outcome, Failed)
    assert outcome.code == "not_recorded"
    assert world.history.get(claimed.id).state is State.RUNNING
    engine.dispose()
