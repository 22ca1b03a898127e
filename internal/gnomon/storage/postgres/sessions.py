"""What transactions of the API share: the clock that decides, and the call that wakes the schedulers."""

from datetime import datetime

from sqlalchemy import Connection, func, select, text

from gnomon.storage.postgres.statements import WAKE_CHANNEL

NOTIFY = text(f"select pg_notify('{WAKE_CHANNEL}', extract(epoch from cast(:at as timestamptz))::text)")


def database_clock(connection: Connection) -> datetime:
    """When the transaction began."""
    now: datetime = connection.execute(select(func.now())).scalar_one()
    return now


def announce(connection: Connection, moment: datetime | None) -> None:
    """Wakes schedulers that mean to sleep longer than until this moment, once the transaction has committed."""
    if moment is not None:
        connection.execute(NOTIFY, {"at": moment})
