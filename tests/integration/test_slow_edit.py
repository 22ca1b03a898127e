"""An edit whose transaction began long before it got hold of the job: moments that were booked meanwhile stay owed."""

import pytest
from sqlalchemy import Connection, event
from support.books import unbalanced_moments
from support.cluster import wait_until
from support.world import World


@pytest.fixture
def delayed(world: World, database_url: str) -> World:
    """The same database; each transaction lets a dispatch go first once it has begun."""
    opened = World(database_url)

    @event.listens_for(opened.engine, "begin")
    def let_a_dispatch_go_first(connection: Connection) -> None:
        cursor = connection.connection.cursor()
        cursor.execute("select 1")  # the driver begins the transaction with its first statement
        wait_until("a dispatch", lambda: bool(world.dispatched()))

    return opened


def test_edit_does_not_disown_what_was_dispatched_while_it_waited(world: World, delayed: World) -> None:
    job = world.create(interval_seconds=1, overlap="allow")
    try:
        delayed.service.update(str(job.id), {"interval_seconds": 2})
    finally:
        delayed.close()
    wait_until("the new schedule runs", lambda: len(world.dispatched()) + len(world.history_of(job)) > 1)
    assert unbalanced_moments(world, job.id) == {}
