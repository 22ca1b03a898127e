"""What breaks when: a plan drawn from a seed, so that the same seed breaks the same things in the same order."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import psycopg2
from servers.proxy import Proxy

from chaos.brokers import Broker, Missed
from chaos.cluster import LEASE_SECONDS, MEMBERS, SCHEDULERS, WORKERS, Cluster
from chaos.post import LINKS, PostOffice
from gnomon.embedded.postgres import EmbeddedPostgres

_GAP_SECONDS = (3.0, 6.0)
_DATABASE = ("database",)
_BROKER = ("broker",)
_AMQP = ("amqp-target",)
_ON_BROKER = (*SCHEDULERS, *WORKERS)
_HOUR = 3600
_LONG = (LEASE_SECONDS + 1.0, LEASE_SECONDS + 6.0)
# A session that holds locks is rare at a given moment; this is how long one is looked for.
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Fault:
    """`at` counts from the first moment of the run; `choice` in [0, 1) decides whatever else there is to decide."""

    at: timedelta
    kind: str
    victim: str
    lasts: timedelta
    choice: float

    def __str__(self) -> str:
        return f"{self.kind} {self.victim} for {self.lasts.total_seconds():.1f} s (choice {self.choice:.3f})"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What can be broken. Without a `post_office` there are no AMQP jobs, and no fault in `ON_AMQP`."""

    cluster: Cluster
    postgres: EmbeddedPostgres
    broker: Broker
    post_office: PostOffice | None

    @property
    def amqp(self) -> PostOffice:
        """The target of AMQP jobs."""
        assert self.post_office is not None
        return self.post_office


Carried = Callable[[], None]
Begin = Callable[[Scene, Fault], Carried]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """`begin` breaks something, and returns what mends it. `seconds`: how long it lasts, at least and at most.

    `slow`: mending takes seconds, and other things are to break meanwhile.
    """

    weight: float
    victims: Sequence[str]
    seconds: tuple[float, float]
    begin: Begin
    slow: bool = False


def plan(seed: int, duration: timedelta, kinds: Sequence[str]) -> Iterator[Fault]:
    """The faults in order. A fault takes the same number of draws whatever its kind is."""
    rng = random.Random(seed)
    at = timedelta(0)
    while True:
        at += timedelta(seconds=rng.uniform(*_GAP_SECONDS))
        if at > duration:
            return
        name = rng.choices(kinds, [KINDS[name].weight for name in kinds])[0]
        victim, share, choice = rng.random(), rng.random(), rng.random()
        kind = KINDS[name]
        shortest, longest = kind.seconds
        yield Fault(
            at=at,
            kind=name,
            victim=kind.victims[int(victim * len(kind.victims))],
            lasts=timedelta(seconds=shortest + share * (longest - shortest)),
            choice=choice,
        )


def _nothing() -> None:
    """What is over as soon as it has happened."""


def _kill(scene: Scene, fault: Fault) -> Carried:
    scene.cluster.members[fault.victim].kill(fault.choice)
    return _nothing


def _kill_and_shift_clock(scene: Scene, fault: Fault) -> Carried:
    if not scene.cluster.clock_available:
        raise Missed("there is no gcc")
    member = scene.cluster.members[fault.victim]
    member.clock_shift = _HOUR if fault.choice < 0.5 else -_HOUR
    member.kill()
    return _nothing


def _freeze(scene: Scene, fault: Fault) -> Carried:
    return scene.cluster.members[fault.victim].freeze()


def _restart_database(scene: Scene, fault: Fault) -> Carried:
    if fault.choice < 0.5:
        scene.postgres.kill()
    elif scene.postgres.pid:
        scene.postgres.restart(immediate=True)
    return scene.postgres.start


def _freeze_backend(scene: Scene, fault: Fault) -> Carried:
    pid = _backend(scene, fault.choice)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)

    def thaw() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    return thaw


