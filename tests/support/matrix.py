"""The kill matrix: every point x action x delivery x broker, some cells at a time, each on a database of its own.

As a program (scripts/matrix) it runs the chosen cells, prints a line for each, and can write the table.
"""

import argparse
import contextlib
import itertools
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import redis
from servers.rabbitmq import RabbitMQ

from gnomon.embedded.postgres import EmbeddedPostgres
from gnomon.embedded.valkey import EmbeddedValkey
from gnomon.storage.postgres.migrate import migrate
from support import ledger
from support.failpoints import BROKERS, POINTS, Action, Point
from support.launcher import Launcher
from support.trial import ONCE, Cell, Place, run_trial

DELIVERIES = ("at_least_once", ONCE)
AT_ONCE = 6
BEFORE_START = ("C", "definitions", "S", "L")
# Where it makes a difference that executions exist before their moment.
AHEAD = (
    "D",
    "P",
    "R1",
    "free_slots",
    "return_slots",
    "C",
    "worker.return_slots",
    "update",
    "pause",
    "resume",
    "delete",
    "run",
    "backfill",
)
REDIS_DATABASES = range(1, 16)
FAILURES = Path("build/matrix")
_TEMPLATE = "template_matrix"
_numbers = itertools.count(1)


def all_cells() -> list[Cell]:
    """Every combination that there is."""
    return [
        Cell(broker=broker, point=point.name, action=action, delivery=delivery, ahead=ahead)
        for broker in BROKERS
        for point in POINTS.values()
        for delivery in DELIVERIES
        for action in point.actions
        for ahead in (False, True)
        if broker in point.brokers and _exists(point, action, delivery) and (point.step in AHEAD or not ahead)
    ]


def _exists(point: Point, action: Action, delivery: str) -> bool:
    """Only what is delivered at most once is started (S), and then nobody takes it over."""
    if delivery == ONCE:
        return action is not Action.PAUSE or point.step in BEFORE_START
    return point.step != "S"


def sample(seed: str) -> list[Cell]:
    """One cell for each point on each broker, with every action among them; a seed always means the same cells."""
    draw = random.Random(seed)
    while True:
        chosen = [draw.choice(group) for group in _by_point(all_cells()).values()]
        if {(cell.broker, cell.action) for cell in chosen} == set(itertools.product(BROKERS, Action)):
            return chosen


def _by_point(cells: Sequence[Cell]) -> Mapping[tuple[str, str], list[Cell]]:
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.broker, cell.point), []).append(cell)
    return groups


def seed_of_checkout() -> str:
    """The commit; a fixed word where there is none."""
    asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "gnomon"


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a cell ended. `failure` is empty when all was right."""

    cell: Cell
    seconds: float
    failure: str = ""


class Runner:
    """Runs cells on one broker, `at_once` of them side by side. They mostly wait, so two cores carry several."""

    def __init__(
        self, postgres: EmbeddedPostgres, *, broker: EmbeddedValkey | RabbitMQ, at_once: int = AT_ONCE
    ) -> None:
        self._postgres = postgres
        self._broker = broker
        self._lock = threading.Lock()
        self._redis_databases: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in REDIS_DATABASES:
            self._redis_databases.put(number)
        self._prepare_template()
        self._launcher = Launcher()
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="cell")

    @property
    def broker(self) -> str:
        return "rabbitmq" if isinstance(self._broker, RabbitMQ) else "redis"

    def submit(self, cell: Cell) -> Future[Result]:
        """Queues a cell."""
        return self._pool.submit(self._run, cell)

    def close(self) -> None:
        """Gives up what has not begun."""
        self._pool.shutdown(cancel_futures=True)
        self._launcher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, cell: Cell) -> Result:
        started = time.monotonic()
        folder = Path(tempfile.mkdtemp(prefix="gnomon-cell-"))
        failure = ""
        try:
            with self._database() as database_url, self._queue() as queue_url:
                place = Place(launcher=self._launcher, database_url=database_url, queue_url=queue_url, folder=folder)
                run_trial(cell, place)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}\nlogs: {_keep(folder, cell)}\nagain: {cell.replay}"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return Result(cell=cell, seconds=time.monotonic() - started, failure=failure)

    def _prepare_template(self) -> None:
        self._administer(f"drop database if exists {_TEMPLATE}")
        self._administer(f"create database {_TEMPLATE}")
        url = self._postgres.url_of(_TEMPLATE)
        migrate(url)
        with contextlib.closing(psycopg2.connect(url)) as session, session, session.cursor() as cursor:
            ledger.watch(cursor)

    @contextlib.contextmanager
    def _database(self) -> Iterator[str]:
        name = f"cell_{next(_numbers)}"
        self._administer(f"create database {name} template {_TEMPLATE}")
        try:
            yield self._postgres.url_of(name)
        finally:
            self._administer(f"drop database {name} with (force)")

    def _queue(self) -> contextlib.AbstractContextManager[str]:
        if isinstance(self._broker, RabbitMQ):
            return self._vhost(self._broker)
        return self._redis_database(self._broker)

    @contextlib.contextmanager
    def _redis_database(self, valkey: EmbeddedValkey) -> Iterator[str]:
        number = self._redis_databases.get()
        url = urlunsplit(urlsplit(valkey.url)._replace(path=f"/{number}"))
        try:
            with redis.Redis.from_url(url) as client:
                client.flushdb()
            yield url
        finally:
            self._redis_databases.put(number)

    @contextlib.contextmanager
    def _vhost(self, rabbitmq: RabbitMQ) -> Iterator[str]:
        name = f"cell_{next(_numbers)}"
        with self._lock:
            url = rabbitmq.add_vhost(name)
        try:
            yield url
        finally:
            with self._lock:
                rabbitmq.delete_vhost(name)

    def _administer(self, statement: str) -> None:
        with (
            self._lock,
            contextlib.closing(psycopg2.connect(self._postgres.url_of("postgres"))) as session,
            session.cursor() as cursor,
        ):
            session.autocommit = True
            cursor.execute(statement)


def _keep(folder: Path, cell: Cell) -> Path:
    kept = FAILURES / str(cell)
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder, kept)
    return kept.absolute()


def table(results: Collection[Result]) -> str:
    """Markdown: for each broker a table with a row for each point and a column for each delivery and action."""
    marks = {result.cell: "**failed**" if result.failure else "ok" for result in results}
    columns = list(itertools.product(DELIVERIES, Action))
    lines: list[str] = []
    for broker in BROKERS:
        lines += [f"## {broker}", "", "| point | " + " | ".join(f"{d}: {a}" for d, a in columns) + " |"]
        lines += ["| --- |" + " --- |" * len(columns)]
        for point, ahead in itertools.product(POINTS.values(), (False, True)):
            if broker not in point.brokers or (ahead and point.step not in AHEAD):
                continue
            cells = [Cell(broker=broker, point=point.name, action=a, delivery=d, ahead=ahead) for d, a in columns]
            row = " | ".join(marks.get(cell, "") for cell in cells)
            lines += [f"| {point.name}{', ahead' if ahead else ''} | {row} |"]
        lines += [""]
    return "\n".join(lines)


@contextlib.contextmanager
def opened_runner(broker: str, *, at_once: int) -> Iterator[Runner]:
    """A runner with servers of its own."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gnomon-matrix-")))
        postgres = EmbeddedPostgres(folder / "postgres", fsync=False, settings={"max_connections": "300"})
        stack.enter_context(postgres)
        server = EmbeddedValkey(None) if broker == "redis" else RabbitMQ(folder / "rabbitmq")
        stack.enter_context(server)
        yield stack.enter_context(Runner(postgres, broker=server, at_once=at_once))


