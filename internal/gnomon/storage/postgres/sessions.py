"""What transactions of the API share: the clock that decides, and the call that wakes the schedulers."""

from datetime import datetime

from sqlalchemy import Connection, func, select, text

from gnomon.storage.postgres.statements import WAKE_CHANNEL

NOTIFY = text(f"select pg_notify('{WAKE_CHANNEL}', extract(epoch from cast(:at as timestamptz))::text)")


def database_clock(connection: Connection) -> datetime:
    """This very moment; asked under a job's row lock, no dispatch of that job has seen a later one.

    now() would not do: it is when the transaction began, and dispatches may have been quicker to get the lock.
    """
    now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return now


def announce(connection: Connection, moment: datetime | None) -> None:
    """Wakes schedulers that mean to sleep longer than until this moment, once the transaction has committed."""
    if moment is not None:
        connection.execute(NOTIFY, {"at": moment})
