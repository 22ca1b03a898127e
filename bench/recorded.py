"""How many executions have succeeded, as the recording commits count them."""

import time
from datetime import datetime

from support.world import World

_POLL_SECONDS = 0.02
_PATIENCE_SECONDS = 600
_SUCCEEDED = "select coalesce(sum(count), 0), clock_timestamp() from tallies where outcome = 'SUCCEEDED'"


def recorded(world: World) -> int:
    return int(world.one(_SUCCEEDED))


def wait_recorded(world: World, total: int) -> datetime:
    """When that many were recorded in all, by the database's clock. Raises TimeoutError after ten minutes."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    with world.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while True:
            count, moment = connection.exec_driver_sql(_SUCCEEDED).one()
            if count >= total:
                reached: datetime = moment
                return reached
            if time.monotonic() > deadline:
                states = world.sql("select state, count(*) from executions group by state")
                raise TimeoutError(f"{total - count} of {total} executions were not recorded; there are {states}")
            time.sleep(_POLL_SECONDS)
