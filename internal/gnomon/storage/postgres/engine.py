"""Connections to Postgres, and what their errors mean to the rooms that call."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy
from psycopg2 import errorcodes
from sqlalchemy import Engine, ExceptionContext
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

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
CONTENTION = {errorcodes.LOCK_NOT_AVAILABLE, errorcodes.DEADLOCK_DETECTED, errorcodes.SERIALIZATION_FAILURE}
PASSING = {errorcodes.IDLE_IN_TRANSACTION_SESSION_TIMEOUT, errorcodes.READ_ONLY_SQL_TRANSACTION}
# libpq keeps the reason to itself.
UNTRUSTED = " (it has expired, is not valid yet, or nobody who is trusted here has signed it: see tls.ca_file)"
PASSING_CLASSES = ("08", "53", "57", "58")  # connection, resources, operator intervention, system error


def create_engine(
    url: str, *, pool_size: int = 5, max_open: int = 10, check_first: bool = False, schema: str | None = None
) -> Engine:
    """An engine whose sessions can't hold locks for long. It connects when first used.

    `check_first` asks each pooled connection for a sign of life before it is used: for the API, where a stale one
    would cost a user an error. `schema` (a plain identifier) is where the tables are, if not where the server looks
    first. Raises ConfigurationError for a URL that is not one of Postgres.
    """
    settings = SERVER_SETTINGS if schema is None else {**SERVER_SETTINGS, "search_path": schema}
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    engine = sqlalchemy.create_engine(
        psycopg2_url(url),
        pool_size=pool_size,
        max_overflow=max(0, max_open - pool_size),
        pool_timeout=5,
        pool_pre_ping=check_first,
        hide_parameters=True,  # they hold definitions, and so secrets
        connect_args={**CLIENT_SETTINGS, "options": options, "application_name": "gnomon"},
    )
    engine.dialect.reset_isolation_level = _leave_autocommit  # type: ignore[assignment]
    sqlalchemy.event.listen(engine, "handle_error", _leave_standby)
    return engine


def _leave_standby(context: ExceptionContext) -> None:
    """After a failover a connection may lead to a server that only reads by now; another one may not."""
    if getattr(context.original_exception, "pgcode", None) == errorcodes.READ_ONLY_SQL_TRANSACTION:
        context.is_disconnect = True


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
