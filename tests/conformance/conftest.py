"""Behaviours that all stores have in common, each tried on every one of them."""

from collections.abc import Iterator

import pytest
from support.stores import STORES
from support.timed import TimedScene


@pytest.fixture(params=STORES)
def world(request: pytest.FixtureRequest) -> Iterator[TimedScene]:
    """An empty store of each kind."""
    opened = STORES[request.param](request)
    yield opened
    opened.close()