def _backend(scene: Scene, choice: float) -> int:
    """A session of ours, best one that is inside a transaction."""
    query = (
        "select pid, xact_start is not null from pg_stat_activity where datname = 'gnomon' "
        "and backend_type = 'client backend' and pid <> pg_backend_pid() order by pid"
    )
    try:
        with contextlib.closing(psycopg2.connect(scene.postgres.url, connect_timeout=2)) as session:
            session.autocommit = True
            give_up_at = time.monotonic() + _LOOK_SECONDS
            while True:
                with session.cursor() as cursor:
                    cursor.execute(query)
                    sessions = cursor.fetchall()
                inside = [pid for pid, is_inside in sessions if is_inside]
                pids = inside or [pid for pid, _ in sessions]
                if inside or (pids and time.monotonic() > give_up_at):
                    return int(pids[int(choice * len(pids))])
                if time.monotonic() > give_up_at:
                    raise Missed("nobody speaks to the database")
    except psycopg2.Error as error:
        raise Missed(f"the database does not answer: {error}") from error


def _on_database_link(do: Callable[..., None], *arguments: object) -> Begin:
    def begin(scene: Scene, fault: Fault) -> Carried:
        link = scene.cluster.database[fault.victim]
        do(link, *arguments)
        return link.heal

    return begin


def _on_broker_link(do: Callable[..., None], *arguments: object) -> Begin:
    def begin(scene: Scene, fault: Fault) -> Carried:
        link = scene.cluster.broker[fault.victim]
        do(link, *arguments)
        return link.heal

    return begin


def _lose_reply(scene: Scene, fault: Fault) -> Carried:
    link = scene.cluster.database[fault.victim]
    link.lose_reply(_STEPS[int(fault.choice * len(_STEPS))])
    return link.heal


def _restart_broker(scene: Scene, fault: Fault) -> Carried:
    scene.broker.kill()
    if fault.choice < 0.5:
        scene.broker.forget()
    return scene.broker.start


def _freeze_broker(scene: Scene, fault: Fault) -> Carried:
    scene.broker.freeze()
    return scene.broker.thaw


def _fill_broker(scene: Scene, fault: Fault) -> Carried:
    scene.broker.fill(disk=fault.choice < 0.5)
    return scene.broker.empty


def _wipe_broker(scene: Scene, fault: Fault) -> Carried:
    scene.broker.wipe()
    return _nothing


def _delete_queue(scene: Scene, fault: Fault) -> Carried:
    scene.broker.delete_queue()
    return _nothing


def _on_amqp_link(do: Callable[..., None], *arguments: object) -> Begin:
    def begin(scene: Scene, fault: Fault) -> Carried:
        link = scene.amqp.links[fault.victim]
        do(link, *arguments)
        return link.heal

    return begin


def _restart_amqp(scene: Scene, fault: Fault) -> Carried:
    scene.amqp.post.kill()
    return scene.amqp.post.start


def _freeze_amqp(scene: Scene, fault: Fault) -> Carried:
    scene.amqp.post.freeze()
    return scene.amqp.post.thaw


def _fill_amqp(scene: Scene, fault: Fault) -> Carried:
    scene.amqp.post.fill(disk=fault.choice < 0.5)
    return scene.amqp.post.empty


def _close_amqp(scene: Scene, fault: Fault) -> Carried:
    scene.amqp.post.close_connections()
    return _nothing


def _refuse_amqp(scene: Scene, fault: Fault) -> Carried:
    scene.amqp.post.refuse()
    return scene.amqp.post.restore


def _unroute_amqp(scene: Scene, fault: Fault) -> Carried:
    if fault.choice < 0.5:
        scene.amqp.post.lose_exchange()
    else:
        scene.amqp.post.lose_queue()
    return scene.amqp.post.restore


