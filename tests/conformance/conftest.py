"""Behaviours that all stores have in common, each tried on every one of them."""

from collections.abc import Iterator

import pytest
import redis
from support.restarts import RestartedRedisScene
from support.stores import STORES
from support.timed import TimedScene

from gnomon.embedded.valkey import EmbeddedValkey


@pytest.fixture(params=[*STORES, pytest.param("redis that is killed", marks=pytest.mark.long)])
def world(request: pytest.FixtureRequest) -> Iterator[TimedScene]:
    """An empty store of each kind."""
    if request.param in STORES:
        opened = STORES[request.param](request)
    else:
        opened = RestartedRedisScene(request.getfixturevalue("durable_valkey"))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def _durable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    folder = tmp_path_factory.mktemp("durable")
    server = EmbeddedValkey(folder, persist=True, settings={"appendfsync": "always"})
    yield server
    server.stop()


@pytest.fixture
def durable_valkey(_durable: EmbeddedValkey) -> EmbeddedValkey:
    """One that answers only after what it did is on disk, emptied."""
    _durable.start()
    with redis.Redis.from_url(_durable.url) as client:
        client.flushall()
    return _durable
