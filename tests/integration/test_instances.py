"""Who takes part, who leads, and what can be named in a definition, by the database's clock."""

import signal
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from support.api import make_client, only_error
from support.cluster import Role as Process
from support.cluster import cluster, wait_until
from support.world import World

from gnomon import __version__
from gnomon.embedded.ports import LOOPBACK, free_port
from gnomon.job.handlers import HandlerInfo, HandlerSpec
from gnomon.job.instance import ALIVE_WITHIN, Identity, Instance, Role

MAIL = HandlerSpec(name="email", queue="handlers", schema={"type": "object"})


def identity(role: Role = Role.WORKER, name: str = "one", queues: tuple[str, ...] = ()) -> Identity:
    return Identity(id=uuid4(), name=name, role=role, host="machine", pid=42, version="1.2", queues=queues)


def registered(world: World, role: Role = Role.WORKER, **more: str) -> Identity:
    """A process that has said so."""
    process = identity(role, **more)
    world.instances.beat(process)
    return process


def only(world: World) -> Instance:
    (instance,) = world.instances.list()
    return instance


def silence(world: World, *processes: Identity, ago: timedelta = ALIVE_WITHIN) -> None:
    """Their last heartbeat was so long ago, and they registered a little earlier."""
    for process in processes:
        world.sql(
            "update instances set heartbeat_at = now() - :ago, started_at = least(started_at, now() - :ago) "
            "where id = :id",
            ago=ago,
            id=process.id,
        )


def seen(world: World, name: str) -> HandlerInfo:
    handler = world.catalog.handler(name)
    assert handler is not None
    return handler


def test_process_is_listed_as_it_registered(world: World) -> None:
    process = identity(queues=("io", "async"))
    world.instances.beat(process)
    found = only(world)
    assert {name: getattr(found, name) for name in vars(process)} == vars(process)
    assert (found.alive, found.leader, found.left_at) == (True, False, None)
    assert found.started_at == found.heartbeat_at


def test_heartbeat_moves_on_and_the_start_does_not(world: World) -> None:
    process = registered(world)
    silence(world, process, ago=timedelta(hours=2))
    before = only(world)
    assert not before.alive
    world.instances.beat(process)
    after = only(world)
    assert after.alive
    assert after.started_at == before.started_at
    assert after.heartbeat_at > before.heartbeat_at


def test_process_that_was_forgotten_registers_again(world: World) -> None:
    process = registered(world)
    world.sql("delete from instances")
    world.instances.beat(process)
    assert only(world).id == process.id


@pytest.mark.parametrize(("ago", "alive"), [(ALIVE_WITHIN / 2, True), (ALIVE_WITHIN, False)])
def test_silent_process_is_dead(world: World, ago: timedelta, alive: bool) -> None:
    silence(world, registered(world), ago=ago)
    assert only(world).alive is alive


def test_process_that_left_is_not_alive(world: World) -> None:
    world.instances.leave(registered(world).id)
    assert not only(world).alive
    assert only(world).left_at is not None


def leaders(world: World) -> list[UUID]:
    return [instance.id for instance in world.instances.list() if instance.leader]


def test_leader_is_the_earliest_living_scheduler(world: World) -> None:
    assert world.instances.leader() is None
    registered(world, Role.WORKER)
    registered(world, Role.API)
    first, second = registered(world, Role.SCHEDULER), registered(world, Role.SCHEDULER)
    assert world.instances.leader() == first.id
    assert leaders(world) == [first.id]
    silence(world, first)
    assert world.instances.leader() == second.id
    world.instances.beat(first)
    assert leaders(world) == [first.id]
    world.instances.leave(first.id)
    assert leaders(world) == [second.id]
    world.instances.leave(second.id)
    assert world.instances.leader() is None


def test_handler_is_known_with_its_schema_and_queue(world: World) -> None:
    assert world.catalog.handler("email") is None
    world.instances.beat(
        identity(), handlers=[MAIL, HandlerSpec(name="audit", queue="async")], retry_strategies=["slow", "fast"]
    )
    assert [handler.name for handler in world.catalog.handlers()] == ["audit", "email"]
    assert (seen(world, "email").queue, seen(world, "email").schema) == ("handlers", {"type": "object"})
    assert (seen(world, "audit").queue, seen(world, "audit").schema) == ("async", None)
    assert world.catalog.retry_strategies() == ["fast", "slow"]
    assert world.catalog.handler("slow") is None
    assert world.catalog.handler("em\x00ail") is None


def test_handler_lives_as_long_as_a_process_that_has_it(world: World) -> None:
    one, other = identity(), identity()
    for process in (one, other):
        world.instances.beat(process, handlers=[MAIL])
    world.instances.leave(one.id)
    assert seen(world, "email").alive
    silence(world, other, ago=timedelta(minutes=5))
    assert not seen(world, "email").alive
    world.instances.beat(one)  # it lives, but has no handler any more
    assert not seen(world, "email").alive
    world.instances.beat(other, handlers=[MAIL])
    assert seen(world, "email").alive


def test_handler_was_last_seen_at_the_last_heartbeat_of_who_had_it(world: World) -> None:
    process = identity()
    world.instances.beat(process, handlers=[MAIL])
    world.sql("update announced set last_seen_at = now() - interval '20 seconds'")
    world.instances.beat(process, handlers=[MAIL])
    assert seen(world, "email").last_seen_at == only(world).heartbeat_at


def announced_at(world: World) -> str:
    """The version of the row: another one as soon as it is written."""
    return str(world.one("select xmin from announced"))


