"""Workers that hear nothing and publishers that hang end, and are started again; nobody ends for an outage."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import kombu
import pytest
from servers.proxy import Proxy
from servers.target import Target
from support.cluster import Cluster, Role, cluster, wait_until
from support.world import World

from gnomon.embedded.postgres import EmbeddedPostgres
from gnomon.embedded.supervisor import Process, Supervisor
from gnomon.embedded.valkey import EmbeddedValkey
from gnomon.job.errors import Unavailable
from gnomon.process.last_resort import EXIT_CODE
from gnomon.queue.celery.app import create_app
from gnomon.queue.celery.publisher import CeleryQueue
from gnomon.queue.celery.watchdog import LOOKS, UNDER_WAY, ConsumeWatchdog
from gnomon.scheduler.publish import Publisher
from gnomon.scheduler.watchdog import SendWatchdog

DEAF = 4.0  # seconds of silence after which the workers here ask
MINUTE = timedelta(seconds=60)

# `gnomon worker` and `gnomon scheduler` with shorter times. Nothing but the watchdog notices a dead link in them.
WORKER = f"""
from datetime import timedelta
from functools import partial
import gnomon.bootstrap.worker as worker
import gnomon.queue.celery.app as app
worker.ConsumeWatchdog = partial(worker.ConsumeWatchdog, limit=timedelta(seconds={DEAF}))
app.HEARTBEAT_SECONDS = app._SETTINGS["broker_heartbeat"] = 600
"""
SCHEDULER = """
from datetime import timedelta
from functools import partial
import gnomon.bootstrap.scheduler as scheduler
import gnomon.storage.postgres.statements as statements
statements.PUBLISH_SLOT_SECONDS = 1
scheduler.SendWatchdog = partial(
    scheduler.SendWatchdog, limit=timedelta(seconds=2), last_limit=timedelta(seconds=2)
)
"""
HANGING_PUBLISHER = f"""{SCHEDULER}
import threading
from gnomon.queue.celery.publisher import CeleryQueue
CeleryQueue._publish = lambda *_: threading.Event().wait()
"""
HANGING_CONSUMER = f"""{WORKER}
import signal, threading
worker.FAREWELL = timedelta(seconds=1)
signal.signal(signal.SIGUSR1, lambda *_: threading.Event().wait())
"""


def command(program: str, role: str) -> list[str]:
    return [sys.executable, "-c", f"{program}\nfrom gnomon.cli.main import main\nmain([{role!r}])"]


def start(started: Cluster, program: str, role: str, **settings: str) -> Role:
    """A process whose times are shortened by `program`."""
    number = len(started._roles) + 1
    log = started._folder / f"{number}-{role}.log"
    one = Role(f"{role}-{number}", command(program, role), {**started._environment, **settings}, log)
    started._roles.append(one)
    return one


def exit_code(role: Role, *, seconds: float) -> int:
    wait_until(f"{role.name} ends; its log:\n{role.text[-2000:]}", lambda: not role.running, seconds=seconds)
    return role.stop()


def every_second(world: World, target: Target, count: int = 3) -> None:
    for _ in range(count):
        world.create(interval_seconds=1, overlap="allow", http_job={"url": target.url("/hook")})


def fresh_successes(world: World) -> int:
    count: int = world.one(
        "select count(*) from executions where state = 'SUCCEEDED' and finished_at > now() - interval '1 second'"
    )
    return count


# --- what was overlooked


@pytest.fixture
def published(world: World) -> UUID:
    """An execution whose second message was sent half a minute ago, in silence."""
    world.due()
    (one,) = world.dispatched()
    world.sql(
        "update executions set publish_count = 2, published_at = now() - interval '30 seconds', "
        "available_at = now() - interval '60 seconds', next_publish_at = now() + interval '30 seconds'"
    )
    return one


def overlooked(world: World, *queues: str, oldest: timedelta = MINUTE, newest: timedelta = MINUTE / 4) -> int:
    return world.executions.overlooked(queues or ("io", "other"), oldest=oldest, newest=newest)


def test_execution_is_overlooked_when_it_waits_after_its_second_message(world: World, published: UUID) -> None:
    assert overlooked(world) == 1
    assert overlooked(world, "other") == 0
    assert overlooked(world, oldest=timedelta(seconds=20)) == 0  # before the silence began
    assert overlooked(world, newest=timedelta(seconds=40)) == 0  # its message may still be under way
    world.claim([published])
    assert overlooked(world) == 0


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("one message may get lost", "publish_count = 1"),
        ("the broker refused it", "publish_count = 0, next_publish_at = now()"),
        ("nobody publishes", "next_publish_at = now() - interval '1 second'"),
        ("it is a retry for later", "publish_count = 0, available_at = now() + interval '60 seconds'"),
        ("it waits for another execution", "state = 'CANCELLED'"),
    ],
)
def test_execution_is_not_overlooked_when(world: World, published: UUID, what: str, change: str) -> None:
    world.sql(f"update executions set {change}")
    assert overlooked(world) == 0, what


def test_slot_of_any_length_counts_and_a_backlog_is_not_counted_to_its_end(world: World, published: UUID) -> None:
    world.sql("update executions set publish_count = 9, next_publish_at = now() + interval '989 seconds'")
    columns = "revision, kind, queue, scheduled_at, trigger, state, max_attempts, available_at, next_publish_at"
    world.sql(
        f"insert into executions (id, job_id, overlap, publish_count, published_at, {columns}) select "
        f"gen_random_uuid(), gen_random_uuid(), 'allow', 2, published_at, {columns} "
        "from executions, generate_series(1, 1500)"
    )
    assert overlooked(world) == 1000


# --- who is deaf


class Watched:
    """A watchdog over a worker whose world is told here; looks as often as the product does."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.busy = False
        self.overlooked: int | Exception = 7
        self.asked: list[tuple[timedelta, timedelta]] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.dog = ConsumeWatchdog(
            overlooked=self._overlooked, is_busy=lambda: self.busy, limit=MINUTE, clock=lambda: self.now
        )

    def _overlooked(self, *, oldest: timedelta, newest: timedelta) -> int:
        self.asked.append((oldest, newest))
        self.meanwhile()
        if isinstance(self.overlooked, Exception):
            raise self.overlooked
        return self.overlooked

    def pass_time(self, seconds: float, *, connected: bool = True) -> int:
        """What the looks found, all of them."""
        found, until = 0, self.now + seconds
        while self.now < until:
            self.now += MINUTE.total_seconds() / LOOKS
            found += self.dog.look(connected=connected)
        return found


