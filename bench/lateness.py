"""How late calls came: what the sink's arrivals say of the moments that the calls name."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from math import ceil

from bench.sink import Arrival

CURVE = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 100)


def latenesses(arrivals: Iterable[Arrival], *, since: float = 0.0, until: float = float("inf")) -> list[float]:
    """Milliseconds, ascending, of the calls whose moments lie between these two (seconds of the epoch).

    Of an execution that was called several times the first arrival counts.
    """
    first: dict[str, float] = {}
    for arrival in arrivals:
        moment = datetime.fromisoformat(arrival.scheduled_at).timestamp()
        if since <= moment < until:
            late = 1_000 * (arrival.at - moment)
            first[arrival.key] = min(late, first.get(arrival.key, late))
    return sorted(first.values())


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The nearest rank: a value that was measured."""
    return ascending[ceil(len(ascending) * percent / 100) - 1]


def curve(ascending: Sequence[float]) -> Mapping[str, float]:
    """Within how much time each part of the calls had come."""
    return {f"p{percent}_ms": percentile(ascending, percent) for percent in CURVE}
