"""What a definition names that workers register in code, checked against what they announced."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gnomon.job.document import TARGET_FIELDS, format_instant
from gnomon.job.errors import FieldError, InvalidJob
from gnomon.job.handlers import HandlerInfo
from gnomon.job.json_schema import UnusableSchema, schema_errors
from gnomon.job.model import Definition
from gnomon.job.ports import Catalog
from gnomon.job.target import HandlerTarget, type_of

MAX_LISTED = 20
HOW_TO_ANNOUNCE = "list its module in --worker-handlers of a worker and start that"


@dataclass(frozen=True, kw_only=True)
class Announced:
    """What the catalog answered about the names in one document. `known`: all names, where one was not found."""

    handler_name: str | None = None
    handler: HandlerInfo | None = None
    known: Sequence[str] = ()
    strategy: str | None = None
    known_strategies: Sequence[str] = ()

    def is_about(self, definition: Definition) -> bool:
        """Whether these are the names that the definition has."""
        target = definition.target
        name = target.name if isinstance(target, HandlerTarget) else None
        return (self.handler_name, self.strategy) == (name, definition.retry.strategy)


def ask(catalog: Catalog, document: Mapping[str, Any]) -> Announced:
    """Asks only about what the document names; most name nothing. Raises Unavailable."""
    kind, strategy = document.get("type"), (document.get("retry") or {}).get("strategy")
    name = kind if isinstance(kind, str) and kind not in TARGET_FIELDS else None
    handler = None if name is None else catalog.handler(name)
    return Announced(
        handler_name=name,
        handler=handler,
        known=[one.name for one in catalog.handlers()] if name is not None and handler is None else (),
        strategy=strategy,
        known_strategies=() if strategy is None else catalog.retry_strategies(),
    )


def settled(definition: Definition, announced: Announced, before: Definition | None) -> Definition:
    """The definition with the queue of its handler. Raises InvalidJob for what nobody announced, or does not fit.

    What stays as it was `before` the edit is not held against it: a job whose handler has changed since, or is gone,
    can still be given another schedule.
    """
    errors = [
        *(_handler_errors(definition, announced) if _target_changed(definition, before) else ()),
        *(_strategy_errors(announced) if before is None or before.retry.strategy != announced.strategy else ()),
    ]
    if errors:
        raise InvalidJob(errors)
    target, handler = definition.target, announced.handler
    if isinstance(target, HandlerTarget) and handler is not None:
        return replace(definition, target=replace(target, queue="async" if handler.queue == "async" else "handlers"))
    return definition


def refusal(error: InvalidJob, announced: Announced, before: Definition | None) -> InvalidJob:
    """Why a document was refused. Where its type is a name that nobody announced, that is told before all else.

    The parts of other types beside it are then no fault: it may be one of them, misspelt.
    """
    name = announced.handler_name
    if name is None or announced.handler is not None or any(broken.pointer == "/type" for broken in error.errors):
        return error
    if before is not None and type_of(before.target) == name:
        return error
    others = [broken for broken in error.errors if broken.pointer[1:] not in TARGET_FIELDS.values()]
    return InvalidJob([_unknown_handler(name, announced), *others])


def warnings(definition: Definition, announced: Announced) -> list[str]:
    """What keeps a stored definition from running well, as the workers are now."""
    found = [_as_text(error) for error in (*_handler_errors(definition, announced), *_strategy_errors(announced))]
    handler = announced.handler
    if handler is not None and not handler.alive:
        seen = format_instant(handler.last_seen_at.replace(microsecond=0))
        found.append(f"no living worker has the handler {handler.name!r}, last seen {seen}: executions wait for one")
    return found


def _target_changed(definition: Definition, before: Definition | None) -> bool:
    if before is None or type_of(before.target) != type_of(definition.target):
        return True
    target, old = definition.target, before.target
    return isinstance(target, HandlerTarget) and isinstance(old, HandlerTarget) and target.text != old.text


def _handler_errors(definition: Definition, announced: Announced) -> list[FieldError]:
    target, handler = definition.target, announced.handler
    if not isinstance(target, HandlerTarget):
        return []
    if handler is None:
        return [_unknown_handler(target.name, announced)]
    if handler.schema is None:
        return []
    try:
        return [error.under("/payload") for error in schema_errors(handler.schema, target.payload)]
    except UnusableSchema as error:
        detail = f"the schema that handler {handler.name!r} has announced can't be used ({error})"
        return [FieldError(pointer="/payload", detail=detail, hint="mend it where the handler is registered")]


def _unknown_handler(name: str, announced: Announced) -> FieldError:
    known = (*TARGET_FIELDS, *announced.known)
    detail = f"no worker has announced a handler {name!r}; {_known(known)}"
    return FieldError(pointer="/type", detail=detail, hint=_near(name, known) or HOW_TO_ANNOUNCE)


def _strategy_errors(announced: Announced) -> list[FieldError]:
    name, known = announced.strategy, announced.known_strategies
    if name is None or name in known:
        return []
    detail = f"no worker has announced a retry strategy {name!r}; {_known(known)}"
    return [FieldError(pointer="/retry/strategy", detail=detail, hint=_near(name, known) or HOW_TO_ANNOUNCE)]


def _known(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return f"known: {', '.join(names[:MAX_LISTED])}{more}" if names else "none is known"


def _near(name: str, known: Sequence[str]) -> str | None:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}? If not, {HOW_TO_ANNOUNCE}" if near else None


def _as_text(error: FieldError) -> str:
    return f"{error.pointer}: {error.detail}"