def test_worker_that_hears_nothing_for_the_limit_while_executions_are_overlooked_is_deaf() -> None:
    worker = Watched()
    assert worker.pass_time(57) == 0
    assert worker.asked == []
    assert worker.pass_time(3) == 7
    assert worker.asked == [(MINUTE, UNDER_WAY * MINUTE)]


def test_worker_is_not_deaf_while_nothing_is_overlooked_however_long() -> None:
    worker = Watched()
    worker.overlooked = 0
    assert worker.pass_time(3600) == 0
    assert worker.asked[-1][0] == timedelta(hours=1)
    worker.overlooked = 1
    assert worker.pass_time(3) == 1


def hears(worker: Watched) -> None:
    worker.dog.heard()


def is_busy(worker: Watched) -> None:
    worker.busy = True
    worker.pass_time(300)
    worker.busy = False


def broker_is_away(worker: Watched) -> None:
    assert worker.pass_time(36_000, connected=False) == 0


def store_is_away(worker: Watched) -> None:
    worker.overlooked = Unavailable("taken away")
    assert worker.pass_time(36_000) == 0
    worker.asked.clear()
    while not worker.asked:
        worker.pass_time(1)
    worker.overlooked = 7
    worker.asked.clear()


def stands_still(worker: Watched) -> None:
    worker.now += 3600
    assert worker.dog.look(connected=True) == 0


@pytest.mark.parametrize("event", [hears, is_busy, broker_is_away, store_is_away, stands_still])
def test_silence_counts_anew_when_the_worker(event: Callable[[Watched], None]) -> None:
    worker = Watched()
    assert worker.pass_time(57) == 0
    event(worker)
    assert worker.pass_time(54) == 0
    assert worker.asked == []
    assert worker.pass_time(9) > 0


@pytest.mark.parametrize("event", [hears, lambda worker: setattr(worker, "busy", True)], ids=["hears", "is_busy"])
def test_message_that_arrives_during_the_question_counts(event: Callable[[Watched], None]) -> None:
    worker = Watched()
    worker.pass_time(57)
    worker.meanwhile = lambda: event(worker)
    worker.now += 0.1
    assert worker.pass_time(3) == 0
    assert len(worker.asked) == 1