def main() -> int:
    """The command; 1 when a cell failed."""
    options = _read_options()
    cells = _chosen(options)
    if not cells:
        print("no such cell; --all --list shows them all")
        return 2
    if options.list:
        print("\n".join(map(str, cells)))
        return 0
    started, results = time.monotonic(), []
    for result in _run_all(cells, at_once=options.jobs):
        results.append(result)
        _tell(result, len(results), len(cells))
    failed = [result for result in results if result.failure]
    if options.table:
        options.table.parent.mkdir(parents=True, exist_ok=True)
        options.table.write_text(table(results))
    print(f"{len(results)} cells in {time.monotonic() - started:.0f} s, {len(failed)} failed")
    return 1 if failed else 0


def _run_all(cells: Sequence[Cell], *, at_once: int) -> Iterator[Result]:
    for broker in BROKERS:
        if chosen := [cell for cell in cells if cell.broker == broker]:
            with opened_runner(broker, at_once=at_once) as runner:
                for future in as_completed([runner.submit(cell) for cell in chosen]):
                    yield future.result()


def _tell(result: Result, number: int, total: int) -> None:
    print(
        f"{number:4}/{total} {'FAILED' if result.failure else 'ok':6} {result.seconds:5.1f} s  {result.cell}",
        flush=True,
    )
    if result.failure:
        print("      " + result.failure.replace("\n", "\n      "), flush=True)


def _chosen(options: argparse.Namespace) -> list[Cell]:
    narrowed = options.point or options.action or options.ahead or options.all
    seed = seed_of_checkout()
    if not narrowed:
        print(f"a sample, drawn by {seed}; --all for the whole matrix")
    return [
        cell
        for cell in (all_cells() if narrowed else sample(seed))
        for _ in range(options.repeat)
        if (not options.broker or cell.broker in options.broker)
        and (not options.point or cell.point in options.point or cell.point.rpartition(".")[0] in options.point)
        and (not options.action or cell.action in options.action)
        and (not options.delivery or cell.delivery in options.delivery)
        and (not options.ahead or cell.ahead == (options.ahead == "true"))
    ]


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/matrix", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--broker", action="append", choices=BROKERS)
    parser.add_argument("--point", action="append", help="a point (W.before) or all of a step (W)")
    parser.add_argument("--action", action="append", choices=list(Action))
    parser.add_argument("--delivery", action="append", choices=DELIVERIES)
    parser.add_argument("--ahead", choices=("true", "false"), help="with or without scheduler.ahead; default: both")
    parser.add_argument("--all", action="store_true", help="every cell; without it a sample drawn by the commit")
    parser.add_argument("--repeat", type=int, default=1, help="how often each cell")
    parser.add_argument("--jobs", type=int, default=AT_ONCE, help=f"cells at once (default {AT_ONCE})")
    parser.add_argument("--list", action="store_true", help="show the cells and run none")
    parser.add_argument(
        "--table", type=Path, default=os.environ.get("GNOMON_MATRIX_TABLE"), help="write the results here, as Markdown"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
