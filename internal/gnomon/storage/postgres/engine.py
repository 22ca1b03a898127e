"""Connections to Postgres, and what their errors mean to the rooms that call."""

import select
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import psycopg2
import sqlalchemy
from psycopg2 import errorcodes
from sqlalchemy import ClauseElement, Engine, ExceptionContext
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry

from gnomon.job.errors import ConfigurationError, Contended, Unavailable

# A process that is stopped while it holds a transaction keeps its locks, and SKIP LOCKED would make all others pass
# over those rows. So the server ends such a session itself; libpq's own keepalives only notice a dead server.
SERVER_SETTINGS = {
    "statement_timeout": "5s",
    "lock_timeout": "1s",
    "idle_in_transaction_session_timeout": "10s",
    "tcp_user_timeout": "15s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "timezone": "UTC",
}
CLIENT_SETTINGS = {
    "connect_timeout": 5,
    "tcp_user_timeout": 15_000,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
# Sessions that only ever name rows which an index finds. Statistics of tables like ours are always stale, and by them
# the server would read a whole table for a hundred rows (seen: at 6,000 rows, at twice the cost of a claim).
INDEXES_ONLY = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",  # a way that is off and has to be taken all the same counts as endless: 11 s of compiling, seen
    "random_page_cost": "1.1",  # what is hot is in memory
    "plan_cache_mode": "force_generic_plan",
}
BY_INDEX = "gnomon_by_index"
CONTENTION = {errorcodes.LOCK_NOT_AVAILABLE, errorcodes.DEADLOCK_DETECTED, errorcodes.SERIALIZATION_FAILURE}
PASSING = {
    errorcodes.IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
    errorcodes.READ_ONLY_SQL_TRANSACTION,
    # it was planned in another session: planned.py does not ask for it again
    errorcodes.INVALID_SQL_STATEMENT_NAME,
    errorcodes.DUPLICATE_PREPARED_STATEMENT,
}
# libpq keeps the reason to itself.
UNTRUSTED = " (it has expired, is not valid yet, or nobody who is trusted here has signed it: see tls.ca_file)"
USED_AT = "used_at"
BELIEVED_SECONDS = 1.0  # for which a connection that was of use is taken to live, if its server says nothing
PASSING_CLASSES = ("08", "53", "57", "58")  # connection, resources, operator intervention, system error


def create_engine(
    url: str,
    *,
    pool_size: int = 5,
    max_open: int = 10,
    check_first: bool = False,
    schema: str | None = None,
    by_index: bool = False,
) -> Engine:
    """An engine whose sessions can't hold locks for long. It connects when first used.

    `check_first` looks for a sign of life of each pooled connection before it is used: for the API, where a stale one
    would cost a user an error. `schema` (a plain identifier) is where the tables are, if not where the server looks
    first. `by_index`: for schedulers and workers, whose statements all go by indexes. Raises ConfigurationError for a
    URL that is not one of Postgres.
    """
    settings = SERVER_SETTINGS if schema is None else {**SERVER_SETTINGS, "search_path": schema}
    if by_index:
        settings = {**settings, **INDEXES_ONLY}
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    engine = sqlalchemy.create_engine(
        psycopg2_url(url),
        pool_size=pool_size,
        max_overflow=max(0, max_open - pool_size),
        pool_timeout=5,
        hide_parameters=True,  # they hold definitions, and so secrets
        execution_options={BY_INDEX: by_index},
        connect_args={**CLIENT_SETTINGS, "options": options, "application_name": "gnomon"},
    )
    engine.dialect.reset_isolation_level = _leave_autocommit  # type: ignore[assignment]
    sqlalchemy.event.listen(engine, "handle_error", _leave_standby)
    if check_first:
        _check_before_use(engine)
    return engine