_AT_ONCE = (0.0, 0.0)
# Of a statement each, or of the end of a transaction.
_STEPS = (b"COMMIT", b"update executions", b"insert into executions", b"next_publish_at")
KINDS = {
    "kill": Kind(weight=6, victims=MEMBERS, seconds=_AT_ONCE, begin=_kill),
    "freeze": Kind(weight=3, victims=MEMBERS, seconds=(0.3, 4.0), begin=_freeze),
    "freeze-beyond-lease": Kind(weight=3, victims=MEMBERS, seconds=_LONG, begin=_freeze),
    "wrong-clock": Kind(weight=2, victims=MEMBERS, seconds=_AT_ONCE, begin=_kill_and_shift_clock),
    "restart": Kind(weight=2, victims=_DATABASE, seconds=(0.0, 4.0), begin=_restart_database),
    "freeze-backend": Kind(weight=2, victims=_DATABASE, seconds=(1.0, 8.0), begin=_freeze_backend),
    "partition": Kind(weight=2, victims=MEMBERS, seconds=(1.0, 12.0), begin=_on_database_link(Proxy.stall)),
    "half-open": Kind(weight=2, victims=MEMBERS, seconds=(1.0, 12.0), begin=_on_database_link(Proxy.half_open)),
    "cut": Kind(weight=1, victims=MEMBERS, seconds=_AT_ONCE, begin=_on_database_link(Proxy.cut)),
    "refuse": Kind(weight=1, victims=MEMBERS, seconds=(0.5, 5.0), begin=_on_database_link(Proxy.refuse)),
    "latency": Kind(weight=1, victims=MEMBERS, seconds=(2.0, 8.0), begin=_on_database_link(Proxy.delay, 0.1)),
    "lost-reply": Kind(weight=5, victims=MEMBERS, seconds=(1.0, 4.0), begin=_lose_reply),
    "broker-partition": Kind(weight=2, victims=_ON_BROKER, seconds=(1.0, 12.0), begin=_on_broker_link(Proxy.stall)),
    "broker-half-open": Kind(weight=2, victims=_ON_BROKER, seconds=(1.0, 12.0), begin=_on_broker_link(Proxy.half_open)),
    "broker-cut": Kind(weight=1, victims=_ON_BROKER, seconds=_AT_ONCE, begin=_on_broker_link(Proxy.cut)),
    "broker-refuse": Kind(weight=1, victims=_ON_BROKER, seconds=(0.5, 5.0), begin=_on_broker_link(Proxy.refuse)),
    "broker-latency": Kind(weight=1, victims=_ON_BROKER, seconds=(2.0, 8.0), begin=_on_broker_link(Proxy.delay, 0.1)),
    "broker-restart": Kind(weight=2, victims=_BROKER, seconds=(0.0, 4.0), begin=_restart_broker, slow=True),
    "broker-freeze": Kind(weight=1, victims=_BROKER, seconds=(1.0, 8.0), begin=_freeze_broker),
    "broker-full": Kind(weight=1, victims=_BROKER, seconds=(1.0, 8.0), begin=_fill_broker),
    "wipe": Kind(weight=2, victims=_BROKER, seconds=_AT_ONCE, begin=_wipe_broker),
    "delete-queue": Kind(weight=1, victims=_BROKER, seconds=_AT_ONCE, begin=_delete_queue),
    "amqp-restart": Kind(weight=2, victims=_AMQP, seconds=(0.0, 4.0), begin=_restart_amqp, slow=True),
    "amqp-freeze": Kind(weight=1, victims=_AMQP, seconds=(1.0, 8.0), begin=_freeze_amqp),
    "amqp-blocked": Kind(weight=1, victims=_AMQP, seconds=(1.0, 8.0), begin=_fill_amqp),
    "amqp-closed": Kind(weight=1, victims=_AMQP, seconds=_AT_ONCE, begin=_close_amqp),
    "amqp-nacks": Kind(weight=1, victims=_AMQP, seconds=(1.0, 4.0), begin=_refuse_amqp),
    "amqp-unroutable": Kind(weight=2, victims=_AMQP, seconds=(0.5, 3.0), begin=_unroute_amqp),
    "amqp-partition": Kind(weight=1, victims=LINKS, seconds=(1.0, 12.0), begin=_on_amqp_link(Proxy.stall)),
    "amqp-half-open": Kind(weight=1, victims=LINKS, seconds=(1.0, 12.0), begin=_on_amqp_link(Proxy.half_open)),
    "amqp-cut": Kind(weight=1, victims=LINKS, seconds=_AT_ONCE, begin=_on_amqp_link(Proxy.cut)),
    "amqp-refuse": Kind(weight=1, victims=LINKS, seconds=(0.5, 5.0), begin=_on_amqp_link(Proxy.refuse)),
    "amqp-latency": Kind(weight=1, victims=LINKS, seconds=(2.0, 8.0), begin=_on_amqp_link(Proxy.delay, 0.1)),
    "amqp-lost-confirm": Kind(
        weight=3, victims=LINKS, seconds=(1.0, 4.0), begin=_on_amqp_link(Proxy.lose_reply, b"Idempotency-Key")
    ),
}
ON_AMQP = frozenset(name for name in KINDS if name.startswith("amqp-"))