# --- real workers


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_deaf_worker_ends_and_its_supervisor_starts_one_that_hears(
    world: World,
    database_url: str,
    target: Target,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    broker: str,
) -> None:
    url = request.getfixturevalue(f"{broker}_url")
    every_second(world, target)
    said: list[str] = []
    lines: list[bytes] = []
    supervisor = Supervisor(said.append)
    with (
        Proxy.before(url) as link,
        cluster(database_url=database_url, queue_url=url, folder=tmp_path) as started,
    ):
        start(started, SCHEDULER, "scheduler").wait_ready()
        environment = {**started._environment, "SCHEDULER_QUEUE_URL": link.url(url)}
        worker = Process(command(WORKER, "worker"), env=environment, write=lines.append)
        supervisor.start("worker", worker)
        try:
            wait_until("jobs run", lambda: fresh_successes(world) >= 3)
            link.half_open()
            began = time.monotonic()
            wait_until("the worker ends", lambda: worker.exit_code is not None, seconds=30)
            assert worker.exit_code == EXIT_CODE
            print(f"ended {time.monotonic() - began:.1f} s after the last message, limit {DEAF} s")
            link.heal()
            wait_until("another one runs jobs", lambda: runs_again(supervisor, world))
        finally:
            supervisor.stop()
    log = b"".join(lines).decode()
    (told,) = [line for line in log.splitlines() if "is deaf" in line]
    assert "ERROR" in told
    assert said == ["worker ended; starting it again in 0.5 s"]


def runs_again(supervisor: Supervisor, world: World) -> bool:
    supervisor.run_once()
    return fresh_successes(world) >= 3


def test_deaf_worker_whose_celery_hangs_ends_all_the_same(
    world: World, database_url: str, redis_url: str, target: Target, tmp_path: Path
) -> None:
    every_second(world, target)
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path) as started:
        settings = {"SCHEDULER_WORKER_SHUTDOWN_TIMEOUT": "1s"}
        worker = start(started, HANGING_CONSUMER, "worker", **settings)
        start(started, SCHEDULER, "scheduler").wait_ready()
        wait_until("jobs run", lambda: fresh_successes(world) >= 3)
        worker.signal(signal.SIGUSR1)  # the main thread, Celery's, does nothing any more
        assert exit_code(worker, seconds=30) == EXIT_CODE
        assert "is deaf" in worker.text
        assert "the orderly end takes longer than" in worker.text


OUTAGE = 2.5 * DEAF


def look_overlooked(world: World, *, name: str = "bait") -> None:
    """An execution that looks as if messages for it had been sent again and again, the last one now."""
    world.create(name=name, interval_seconds=86_400)
    world.sql(
        "insert into executions (id, job_id, revision, kind, queue, scheduled_at, trigger, state, max_attempts, "
        "overlap, available_at, published_at, publish_count, next_publish_at) select gen_random_uuid(), id, 1, 'HTTP', "
        "'io', now(), 'MANUAL', 'PENDING', 1, 'allow', now(), now(), 3, "
        "now() + interval '60 s' from jobs where name = :name",
        name=name,
    )


def test_outage_of_the_broker_does_not_end_the_worker(
    world: World, database_url: str, redis_url: str, valkey: EmbeddedValkey, target: Target, tmp_path: Path
) -> None:
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path) as started:
        worker = start(started, WORKER, "worker")
        worker.wait_ready()
        valkey.kill()
        wait_until("the worker notices", lambda: "does not answer" in worker.text)
        look_overlooked(world)
        time.sleep(OUTAGE)
        world.sql("delete from executions")
        valkey.start()
        every_second(world, target)
        start(started, SCHEDULER, "scheduler").wait_ready()
        wait_until("jobs run", lambda: fresh_successes(world) >= 3)
        assert worker.running
        assert worker.stop() == 0


def test_outage_of_the_database_does_not_end_the_worker(
    world: World, database_url: str, redis_url: str, postgres: EmbeddedPostgres, target: Target, tmp_path: Path
) -> None:
    every_second(world, target)
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path) as started:
        worker = start(started, WORKER, "worker")
        start(started, SCHEDULER, "scheduler").wait_ready()
        wait_until("jobs run", lambda: fresh_successes(world) >= 3)
        postgres.kill()
        time.sleep(OUTAGE)
        postgres.start()
        world.engine.dispose()
        wait_until("jobs run again", lambda: fresh_successes(world) >= 3, seconds=60)
        assert worker.running
        assert worker.stop() == 0