def _check_before_use(engine: Engine) -> None:
    """Makes a new connection of a pooled one that does not live any more.

    SQLAlchemy's own check asks the server each time, which doubles the round trips of most requests. But a server that
    ends a session says so: one that was of use a moment ago, and whose socket has nothing to say, lives.
    """

    def note_use(_connection: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
        entry.info[USED_AT] = time.monotonic()

    def check(connection: DBAPIConnection, entry: ConnectionPoolEntry, _proxy: object) -> None:
        used_at = entry.info.get(USED_AT)
        if used_at is None or (time.monotonic() - used_at < BELIEVED_SECONDS and _is_silent(connection)):
            return
        try:
            engine.dialect.do_ping(connection)
        except psycopg2.Error as error:
            raise InvalidatePoolError("it does not live any more") from error

    sqlalchemy.event.listen(engine, "checkin", note_use)
    sqlalchemy.event.listen(engine, "checkout", check)


def _is_silent(connection: Any) -> bool:
    """Whether nothing has arrived that nobody has asked for, such as the end."""
    poll = select.poll()
    try:
        poll.register(connection.fileno(), select.POLLIN)
    except psycopg2.Error:  # closed on this side
        return False
    return not poll.poll(0)


def _leave_standby(context: ExceptionContext) -> None:
    if _is_standby(context.original_exception):
        context.is_disconnect = True


def _is_standby(error: BaseException) -> bool:
    """After a failover a connection may lead to a server that only reads by now; another one may not."""
    return getattr(error, "pgcode", None) == errorcodes.READ_ONLY_SQL_TRANSACTION


def psycopg2_url(url: str) -> sqlalchemy.URL:
    """The URL with the driver spelled out: SQLAlchemy 2.1 reads a bare postgresql:// as psycopg 3."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigurationError("db-url is not a URL: write postgresql://user@host:5432/name") from error
    if parsed.drivername not in ("postgres", "postgresql", "postgresql+psycopg2"):
        raise ConfigurationError(f"db-url must begin with postgresql://, not {parsed.drivername}://")
    return parsed.set(drivername="postgresql+psycopg2")


def autocommit(engine: Engine) -> Engine:
    """The same pool; each statement is its own transaction, so a stopped client can't be inside one."""
    return engine.execution_options(isolation_level="AUTOCOMMIT")


class Direct:
    """A statement that is compiled once, and run in autocommit past SQLAlchemy's machinery.

    That takes longer than a small statement itself. For those that most requests wait for.
    """

    def __init__(self, statement: ClauseElement) -> None:
        self._compiled = statement.compile(dialect=PGDialect_psycopg2())  # type: ignore[no-untyped-call]

    def rows(self, engine: Engine, **values: object) -> list[tuple[Any, ...]]:
        """What it returns, as the driver reads it. Raises what SQLAlchemy would."""
        parameters = self._compiled.construct_params(values) or {}
        pooled = None
        try:
            pooled = engine.raw_connection()
            return _run(pooled.dbapi_connection, self._compiled.string, parameters)
        except psycopg2.Error as error:
            gone = pooled is not None and engine.dialect.is_disconnect(cast(Any, error), pooled.dbapi_connection, None)
            if pooled is not None and (gone or _is_standby(error)):
                pooled.invalidate(error)
            raise DBAPIError.instance(
                self._compiled.string,
                parameters,
                error,
                psycopg2.Error,
                hide_parameters=True,
                connection_invalidated=gone,
                dialect=engine.dialect,
            ) from error
        finally:
            if pooled is not None:
                pooled.close()


def _run(connection: Any, statement: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            found: list[tuple[Any, ...]] = cursor.fetchall()
            return found
    finally:
        if not connection.closed:
            connection.autocommit = False


def _leave_autocommit(connection: DBAPIConnection) -> None:
    """What a connection goes through on its way back to the pool.

    SQLAlchemy would name the isolation level, which is the server's default anyway. To go back from that psycopg2 sends
    a SET: another round trip for each statement, and after the statement is done, one that fails where it did not.
    """
    connection.autocommit = False


@contextmanager
def translated() -> Iterator[None]:
    """Turns the driver's passing troubles into Unavailable (Contended for locks); lets defects through as they are."""
    try:
        yield
    except PoolTimeoutError as error:
        raise Unavailable("no database connection became free within 5 s") from error
    except DBAPIError as error:
        if error_code(error) in CONTENTION:
            raise Contended("rows are locked by another session") from error
        if is_passing(error):
            raise Unavailable(f"the database does not answer: {_first_line(error)}") from error
        raise


def is_passing(error: DBAPIError) -> bool:
    """Whether the same call may succeed later: the server or the connection failed, not the statement."""
    code = error_code(error)
    if code is None:
        return isinstance(error, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError)
    return code.startswith(PASSING_CLASSES) or code in CONTENTION or code in PASSING


def error_code(error: DBAPIError) -> str | None:
    """SQLSTATE, or None when the server did not say one (the connection broke)."""
    return getattr(error.orig, "pgcode", None)


def _first_line(error: DBAPIError) -> str:
    # the text of SQLAlchemy's own exception would hold the statement and its parameters
    lines: list[Any] = str(error.orig).strip().splitlines()
    line = lines[0][:200] if lines else type(error.orig).__name__
    return line + UNTRUSTED if "certificate verify failed" in line else line
