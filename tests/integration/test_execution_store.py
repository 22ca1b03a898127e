"""C and W on Postgres: what only a database can do. What all stores have in common is in tests/conformance."""

from datetime import timedelta
from uuid import uuid4

import pytest
from support.world import World, record

from gnomon.job.errors import Unavailable
from gnomon.job.model import State
from gnomon.job.ports import Claimed, Unrecordable

NO_GRACE = timedelta(0)


@pytest.fixture
def claimed(world: World) -> Claimed:
    """The first attempt of the only execution."""
    world.due()
    return world.claim(world.dispatched())[0]


def test_definition_that_can_not_be_read_is_left_out_and_named_in_the_log(
    world: World, claimed: Claimed, caplog: pytest.LogCaptureFixture
) -> None:
    world.sql("""update job_revisions set definition = '{"type": "HTTP"}'""")
    assert world.executions.definitions([(claimed.job_id, 1)]) == {}
    assert str(claimed.job_id) in caplog.text


def test_texts_that_the_database_refuses_make_the_group_unrecordable(world: World, claimed: Claimed) -> None:
    poison = record(claimed, State.FAILED, error_code="x", error_message="half a pair: \ud800, and a NUL: \x00")
    with pytest.raises(Unrecordable):
        world.executions.record([poison])
    assert world.executions.record([poison.without_texts()]) == {claimed.id}
    assert world.one("select error_code from executions") == "unrecordable"


def test_store_without_its_server_is_unavailable_and_shows_no_password() -> None:
    absent = World("postgresql://someone:canary@127.0.0.1:1/none")
    with pytest.raises(Unavailable) as raised:
        absent.claim([uuid4()])
    assert "canary" not in str(raised.value)
    absent.close()
