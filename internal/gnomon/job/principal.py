"""Who asks, and what they may do."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a key allows; each role may do what those before it may."""

    METRICS = "metrics"
    READ = "read"
    WRITE = "write"
    ADMIN = "admin"

    def includes(self, other: "Role") -> bool:
        """Whether this role is enough where `other` is needed."""
        return _ORDER.index(self) >= _ORDER.index(other)


_ORDER = tuple(Role)


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Whoever sent a request. `id` is that of their key; `name` is for people."""

    id: str
    name: str
    role: Role


# Everybody, as long as nobody has a key.
ANONYMOUS = Principal(id="anonymous", name="anonymous", role=Role.ADMIN)
