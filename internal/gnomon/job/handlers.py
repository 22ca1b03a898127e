"""Handlers and retry strategies by name: what workers have registered in code, seen by those that never import it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")
RESERVED = frozenset(("http", "amqp"))  # what else a job's `type` can say


@dataclass(frozen=True, kw_only=True)
class HandlerSpec:
    """A handler as a worker announces it. `schema` is the JSON Schema of its payload; None takes any object."""

    name: str
    queue: str
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class HandlerInfo(HandlerSpec):
    """A handler that was announced. `alive`: a process that has it lives now."""

    last_seen_at: datetime
    alive: bool


def wrong_name(name: str) -> str | None:
    """Why this can't name a handler; None when it can."""
    if not NAME.fullmatch(name):
        return "a handler's name has up to 100 letters, digits, '_', '.' and '-', and begins with a letter or '_'"
    if name.lower() in RESERVED:
        return f"{name} is a kind of target, so no handler can be named like it"
    return None
