"""SIGTERM at any moment, under load: nothing is lost, nothing is in doubt, what was in flight is finished."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import requests
from servers.rabbitmq import RabbitMQ
from servers.target import Behaviour, Connection, Request, Target, answer, hang
from support.books import unbalanced_moments
from support.cluster import Cluster, Role, cluster, wait_until
from support.world import World

from gnomon.embedded.ports import free_port
from gnomon.embedded.postgres import EmbeddedPostgres
from gnomon.embedded.processes import family_of
from gnomon.embedded.valkey import EmbeddedValkey
from gnomon.job.model import Job
from gnomon.queue.celery.app import create_app
from gnomon.queue.celery.publisher import CeleryQueue

NOTICED = 1.5  # seconds until Celery has seen its flag, and a little
GRACE = 4.0


def every_second(world: World, target: Target, count: int) -> list[Job]:
    """Every second job is delivered at most once."""
    return [
        world.create(
            interval_seconds=1,
            delivery="at_most_once" if number % 2 else "at_least_once",
            http_job={"url": target.url("/hook"), "body": "{}"},
        )
        for number in range(count)
    ]


def between(chance: random.Random, least: float, most: float) -> Behaviour:
    """Answers after a time from least to most."""

    async def behave(request: Request, connection: Connection) -> None:
        await answer(delay=chance.uniform(least, most))(request, connection)

    return behave


def settle(world: World) -> None:
    world.sql("update jobs set status = 'STOPPED'")
    wait_until(
        "everything is in a final state",
        lambda: world.one("select count(*) from executions where state in ('WAITING', 'PENDING', 'RUNNING')") == 0,
        seconds=60,
    )


def succeeded(world: World) -> int:
    count: int = world.one("select count(*) from executions where state = 'SUCCEEDED'")
    return count


class Fleet:
    """Two of each role, one of which at a time is stopped and replaced."""

    def __init__(self, started: Cluster, roles: Sequence[str]) -> None:
        self._cluster = started
        self._roles = started.start_ready(*roles)
        self.stops: list[tuple[str, float]] = []

    def restart(self, index: int) -> None:
        """Stops one, while another of its kind goes on, and starts its successor."""
        role = self._roles[index]
        began = time.monotonic()
        code = role.stop()
        self.stops.append((role.name, time.monotonic() - began))
        assert code == 0, f"{role.name} ended with {code}:\n{role.text[-3000:]}"
        self._roles[index] = self._cluster.start(role.name.partition("-")[0])
        self._roles[index].wait_ready()

    @property
    def size(self) -> int:
        return len(self._roles)


def roll(
    world: World, started: Cluster, target: Target, *, jobs: int, until: Callable[[int, float], bool], pause: float
) -> None:
    """Random roles are restarted at random moments until `until`(restarts, seconds); then the accounts are checked."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    target.on("/hook", between(chance, 0.05, 0.3))
    booked = every_second(world, target, jobs)
    fleet = Fleet(started, ["scheduler", "scheduler", "worker", "worker"])
    wait_until("jobs run", lambda: succeeded(world) > jobs, seconds=60)
    began = time.monotonic()
    while not until(len(fleet.stops), time.monotonic() - began):
        time.sleep(chance.uniform(0.0, pause))  # the moment is what is tried
        fleet.restart(chance.randrange(fleet.size))
    settle(world)
    print(f"{len(fleet.stops)} stops, the slowest took {max(seconds for _, seconds in fleet.stops):.1f} s")
    check_accounts(world, target, booked)


def check_accounts(world: World, target: Target, jobs: Sequence[Job]) -> None:
    assert {job.id: wrong for job in jobs if (wrong := unbalanced_moments(world, job.id))} == {}
    bad = world.sql(
        "select state, error_code, error_message, count(*) from executions "
        "where state not in ('SUCCEEDED', 'SKIPPED') group by 1, 2, 3"
    )
    assert bad == []
    calls = target.keys()
    assert {key: times for key, times in calls.items() if times != 1} == {}  # finished, not broken off
    assert len(calls) == succeeded(world)
    assert world.one("select count(*) from attempts") == 0  # no attempt that did not end its execution


