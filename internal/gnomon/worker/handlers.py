"""Python functions as jobs: declared with `@handler`, kept by name in a registry that is frozen at the start.

A handler's name is all that a job holds. What is called is what the operator's modules declare, never a text that was
stored.
"""

import functools
import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from gnomon.job.errors import ConfigurationError
from gnomon.job.handlers import wrong_name
from gnomon.job.retry import Strategy

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from gnomon.worker.arguments import Arguments

Function = TypeVar("Function", bound=Callable[..., Any])


class PermanentError(Exception):
    """Raised by a handler: trying again can't help. The execution is FAILED at once."""


class Cancelled(Exception):
    """Raised by `Context.check`: the attempt is no longer wanted, and what was done of it is not the whole."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a handler may know of its attempt. `deadline` is when it is ended by force, in UTC.

    `execution_id` is the same for each attempt of an execution: the key by which to do a thing once.
    """

    execution_id: UUID
    job_id: UUID
    scheduled_at: datetime
    attempt: int
    deadline: datetime
    logger: logging.Logger | logging.LoggerAdapter[logging.Logger] = field(repr=False)
    is_cancelled: Callable[[], bool] = field(default=lambda: False, repr=False)
    transaction: "Connection | None" = field(default=None, repr=False)

    @property
    def cancelled(self) -> bool:
        """Whether the attempt was cancelled, or lost its lease, or its worker stops. It is ended by force soon after.

        A handler that leaves off for it has to raise, as `check` does: one that returns has succeeded.
        """
        return self.is_cancelled()

    def check(self) -> None:
        """Raises Cancelled if the attempt is cancelled."""
        if self.cancelled:
            raise Cancelled("the attempt was broken off")

    @property
    def connection(self) -> "Connection":
        """The transaction that also records the success: what is written there is there exactly if that is.

        Raises ConfigurationError unless the handler was declared with `transaction=True`.
        """
        if self.transaction is None:
            raise ConfigurationError("there is no transaction: declare the handler with transaction=True")
        return self.transaction


@dataclass(frozen=True, kw_only=True)
class Handler:
    """A function under its name. Raises ConfigurationError for one that can't be a handler.

    `given_schema`: a JSON Schema that a payload has to fulfil, in place of the one that follows from the type hints.
    """

    name: str
    function: Callable[..., Any] = field(repr=False)
    given_schema: Mapping[str, Any] | None = field(default=None, repr=False)
    transaction: bool = False

    def __post_init__(self) -> None:
        _check_name("handler", self.name)
        if inspect.isgeneratorfunction(self.function) or inspect.isasyncgenfunction(self.function):
            raise ConfigurationError(
                f"handler {self.name!r} ({self.place}) is a generator: calling it would run none of it"
            )
        if self.transaction and self.is_async:
            raise ConfigurationError(
                f"handler {self.name!r} ({self.place}): transaction=True is for functions declared with def, not"
                " async def"
            )

    @property
    def is_async(self) -> bool:
        """Whether it runs on the event loop, on the queue `async`."""
        function: Any = self.function
        while isinstance(function, functools.partial):
            function = function.func
        return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004

    @property
    def queue(self) -> str:
        """Which workers run it."""
        return "async" if self.is_async else "handlers"

    @property
    def place(self) -> str:
        """Where it is defined."""
        return _place(self.function)

    @property
    def schema(self) -> Mapping[str, Any]:
        """The JSON Schema of its payload."""
        return self.arguments.schema

    @functools.cached_property
    def arguments(self) -> "Arguments":
        """How a payload becomes the function's arguments."""
        from gnomon.worker.arguments import read_arguments  # pydantic: not where a function is only declared

        return read_arguments(self)


