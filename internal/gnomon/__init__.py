"""Gnomon: a distributed job scheduler managed over REST.

The names below are found when they are first asked for, so that `import gnomon` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gnomon.worker.handlers import Context as Context
    from gnomon.worker.handlers import PermanentError as PermanentError
    from gnomon.worker.handlers import handler as handler
    from gnomon.worker.handlers import retry_strategy as retry_strategy

__version__ = "0.1.0"

_PLACES = {
    "Context": "gnomon.worker.handlers",
    "PermanentError": "gnomon.worker.handlers",
    "handler": "gnomon.worker.handlers",
    "retry_strategy": "gnomon.worker.handlers",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