def test_services_stopped_at_random_moments_finish_what_they_are_at(
    world: World, database_url: str, queue_url: str, target: Target, tmp_path: Path
) -> None:
    with cluster(database_url=database_url, queue_url=queue_url, folder=tmp_path) as started:
        roll(world, started, target, jobs=200, until=lambda stops, seconds: stops >= 4 and seconds > 15, pause=1.0)


@pytest.mark.long
def test_rolling_restarts_every_ten_seconds_for_minutes_leave_no_trace(
    world: World, database_url: str, queue_url: str, target: Target, tmp_path: Path
) -> None:
    with cluster(database_url=database_url, queue_url=queue_url, folder=tmp_path) as started:
        roll(world, started, target, jobs=300, until=lambda _, seconds: seconds > 240, pause=16.0)


def catches_sigterm(pid: int) -> bool:
    """Whether the process has a handler for it by now."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(caught & 1 << (signal.SIGTERM - 1))


@pytest.mark.parametrize("role", ["scheduler", "worker"])
def test_service_stopped_while_it_starts_ends_at_once_with_code_0(
    world: World, database_url: str, redis_url: str, tmp_path: Path, role: str
) -> None:
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path) as started:
        for wait in (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0):
            starting = started.start(role)
            wait_until("it has a handler", lambda r=starting: catches_sigterm(r.pid), pause=0.002)
            time.sleep(wait)
            began = time.monotonic()
            assert starting.stop() == 0, starting.text
            assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("role", "server", "how", "limit"),
    [
        ("worker", "postgres", "killed", GRACE + 2),
        ("worker", "postgres", "frozen", GRACE + 8),  # the last resort
        ("worker", "rabbitmq", "killed", GRACE + 5),
        pytest.param("scheduler", "postgres", "killed", 6, marks=pytest.mark.long),
        ("scheduler", "postgres", "frozen", 20),  # the last resort
        pytest.param("scheduler", "valkey", "frozen", 6 + 5, marks=pytest.mark.long),
    ],
)
def test_service_stopped_while_a_server_does_not_answer_ends_in_time_with_code_0(
    world: World,
    database_url: str,
    target: Target,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    role: str,
    server: str,
    how: str,
    limit: float,
) -> None:
    queue_url = request.getfixturevalue("rabbitmq_url" if server == "rabbitmq" else "redis_url")
    target.on("/hook", answer(delay=0.2))
    jobs = every_second(world, target, 20)
    settings = {"SCHEDULER_WORKER_SHUTDOWN_TIMEOUT": f"{GRACE:g}s"}
    with cluster(database_url=database_url, queue_url=queue_url, folder=tmp_path, **settings) as started:
        roles = dict(zip(("scheduler", "worker"), started.start_ready("scheduler", "worker"), strict=True))
        wait_until("jobs run", lambda: succeeded(world) > 40)
        with away(request.getfixturevalue(server), how):
            if server == "postgres":
                CeleryQueue(create_app(queue_url)).publish("io", [uuid4()])  # for the worker to ask about
            time.sleep(1.5)  # longer than a scheduler sleeps: both run into it
            began = time.monotonic()
            assert roles[role].stop() == 0
            took = time.monotonic() - began
    print(f"took {took:.1f} s")
    assert took < limit + NOTICED, roles[role].text[-2000:]
    wait_until("the database answers", lambda: answers(world))
    world.sql("update jobs set status = 'STOPPED'")
    assert {job.id: wrong for job in jobs if (wrong := unbalanced_moments(world, job.id))} == {}


def answers(world: World) -> bool:
    try:
        return bool(world.one("select 1"))
    except Exception:
        return False


@contextmanager
def away(server: EmbeddedPostgres | EmbeddedValkey | RabbitMQ, how: str) -> Iterator[None]:
    pid = server.pid
    assert pid is not None
    pids = [] if how == "killed" else [pid, *family_of(pid)]
    if how == "killed":
        server.kill()
    for one in pids:
        os.kill(one, signal.SIGSTOP)
    try:
        yield
    finally:
        for one in pids:
            os.kill(one, signal.SIGCONT)
        server.start()


def test_further_signals_change_nothing(
    world: World, database_url: str, redis_url: str, target: Target, tmp_path: Path
) -> None:
    target.on("/hook", answer(delay=4.0))
    job = world.create(delay_seconds=0, delivery="at_most_once", http_job={"url": target.url("/hook")})
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path) as started:
        _, worker = started.start_ready("scheduler", "worker")
        target.wait_for(lambda seen: len(seen) == 1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            worker.signal(number)
            time.sleep(0.4)
        assert worker.stop() == 0
        assert world.states_of(job) == ["SUCCEEDED"]
    assert len(target.requests) == 1


def test_call_that_outlasts_the_grace_is_made_again_at_once_unless_a_second_one_is_forbidden(
    world: World, database_url: str, queue_url: str, target: Target, tmp_path: Path
) -> None:
    target.on("/hook", hang())
    last_chance = {"max_attempts": 1, "initial_seconds": 600, "max_seconds": 600}
    jobs = [
        world.create(delay_seconds=0, delivery=delivery, retry=last_chance, http_job={"url": target.url("/hook")})
        for delivery in ("at_least_once", "at_most_once")
    ]
    settings = {"SCHEDULER_WORKER_SHUTDOWN_TIMEOUT": f"{GRACE:g}s"}
    with cluster(database_url=database_url, queue_url=queue_url, folder=tmp_path, **settings) as started:
        _, worker = started.start_ready("scheduler", "worker")
        target.wait_for(lambda seen: len(seen) == 2)
        started.start_ready("worker")
        target.on("/hook", answer())
        began = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - began < GRACE + NOTICED
        wait_until("another has done it", lambda: world.states_of(jobs[0]) == ["SUCCEEDED"], seconds=5)
    assert world.history_of(jobs[0])[0].failures == 0
    (doubtful,) = world.history_of(jobs[1])
    assert (doubtful.state.value, doubtful.error_code, doubtful.attempt) == ("UNKNOWN", "interrupted", 1)
    assert sorted(target.keys().values()) == [1, 2]


class Clients:
    """Threads that create jobs at either of two addresses, each request on a connection of its own, until `stop`."""

    COUNT = 4

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._stop = threading.Event()
        self.created: list[str] = []
        self.refused = 0
        self.strange: list[str] = []

    def __call__(self, number: int) -> None:
        chance = random.Random(number)
        while not self._stop.is_set():
            self._create(chance.choice(self._ports))

    def _create(self, port: int) -> None:
        job = {"type": "HTTP", "cron_schedule": "@hourly", "http_job": {"url": "https://example.com/"}}
        try:
            response = requests.post(f"http://127.0.0.1:{port}/v1/jobs", json=job, timeout=10)
        except requests.ConnectionError as error:
            self.refused += "refused" in str(error)
            if "refused" not in str(error):
                self.strange.append(str(error))
            return
        if response.status_code == 201:
            self.created.append(response.json()["id"])
        else:
            self.strange.append(response.text)

    def stop(self) -> None:
        self._stop.set()


def start_api(started: Cluster, port: int) -> Role:
    role = started.start("api", SCHEDULER_WEB_API_HOST=f"127.0.0.1:{port}")
    wait_until("the API is ready", lambda: is_ready(port) or not role.running)
    assert role.running, role.text
    return role


def is_ready(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/health/ready", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


def test_clients_of_restarted_apis_get_their_answers_or_no_connection(
    world: World, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    ports = [free_port(), free_port()]
    clients = Clients(ports)
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path) as started:
        apis = [start_api(started, port) for port in ports]
        with ThreadPoolExecutor(clients.COUNT) as pool:
            running = [pool.submit(clients, number) for number in range(clients.COUNT)]
            try:
                for turn in range(4):
                    before = len(clients.created)
                    wait_until("jobs are created", lambda n=before: len(clients.created) > n + 50)
                    stopped = apis[turn % 2]
                    assert stopped.stop() == 0, stopped.text
                    apis[turn % 2] = start_api(started, ports[turn % 2])
            finally:
                clients.stop()
            for one in running:
                one.result()
    assert clients.strange == []
    assert clients.refused > 0
    stored = {str(row.id) for row in world.sql("select id from jobs")}
    assert set(clients.created) <= stored
