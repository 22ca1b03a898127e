"""Starting while the database or the broker is away: say so, and wait for it."""

import logging
import time
from collections.abc import Callable

from gnomon.job.errors import Unavailable
from gnomon.process.backoff import Backoff, draw
from gnomon.process.chore import Stop
from gnomon.process.outage import Outage

_log = logging.getLogger(__name__)


def wait_until_available(
    name: str,
    attempt: Callable[[], None],
    stop: Stop,
    *,
    backoff: Backoff = Backoff(),  # noqa: B008 - frozen
    clock: Callable[[], float] = time.monotonic,
    rand: Callable[[], float] = draw,
) -> bool:
    """Repeats `attempt` while it raises Unavailable. False when `stop` came first; other exceptions pass through.

    `name` begins the log lines: "waiting for the database".
    """
    outage = Outage(name, backoff=backoff, clock=clock, log=_log, rand=rand)
    while not stop.is_set():
        try:
            attempt()
        except Unavailable as error:
            stop.wait(outage.unavailable(error).total_seconds())
        else:
            outage.over()
            return True
    return False
