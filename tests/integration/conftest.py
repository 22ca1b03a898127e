"""A database seen through every store, and a target that remembers its calls."""

from collections.abc import Iterator

import pytest
from servers.target import Target
from support.world import World


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    built = World(database_url)
    yield built
    built.close()


@pytest.fixture
def target() -> Iterator[Target]:
    with Target() as started:
        yield started
