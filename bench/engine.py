"""The worker's HTTP engine by itself: so many calls, each as soon as one of its places is free. No database, no broker.

Run as a program (`python -m bench.engine URL COUNT PLACES`). To all its calls, the moment that they are due is the one
at which it begins; the sink's arrivals tell the rest.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import uvloop

from gnomon.job.address import EgressPolicy
from gnomon.job.outcome import Succeeded
from gnomon.job.target import HttpTarget
from gnomon.worker.executors import Call
from gnomon.worker.executors.http import HttpExecutor

WARM_UP = 300


def run_engine(url: str, *, count: int, places: int) -> None:
    """In a process of its own. Raises CalledProcessError where a call did not succeed."""
    subprocess.run([sys.executable, "-m", "bench.engine", url, str(count), str(places)], check=True)


async def _call_all(url: str, *, count: int, places: int) -> None:
    target = HttpTarget(url=url, method="POST", body="{}")
    executor = HttpExecutor(policy=EgressPolicy.parse(["127.0.0.0/8"]), max_connections=places)
    await _share_out(executor, target, _calls(WARM_UP, datetime.fromtimestamp(0, UTC)), places)
    await _share_out(executor, target, _calls(count, datetime.now(UTC)), places)
    await executor.aclose()


async def _share_out(executor: HttpExecutor, target: HttpTarget, calls: Iterator[Call], places: int) -> None:
    async def caller() -> None:
        for call in calls:
            outcome = await executor.execute(target, call)
            assert isinstance(outcome, Succeeded), outcome

    await asyncio.gather(*(caller() for _ in range(places)))


def _calls(count: int, due: datetime) -> Iterator[Call]:
    for _ in range(count):
        yield Call(execution_id=uuid4(), job_id=UUID(int=0), attempt=1, scheduled_at=due, timeout=timedelta(seconds=30))


def main(url: str, count: str, places: str) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_call_all(url, count=int(count), places=int(places)))


if __name__ == "__main__":
    main(*sys.argv[1:])