def test_worker_that_was_frozen_goes_on(world: World, database_url: str, redis_url: str, tmp_path: Path) -> None:
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path) as started:
        worker = start(started, WORKER, "worker")
        worker.wait_ready()
        worker.signal(signal.SIGSTOP)
        look_overlooked(world)
        time.sleep(OUTAGE)
        worker.signal(signal.SIGCONT)
        time.sleep(DEAF / 4)  # enough to end, were it taken for deaf
        send_messages(redis_url, seconds=DEAF)
        assert worker.running
        assert worker.stop() == 0


def test_executions_that_no_message_brings_to_a_claim_do_not_end_a_worker_that_hears(
    world: World, database_url: str, queue_url: str, tmp_path: Path
) -> None:
    with cluster(database_url=database_url, queue_url=queue_url, folder=tmp_path) as started:
        worker = start(started, WORKER, "worker")
        worker.wait_ready()
        look_overlooked(world)
        send_messages(queue_url, seconds=OUTAGE)
        assert worker.running
        look_overlooked(world, name="more")  # without the messages it is what deafness looks like
        assert exit_code(worker, seconds=30) == EXIT_CODE


def send_messages(queue_url: str, *, seconds: float) -> None:
    """Messages of executions that do not exist."""
    queue = CeleryQueue(create_app(queue_url))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        queue.publish("io", new_ids(1))
        time.sleep(DEAF / 3)
    queue.close()


# --- publishing

LIMIT = 1.0  # seconds for each wait
WHOLE = 2.0  # seconds for a whole call


@pytest.fixture(params=["redis", "rabbitmq"])
def link(request: pytest.FixtureRequest) -> Iterator[tuple[Proxy, str]]:
    url = request.getfixturevalue(f"{request.param}_url")
    with Proxy.before(url) as proxy:
        yield proxy, proxy.url(url)


@pytest.fixture
def queue(link: tuple[Proxy, str]) -> Iterator[CeleryQueue]:
    opened = CeleryQueue(create_app(link[1]), timeout=LIMIT)
    yield opened
    opened.close()


@pytest.fixture
def dog(queue: CeleryQueue) -> Iterator[SendWatchdog]:
    watchdog = SendWatchdog(
        queue, give_up=lambda: None, limit=timedelta(seconds=WHOLE), last_limit=timedelta(seconds=60)
    )
    watchdog.start()
    yield watchdog
    watchdog.stop()


def new_ids(count: int) -> list[UUID]:
    return [uuid4() for _ in range(count)]


@pytest.mark.parametrize("connected", [True, False], ids=["in-the-midst", "while-connecting"])
def test_broker_that_answers_in_drips_is_left_when_the_time_of_the_whole_call_is_up(
    link: tuple[Proxy, str], queue: CeleryQueue, dog: SendWatchdog, connected: bool
) -> None:
    if connected:
        queue.probe()
    link[0].delay(0.4 * LIMIT)  # there and back again: each wait is within its limit
    began = time.monotonic()
    with pytest.raises(Unavailable), dog.watched():
        queue.publish("io", new_ids(5000))
    assert WHOLE <= time.monotonic() - began < WHOLE + 1.0
    link[0].heal()
    with dog.watched():
        queue.publish("io", new_ids(1))


@pytest.mark.parametrize("fault", [Proxy.stall, Proxy.half_open])
def test_broker_behind_a_dead_link_is_left_when_the_time_of_one_wait_is_up(
    link: tuple[Proxy, str], queue: CeleryQueue, dog: SendWatchdog, fault: Callable[[Proxy], None]
) -> None:
    queue.probe()
    fault(link[0])
    began = time.monotonic()
    with pytest.raises(Unavailable), dog.watched():
        queue.publish("io", new_ids(5000))
    assert time.monotonic() - began < WHOLE
    link[0].heal()
    with dog.watched():
        queue.publish("io", new_ids(1))


def test_call_that_is_slow_but_within_the_time_is_left_alone(
    link: tuple[Proxy, str], queue: CeleryQueue, dog: SendWatchdog
) -> None:
    queue.probe()
    link[0].delay(0.05)
    began = time.monotonic()
    with dog.watched():
        queue.publish("io", new_ids(300))
    assert 0.1 < time.monotonic() - began < WHOLE


