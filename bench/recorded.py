"""How many executions have succeeded, as the recording commits count them."""

import time
from datetime import datetime

from support.world import World

_POLL_SECONDS = 0.02
_PATIENCE_SECONDS = 600
_LOOK_SECONDS = 5.0
_SUCCEEDED = "select coalesce(sum(count), 0), clock_timestamp() from tallies where outcome = 'SUCCEEDED'"
# where nothing is under way any more
_ENDED_OTHERWISE = """
select state, error_message from executions where state in ('FAILED', 'UNKNOWN', 'CANCELLED')
    and not exists (select from executions where state in ('PENDING', 'RUNNING', 'WAITING')) limit 1
"""
_STATES = "select state, count(*) from executions group by state"


def recorded(world: World) -> int:
    return int(world.one(_SUCCEEDED))


def wait_recorded(world: World, total: int) -> datetime:
    """When that many were recorded in all, by the database's clock.

    Raises RuntimeError when all have ended and not all like this, TimeoutError after ten minutes.
    """
    looked = time.monotonic()
    deadline = looked + _PATIENCE_SECONDS
    with world.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while True:
            count, moment = connection.exec_driver_sql(_SUCCEEDED).one()
            if count >= total:
                reached: datetime = moment
                return reached
            if time.monotonic() > looked + _LOOK_SECONDS:
                looked = time.monotonic()
                if wrong := world.sql(_ENDED_OTHERWISE):
                    raise RuntimeError(f"not all succeed: {wrong[0]}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{total - count} of {total} were not recorded; there are {world.sql(_STATES)}")
            time.sleep(_POLL_SECONDS)
