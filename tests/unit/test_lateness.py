"""What the bench makes of arrivals at its target."""

import pytest
from bench.lateness import curve, latenesses, percentile
from bench.sink import Arrival

NOON = 1_763_726_400.0
AT_NOON = "2025-11-21T12:00:00Z"


def arrival(late: float, key: str, scheduled_at: str = AT_NOON) -> Arrival:
    return Arrival(at=NOON + late, key=key, scheduled_at=scheduled_at, path="/now")


def test_call_is_as_late_as_its_first_request() -> None:
    assert latenesses([arrival(0.5, "a"), arrival(0.125, "b"), arrival(2.5, "a")]) == [125.0, 500.0]


def test_calls_are_chosen_by_their_moments_not_by_their_arrival() -> None:
    arrivals = [arrival(1.5, "a"), arrival(1.5, "b", "2025-11-21T12:00:01.000001Z")]
    assert latenesses(arrivals, until=NOON + 1) == [1_500.0]
    assert latenesses(arrivals, since=NOON + 1) == [pytest.approx(499.999, abs=0.01)]


@pytest.mark.parametrize(("percent", "value"), [(50, 2.0), (51, 3.0), (75, 3.0), (99.9, 4.0), (100, 4.0), (1, 1.0)])
def test_percentile_is_a_value_that_was_measured(percent: float, value: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], percent) == value  # the nearest rank: ceil(4 x percent / 100)


def test_curve_ends_with_the_last() -> None:
    assert curve([1.0, 2.0, 9.0])["p100_ms"] == 9.0
