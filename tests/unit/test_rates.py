"""Token buckets as arithmetic, and those of one process."""

import threading
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gnomon.api.rate_limits import RateLimiter
from gnomon.job.errors import Unavailable
from gnomon.job.rates import SECOND, Rate, Taken, left, take, wait_seconds

RATE = Rate(per_second=10, burst=5)  # a token each 100 ms, a full bucket after 500 ms


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Together:
    """Buckets of other processes: each answer is given beforehand."""

    def __init__(self, *answers: Taken | Unavailable) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def take(self, caller: str, rate: Rate) -> Taken:
        self.asked.append(caller)
        answer = self.answers.pop(0)
        if isinstance(answer, Unavailable):
            raise answer
        return answer


def test_burst_is_allowed_at_once_and_then_the_rate() -> None:
    clock = Clock()
    limiter = RateLimiter(RATE, clock=clock)
    assert [limiter.take("a").allowed for _ in range(7)] == [True] * 5 + [False] * 2
    clock.now += 0.1
    assert [limiter.take("a").allowed for _ in range(2)] == [True, False]
    clock.now += 60
    assert [limiter.take("a").allowed for _ in range(6)] == [True] * 5 + [False]


def test_callers_do_not_take_from_each_other() -> None:
    limiter = RateLimiter(RATE, clock=Clock())
    for _ in range(9):
        limiter.take("greedy")
    assert limiter.take("modest").allowed


@given(st.integers(1, 100_000), st.integers(1, 1_000_000), st.lists(st.integers(0, 2 * SECOND), max_size=60))
def test_no_stretch_of_time_lets_through_more_than_burst_and_rate(per_second: int, burst: int, gaps: list[int]) -> None:
    rate = Rate(per_second=per_second, burst=burst)
    now, paid_at, allowed = 0, 0, 0
    for gap in gaps:
        now += gap
        taken = take(rate, paid_at - now)
        allowed += taken.allowed
        paid_at = now + taken.debt
        assert allowed <= burst + now // rate.cost
        assert 0 <= left(rate, taken.debt) < burst or not taken.allowed


@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(-SECOND, 10**10))
def test_waiting_as_long_as_is_said_is_enough(per_second: int, burst: int, debt: int) -> None:
    rate = Rate(per_second=per_second, burst=burst)
    refused = take(rate, debt)
    assert refused.allowed or take(rate, refused.debt - SECOND * wait_seconds(rate, refused.debt)).allowed


def test_a_flood_of_callers_costs_bounded_memory() -> None:
    limiter = RateLimiter(RATE)
    for number in range(RateLimiter.CAPACITY + 500):
        limiter.take(f"10.{number}")
    assert len(limiter._paid_at) == RateLimiter.CAPACITY
    assert limiter.take("10.0").allowed  # forgotten, which is as good as paid


def test_threads_take_exactly_what_there_is() -> None:
    limiter = RateLimiter(Rate(per_second=1, burst=100), clock=Clock())
    taken: Counter[bool] = Counter()

    def ask() -> None:
        taken.update([limiter.take("a").allowed for _ in range(50)])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken[True] == 100


def test_what_others_have_let_through_counts_here_too() -> None:
    shared = Together(Taken(allowed=False, debt=RATE.most))
    limiter = RateLimiter(RATE, shared=shared, clock=Clock())
    assert not limiter.take("a").allowed
    assert not limiter.take("a").allowed  # and nobody was asked about what is known
    assert shared.asked == ["a"]


def test_while_the_shared_place_is_away_each_process_counts_by_itself_and_seldom_asks() -> None:
    clock, away = Clock(), Unavailable("away")
    shared = Together(away, away, Taken(allowed=True, debt=RATE.cost))
    limiter = RateLimiter(RATE, shared=shared, clock=clock)
    assert [limiter.take("a").allowed for _ in range(6)] == [True] * 5 + [False]
    assert len(shared.asked) == 1
    clock.now += RateLimiter.PAUSE_SECONDS
    assert limiter.take("a").allowed
    assert len(shared.asked) == 2
    clock.now += RateLimiter.PAUSE_SECONDS
    limiter.take("a")
    assert len(shared.asked) == 3
