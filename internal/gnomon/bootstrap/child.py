"""The child process of a worker, in which sync handlers run."""

import socket
import sys
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from gnomon.job.errors import GnomonError
from gnomon.job.ports import EffectStore
from gnomon.worker.children.child import Child, live_under_worker, log_to
from gnomon.worker.children.wire import Link
from gnomon.worker.handlers import HandlerRegistry, load_handlers


def main(given: Mapping[str, Any]) -> None:
    """Runs until the worker is gone. `given` is what `worker_given` and Birth say."""
    live_under_worker(given["parent"], memory=given["memory"])
    link = Link(socket.socket(fileno=given["link"]))
    name_execution = log_to(link, level=given["log_level"])
    try:
        registry = load_handlers(given["modules"])
        effects = _effects(registry, given)
    except GnomonError as error:
        link.send({"kind": "failed", "message": str(error)})
        sys.exit(1)
    Child(link, registry, effects=effects, name_execution=name_execution).serve()


def worker_given(*, database_url: str, instance: UUID) -> Mapping[str, Any]:
    """What `main` needs to know of its worker."""
    return {"database_url": database_url, "instance": str(instance)}


def _effects(registry: HandlerRegistry, given: Mapping[str, Any]) -> EffectStore | None:
    """None where no handler wants a transaction: then the database's driver need not be there."""
    if not any(handler.transaction for handler in registry.handlers):
        return None
    from gnomon.storage.postgres.effects import PostgresEffects
    from gnomon.storage.postgres.engine import create_engine

    engine = create_engine(given["database_url"], pool_size=1, max_open=1, check_first=True)
    return PostgresEffects(engine, instance=UUID(given["instance"]))
