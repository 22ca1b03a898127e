"""Places at which a process of ours can be made to die, to freeze or to fail: one before and after each step.

The product knows nothing of them. Its rooms meet at ports that bootstrap hands over, and an armed process gets ports
that stop at one point (`arm`, called by support/launcher.py when the environment names a point):

    FAILPOINT=W.before=kill            the point and the action
    FAILPOINT_MARKER=/path/of/a/file   one JSON object a line, on disk before anything happens:
                                       "led" (a lead was passed), "reached", "resumed" (after SIGCONT), "left"

A step bears the letter of docs/protocol.md where it has one. "before": nothing has been done; "after": the step is
done, and the caller does not know yet. So `raise` belongs to "before" (an outage), `do_then_raise` to "after" (a lost
reply); `kill` and `stop` belong everywhere.
"""

import asyncio
import contextlib
import functools
import inspect
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, event

from gnomon.job.errors import Unavailable
from gnomon.job.ports import (
    Catalog,
    CreationStore,
    DispatchStore,
    EffectStore,
    ExecutionQueue,
    ExecutionStore,
    HistoryStore,
    HousekeepingStore,
    ImportStore,
    InstanceStore,
    JobStore,
    KeyStore,
    OverviewStore,
    PlanBatch,
    RepeatStore,
    RunStore,
    TrailStore,
    Waker,
)
from gnomon.worker.executors.amqp_link import Link, Message

# How long after its begin a call counts as being with the target, and how long the target must then take.
MIDDLE_SECONDS = 0.25
BROKERS = ("redis", "rabbitmq")
LONG = timedelta(seconds=1)
AMQP = "E_amqp"  # the effect of an AMQP job


class Action(StrEnum):
    """What happens at a point, once."""

    KILL = "kill"  # SIGKILL
    STOP = "stop"  # SIGSTOP, until others have finished everything
    PAUSE = "pause"  # SIGSTOP, until another worker carries out what this one held
    RAISE = "raise"  # the step fails without being done
    DO_THEN_RAISE = "do_then_raise"  # the step is done, and fails all the same


class Role(StrEnum):
    """Which process has the point. A client is what the API is to its stores."""

    SCHEDULER = "scheduler"
    WORKER = "worker"
    CLIENT = "client"


@dataclass(frozen=True, kw_only=True)
class Passage:
    """What goes by at a point: the call's arguments by name and, after it, the answer."""

    arguments: Mapping[str, Any]
    answer: Any = None


When = Callable[[Passage], bool]


def _answered(passage: Passage) -> bool:
    """The step changed or found something."""
    return bool(passage.answer)


def _always(_passage: Passage) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Point:
    """A place in a step. `when`: the passages that count, so that a point is not spent on a step with nothing to do.

    `leads`: points at which the step before fails, again and again, because only then this one is reached.
    `brokers`: where it is tried.
    """

    name: str
    role: Role
    actions: Sequence[Action]
    when: When = _always
    leads: Sequence[str] = ()
    brokers: Sequence[str] = BROKERS

    @property
    def step(self) -> str:
        return self.name.rpartition(".")[0]


_BEFORE = (Action.KILL, Action.STOP, Action.RAISE)
_SIGNALS = (Action.KILL, Action.STOP)
_AFTER = (Action.KILL, Action.STOP, Action.DO_THEN_RAISE)
# Of a worker that holds attempts.
_HOLDING_BEFORE = (*_BEFORE, Action.PAUSE)
_HOLDING_AFTER = (*_AFTER, Action.PAUSE)


def _scheduler(name: str, actions: Sequence[Action], when: When = _always, leads: Sequence[str] = ()) -> Point:
    return Point(name=name, role=Role.SCHEDULER, actions=actions, when=when, leads=leads)


def _worker(name: str, actions: Sequence[Action], when: When = _always, leads: Sequence[str] = ()) -> Point:
    return Point(name=name, role=Role.WORKER, actions=actions, when=when, leads=leads)


def _message(name: str, actions: Sequence[Action]) -> Point:
    """Of a message to publish: its target is a RabbitMQ, which cells on Redis have none of."""
    return Point(name=f"{AMQP}.{name}", role=Role.WORKER, actions=actions, brokers=["rabbitmq"])


