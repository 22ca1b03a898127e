"""Publish slots: how long a message has before its execution is published again."""

from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from uuid import UUID

from gnomon.job.model import State
from gnomon.storage.memory.state import Memory

SLOT = timedelta(seconds=15)
MAX_SLOT = timedelta(minutes=15)
MOST_COUNTED = 100


def next_slot(count: int, rand: Callable[[], float]) -> timedelta:
    """After `count` messages: doubled each time, with up to a tenth of jitter so that herds disperse."""
    doubled: int = 2 ** min(count, 10)
    return min(SLOT * doubled, MAX_SLOT) * (1 + rand() / 10)


def return_slots(
    memory: Memory,
    ids: Collection[UUID],
    now: datetime,
    *,
    delay: timedelta = timedelta(0),
    spread: timedelta = timedelta(0),
) -> None:
    """Pending executions are due to be published after `delay` and a part of `spread`, or when they are available."""
    for row in (memory.rows.get(execution_id) for execution_id in ids):
        if row is not None and row.state is State.PENDING:
            memory.slot(row, max(now + delay + memory.rand() * spread, row.execution.available_at), 0)
