"""How long a worker that has just started takes to get definitions: from Postgres, and from the cache.

    python tests/bench/definition_cache.py [--jobs 5000] [--rounds 5]

Both servers are started for it, on this machine. Each round asks for all definitions, a hundred at a time as a message
has them, from each in turn; the figures are medians over the rounds, and their ratio is of the same run.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID, uuid4

sys.path.insert(0, str(Path(__file__).parents[1]))

from sqlalchemy import Engine, event
from support.world import World

from gnomon.embedded.postgres import EmbeddedPostgres
from gnomon.embedded.valkey import EmbeddedValkey
from gnomon.storage.cache import DefinitionCache
from gnomon.storage.postgres.executions import PostgresExecutionStore
from gnomon.storage.postgres.migrate import migrate

MESSAGE = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        postgres = EmbeddedPostgres(Path(folder) / "postgres", fsync=False)
        valkey = EmbeddedValkey(None)
        postgres.start()
        valkey.start()
        try:
            migrate(postgres.url)
            measure(World(postgres.url), valkey.url, jobs=wanted.jobs, rounds=wanted.rounds)
        finally:
            valkey.stop()
            postgres.stop()


def measure(world: World, cache_url: str, *, jobs: int, rounds: int) -> None:
    """Prints the medians and their ratio."""
    keys = [(world.create().id, 1) for _ in range(jobs)]
    cache = DefinitionCache(cache_url)
    plain = PostgresExecutionStore(world.engine, instance=uuid4(), worker="plain")
    cached = PostgresExecutionStore(world.engine, instance=uuid4(), worker="cached", cache=cache)
    fetch(cached, keys)
    counter = Counter(world.engine)
    by_database, by_cache = [], []
    for _ in range(rounds):
        by_database.append(fetch(plain, keys))
        needed = counter.sent
        by_cache.append(fetch(cached, keys))
        counter.sent, asked = 0, counter.sent - needed
    of_database, of_cache = statistics.median(by_database), statistics.median(by_cache)
    print(f"{jobs} definitions, {MESSAGE} at a time, median of {rounds} rounds")
    print(f"from Postgres  {1000 * of_database:7.0f} ms  ({jobs / of_database:,.0f} a second)")
    print(f"from the cache {1000 * of_cache:7.0f} ms  ({jobs / of_cache:,.0f} a second)")
    print(f"ratio {of_cache / of_database:.2f}; statements for Postgres {needed}, with the cache {asked}")
    cache.close()
    world.close()


class Counter:
    """Counts the statements that an engine sends."""

    def __init__(self, engine: Engine) -> None:
        self.sent = 0
        event.listen(engine, "before_cursor_execute", self._count)

    def _count(self, *_: object) -> None:
        self.sent += 1


def fetch(store: PostgresExecutionStore, keys: Sequence[tuple[UUID, int]]) -> float:
    begun = time.perf_counter()
    for start in range(0, len(keys), MESSAGE):
        part = keys[start : start + MESSAGE]
        assert store.definitions(part).keys() == set(part)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
