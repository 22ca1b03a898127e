"""The processes that take part, and which of them live."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

HEARTBEAT = timedelta(seconds=4)
# Two heartbeats may get lost, or be late.
ALIVE_WITHIN = 3 * HEARTBEAT


class Role(StrEnum):
    """What a process does."""

    API = "api"
    SCHEDULER = "scheduler"
    WORKER = "worker"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who a process is, by its own account. `id` is a fresh one for each start, `name` what its operator calls it."""

    id: UUID
    name: str
    role: Role
    host: str
    pid: int
    version: str
    queues: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Instance(Identity):
    """A process that has registered itself, by the store's clock.

    `alive`: its last heartbeat is no older than ALIVE_WITHIN. `left_at` is set when it ended in an orderly way.
    `leader`: the one scheduler that keeps house.
    """

    started_at: datetime
    heartbeat_at: datetime
    left_at: datetime | None
    alive: bool
    leader: bool
