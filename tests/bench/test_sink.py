"""The bench's target: it answers, at once or later, and knows what has arrived when."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from bench.sink import Sink
from support.cluster import wait_until
from support.missing import give_up

from gnomon.job.errors import ConfigurationError

MOMENT = "2026-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sink]:
    sink = Sink(tmp_path_factory.mktemp("sink"))
    try:
        sink.start()
    except ConfigurationError as error:
        give_up(f"SERVER MISSING: {error}")
    yield sink
    sink.stop()


@pytest.fixture
def sink(started: Sink) -> Sink:
    started.clear()
    return started


def post(url: str, key: str) -> requests.Response:
    headers = {"Idempotency-Key": key, "X-Scheduler-Scheduled-At": MOMENT}
    return requests.post(url, data="{}", headers=headers, timeout=30)


def test_each_request_is_answered_and_told_with_its_headers(sink: Sink) -> None:
    assert [post(sink.url(), key).text for key in ("a", "b")] == ["ok", "ok"]
    assert [(arrival.key, arrival.scheduled_at) for arrival in sink.arrivals()] == [("a", MOMENT), ("b", MOMENT)]


def test_request_that_names_nothing_is_told_too(sink: Sink) -> None:
    requests.get(sink.url(), timeout=30)
    assert [(arrival.key, arrival.scheduled_at) for arrival in sink.arrivals()] == [("", "")]


def test_arrival_is_when_the_request_came_however_late_its_answer(sink: Sink) -> None:
    sent = time.time()
    answer = post(sink.url(delay_ms=300), "slow")
    answered = time.time()
    [arrival] = sink.arrivals()
    assert answer.text.strip() == "ok"
    assert answered - sent >= 0.3
    assert sent - 0.01 <= arrival.at <= answered - 0.29


def test_what_was_cleared_is_not_told_again(sink: Sink) -> None:
    post(sink.url(), "before")
    sink.clear()
    post(sink.url(), "after")
    assert [arrival.key for arrival in sink.arrivals()] == ["after"]


def test_hanging_target_takes_a_request_and_never_answers(sink: Sink) -> None:
    with pytest.raises(requests.ReadTimeout):
        requests.get(sink.hanging_url, timeout=0.5)


def test_nothing_is_left_of_it_when_its_owner_is_killed(started: Sink, tmp_path: Path) -> None:
    owner = (
        "import sys, time; from pathlib import Path; from bench.sink import Sink\n"
        "from gnomon.embedded.processes import family_of\n"
        "sink = Sink(Path(sys.argv[1])); sink.start(); print(sink.pid, *family_of(sink.pid), flush=True)\n"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", owner, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = process.stdout.readline().split()
        process.kill()
    assert len(pids) >= 2  # a master and its worker
    wait_until("nginx has ended", lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
