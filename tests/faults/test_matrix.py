"""The kill matrix: whatever dies, freezes or fails at whichever step, nothing is lost and nothing is booked twice.

A sample, drawn by the commit's hash, runs always; all cells are marked long. scripts/matrix runs chosen ones.
"""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path

import pytest
from servers.rabbitmq import RabbitMQ
from support.matrix import Result, Runner, all_cells, sample, seed_of_checkout, table
from support.trial import Cell

from gnomon.embedded.postgres import EmbeddedPostgres
from gnomon.embedded.valkey import EmbeddedValkey

SEED = seed_of_checkout()
SAMPLE = frozenset(sample(SEED))
TABLE = Path(os.environ.get("GNOMON_MATRIX_TABLE", "build/reliability-matrix.md"))

Results = Mapping[Cell, Future[Result]]
_finished: list[Result] = []


def cells_on(broker: str) -> list[object]:
    return [
        pytest.param(cell, id=str(cell), marks=() if cell in SAMPLE else pytest.mark.long)
        for cell in all_cells()
        if cell.broker == broker
    ]


@pytest.fixture(scope="module")
def redis_results(
    request: pytest.FixtureRequest, postgres: EmbeddedPostgres, valkey: EmbeddedValkey
) -> Iterator[Results]:
    """All chosen cells on Redis, begun."""
    valkey.start()
    with Runner(postgres, broker=valkey) as runner:
        yield from begun(request, runner)


@pytest.fixture(scope="module")
def rabbitmq_results(
    request: pytest.FixtureRequest, postgres: EmbeddedPostgres, rabbitmq: RabbitMQ
) -> Iterator[Results]:
    """All chosen cells on RabbitMQ, begun."""
    rabbitmq.start()
    with Runner(postgres, broker=rabbitmq) as runner:
        yield from begun(request, runner)


def begun(request: pytest.FixtureRequest, runner: Runner) -> Iterator[Results]:
    chosen = [item.callspec.params["cell"] for item in request.session.items if item.module is request.module]
    results = {cell: runner.submit(cell) for cell in chosen if cell.broker == runner.broker}
    if terminal := request.config.pluginmanager.get_plugin("terminalreporter"):
        terminal.write_line(f"\n{len(results)} cells on {runner.broker}; the sample is drawn by {SEED}")
    yield results
    _finished.extend(future.result() for future in results.values() if future.done() and not future.cancelled())
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_text(table(_finished))


@pytest.mark.parametrize("cell", cells_on("redis"))
def test_work_survives_on_redis(cell: Cell, redis_results: Results) -> None:
    result = redis_results[cell].result()
    assert not result.failure, result.failure


@pytest.mark.parametrize("cell", cells_on("rabbitmq"))
def test_work_survives_on_rabbitmq(cell: Cell, rabbitmq_results: Results) -> None:
    result = rabbitmq_results[cell].result()
    assert not result.failure, result.failure