def test_what_was_being_sent_when_a_call_is_broken_off_is_published_when_the_broker_answers(
    world: World, link: tuple[Proxy, str], queue: CeleryQueue
) -> None:
    for _ in range(600):
        world.due(overlap="allow")
    ids = world.dispatched(limit=2000)
    watchdog = SendWatchdog(queue, give_up=lambda: None, limit=timedelta(seconds=WHOLE))
    publisher = Publisher(world.dispatch, queue, watchdog)
    queue.probe()
    link[0].delay(0.4 * LIMIT)
    publisher.start()
    publisher.submit("io", ids)
    free = "select count(*) from executions where publish_count = 0"
    wait_until("all slots are given back", lambda: world.one(free) == len(ids), seconds=20)
    link[0].heal()
    wait_until("all are published", lambda: kicked(publisher) and world.one(free) == 0)
    publisher.stop(timedelta(seconds=5))
    with kombu.Connection(link[1]) as connection:
        assert depth(connection) >= len(ids) / 100


def kicked(publisher: Publisher) -> bool:
    publisher.kick()
    return True


def depth(connection: kombu.Connection) -> int:
    channel = connection.default_channel
    if connection.transport.driver_type == "redis":
        return int(channel.client.llen("io"))
    return int(channel.queue_declare("io", durable=True, auto_delete=False).message_count)


class HungDriver:
    """A broker whose driver hangs outside any socket, until `gate` is set."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.broken_off = 0

    def publish(self, queue: str, ids: Sequence[UUID]) -> None:
        self.gate.wait(30)

    def probe(self) -> None:
        self.gate.wait(30)

    def lost_messages(self) -> bool:
        return False

    def break_off(self) -> None:
        self.broken_off += 1


def test_driver_that_hangs_outside_its_sockets_is_given_up_once() -> None:
    times = [0.0]
    given_up: list[float] = []
    driver = HungDriver()
    dog = SendWatchdog(
        driver,
        give_up=lambda: given_up.append(times[0]),
        limit=timedelta(seconds=30),
        last_limit=timedelta(seconds=60),
        clock=lambda: times[0],
    )
    assert dog.look()
    with dog.watched():
        for moment, broken_off, looks_on in [(30, 0, True), (31, 1, True), (91, 1, True), (92, 1, False)]:
            times[0] = moment
            assert dog.look() is looks_on
            assert driver.broken_off == broken_off
    assert given_up == [92]
    times[0] = 1000
    assert dog.look()  # no call is under way
    with dog.watched():
        times[0] = 1031
        assert dog.look()
    assert driver.broken_off == 2  # each call has its own time


def test_publisher_that_hangs_is_told_of_in_the_log_and_leaves_dispatch_alone(world: World) -> None:
    driver, given_up = HungDriver(), threading.Event()
    dog = SendWatchdog(driver, give_up=given_up.set, limit=timedelta(seconds=0.3), last_limit=timedelta(seconds=0.3))
    publisher = Publisher(world.dispatch, driver, dog)
    publisher.start()
    began = time.monotonic()
    for _ in range(2 * Publisher.WAITING):
        publisher.submit("io", new_ids(1))
        publisher.kick()
    assert time.monotonic() - began < 2
    assert given_up.wait(10)
    assert driver.broken_off == 1
    driver.gate.set()
    publisher.stop(timedelta(seconds=5))


def test_scheduler_whose_publisher_hangs_for_good_ends_and_its_successor_publishes(
    world: World, database_url: str, redis_url: str, target: Target, tmp_path: Path
) -> None:
    every_second(world, target)
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path) as started:
        started.start("worker")
        hanging = start(started, HANGING_PUBLISHER, "scheduler")
        hanging.wait_ready()
        assert exit_code(hanging, seconds=40) == EXIT_CODE
        assert "ERROR" in hanging.text
        assert "publishing hangs where it can't be broken off" in hanging.text
        assert fresh_successes(world) == 0
        start(started, SCHEDULER, "scheduler").wait_ready()
        wait_until("jobs run", lambda: fresh_successes(world) >= 3)


def test_producers_and_connections_of_celery_s_pools_are_not_used(link: tuple[Proxy, str]) -> None:
    app = create_app(link[1])
    queue = CeleryQueue(app)
    queue.publish("io", new_ids(250))
    queue.probe()
    queue.lost_messages()
    assert app._pool is None
    assert app.amqp._producer_pool is None
    queue.close()