def _client(verb: str) -> list[Point]:
    """The API's verbs are transactions of several statements: what came before the commit is as if it never was."""
    return [
        Point(name=f"{verb}.before_commit", role=Role.CLIENT, actions=_BEFORE),
        Point(name=f"{verb}.after_commit", role=Role.CLIENT, actions=_AFTER),
    ]


def _took_long(passage: Passage) -> bool:
    """Who takes that over is still at it when the worker that was paused comes back."""
    return any(record.duration > LONG for record in passage.arguments["records"])


def _removed(passage: Passage) -> bool:
    return bool(getattr(passage.answer, "removed", passage.answer))


def _unsparing(passage: Passage) -> bool:
    return passage.arguments["spare"] is None


POINTS: Mapping[str, Point] = {
    point.name: point
    for point in (
        _scheduler("D.before", _BEFORE),
        _scheduler("D.before_commit", _SIGNALS),  # to fail here is to fail before: the transaction is undone
        _scheduler("D.after_commit", _AFTER, lambda passage: passage.answer.jobs > 0),
        _scheduler("P.before", _BEFORE),
        _scheduler("P.middle", _BEFORE, lambda passage: len(passage.arguments["ids"]) > 1),
        _scheduler("P.after", _AFTER),
        _scheduler("R1.before", _BEFORE),
        _scheduler("R1.after_commit", _AFTER, _answered),
        _scheduler("free_slots.before", _BEFORE),
        _scheduler("free_slots.after_commit", _AFTER, _answered),
        _scheduler("return_slots.before", _BEFORE, leads=["P.before"]),
        _scheduler("return_slots.after_commit", _AFTER, leads=["P.before"]),
        _scheduler("R2.before", _BEFORE, _unsparing),
        _scheduler("R2.after_commit", _AFTER, lambda passage: passage.answer.total > 0),
        _scheduler("prune.before", _BEFORE),
        _scheduler("prune.after_commit", _AFTER, _removed),
        _worker("C.before", _BEFORE),
        _worker("C.after_commit", _HOLDING_AFTER, _answered),
        _worker(
            "definitions.after", (*_SIGNALS, Action.PAUSE, Action.RAISE), _answered
        ),  # a question: done or not is all the same
        _worker("S.before", _HOLDING_BEFORE),
        _worker("S.after_commit", _AFTER, _answered),
        _worker("E.before", _HOLDING_BEFORE),
        _worker("E.middle", (*_SIGNALS, Action.PAUSE)),
        _worker("E.after", _HOLDING_AFTER),
        _message("before", _BEFORE),
        _message("middle", _SIGNALS),
        _message("after", _AFTER),
        _worker("W.before", _HOLDING_BEFORE, _took_long),
        _worker("W.after_commit", _AFTER, _answered),
        _worker("renew.before", _HOLDING_BEFORE),
        _worker("renew.after_commit", _HOLDING_AFTER, _answered),
        _worker("cancel_poll.before", _BEFORE),
        _worker("cancel_poll.after", _SIGNALS, _answered),
        _worker("L.before", _HOLDING_BEFORE, leads=["definitions.before"]),
        _worker("L.after_commit", _AFTER, _answered, leads=["definitions.before"]),
        _worker("worker.return_slots.before", _BEFORE),
        _worker("worker.return_slots.after_commit", _AFTER),
        # without quotas to keep it is one statement, whose commit is the server's own
        Point(name="create.before", role=Role.CLIENT, actions=_BEFORE),
        Point(name="create.after_commit", role=Role.CLIENT, actions=_AFTER),
        *(point for verb in ("create_once", "update", "pause", "resume", "delete") for point in _client(verb)),
        *(point for verb in ("run", "retry", "repeat", "backfill", "cancel") for point in _client(verb)),
    )
}

