"""What transactions of the API share: who acts, the clock that decides, and the call that wakes the schedulers."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Connection, Engine, text

from gnomon.storage.postgres.engine import Direct
from gnomon.storage.postgres.statements import WAKE_CHANNEL

NOTIFY = text(f"select pg_notify('{WAKE_CHANNEL}', extract(epoch from cast(:at as timestamptz))::text)")
NOW = text("select clock_timestamp()")
CLOCK = Direct(NOW)

ACTING = "gnomon_acting"


def acting_for(engine: Engine, acting: Callable[[], str]) -> Engine:
    """The same pool; what is written through it is written in the name of the principal whose id `acting` answers."""
    return engine.execution_options(**{ACTING: acting})


def principal_of(source: Connection | Engine) -> str:
    """The id of whom it acts for; empty for nobody."""
    acting = source.get_execution_options().get(ACTING)
    return "" if acting is None else str(acting())


def database_clock(connection: Connection) -> datetime:
    """This very moment; asked under a job's row lock, no dispatch of that job has seen a later one.

    now() would not do: it is when the transaction began, and dispatches may have been quicker to get the lock.
    """
    now: datetime = connection.execute(NOW).scalar_one()
    return now


def announce(connection: Connection, moment: datetime | None) -> None:
    """Wakes schedulers that mean to sleep longer than until this moment, once the transaction has committed."""
    if moment is not None:
        connection.execute(NOTIFY, {"at": moment})
