"""Sessions of the pool, as the statements of the protocol use them."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import ProgrammingError
from support.world import World

from gnomon.job.errors import Unavailable
from gnomon.storage.postgres.engine import Direct, autocommit, create_engine, translated

PID = text("select pg_backend_pid()")
OWN_PID = Direct(PID)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """A pool of one."""
    opened = create_engine(database_url, pool_size=1, max_open=1)
    yield opened
    opened.dispose()


@pytest.fixture
def checked(database_url: str) -> Iterator[Engine]:
    """A pool of one that looks for a sign of life before it hands out its connection."""
    opened = create_engine(database_url, pool_size=1, max_open=1, check_first=True)
    yield opened
    opened.dispose()


def test_connection_that_the_server_has_ended_since_its_last_use_is_replaced(checked: Engine, world: World) -> None:
    for _ in range(3):
        with translated(), autocommit(checked).connect() as connection:
            pid = connection.execute(PID).scalar_one()
        assert world.one("select pg_terminate_backend(:pid, 5000)", pid=pid)


def test_connection_that_was_of_use_a_moment_ago_is_not_asked_again(
    checked: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    OWN_PID.rows(checked)
    asked: list[object] = []
    monkeypatch.setattr(checked.dialect, "do_ping", asked.append)
    OWN_PID.rows(checked)
    assert not asked
    monkeypatch.setattr("gnomon.storage.postgres.engine.BELIEVED_SECONDS", 0.0)
    OWN_PID.rows(checked)
    assert len(asked) == 1


def test_direct_statement_breaks_as_any_other(checked: Engine, engine: Engine, world: World) -> None:
    """What happens to it is told in the same errors, and a connection that broke is not used again."""
    with pytest.raises(ProgrammingError, match="no_table"):
        Direct(text("select from no_table")).rows(checked)
    ((pid,),) = OWN_PID.rows(engine)
    assert world.one("select pg_terminate_backend(:pid, 5000)", pid=pid)
    with pytest.raises(Unavailable), translated():
        OWN_PID.rows(engine)
    assert OWN_PID.rows(engine) != [(pid,)]


def test_direct_statement_stays_though_the_next_transaction_is_rolled_back(engine: Engine) -> None:
    Direct(text("create table kept (id int); select 1")).rows(engine)
    with engine.begin() as connection:
        connection.execute(text("insert into kept values (1)"))
        connection.rollback()
    assert Direct(text("select * from kept")).rows(engine) == []


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


def test_direct_statement_leaves_such_a_server_too(engine: Engine) -> None:
    with autocommit(engine).connect() as connection:
        connection.execute(text("set default_transaction_read_only = on"))
    write = Direct(text("create table kept (id int); select 1"))
    with pytest.raises(Unavailable, match="read-only"), translated():
        write.rows(engine)
    with translated():
        assert write.rows(engine) == [(1,)]


def test_statement_is_planned_once_in_each_session_of_those_that_go_by_indexes(world: World) -> None:
    for _ in range(3):
        world.dispatch.horizon()
    kept = text("select generic_plans, custom_plans from pg_prepared_statements where statement like '%next_run%'")
    with world.by_index.connect() as connection:
        assert [tuple(row) for row in connection.execute(kept)] == [(3, 0)]
    with world.engine.connect() as connection:
        assert connection.execute(kept).all() == []


def test_session_that_has_dispatched_waits_for_the_disk_again(world: World) -> None:
    """A claim must not be lost: its attempt would be given out a second time."""
    job = world.due()
    assert len(world.dispatched()) == 1
    for engine in (world.by_index, autocommit(world.by_index)):
        with engine.connect() as connection:
            dispatched = text("select count(*) from pg_prepared_statements where statement like '%is_behind%'")
            assert connection.execute(dispatched).scalar_one() == 1
            assert connection.execute(text("show synchronous_commit")).scalar_one() == "on"
    assert world.states_of(job) == ["PENDING"]


def test_sessions_that_forget_their_plans_are_noticed_and_plan_anew_each_time(world: World) -> None:
    """As behind a proxy that gives each transaction the session that is free."""
    world.dispatch.horizon()
    with world.by_index.connect() as connection:
        connection.execute(text("deallocate all"))
    with pytest.raises(Unavailable, match="does not exist"):
        world.dispatch.horizon()
    for _ in range(2):
        world.dispatch.horizon()
    assert world.dispatched() == []