# The verbs of each port, as steps; a verb that is in neither table fails a unit test.
STEPS: Mapping[type, Mapping[str, str]] = {
    DispatchStore: {
        "dispatch": "D",
        "republish": "R1",
        "return_slots": "return_slots",
        "free_slots": "free_slots",
        "rescue": "R2",
    },
    ExecutionQueue: {"publish": "P"},
    ExecutionStore: {
        "claim": "C",
        "definitions": "definitions",
        "start": "S",
        "record": "W",
        "renew": "renew",
        "cancel_requested": "cancel_poll",
        "release": "L",
        "return_slots": "worker.return_slots",
    },
    HousekeepingStore: {"prune_aged": "prune", "prune_crowded": "prune"},
    JobStore: {"create": "create", "update": "update", "delete": "delete"},
    CreationStore: {"create": "create_once"},
    RunStore: {"run": "run", "retry": "retry", "backfill": "backfill", "cancel": "cancel"},
    RepeatStore: {"repeat": "repeat"},
}
# What changes no execution: to die there is to die before the next step.
WITHOUT_POINTS: Mapping[type, set[str]] = {
    DispatchStore: {"horizon"},
    ExecutionQueue: {"probe", "lost_messages", "break_off"},
    ExecutionStore: {"recorded_before", "overlooked", "pending"},
    EffectStore: {"together"},  # in a child process: tests/integration/test_effects.py kills that at each point
    JobStore: {"get", "get_by_name", "list"},
    CreationStore: {"rehearse"},
    ImportStore: {"put"},  # jobs only: tests/integration/test_api_transfer.py breaks it off
    RunStore: set(),
    RepeatStore: {"matching"},
    HistoryStore: {"get", "list", "tallies"},
    OverviewStore: {"count_jobs", "count_executions", "queues", "stats", "evidence"},
    HousekeepingStore: {
        "untidy_jobs",
        "drop_revisions",
        "drop_jobs",
        "trim_trail",
        "forget_keys",
        "forget_instances",
    },
    InstanceStore: {"beat", "leave", "list", "leader"},
    Catalog: {"handler", "handlers", "retry_strategies"},
    TrailStore: {"list"},
    KeyStore: {"add", "ensure", "find", "list", "revoke", "used", "any_made"},
    Waker: {"wait", "wake"},
}


_CROSSING: ContextVar[object] = ContextVar("crossing", default=None)