class HandlerRegistry:
    """Handlers and retry strategies by name."""

    def __init__(self, handlers: Iterable[Handler] = ()) -> None:
        self._handlers: dict[str, Handler] = {}
        self._strategies: dict[str, Strategy] = {}
        self._frozen = False
        for one in handlers:
            self.add(one)

    def add(self, handler: Handler) -> None:
        """Takes a handler, and finds out what it wants of a payload. The same function twice is no error.

        Raises ConfigurationError for a name that another function has, and once the registry is frozen.
        """
        self._refuse_frozen("handler", handler.name)
        _refuse_other(
            "handler", handler.name, handler.function, getattr(self._handlers.get(handler.name), "function", None)
        )
        _ = handler.arguments
        self._handlers[handler.name] = handler

    def add_retry_strategy(self, name: str, function: Strategy) -> None:
        """Takes a retry strategy; the same rules hold."""
        _check_name("retry strategy", name)
        self._refuse_frozen("retry strategy", name)
        _refuse_other("retry strategy", name, function, self._strategies.get(name))
        self._strategies[name] = function

    def freeze(self) -> None:
        """From now on `add` is refused: what a process announces at its start is what it can run."""
        self._frozen = True

    def get(self, name: str) -> Handler | None:
        """The handler of this name, if there is one."""
        return self._handlers.get(name)

    def __contains__(self, name: object) -> bool:
        return name in self._handlers

    @property
    def handlers(self) -> Sequence[Handler]:
        """All, by name."""
        return [self._handlers[name] for name in self.names]

    @property
    def names(self) -> Sequence[str]:
        """The names of all handlers, in order."""
        return sorted(self._handlers)

    @property
    def retry_strategies(self) -> Mapping[str, Strategy]:
        """All retry strategies by name."""
        return MappingProxyType(self._strategies)

    def _refuse_frozen(self, what: str, name: str) -> None:
        if self._frozen:
            raise ConfigurationError(
                f"{what} {name!r} comes too late: declare it in a module that is loaded at the start"
            )


_declared_handlers: list[Handler] = []
_declared_strategies: list[tuple[str, Strategy]] = []


def handler(
    name: str, *, schema: Mapping[str, Any] | None = None, transaction: bool = False
) -> Callable[[Function], Function]:
    """Makes a function the handler of jobs whose `type` is `name`; `async def` makes it an asynchronous one.

    Its type hints say what it wants of the payload, unless `schema`, a JSON Schema, does. With `transaction` it is
    given a database transaction, `context.connection`, that also records its success. The function itself stays as it
    is.
    """

    def declare(function: Function) -> Function:
        declared = Handler(name=name, function=function, given_schema=schema, transaction=transaction)
        _declared_handlers.append(declared)
        return function

    return declare


def retry_strategy(name: str) -> Callable[[Function], Function]:
    """Makes a function the retry strategy `name`: from a RetryAttempt it tells how long to wait, or None to give up.

    A number is seconds.
    """

    def declare(function: Function) -> Function:
        _check_name("retry strategy", name)
        _declared_strategies.append((name, function))
        return function

    return declare


def declared_handlers(function: Callable[..., Any]) -> Sequence[Handler]:
    """What `@handler` made of this function."""
    return [one for one in _declared_handlers if one.function is function]


def declared_strategies() -> Mapping[str, Strategy]:
    """What `@retry_strategy` made of functions so far; of one name, the last."""
    return dict(_declared_strategies)


def load_handlers(modules: Sequence[str]) -> HandlerRegistry:
    """Imports these modules and returns what was declared in them and what they import, frozen.

    They are looked for where Python looks, and then in the current folder. Raises ConfigurationError that names the
    module and what is wrong with it.
    """
    if modules and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for module in modules:
        _import(module)
    registry = HandlerRegistry()
    if modules:
        for one in _declared_handlers:
            registry.add(one)
        for name, function in _declared_strategies:
            registry.add_retry_strategy(name, function)
    registry.freeze()
    return registry


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except ConfigurationError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigurationError(
            f"the handlers' module {module!r} can't be imported: {type(error).__name__}: {error}"
        ) from error


def _check_name(what: str, name: object) -> None:
    reason = wrong_name(name) if isinstance(name, str) else "write it as a text"
    if reason is not None:
        raise ConfigurationError(f"{str(name)[:120]!r} can't be the name of a {what}: {reason}")


def _refuse_other(what: str, name: str, function: Callable[..., Any], known: Callable[..., Any] | None) -> None:
    """A module that is imported twice, as a script is by its children, declares the same function again."""
    if known is not None and known is not function and _place(known) != _place(function):
        raise ConfigurationError(f"two functions are {what} {name!r}: {_place(known)} and {_place(function)}")


def _place(function: Callable[..., Any]) -> str:
    unwrapped: Any = inspect.unwrap(function)
    while isinstance(unwrapped, functools.partial):
        unwrapped = inspect.unwrap(unwrapped.func)
    code = getattr(unwrapped, "__code__", None)
    if code is None:
        return f"{type(unwrapped).__module__}.{type(unwrapped).__qualname__}"
    return f"{code.co_filename}:{code.co_firstlineno}"
