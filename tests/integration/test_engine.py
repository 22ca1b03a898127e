"""Sessions of the pool, as the statements of the protocol use them."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text
from support.world import World

from gnomon.job.errors import Unavailable
from gnomon.storage.postgres.engine import autocommit, create_engine, translated

PID = text("select pg_backend_pid()")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """A pool of one."""
    opened = create_engine(database_url, pool_size=1, max_open=1)
    yield opened
    opened.dispose()


def test_connection_that_breaks_after_the_answer_does_not_take_the_answer_with_it(engine: Engine, world: World) -> None:
    for _ in range(3):  # a connection in its first use is not like the later ones
        with autocommit(engine).connect() as connection:
            connection.execute(PID)
    with translated(), autocommit(engine).connect() as connection:
        pid = connection.execute(PID).scalar_one()
        assert world.one("select pg_terminate_backend(:pid, 5000)", pid=pid)


def test_connection_has_transactions_again_after_a_statement_of_its_own(engine: Engine) -> None:
    with autocommit(engine).connect() as connection:
        pid = connection.execute(PID).scalar_one()
    with engine.connect() as connection:
        assert connection.execute(PID).scalar_one() == pid
        connection.execute(text("create table kept (id int)"))
        connection.rollback()
        assert connection.execute(text("select to_regclass('kept')")).scalar_one() is None
    with autocommit(engine).connect() as connection:
        connection.execute(text("create table kept (id int)"))
        connection.rollback()
        assert connection.execute(text("select to_regclass('kept')")).scalar_one() == "kept"


def test_server_that_has_become_a_standby_is_left(engine: Engine) -> None:
    """What a server refuses that only reads since a failover is not refused for good."""
    with autocommit(engine).connect() as connection:
        connection.execute(text("set default_transaction_read_only = on"))
    write = text("create table kept (id int)")
    with pytest.raises(Unavailable, match="read-only"), translated(), autocommit(engine).connect() as connection:
        connection.execute(write)
    with translated(), autocommit(engine).connect() as connection:
        connection.execute(write)