class Switch:
    """The armed point of this process. Acts once; the leads fail until then."""

    def __init__(self, point: Point, action: Action, marker: Path) -> None:
        self._point = point
        self._action = action
        self._marker = marker
        self._lock = threading.Lock()
        self._acted = False
        self._acted_in: object = None

    @property
    def armed_at(self) -> str:
        return self._point.name

    @property
    def step(self) -> str:
        return self._point.step

    def pass_by(self, name: str, passage: Passage) -> None:
        """The process is at the point `name`. Whether it leaves it is another question."""
        if name in self._point.leads and not self._acted:
            self._note("led")
            raise Unavailable(f"a lead to {self._point.name}")
        if name == self._point.name and self._is_first(passage):
            self._note("reached", **_named(passage))
            self._act()

    @contextlib.contextmanager
    def crossing(self) -> Iterator[None]:
        """One run of a step, in whichever thread or task. The end of the armed one is noted, however it ended."""
        this = object()
        before = _CROSSING.set(this)
        try:
            yield
        finally:
            _CROSSING.reset(before)
            if self._acted_in is this:
                self._note("left")

    def _is_first(self, passage: Passage) -> bool:
        with self._lock:
            first = not self._acted and self._point.when(passage)
            if first:
                self._acted, self._acted_in = True, _CROSSING.get()
        return first

    def _act(self) -> None:
        match self._action:
            case Action.KILL:
                _signal_myself(signal.SIGKILL)
            case Action.STOP | Action.PAUSE:
                _signal_myself(signal.SIGSTOP)
                self._note("resumed")
            case Action.RAISE | Action.DO_THEN_RAISE:
                raise Unavailable(f"the failpoint {self._point.name}")

    def _note(self, happened: str, **fields: object) -> None:
        line = json.dumps({"event": happened, **fields}) + "\n"
        descriptor = os.open(self._marker, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _signal_myself(number: signal.Signals) -> None:
    # to this thread: a signal for the process may be taken by another one while this one runs on
    signal.pthread_kill(threading.get_ident(), number)


def _named(passage: Passage) -> Mapping[str, str]:
    call = passage.arguments.get("call")
    return {} if call is None else {"execution": str(call.execution_id)}


class ArmedPort:
    """Stands where `inner` would: the calls that are steps pass the switch, the others go through."""

    def __init__(self, inner: object, steps: Mapping[str, str], switch: Switch) -> None:
        self._inner = inner
        self._steps = steps
        self._switch = switch

    def __getattr__(self, verb: str) -> Any:
        method = getattr(self._inner, verb)
        step = self._steps.get(verb)
        return method if step is None else functools.partial(self._pass, step, method)

    def _pass(self, step: str, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        arguments = inspect.signature(method).bind(*args, **options).arguments
        with self._switch.crossing():
            self._switch.pass_by(f"{step}.before", Passage(arguments=arguments))
            answer = method(*args, **options)
            for after in ("after", "after_commit"):
                self._switch.pass_by(f"{step}.{after}", Passage(arguments=arguments, answer=answer))
        return answer


class ArmedDispatchStore(ArmedPort):
    """Knows of the commit too: that of a transaction which has planned something."""

    def __init__(self, inner: DispatchStore, engine: Engine, switch: Switch) -> None:
        super().__init__(inner, STEPS[DispatchStore], switch)
        self._planned_in: int | None = None  # a thread: others commit on this engine too
        event.listen(engine, "commit", self._before_commit)

    def dispatch(self, decide: PlanBatch, *, limit: int) -> Any:
        def planned(*args: Any) -> Any:
            self._planned_in = threading.get_ident()
            return decide(*args)

        return self._pass("D", self._inner.dispatch, planned, limit=limit)  # type: ignore[attr-defined]

    def _before_commit(self, _connection: object) -> None:
        if self._planned_in == threading.get_ident():
            self._planned_in = None
            self._switch.pass_by("D.before_commit", Passage(arguments={}))


class ArmedTransactions(ArmedPort):
    """A store of the API: the points of each verb are before and after its commit."""

    def __init__(self, inner: object, steps: Mapping[str, str], engine: Engine, switch: Switch) -> None:
        super().__init__(inner, steps, switch)
        self._mine = threading.local()  # others commit on this engine too
        event.listen(engine, "commit", self._before_commit)

    def _pass(self, step: str, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        self._mine.step = step
        try:
            return super()._pass(step, method, *args, **options)
        finally:
            self._mine.step = ""

    def _before_commit(self, _connection: object) -> None:
        if step := getattr(self._mine, "step", ""):
            self._switch.pass_by(f"{step}.before_commit", Passage(arguments={}))


class ArmedQueue(ArmedPort):
    """Sends in two halves when the point is between them."""

    def __init__(self, inner: ExecutionQueue, switch: Switch) -> None:
        super().__init__(inner, STEPS[ExecutionQueue], switch)

    def publish(self, queue: str, ids: Sequence[UUID]) -> None:
        self._pass("P", self._send, queue, ids)

    def _send(self, queue: str, ids: Sequence[UUID]) -> None:
        publish = self._inner.publish  # type: ignore[attr-defined]
        if self._switch.armed_at != "P.middle":
            publish(queue, ids)
            return
        half = (len(ids) + 1) // 2
        publish(queue, ids[:half])
        self._switch.pass_by("P.middle", Passage(arguments={"ids": ids}))
        publish(queue, ids[half:])


class ArmedExecutor:
    """An executor, on the event loop."""

    def __init__(self, inner: Any, switch: Switch) -> None:
        self._inner = inner
        self._switch = switch

    step = "E"

    async def execute(self, target: object, call: Any) -> Any:
        passage = Passage(arguments={"call": call})
        with self._switch.crossing():
            self._switch.pass_by(f"{self.step}.before", passage)
            outcome = await self._watched(self._inner.execute(target, call), passage)
            self._switch.pass_by(f"{self.step}.after", passage)
        return outcome

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _watched(self, attempt: Any, passage: Passage) -> Any:
        """Acts in the middle of the first attempt that takes long enough."""
        if self._switch.armed_at != "E.middle":
            return await attempt
        middle = asyncio.get_running_loop().call_later(MIDDLE_SECONDS, self._switch.pass_by, "E.middle", passage)
        try:
            return await attempt
        finally:
            middle.cancel()


class ArmedAmqpExecutor(ArmedExecutor):
    """One whose middle lies between a message's writing and its confirmation."""

    step = AMQP

    def __init__(self, inner: Any, switch: Switch) -> None:
        super().__init__(inner, switch)
        if switch.armed_at == f"{AMQP}.middle":
            Link.publish = functools.partialmethod(_watch_message, Link.publish, switch)  # type: ignore[assignment]


async def _watch_message(
    link: Link,
    publish: Callable[..., Any],
    switch: Switch,
    message: Message,
    *,
    on_write: Callable[[], None],
    **more: Any,
) -> Any:
    passage = Passage(arguments={"call": _Published(execution_id=message.properties.message_id)})
    middle: list[asyncio.TimerHandle] = []

    def written() -> None:
        on_write()
        later = asyncio.get_running_loop().call_later
        middle.append(later(MIDDLE_SECONDS, switch.pass_by, f"{AMQP}.middle", passage))

    try:
        return await publish(link, message, on_write=written, **more)
    finally:
        for timer in middle:
            timer.cancel()


@dataclass(frozen=True, kw_only=True)
class _Published:
    """What a mark names of a message."""

    execution_id: str


def arm(environment: Mapping[str, str]) -> None:
    """Puts armed ports where bootstrap takes its ports from, if the environment names a point."""
    if "FAILPOINT" not in environment:
        return
    name, _, action = environment["FAILPOINT"].partition("=")
    switch = Switch(POINTS[name], Action(action), Path(environment["FAILPOINT_MARKER"]))
    for place, stand_in in STAND_INS.items():
        module_name, _, attribute = place.rpartition(".")
        module = __import__(module_name, fromlist=[attribute])
        setattr(module, attribute, functools.partial(stand_in, getattr(module, attribute), switch))


Build = Callable[..., Any]


def _armed_dispatch_store(build: Build, switch: Switch, engine: Engine, **options: Any) -> ArmedDispatchStore:
    return ArmedDispatchStore(build(engine, **options), engine, switch)


def _armed_job_store(build: Build, switch: Switch, engine: Engine) -> ArmedTransactions:
    steps = dict(STEPS[JobStore])
    if switch.step in ("pause", "resume"):
        steps["update"] = switch.step  # what the service makes of it
    return ArmedTransactions(build(engine), steps, engine, switch)


def _armed_creation_store(build: Build, switch: Switch, engine: Engine) -> ArmedTransactions:
    return ArmedTransactions(build(engine), STEPS[CreationStore], engine, switch)


def _armed_run_store(build: Build, switch: Switch, engine: Engine) -> ArmedTransactions:
    return ArmedTransactions(build(engine), STEPS[RunStore], engine, switch)


def _armed_repeat_store(build: Build, switch: Switch, engine: Engine) -> ArmedTransactions:
    return ArmedTransactions(build(engine), STEPS[RepeatStore], engine, switch)


def _armed_execution_store(build: Build, switch: Switch, engine: Engine, **options: Any) -> ArmedPort:
    return ArmedPort(build(engine, **options), STEPS[ExecutionStore], switch)


def _armed_housekeeping_store(build: Build, switch: Switch, engine: Engine) -> ArmedPort:
    return ArmedPort(build(engine), STEPS[HousekeepingStore], switch)


def _armed_queue(build: Build, switch: Switch, *args: Any, **options: Any) -> ArmedQueue:
    return ArmedQueue(build(*args, **options), switch)


def _armed_executor(build: Build, switch: Switch, **options: Any) -> ArmedExecutor:
    return ArmedExecutor(build(**options), switch)


def _armed_amqp_executor(build: Build, switch: Switch, **options: Any) -> ArmedAmqpExecutor:
    return ArmedAmqpExecutor(build(**options), switch)


STAND_INS: Mapping[str, Build] = {
    "gnomon.bootstrap.scheduler.PostgresDispatchStore": _armed_dispatch_store,
    "gnomon.bootstrap.scheduler.PostgresHousekeepingStore": _armed_housekeeping_store,
    "gnomon.bootstrap.scheduler.CeleryQueue": _armed_queue,
    "gnomon.bootstrap.worker.PostgresExecutionStore": _armed_execution_store,
    "gnomon.bootstrap.worker.HttpExecutor": _armed_executor,
    "gnomon.bootstrap.worker.AmqpExecutor": _armed_amqp_executor,
    "gnomon.bootstrap.api.PostgresJobStore": _armed_job_store,
    "gnomon.bootstrap.api.PostgresCreationStore": _armed_creation_store,
    "gnomon.bootstrap.api.PostgresRunStore": _armed_run_store,
    "gnomon.bootstrap.api.PostgresRepeatStore": _armed_repeat_store,
}
