"""What a process registered: a job of the library as a definition, and the function that it calls."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from gnomon.job.document import read_definition, write_definition
from gnomon.job.errors import ConfigurationError, InvalidJob
from gnomon.job.handlers import HandlerInfo
from gnomon.job.model import Definition, Delivery, Job, Misfire, MisfirePolicy, Overlap
from gnomon.job.retry import RetryPolicy
from gnomon.job.schedule import Timing
from gnomon.job.target import HandlerTarget
from gnomon.library.durations import Duration, read_duration, utc_now
from gnomon.library.schedules import After, Schedule, resolve, with_timezone
from gnomon.worker.handlers import Context, Handler, declared_handlers, declared_strategies

QUEUE: Final = "handlers"  # there is one worker for all, so that a function may become async without a new revision


@dataclass(frozen=True, kw_only=True)
class Policies:
    """How a job is carried out; see docs/semantics.md."""

    retry: RetryPolicy | None
    timeout: Duration
    misfire: Misfire | MisfirePolicy | str
    overlap: Overlap | str
    delivery: Delivery | str


class Registered:
    """Catalog of one process: what it can run itself."""

    def __init__(self, registrations: Mapping[str, "Registration"]) -> None:
        self._registrations = registrations

    def handler(self, name: str) -> HandlerInfo | None:
        """None for a job that is not registered here."""
        known = self._registrations.get(name)
        if known is None:
            return None
        schema = known.handler.schema
        return HandlerInfo(name=name, queue=QUEUE, schema=schema, last_seen_at=utc_now(), alive=True)

    def handlers(self) -> Sequence[HandlerInfo]:
        """By name."""
        return [info for name in sorted(self._registrations) if (info := self.handler(name)) is not None]

    def retry_strategies(self) -> Sequence[str]:
        """By name."""
        return sorted(declared_strategies())


@dataclass(frozen=True, kw_only=True)
class Registration:
    """A job that this process can run. Two are the same where only the function's identity differs, not its place."""

    handler: Handler
    schedule: Schedule
    payload: Mapping[str, Any]
    policies: Policies

    @property
    def name(self) -> str:
        """That of the job and of its handler."""
        return self.handler.name

    def define(self, job: Job | None, now: datetime) -> Definition:
        """The definition to be stored, given what is stored. Raises InvalidJob for what breaks a rule."""
        policies = self.policies
        definition = Definition(
            target=HandlerTarget(name=self.name, payload=self.payload, queue=QUEUE),
            timing=Timing(schedule=resolve(self.schedule, job, now)),
            name=self.name,
            tags=(self.schedule.tag,) if isinstance(self.schedule, After) else (),
            timeout=read_duration(policies.timeout),
            retry=policies.retry or RetryPolicy(),
            misfire=_misfire(policies.misfire),
            overlap=_choice("overlap", Overlap, policies.overlap),
            delivery=_choice("delivery", Delivery, policies.delivery),
        )
        return read_definition(write_definition(definition, secrets=True))

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Around what may raise InvalidJob: its text then says which job it is about."""
        try:
            yield
        except InvalidJob as error:
            named = InvalidJob(error.errors)
            hints = "".join(f" ({one.hint})" for one in error.errors if one.hint)
            named.args = (f"job {self.name!r}: {error}{hints}",)
            raise named from error


def make_registration(
    name: str,
    schedule: Schedule,
    function: Callable[..., Any],
    payload: Mapping[str, Any] | None,
    timezone: str | None,
    policies: Policies,
) -> Registration:
    """Raises ConfigurationError and InvalidJob for what can be known to be wrong without the store.

    Moments in the past are not: the same job may be stored, and over.
    """
    registration = Registration(
        handler=make_handler(name, function),
        schedule=with_timezone(schedule, timezone),
        payload=plain_payload(name, payload),
        policies=policies,
    )
    with registration.named_errors():
        definition = registration.define(None, utc_now())
    strategy = definition.retry.strategy
    if strategy is not None and strategy not in declared_strategies():
        known = ", ".join(sorted(declared_strategies())) or "none"
        raise ConfigurationError(
            f"job {name!r}: no retry strategy {strategy!r} is declared in this process (known: {known})"
        )
    _check_payload(registration)
    return registration


def _check_payload(registration: Registration) -> None:
    """Against what the function takes. Raises InvalidJob."""
    from gnomon.worker.arguments import InvalidPayload

    nobody = UUID(int=0)
    now = utc_now()
    call = Context(
        execution_id=nobody, job_id=nobody, scheduled_at=now, attempt=1, deadline=now, logger=logging.getLogger()
    )
    try:
        registration.handler.arguments.of(registration.payload, call)
    except InvalidPayload as error:
        raise InvalidJob.at("/payload", f"of job {registration.name!r} does not fit its function: {error}") from error


def make_handler(name: str, function: Callable[..., Any]) -> Handler:
    """What is called for a job of this name. Raises ConfigurationError for what can't be.

    A schema that `@handler` was given for the function holds here too.
    """
    declared = declared_handlers(function)
    schema = declared[-1].given_schema if declared else None
    if any(one.transaction for one in declared):
        raise ConfigurationError(f"job {name!r}: a handler with transaction=True needs a worker of its own to run it")
    handler = Handler(name=name, function=function, given_schema=schema)
    _ = handler.arguments  # now, so that a function that can't be called is told of where it is registered
    return handler


def plain_payload(name: str, payload: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """As it will come back from the store. Raises InvalidJob for what JSON can't hold."""
    try:
        plain = json.loads(json.dumps(dict(payload or {}), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidJob.at("/payload", f"of job {name!r} can't be written as JSON: {error}") from error
    found: Mapping[str, Any] = plain
    return found


def _misfire(given: Misfire | MisfirePolicy | str) -> Misfire:
    return given if isinstance(given, Misfire) else Misfire(policy=_choice("misfire", MisfirePolicy, given))


def _choice(field: str, kind: type[Any], given: str) -> Any:
    try:
        return kind(given)
    except ValueError as error:
        known = ", ".join(repr(str(one)) for one in kind)
        raise ConfigurationError(f"{field}={given!r} is not known: give one of {known}") from error
