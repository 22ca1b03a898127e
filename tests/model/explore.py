"""Breadth first through every state a model can reach: the first trace that breaks a promise is a shortest one."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

State = TypeVar("State", bound=Hashable)


class Move(NamedTuple, Generic[State]):
    """One way on. `fault`: nobody may rely on its happening; a person's request is one of those."""

    after: State
    note: str = ""
    who: int | None = None
    fault: bool = False


@dataclass(frozen=True)
class Step(Generic[State]):
    """A step of the protocol, or something that befalls it; `statements` are the names of what the code executes."""

    letter: str
    statements: Sequence[str]
    moves: Callable[[State, frozenset[str]], Iterable[Move[State]]]

    def told(self, move: Move[State]) -> str:
        who = "" if move.who is None else f", worker {move.who}"
        return f"{self.letter}{who}: {move.note or self.moves.__name__.replace('_', ' ')}"


class Steps(list[Step[State]]):
    """Those of one model, in the order of their definition."""

    def step(self, letter: str, *statements: str) -> Callable[..., Callable[..., Iterable[Move[State]]]]:
        def register(moves: Callable[..., Iterable[Move[State]]]) -> Callable[..., Iterable[Move[State]]]:
            self.append(Step(letter, statements, moves))
            return moves

        return register


Promise = Callable[[State, str, Move[State]], bool]  # before, the step's letter, the move: is it kept?
Goal = Callable[[State], bool]


class Model(Protocol[State]):
    """What `explore` needs of a model. `broken` are the guards to be left out, by the names that steps ask for."""

    steps: Steps[State]
    promises: Mapping[str, Promise[State]]
    goals: Mapping[str, Goal[State]]  # from every state, one that satisfies it is reached without a fault
    broken: frozenset[str]

    def start(self) -> State: ...

    def key(self, state: State) -> Hashable:
        """The same for states that differ in nothing but names."""


@dataclass
class Found(Generic[State]):
    """What an exploration saw: how many states, and for each promise that broke a shortest way to it."""

    states: int = 0
    broken: dict[str, list[str]] = field(default_factory=dict)

    def story(self, promise: str) -> str:
        return "\n".join(
            [f"{promise}:", *(f"  {number}. {told}" for number, told in enumerate(self.broken[promise], 1))]
        )

    def __str__(self) -> str:
        return "\n".join([f"{self.states} states", *map(self.story, self.broken)])


def explore(model: Model[State], *, only: str | None = None) -> Found[State]:
    """All of it; or with an eye on one promise or goal `only`, until that is broken."""
    return _Exploration(model, only).run()


class _Exploration(Generic[State]):
    """States are numbered in the order they are met; `_origin` is the number before and what was told of the move."""

    def __init__(self, model: Model[State], only: str | None) -> None:
        self._model = model
        self._only = only
        self._promises = {name: kept for name, kept in model.promises.items() if only in (None, name)}
        self._goals = {name: reached for name, reached in model.goals.items() if only in (None, name)}
        self._found: Found[State] = Found()
        start = model.start()
        self._states = [start]
        self._numbers: dict[Hashable, int] = {model.key(start): 0}
        self._origin: list[tuple[int, Step[State], Move[State]] | None] = [None]
        self._sources: list[list[int]] = [[]]  # of the moves that are no faults

    def run(self) -> Found[State]:
        number = 0
        while number < len(self._states) and self._only not in self._found.broken:
            self._expand(number)
            number += 1
        if self._only not in self._found.broken:
            self._check_goals()
        self._found.states = len(self._states)
        return self._found

    def _expand(self, number: int) -> None:
        before = self._states[number]
        for step, move in self._moves(before):
            for name, kept in self._promises.items():
                if name not in self._found.broken and not kept(before, step.letter, move):
                    self._found.broken[name] = [*self._trace(number), step.told(move)]
            reached = self._number(move.after, (number, step, move))
            if not move.fault and reached != number:
                self._sources[reached].append(number)

    def _moves(self, state: State) -> Iterator[tuple[Step[State], Move[State]]]:
        for step in self._model.steps:
            for move in step.moves(state, self._model.broken):
                yield step, move

    def _number(self, state: State, origin: tuple[int, Step[State], Move[State]]) -> int:
        key = self._model.key(state)
        known = self._numbers.get(key)
        if known is None:
            known = self._numbers[key] = len(self._states)
            self._states.append(state)
            self._origin.append(origin)
            self._sources.append([])
        return known

    def _check_goals(self) -> None:
        for name, reached in self._goals.items():
            saved = [reached(state) for state in self._states]
            left = [number for number, is_saved in enumerate(saved) if is_saved]
            while left:
                for source in self._sources[left.pop()]:
                    if not saved[source]:
                        saved[source] = True
                        left.append(source)
            if not all(saved):
                self._found.broken[name] = [*self._trace(saved.index(False)), "… and no way out"]

    def _trace(self, number: int) -> list[str]:
        told = []
        origin = self._origin[number]
        while origin is not None:
            number, step, move = origin
            told.append(step.told(move))
            origin = self._origin[number]
        return told[::-1]
