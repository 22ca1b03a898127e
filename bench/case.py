"""What a run is made of: cases that are measured, and goals that are computed from their medians."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.bed import Bed

Figures = Mapping[str, float]
# by the name of the case
Medians = Mapping[str, Figures]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the table. `measure` runs it once on the bed and returns figures by name; the first is the row's rate.

    Cases whose names begin alike up to the first `/` are measured interleaved; those alike up to the last `/` do the
    same work, and are compared with the one that ends in `/gnomon`.
    """

    name: str  # "burst/http-0ms/redis/2-workers/gnomon"
    measure: "Callable[[Bed], Figures]"
    long: bool = False  # left out unless asked for

    @property
    def group(self) -> str:
        return self.name.split("/")[0]

    @property
    def work(self) -> str:
        return self.name.rpartition("/")[0]

    @property
    def who(self) -> str:
        return self.name.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A promise of the table. `value` is None when its cases were not run."""

    text: str  # "burst, HTTP 0 ms: >= 15 x textbook Celery"
    value: Callable[[Medians], float | None]
    at_least: float | None = None
    at_most: float | None = None

    def reached(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured; SHORT only shows that it works."""

    burst: int = 20_000
    rounds: int = 5
    seconds: float = 30.0
    jobs: Sequence[int] = (10_000, 100_000, 1_000_000)
    short: bool = False


SHORT = Scale(burst=300, rounds=1, seconds=2.0, jobs=(1_000,), short=True)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A module of this package that has one as SECTION takes part."""

    name: str
    cases: Callable[[Scale], Sequence[Case]]
    goals: Sequence[Goal] = field(default=())


def ratio(case: str, other: str, figure: str) -> Callable[[Medians], float | None]:
    """The figure of one case in parts of that of another."""

    def value(medians: Medians) -> float | None:
        if case not in medians or other not in medians:
            return None
        return medians[case][figure] / medians[other][figure]

    return value


def figure_of(case: str, figure: str) -> Callable[[Medians], float | None]:
    """The figure itself."""
    return lambda medians: medians[case][figure] if case in medians else None
