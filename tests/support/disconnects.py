"""Ends a worker's link to its broker in every way, and measures how soon messages are heard again."""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import redis
from servers.proxy import Proxy
from servers.queue_worker import QueueWorker
from servers.rabbitmq import RabbitMQ

from gnomon.embedded.valkey import EmbeddedValkey
from gnomon.job.errors import Unavailable
from gnomon.queue.celery.app import HEARTBEAT_SECONDS, create_app
from gnomon.queue.celery.publisher import CeleryQueue

HEARD_WITHIN = 30.0  # seconds
IN_CI, IN_FULL = 3, 50  # of each kind
CLOSE_ALL = '[catch rabbit_networking:close_connection(One, "test") || One <- rabbit_networking:connections()]'
DESCRIPTORS_LEFT = 8  # what may differ between two counts for no reason


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A worker behind a link to its broker, and a publisher that has a link of its own."""

    broker: EmbeddedValkey | RabbitMQ
    url: str
    link: Proxy
    worker: QueueWorker
    publisher: CeleryQueue
    rand: random.Random
    published: list[UUID] = field(default_factory=list)

    def hears(self) -> bool:
        """Whether a message that was published since the disconnect has been admitted."""
        return not self.worker.admitted.isdisjoint(map(str, self.published))

    def publish(self) -> None:
        """A new message, as R1 sends one anew: one that was on its way when the link broke may be gone."""
        ids = [uuid4()]
        with suppress(Unavailable):
            self.publisher.publish("io", ids)
            self.published.extend(ids)

    def seconds_until_heard(self) -> float:
        started, next_one = time.monotonic(), 0.0
        self.published.clear()
        while not self.hears():
            assert self.worker.process.poll() is None, f"the worker ended:\n{self.worker.log[-3000:]}"
            waited = time.monotonic() - started
            assert waited < HEARD_WITHIN, (
                f"deaf for {waited:.0f} s; the worker's log ends with\n{self.worker.log[-3000:]}"
            )
            if waited >= next_one:
                self.publish()
                next_one = waited + 0.5
            time.sleep(0.02)
        return time.monotonic() - started


def kill_server(scene: Scene) -> None:
    scene.broker.kill()
    time.sleep(scene.rand.choice([0.0, 0.5, 2.0]))
    scene.broker.start()


def again_and_again(break_link: Callable[[Scene], None]) -> Callable[[Scene], None]:
    """Once, or again while the worker is about to connect."""

    def breaks(scene: Scene) -> None:
        break_link(scene)
        for _ in range(scene.rand.choice([0, 0, 1, 4])):
            time.sleep(scene.rand.uniform(0.0, scene.rand.choice([0.05, 0.2, 1.2])))
            break_link(scene)

    return breaks


def close_connections(scene: Scene) -> None:
    if isinstance(scene.broker, RabbitMQ):
        scene.broker.evaluate(CLOSE_ALL)
    else:
        with redis.Redis.from_url(scene.url) as client:
            client.client_kill_filter(_type="normal", skipme=True)


def stall_link(scene: Scene) -> None:
    """For longer than a heartbeat, in one direction or both; then what was held back arrives, or the link is reset."""
    scene.rand.choice([scene.link.stall, scene.link.half_open])()
    time.sleep(HEARTBEAT_SECONDS * scene.rand.uniform(1.1, 2.6))
    if scene.rand.random() < 0.5:
        scene.link.cut()
    scene.link.heal()


DISCONNECTS: dict[str, Callable[[Scene], None]] = {
    "server killed": kill_server,
    "closed by the server": again_and_again(close_connections),
    "link reset": again_and_again(lambda scene: scene.link.cut()),
    "link stalled": stall_link,
}


@contextmanager
def scene_on(broker: EmbeddedValkey | RabbitMQ, url: str, folder: Path) -> Iterator[Scene]:
    """A ready worker. SEED in the environment repeats a run."""
    publisher = CeleryQueue(create_app(url))
    seed = int(os.environ.get("SEED", random.randrange(10**6)))
    print(f"SEED={seed}")
    with Proxy.before(url) as link, QueueWorker(link.url(url), folder) as worker:
        worker.wait_ready()
        yield Scene(broker=broker, url=url, link=link, worker=worker, publisher=publisher, rand=random.Random(seed))
    publisher.close()


def disconnect_again_and_again(scene: Scene, *, of_each_kind: int) -> None:
    kinds = list(DISCONNECTS) * of_each_kind
    scene.rand.shuffle(kinds)
    scene.seconds_until_heard()
    took: dict[str, list[float]] = {kind: [] for kind in DISCONNECTS}
    descriptors = 0
    for number, kind in enumerate(kinds):
        time.sleep(scene.rand.choice([0.0, 0.1, 1.0]))
        DISCONNECTS[kind](scene)
        took[kind].append(scene.seconds_until_heard())
        print(f"{number + 1:3} {kind}: heard after {took[kind][-1]:.2f} s", flush=True)
        if number == len(DISCONNECTS):
            descriptors = open_descriptors(scene.worker.process.pid)
    for kind, seconds in took.items():
        mean = sum(seconds) / len(seconds)
        print(f"{kind}: {len(seconds)} times, heard again after {mean:.2f} s, at most {max(seconds):.2f} s")
    assert open_descriptors(scene.worker.process.pid) <= descriptors + DESCRIPTORS_LEFT
    damped = scene.worker.log.count("Frequent restarts detected")  # more than five in a second
    assert scene.worker.log.count("Traceback") == damped
    assert scene.worker.stop() == 0


def open_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
