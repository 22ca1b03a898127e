"""Gnomon: a distributed job scheduler managed over REST.

The names below are found when they are first asked for, so that `import gnomon` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gnomon.job.errors import ConfigurationError as ConfigurationError
    from gnomon.job.errors import Conflict as Conflict
    from gnomon.job.errors import GnomonError as GnomonError
    from gnomon.job.errors import InvalidJob as InvalidJob
    from gnomon.job.errors import NotFound as NotFound
    from gnomon.job.errors import Overlapping as Overlapping
    from gnomon.job.errors import Unavailable as Unavailable
    from gnomon.job.model import Delivery as Delivery
    from gnomon.job.model import Execution as Execution
    from gnomon.job.model import Job as Job
    from gnomon.job.model import JobStatus as JobStatus
    from gnomon.job.model import Misfire as Misfire
    from gnomon.job.model import MisfirePolicy as MisfirePolicy
    from gnomon.job.model import Overlap as Overlap
    from gnomon.job.model import State as State
    from gnomon.job.retry import RetryPolicy as RetryPolicy
    from gnomon.job.schedule import Cron as Cron
    from gnomon.library.scheduler import Scheduler as Scheduler
    from gnomon.library.schedules import After as After
    from gnomon.library.schedules import At as At
    from gnomon.library.schedules import Every as Every
    from gnomon.worker.handlers import Context as Context
    from gnomon.worker.handlers import PermanentError as PermanentError
    from gnomon.worker.handlers import handler as handler
    from gnomon.worker.handlers import retry_strategy as retry_strategy

__version__ = "0.1.0"

_NAMES = {
    "gnomon.job.errors": (
        "ConfigurationError",
        "Conflict",
        "GnomonError",
        "InvalidJob",
        "NotFound",
        "Overlapping",
        "Unavailable",
    ),
    "gnomon.job.model": ("Delivery", "Execution", "Job", "JobStatus", "Misfire", "MisfirePolicy", "Overlap", "State"),
    "gnomon.job.retry": ("RetryPolicy",),
    "gnomon.job.schedule": ("Cron",),
    "gnomon.library.scheduler": ("Scheduler",),
    "gnomon.library.schedules": ("After", "At", "Every"),
    "gnomon.worker.handlers": ("Context", "PermanentError", "handler", "retry_strategy"),
}
_PLACES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
