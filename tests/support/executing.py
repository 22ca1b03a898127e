"""A runner over a world, and a job seen through to its end by it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import uvloop

from gnomon.job.address import EgressPolicy
from gnomon.job.model import Execution, Job, State
from gnomon.job.sealing import Open
from gnomon.worker.executors import Executors
from gnomon.worker.executors.amqp import AmqpExecutor
from gnomon.worker.executors.http import HttpExecutor
from gnomon.worker.executors.python import NoHandlers
from gnomon.worker.runner import Runner
from support.cluster import wait_until
from support.keys import OPEN
from support.world import World


@contextmanager
def running(world: World, unseal: Open = OPEN) -> Iterator[Runner]:
    def executors() -> Executors:
        policy = EgressPolicy.parse(["127.0.0.0/8"])
        return Executors(http=HttpExecutor(policy=policy), amqp=AmqpExecutor(policy=policy), handlers=NoHandlers())

    runner = Runner(
        store=world.executions,
        executors=executors,
        new_loop=uvloop.new_event_loop,
        concurrency=10,
        lease=timedelta(seconds=30),
        unseal=unseal,
    )
    runner.start()
    try:
        yield runner
    finally:
        runner.drain(timedelta(0))


def ended(world: World, runner: Runner, job: Job) -> Execution:
    """The job's only execution, when it is over."""
    world.make_due(job)
    runner.admit(world.dispatched())

    def final() -> bool:
        (execution,) = world.history_of(job)
        if execution.state is State.PENDING:
            runner.admit([execution.id])
        return execution.state.final

    wait_until(f"the end of {job.id}", final)
    (execution,) = world.history_of(job)
    return execution
