"""How long a worker that has just started takes to get definitions: from Postgres, and from the cache."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from uuid import UUID, uuid4

from sqlalchemy import Engine, event
from support.world import World

from bench import seed
from bench.bed import Bed
from bench.case import Case, Figures, Scale, Section
from gnomon.storage.cache import DefinitionCache
from gnomon.storage.postgres.executions import PostgresExecutionStore

MESSAGE = 100  # definitions asked for at once


def measure(bed: Bed, *, jobs: int, cached: bool) -> Figures:
    """Milliseconds for all of them, and the statements that Postgres had to answer."""
    world, keys = bed.keep("definitions", partial(_made, bed, jobs))
    with contextlib.closing(DefinitionCache(bed.valkey.url)) as cache:
        store = PostgresExecutionStore(world.engine, instance=uuid4(), worker="bench", cache=cache if cached else None)
        with _counted(world.engine) as sent:
            begun = time.perf_counter()
            _fetch(store, keys)
            return {"ms": 1000 * (time.perf_counter() - begun), "statements": len(sent)}


@contextlib.contextmanager
def _made(bed: Bed, jobs: int) -> Iterator[tuple[World, Sequence[tuple[UUID, int]]]]:
    """That many jobs, whose definitions are in the cache."""
    with bed.queue("redis") as cache_url, bed.database() as url, bed.world(url) as world:
        seed.copy(world, world.create(), jobs - 1, due=seed.now(world) + timedelta(days=1))
        keys = [(row.id, 1) for row in world.sql("select id from jobs")]
        with contextlib.closing(DefinitionCache(cache_url)) as cache:
            _fetch(PostgresExecutionStore(world.engine, instance=uuid4(), worker="bench", cache=cache), keys)
        yield world, keys


@contextlib.contextmanager
def _counted(engine: Engine) -> Iterator[list[str]]:
    """The statements that the engine sends."""
    sent: list[str] = []

    def note(*given: object) -> None:
        sent.append(str(given[2]))

    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)


def _fetch(store: PostgresExecutionStore, keys: Sequence[tuple[UUID, int]]) -> None:
    for start in range(0, len(keys), MESSAGE):
        part = keys[start : start + MESSAGE]
        assert store.definitions(part).keys() == set(part)


def cases(scale: Scale) -> Sequence[Case]:
    jobs = 120 if scale.short else 5_000
    return [
        Case(name=f"definitions/{jobs}-jobs/{source}", measure=partial(measure, jobs=jobs, cached=source == "cache"))
        for source in ("postgres", "cache")
    ]


SECTION = Section(name="definitions", cases=cases)