def test_heartbeat_writes_a_name_again_only_now_and_then(world: World) -> None:
    process = identity()
    world.instances.beat(process, handlers=[MAIL])
    first = announced_at(world)
    world.instances.beat(process, handlers=[MAIL])
    assert announced_at(world) == first
    world.sql("update announced set last_seen_at = last_seen_at - interval '31 seconds'")
    aged = announced_at(world)
    world.instances.beat(process, handlers=[MAIL])
    assert announced_at(world) != aged


def test_schema_of_the_process_that_started_last_holds(world: World) -> None:
    old, new = identity(), identity()
    newer = HandlerSpec(name="email", queue="async", schema={"type": "object", "required": ["to"]})
    world.instances.beat(old, handlers=[MAIL])
    world.instances.beat(new, handlers=[newer])
    world.instances.beat(old, handlers=[MAIL])
    assert seen(world, "email").schema == newer.schema
    assert seen(world, "email").queue == "async"
    changed = HandlerSpec(name="email", queue="async", schema={"type": "object", "title": "changed"})
    world.instances.beat(new, handlers=[changed])
    assert seen(world, "email").schema == changed.schema


def test_schema_of_a_process_that_is_gone_gives_way(world: World) -> None:
    old, new = identity(), identity()
    world.instances.beat(old, handlers=[MAIL])
    world.instances.beat(new, handlers=[HandlerSpec(name="email", queue="async")])
    world.sql("update announced set last_seen_at = now() - interval '61 seconds'")
    world.instances.beat(old, handlers=[MAIL])
    assert seen(world, "email").schema == MAIL.schema


def test_instances_are_answered_over_http(world: World) -> None:
    process = registered(world, Role.SCHEDULER, name="clock-1")
    (answer,) = make_client(world).get("/v1/instances").get_json()
    since = answer.pop("started_at")
    assert datetime.fromisoformat(since).tzinfo
    assert answer == {
        "id": str(process.id),
        "name": "clock-1",
        "role": "scheduler",
        "host": "machine",
        "pid": 42,
        "version": "1.2",
        "queues": [],
        "last_seen_at": since,
        "left_at": None,
        "alive": True,
        "leader": True,
    }


def test_handlers_are_answered_over_http(world: World) -> None:
    client = make_client(world)
    assert client.get("/v1/handlers").get_json() == []
    process = identity()
    world.instances.beat(process, handlers=[MAIL, HandlerSpec(name="any", queue="async")])
    first, second = client.get("/v1/handlers").get_json()
    assert datetime.fromisoformat(first.pop("last_seen_at")).tzinfo
    assert first == {"name": "any", "queue": "async", "schema": None, "alive": True}
    assert (second["name"], second["schema"]) == ("email", {"type": "object"})
    world.instances.leave(process.id)
    assert [one["alive"] for one in client.get("/v1/handlers").get_json()] == [False, False]


@pytest.mark.parametrize("path", ["/v1/instances", "/v1/handlers"])
def test_misspelt_question_is_refused(world: World, path: str) -> None:
    assert only_error(make_client(world).get(f"{path}?alive=true"))["pointer"] == "/alive"


def test_metrics_count_those_that_live_by_role(world: World) -> None:
    world.instances.leave(registered(world, Role.WORKER).id)
    registered(world, Role.WORKER)
    registered(world, Role.WORKER)
    registered(world, Role.API)
    text = make_client(world).get("/metrics").get_data(as_text=True)
    for role, count in (("api", 1.0), ("scheduler", 0.0), ("worker", 2.0)):
        assert f'gnomon_instances{{role="{role}"}} {count}' in text


def by_name(world: World) -> dict[str, Instance]:
    return {instance.name: instance for instance in world.instances.list()}


def test_each_process_registers_and_its_end_is_noticed(
    world: World, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path) as built:
        started: dict[str, Process] = {
            name: built.start(role, SCHEDULER_ID=name, SCHEDULER_WEB_API_HOST=f"{LOOPBACK}:{free_port()}")
            for name, role in (
                ("a", "api"),
                ("s1", "scheduler"),
                ("s2", "scheduler"),
                ("w1", "worker"),
                ("w2", "worker"),
            )
        }
        wait_until("all have registered", lambda: by_name(world).keys() == started.keys())
        found = by_name(world)
        assert {name: str(one.role) for name, one in found.items() if name in ("a", "s1", "w1")} == {
            "a": "api",
            "s1": "scheduler",
            "w1": "worker",
        }
        assert {one.version for one in found.values()} == {__version__}
        assert all(one.alive for one in found.values())
        assert found["w1"].pid == started["w1"].pid
        assert (found["w1"].queues, found["s1"].queues) == (("io",), ())
        leads, follows = sorted(("s1", "s2"), key=lambda name: not found[name].leader)
        assert not found[follows].leader

        for victim in (leads, "w1"):
            started[victim].kill()
        killed_at = world.one("select now()")
        wait_until(
            "the killed ones are dead",
            lambda: not any(by_name(world)[name].alive for name in (leads, "w1")),
            seconds=20,
        )
        assert all(by_name(world)[name].heartbeat_at <= killed_at for name in (leads, "w1"))
        wait_until("the other one leads", lambda: by_name(world)[follows].leader)

        for name in ("a", follows, "w2"):
            assert started[name].stop() == 0
        assert all(by_name(world)[name].left_at for name in ("a", follows, "w2"))
        assert world.instances.leader() is None


def test_frozen_process_is_dead_until_it_goes_on(
    world: World, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path) as built:
        process = built.start("scheduler")
        wait_until("it has registered", lambda: bool(world.instances.list()))
        process.signal(signal.SIGSTOP)
        wait_until("it is dead", lambda: not only(world).alive)
        process.signal(signal.SIGCONT)
        wait_until("it lives", lambda: only(world).alive)
        assert only(world).leader
