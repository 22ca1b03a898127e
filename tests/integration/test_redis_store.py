"""What is particular to the stores on Redis: scripts, indices, limits, and what a server may do to them."""

import contextlib
import json
import multiprocessing
import os
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import redis
from servers.proxy import Proxy
from support.cluster import wait_until
from support.redis_world import RedisWorld
from support.world import record, token

from gnomon.embedded.ports import free_port
from gnomon.embedded.valkey import EmbeddedValkey
from gnomon.job.document import format_instant
from gnomon.job.errors import ConfigurationError, Conflict, GnomonError, NotFound, Unavailable
from gnomon.job.model import State
from gnomon.job.ports import DURATION_BUCKETS, Claimed, ExecutionQuery, JobQuery, NewJob, Unrecordable
from gnomon.scheduler.dispatch import plan_batch
from gnomon.storage.redis import dispatch
from gnomon.storage.redis.client import check_server, connect, durability_warnings, passing_reason
from gnomon.storage.redis.database import RedisDatabase
from gnomon.storage.redis.dispatch import RedisDispatchStore
from gnomon.storage.redis.waker import RedisWaker

HOUR = timedelta(hours=1)


@pytest.fixture
def redis_world(redis_url: str) -> Iterator[RedisWorld]:
    opened = RedisWorld(redis_url)
    opened.database.open()
    yield opened
    assert opened.problems() == []
    opened.close()


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """A server that answers only after what it did is on disk."""
    server = EmbeddedValkey(tmp_path / "durable", persist=True, settings={"appendfsync": "always"})
    server.start()
    yield server
    server.stop()


def drive(world: RedisWorld, rng: random.Random, turns: int) -> None:
    """Whatever the protocol knows, in any order."""
    claimed: list[Claimed] = []
    jobs: list[str] = []
    for _ in range(turns):
        step = rng.randrange(14)
        try:
            if step <= 1 or not jobs:
                overlap = rng.choice(["skip", "allow", "queue"])
                policy = rng.choice(["run_once", "run_all", "skip"])
                misfire = {"policy": policy, "limit": 5}
                seconds = rng.choice([30, 3600])
                jobs.append(str(world.create(overlap=overlap, misfire=misfire, interval_seconds=seconds).id))
            elif step == 2:
                world.advance(timedelta(seconds=rng.randrange(4000)))
            elif step == 3:
                world.dispatched(limit=rng.choice([1, 100]))
            elif step == 4:
                ids = [i for part in world.dispatch.republish(limit=20).values() for i in part]
                claimed += world.claim(ids, lease=timedelta(seconds=rng.choice([1, 60])))
            elif step == 5 and claimed:
                one = claimed.pop(rng.randrange(len(claimed)))
                state = rng.choice([State.SUCCEEDED, State.PENDING, State.FAILED, State.UNKNOWN])
                world.executions.record([record(one, state, delay=timedelta(seconds=3))])
            elif step == 6 and claimed:
                world.executions.release([token(claimed.pop())], delay=timedelta(0))
            elif step == 7:
                world.dispatch.rescue(grace=timedelta(0), spare=None)
            elif step == 8:
                world.service.run_now(rng.choice(jobs), may_wait=rng.random() < 0.5, key=rng.choice("ab") * 3)
            elif step == 9:
                done = world.history.list(None, ExecutionQuery(limit=20)).items
                world.service.cancel(str(rng.choice(done).id)) if done else None
            elif step == 10:
                done = world.history.list(None, ExecutionQuery(limit=20, states=[State.FAILED, State.CANCELLED])).items
                world.service.retry(str(rng.choice(done).id), may_wait=True) if done else None
            elif step == 11:
                pick = rng.choice(jobs)
                world.service.pause(pick) if rng.random() < 0.5 else world.service.resume(pick)
            elif step == 12:
                now = world.dispatch.horizon().now
                since = format_instant(now - HOUR)
                world.service.backfill(rng.choice(jobs), since=since, until=format_instant(now))
            else:
                world.service.update(rng.choice(jobs), {"overlap": rng.choice(["skip", "allow", "queue"])})
                if rng.random() < 0.2:
                    world.service.delete(jobs.pop(rng.randrange(len(jobs))))
                world.dispatch.free_slots() if rng.random() < 0.3 else None
        except Unavailable:
            raise
        except GnomonError:
            continue  # refused: nothing may have changed


@pytest.mark.parametrize("seed", range(6))
def test_indices_say_what_the_rows_say_whatever_was_done(redis_url: str, seed: int) -> None:
    world = RedisWorld(redis_url, kept=20)
    world.database.open()
    drive(world, random.Random(seed), 250)
    assert world.problems() == []
    world.close()


def test_indices_say_what_the_rows_say_when_many_change_them_at_once(redis_world: RedisWorld) -> None:
    threads = [threading.Thread(target=drive, args=(redis_world, random.Random(seed), 120)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert redis_world.client.zcard(f"{redis_world.database.prefix}executions") > 0


def test_two_schedulers_and_four_workers_share_the_work_and_each_moment_runs_once(redis_world: RedisWorld) -> None:
    jobs = [redis_world.create(interval_seconds=600) for _ in range(200)]
    redis_world.advance(timedelta(seconds=600))
    taken: list[Claimed] = []
    published: list[UUID] = []

    def schedule() -> None:
        while (done := redis_world.dispatch.dispatch(plan_batch, limit=50)).full:
            published.extend(i for ids in done.published.values() for i in ids)
        published.extend(i for ids in done.published.values() for i in ids)

    def work(name: str) -> None:
        store = redis_world.worker(name)
        while len(recorded) < len(jobs):
            mine = store.claim(list(published), delivery=uuid4(), lease=timedelta(seconds=60))
            taken.extend(mine)
            recorded.update(store.record([record(one) for one in mine]))

    recorded: set[UUID] = set()
    threads = [threading.Thread(target=schedule) for _ in range(2)]
    threads += [threading.Thread(target=work, args=(f"worker-{number}",), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(published) == len(set(published)) == len(jobs)
    assert sorted(one.id for one in taken) == sorted(published)
    assert all(redis_world.states_of(job) == ["SUCCEEDED"] for job in jobs)


def test_job_that_changes_between_plan_and_booking_is_left_for_the_next_round(redis_world: RedisWorld) -> None:
    job = redis_world.due()

    def plan_while_it_is_paused(due: list[object], now: datetime) -> list[object]:
        redis_world.service.pause(str(job.id))
        return plan_batch(due, now)  # type: ignore[arg-type]

    done = redis_world.dispatch.dispatch(plan_while_it_is_paused, limit=10)  # type: ignore[arg-type]
    assert (done.jobs, dict(done.published)) == (0, {})
    assert redis_world.history_of(job) == []


def test_edit_that_meets_a_dispatch_is_decided_again(redis_world: RedisWorld) -> None:
    job = redis_world.due()
    seen: list[datetime | None] = []

    def decide(found: object, now: datetime) -> None:
        seen.append(found.next_run)  # type: ignore[attr-defined]

    redis_world.jobs.update(job.id, decide)  # type: ignore[arg-type]
    original = redis_world.database.run

    def run(script: str, **arguments: object) -> object:
        if script == "update" and len(redis_world.history_of(job)) == 0:
            redis_world.dispatched()
        return original(script, **arguments)

    redis_world.database.run = run  # type: ignore[method-assign]
    redis_world.service.update(str(job.id), {"timeout_seconds": 5})
    redis_world.database.run = original  # type: ignore[method-assign]
    (execution,) = redis_world.history_of(job)
    found = redis_world.jobs.get(job.id)
    assert found.next_run is not None
    assert (execution.scheduled_at, found.next_run - execution.scheduled_at) == (seen[0], HOUR)
    assert (found.revision, execution.revision) == (2, 1)


def test_long_outage_is_worked_off_in_parts_and_no_moment_is_lost(
    redis_world: RedisWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "SCRIPT_ROWS", 7)
    misfire = {"policy": "run_all", "limit": 30, "grace_seconds": 600}
    job = redis_world.create(interval_seconds=60, misfire=misfire)
    behind = redis_world.create(interval_seconds=60, misfire=misfire, overlap="allow")
    redis_world.advance(timedelta(seconds=60 * 50))
    rounds = 0
    while (done := redis_world.dispatch.dispatch(plan_batch, limit=10)).behind or done.full:
        rounds += 1
    assert rounds > 3
    for one in (job, behind):
        found = redis_world.history_of(one)
        assert sum(execution.skipped_count or 1 for execution in found) == 50
        # those within the grace run too where they may overlap
        made_up = [execution for execution in found if execution.state is not State.SKIPPED]
        assert len(made_up) == (30 + 10 if one is behind else 30)


def test_scheduler_that_serves_some_names_leaves_the_others_alone(redis_world: RedisWorld) -> None:
    served = [redis_world.create(name=f"mine-{number}", interval_seconds=600 + number) for number in range(5)]
    other = redis_world.create(name="other", interval_seconds=600)
    names = [str(job.name) for job in served] + ["nobody-s"]
    mine = RedisDispatchStore(redis_world.database, names=lambda: names)
    assert mine.horizon().at == served[0].next_run
    redis_world.advance(timedelta(seconds=650))
    (ids,) = mine.dispatch(plan_batch, limit=3).published.values()
    assert {redis_world.history.get(each).job_id for each in ids} == {job.id for job in served[:3]}
    made = redis_world.service.run_now(str(other.id)).execution.id
    asked = redis_world.service.run_now(str(served[4].id)).execution.id
    assert [i for part in mine.republish(limit=10).values() for i in part] == [asked]
    redis_world.dispatched()
    assert mine.horizon().at != redis_world.dispatch.horizon().at
    assert [i for part in redis_world.dispatch.republish(limit=10).values() for i in part] == [made]
    nobody = RedisDispatchStore(redis_world.database, names=list)
    assert (nobody.horizon().at, nobody.dispatch(plan_batch, limit=10).jobs, nobody.republish(limit=9)) == (None, 0, {})


def test_deletion_of_very_much_is_finished_by_whoever_comes_next(
    redis_world: RedisWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = redis_world.create(interval_seconds=60, misfire={"policy": "run_all"})
    redis_world.advance(timedelta(seconds=60 * 40))
    (first, *_) = redis_world.dispatched()
    (running,) = redis_world.claim([first])
    redis_world.database.run("delete", id=job.id, limit=10)  # and its process dies
    assert "WAITING" in redis_world.states_of(job)
    redis_world.executions.record([record(running)])
    assert redis_world.dispatch.republish(limit=10) == {}
    while "WAITING" in redis_world.states_of(job):
        redis_world.dispatch.rescue(grace=timedelta(0), spare=None)
    assert set(redis_world.states_of(job)) == {"SUCCEEDED", "CANCELLED", "SKIPPED"}


def test_history_keeps_what_ended_last_and_the_list_of_failures_with_it(redis_url: str) -> None:
    world = RedisWorld(redis_url, kept=10)
    job = world.create(overlap="allow")
    made = [world.service.run_now(str(job.id)).execution.id for _ in range(30)]
    for number, claimed in enumerate(world.claim(made)):
        world.executions.record([record(claimed, State.FAILED if number % 2 else State.SUCCEEDED)])
    assert {execution.id for execution in world.history_of(job)} == set(made[-10:])
    failed = world.history.list(None, ExecutionQuery(states=[State.FAILED, State.UNKNOWN])).items
    assert {execution.id for execution in failed} == set(made[-1:-11:-2])
    with pytest.raises(NotFound):
        world.history.get(made[0])
    assert world.problems() == []
    world.close()


def test_moments_that_are_no_longer_kept_are_not_run_again_by_a_backfill(redis_url: str) -> None:
    world = RedisWorld(redis_url, kept=3)
    world.database.open()
    job = world.create(interval_seconds=60, overlap="allow")
    begun = job.created_at
    moments = []
    for _ in range(6):
        world.make_due(job)
        ids = world.dispatched()
        moments += [world.history.get(each).scheduled_at for each in ids]
        world.executions.record([record(claimed) for claimed in world.claim(ids)])
    assert len(world.history_of(job)) == 3
    now = format_instant(world.dispatch.horizon().now)
    assert list(world.service.backfill(str(job.id), since=format_instant(begun), until=now, dry_run=True)) == []
    assert len(moments) == 6
    assert world.problems() == []
    world.close()


def test_deleted_job_is_forgotten_with_its_history_after_thirty_days(redis_world: RedisWorld) -> None:
    kept, gone = redis_world.create(overlap="allow"), redis_world.create(overlap="allow", name="gone")
    made = [redis_world.service.run_now(str(gone.id)).execution.id for _ in range(5)]
    running = redis_world.claim(made[:1])
    redis_world.service.delete(str(gone.id))
    redis_world.advance(timedelta(days=29))
    redis_world.dispatch.rescue(grace=timedelta(days=30), spare=None)
    assert len(redis_world.history_of(gone)) == 5
    redis_world.advance(timedelta(days=2))
    redis_world.dispatch.rescue(grace=timedelta(days=60), spare=None)
    assert redis_world.states_of(gone) == ["RUNNING"]  # not before its last attempt has ended
    redis_world.executions.record([record(running[0])])
    redis_world.dispatch.rescue(grace=timedelta(0), spare=None)
    with pytest.raises(NotFound):
        redis_world.history_of(gone)
    left = redis_world.client.keys("*")
    assert [key for key in left if str(gone.id) in key or any(str(each) in key for each in made)] == []
    assert redis_world.jobs.get(kept.id).id == kept.id


def test_what_an_idempotency_key_made_outlives_what_ended_after_it(redis_url: str) -> None:
    world = RedisWorld(redis_url, kept=3)
    job = world.create(overlap="allow")
    first = world.service.run_now(str(job.id), key="once").execution
    world.executions.record([record(world.claim([first.id])[0])])
    for _ in range(10):
        made = world.service.run_now(str(job.id)).execution.id
        world.executions.record([record(world.claim([made])[0])])
    again = world.service.run_now(str(job.id), key="once")
    assert (again.replayed, again.execution.id) == (True, first.id)
    world.close()


def test_lists_of_very_many_are_read_in_bounded_parts(redis_world: RedisWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gnomon.storage.redis.jobs.SCANNED_AT_ONCE", 3)
    monkeypatch.setattr("gnomon.storage.redis.history.SCANNED_AT_ONCE", 3)
    jobs = [redis_world.create(tags=["rare"] if number % 5 == 0 else []) for number in range(23)]
    rare = [job.id for job in reversed(jobs) if "rare" in job.tags]
    first = redis_world.jobs.list(JobQuery(limit=2, tags=["rare"]))
    second = redis_world.jobs.list(JobQuery(limit=9, tags=["rare"], cursor=first.cursor))
    assert [job.id for job in (*first.items, *second.items)] == rare
    assert second.cursor is None
    assert len(redis_world.jobs.list(JobQuery(limit=23)).items) == 23
    made = [redis_world.service.run_now(str(jobs[0].id), may_wait=True).execution.id for _ in range(11)]
    waiting = redis_world.history.list(jobs[0].id, ExecutionQuery(limit=4, states=[State.WAITING]))
    assert [execution.id for execution in waiting.items] == sorted(made[1:], reverse=True)[:4]
    assert waiting.cursor is not None


def test_scripts_come_back_after_the_server_forgot_them(redis_world: RedisWorld) -> None:
    job = redis_world.create()
    redis_world.client.script_flush()
    assert redis_world.jobs.get(job.id).id == job.id


def test_namespaces_see_nothing_of_each_other(redis_world: RedisWorld, redis_url: str) -> None:
    other = RedisWorld(redis_url, namespace="other")
    mine = redis_world.create(name="same")
    theirs = other.create(name="same")
    assert mine.id != theirs.id
    assert [job.id for job in other.jobs.list(JobQuery()).items] == [theirs.id]
    assert other.dispatched() == []
    other.close()


def port_with_bus() -> int:
    """The nodes of a cluster talk on a port that lies 10,000 higher."""
    while True:
        port = free_port()
        with socket.socket() as bus, contextlib.suppress(OSError, OverflowError):
            bus.bind(("127.0.0.1", port + 10_000))
            return port


def test_all_keys_are_in_one_slot_of_a_cluster(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path / "cluster", port=port_with_bus(), settings={"cluster-enabled": "yes"})
    server.start()
    try:
        client = connect(server.url)
        client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        wait_until("the cluster is complete", lambda: "cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
        world = RedisWorld(server.url)
        world.database.open()
        drive(world, random.Random(1), 100)
        assert world.problems() == []
        world.close()
        client.close()
    finally:
        server.stop()


def test_texts_that_no_utf_8_carries_are_unrecordable_and_others_kept_as_they_are(redis_world: RedisWorld) -> None:
    redis_world.due()
    (claimed,) = redis_world.claim(redis_world.dispatched())
    with pytest.raises(Unrecordable):
        redis_world.executions.record([record(claimed, State.FAILED, error_message="half \ud800")])
    text = 'NUL \x00, "quotes", ü, 🎉'
    redis_world.executions.record([record(claimed, State.PENDING, error_message=text, response_excerpt=text)])
    execution = redis_world.history.get(claimed.id)
    assert (execution.response_excerpt, execution.attempts[0].error_message) == (text, text)


def test_moments_keep_their_microseconds_until_the_last_year(redis_world: RedisWorld) -> None:
    last = "2200-12-31T23:59:59.999999Z"
    job = redis_world.create(execute_at=last)
    assert job.next_run == datetime(2200, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    assert redis_world.dispatch.horizon().at == job.next_run


def test_server_that_is_away_is_unavailable_and_shows_no_password() -> None:
    world = RedisWorld("redis://:sesame@127.0.0.1:9/0")
    with pytest.raises(Unavailable) as caught:
        world.create()
    assert "sesame" not in str(caught.value)
    world.close()


def test_wrong_password_is_refused_at_the_start(redis_url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_server(connect(re.sub(r":[^:@]+@", ":sesame@", redis_url)))
    assert "password" in str(caught.value)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1", "redis://:sesame@host:port/0", ""])
def test_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        connect(url)
    assert "sesame" not in str(caught.value)


def test_user_without_rights_on_our_keys_is_refused_at_the_start(redis_world: RedisWorld, redis_url: str) -> None:
    redis_world.client.execute_command("ACL", "SETUSER", "guest", "on", ">guest", "~other:*", "+@all")
    try:
        with pytest.raises(ConfigurationError) as caught:
            RedisDatabase(connect(re.sub(r"//:[^@]+@", "//guest:guest@", redis_url)), namespace="test").open()
        assert "{test}:" in str(caught.value)
    finally:
        redis_world.client.execute_command("ACL", "DELUSER", "guest")


def test_announcement_that_is_not_allowed_breaks_no_script(redis_world: RedisWorld, redis_url: str) -> None:
    rights = ("on", ">quiet", "~*", "resetchannels", "+@all")
    redis_world.client.execute_command("ACL", "SETUSER", "quiet", *rights)
    try:
        quiet = RedisWorld(re.sub(r"//:[^@]+@", "//quiet:quiet@", redis_url))
        assert quiet.service.run_now(str(quiet.create().id)).execution.state is State.PENDING
        quiet.close()
    finally:
        redis_world.client.execute_command("ACL", "DELUSER", "quiet")


def test_full_memory_is_unavailable_and_leaves_no_half_change(redis_world: RedisWorld) -> None:
    job = redis_world.due()
    ids = redis_world.dispatched()
    (claimed,) = redis_world.claim(ids)
    redis_world.client.config_set("maxmemory", "1")
    try:
        for call in (
            redis_world.create,
            lambda: redis_world.service.run_now(str(job.id), may_wait=True),
            lambda: redis_world.executions.record([record(claimed)]),
        ):
            with pytest.raises(Unavailable, match="maxmemory"):
                call()
    finally:
        redis_world.client.config_set("maxmemory", "0")
    assert redis_world.executions.record([record(claimed)]) == {claimed.id}


def test_replica_is_unavailable_and_says_so(redis_world: RedisWorld) -> None:
    redis_world.client.replicaof("127.0.0.1", "9")
    try:
        with pytest.raises(Unavailable, match="replica"):
            redis_world.create()
    finally:
        redis_world.client.replicaof("NO", "ONE")


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (redis.ResponseError("MISCONF Redis is configured to save RDB snapshots, but …"), "disk"),
        (
            redis.ResponseError(
                "Error running script (call to f_3f): @user_script:12: @user_script: 12: -OOM command not allowed"
            ),
            "maxmemory",
        ),
        (redis.BusyLoadingError("Redis is loading the dataset in memory"), "reading"),
        (redis.ResponseError("READONLY You can't write against a read only replica. script: 3f"), "primary"),
        (redis.ResponseError("wrong number of arguments for 'hset'"), None),
    ],
)
def test_errors_of_the_server_say_what_to_do(error: redis.RedisError, word: str | None) -> None:
    reason = passing_reason(error)
    assert reason is None if word is None else word in str(reason)


def test_server_that_may_lose_what_it_was_given_is_warned_of_at_the_start(
    redis_url: str, durable: EmbeddedValkey, caplog: pytest.LogCaptureFixture
) -> None:
    check_server(connect(durable.url))
    assert caplog.text == ""
    check_server(connect(redis_url))
    assert "appendonly yes" in caplog.text
    assert "noeviction" in durability_warnings({"maxmemory_policy": "allkeys-lru", "aof_enabled": 1})[0]


def test_keys_of_another_format_are_refused(redis_world: RedisWorld) -> None:
    redis_world.client.set(f"{redis_world.database.prefix}format", "0")
    with pytest.raises(ConfigurationError, match="format 0"):
        redis_world.database.open()


def test_restart_without_its_data_is_noticed(
    redis_url: str, valkey: EmbeddedValkey, caplog: pytest.LogCaptureFixture
) -> None:
    world = RedisWorld(redis_url)
    world.database.open()
    world.create()
    assert world.dispatch.horizon().at is not None
    valkey.kill()
    with pytest.raises(Unavailable):
        world.dispatch.horizon()
    valkey.start()
    assert world.dispatch.horizon().at is None
    assert "are gone" in caplog.text
    world.close()


@pytest.fixture
def link(redis_url: str) -> Iterator[Proxy]:
    """What lies between a client and the server."""
    with Proxy.before(redis_url) as opened:
        yield opened


@pytest.fixture
def far(link: Proxy, redis_url: str) -> Iterator[RedisWorld]:
    """The client at the other end of the link."""
    opened = RedisWorld(link.url(redis_url), answer_seconds=1.0)
    yield opened
    opened.close()


def lost(link: Proxy, call: Callable[[], object]) -> None:
    """The call is carried out, and its answer lost."""
    link.lose_reply(b"EVALSHA")
    with pytest.raises(Unavailable):
        call()
    assert link.lost_replies > 0


def test_claim_whose_answer_was_lost_is_given_again(redis_world: RedisWorld, far: RedisWorld, link: Proxy) -> None:
    redis_world.due()
    ids, delivery = redis_world.dispatched(), uuid4()
    far.claim([uuid4()])  # the server knows the script
    lost(link, lambda: far.claim(ids, delivery=delivery))
    assert [one.attempt for one in far.claim(ids, delivery=delivery)] == [1]
    assert redis_world.claim(ids) == []


def test_record_whose_answer_was_lost_is_known_to_be_written(
    redis_world: RedisWorld, far: RedisWorld, link: Proxy
) -> None:
    redis_world.due()
    delivery = uuid4()
    (claimed,) = redis_world.claim(redis_world.dispatched(), delivery=delivery)
    outcome = record(claimed, owner=delivery)
    far.executions.record([record(replace(claimed, attempt=9))])  # the server knows the script
    lost(link, lambda: far.executions.record([outcome]))
    assert far.executions.record([outcome]) == set()
    assert far.executions.recorded_before([outcome]) == {claimed.id}


def test_dispatch_whose_answer_was_lost_loses_no_execution(
    redis_world: RedisWorld, far: RedisWorld, link: Proxy
) -> None:
    job = redis_world.due()
    redis_world.dispatched()
    redis_world.make_due(job)
    (first,) = redis_world.claim([redis_world.history_of(job)[-1].id])
    redis_world.executions.record([record(first)])
    original = far.database.run

    def run(script: str, **arguments: object) -> object:
        if script == "book":
            link.lose_reply(b"EVALSHA")
        return original(script, **arguments)

    far.database.run = run  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        far.dispatched()
    assert redis_world.dispatched() == []
    newest = redis_world.history_of(job)[0]
    assert newest.state is State.PENDING
    redis_world.advance(timedelta(seconds=16))
    assert [i for ids in redis_world.dispatch.republish(limit=10).values() for i in ids] == [newest.id]


def test_request_with_a_key_whose_answer_was_lost_is_carried_out_once(
    redis_world: RedisWorld, far: RedisWorld, link: Proxy
) -> None:
    job = redis_world.create(overlap="allow")
    far.service.run_now(str(job.id))
    lost(link, lambda: far.service.run_now(str(job.id), key="mine"))
    again = far.service.run_now(str(job.id), key="mine")
    assert again.replayed
    assert len(redis_world.history_of(job)) == 2


def test_server_that_hangs_is_unavailable_in_time(far: RedisWorld, link: Proxy) -> None:
    far.create()
    link.stall()
    with pytest.raises(Unavailable):
        far.create()
    link.heal()


def hammer(url: str, line: int) -> None:
    """Creates, dispatches, claims and records until it is killed, and tells what was acknowledged."""
    world = RedisWorld(url, answer_seconds=2.0)

    def tell(what: str, which: UUID) -> None:
        os.write(line, f"{what} {which}\n".encode())

    while True:
        try:
            job = world.create(overlap="allow")
            tell("created", job.id)
            made = world.service.run_now(str(job.id)).execution.id
            tell("asked", made)
            for claimed in world.claim([made]):
                tell("claimed", claimed.id)
                for written in world.executions.record([record(claimed)]):
                    tell("recorded", written)
        except Unavailable:
            time.sleep(0.02)


def start_hammers(url: str, count: int) -> tuple[list[multiprocessing.process.BaseProcess], int]:
    read, write = os.pipe()
    context = multiprocessing.get_context("fork")
    hammers = [context.Process(target=hammer, args=(url, write), daemon=True) for _ in range(count)]
    for process in hammers:
        process.start()
    os.close(write)
    return hammers, read


def told(line: int) -> list[tuple[str, UUID]]:
    with os.fdopen(line, encoding="ascii") as stream:
        return [(what, UUID(which)) for what, which in (entry.split() for entry in stream if entry.endswith("\n"))]


def test_clients_killed_in_the_middle_leave_nothing_half_done(redis_world: RedisWorld, redis_url: str) -> None:
    hammers, line = start_hammers(redis_url, 4)
    recorded = f"{redis_world.database.prefix}tallies"
    for process in hammers:
        before = int(redis_world.client.hget(recorded, "SUCCEEDED|count|HTTP") or 0)
        wait_until(
            "something is recorded",
            lambda at=before: int(redis_world.client.hget(recorded, "SUCCEEDED|count|HTTP") or 0) > at + 5,
        )
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert {what for what, _ in told(line)} == {"created", "asked", "claimed", "recorded"}
    redis_world.advance(timedelta(minutes=5))
    redis_world.dispatch.rescue(grace=timedelta(0), spare=None)
    assert redis_world.history.list(None, ExecutionQuery(states=[State.RUNNING])).items == []


def test_nothing_that_was_acknowledged_is_lost_when_a_server_that_syncs_always_is_killed(
    durable: EmbeddedValkey,
) -> None:
    world = RedisWorld(durable.url)
    hammers, line = start_hammers(durable.url, 3)
    for _ in range(3):
        before = world.history.tallies()
        wait_until("something more is recorded", lambda at=before: world.history.tallies() != at)
        time.sleep(0.3)
        durable.kill()
        durable.start()
    for process in hammers:
        process.kill()
        process.join()
    acknowledged = told(line)
    assert len(acknowledged) > 50
    assert world.problems() == []
    for what, which in acknowledged:
        if what == "created":
            assert world.jobs.get(which).id == which
        else:
            found = world.history.get(which)
            assert what == "asked" or found.attempt == 1
            assert what != "recorded" or found.state is State.SUCCEEDED
    world.close()


def woken_after(waker: RedisWaker, world: RedisWorld, act: Callable[[], object], *, before: timedelta) -> float:
    now = world.dispatch.horizon().now
    timer = threading.Timer(0.3, act)
    timer.start()
    begun = time.monotonic()
    waker.wait(timedelta(seconds=20), before=now + before)
    timer.join()
    return time.monotonic() - begun


@pytest.fixture
def waker(redis_world: RedisWorld) -> Iterator[RedisWaker]:
    """One that listens."""
    opened = RedisWaker(redis_world.database)
    opened.wait(timedelta(seconds=20), before=datetime(2200, 1, 1, tzinfo=UTC))  # ends when it listens
    yield opened
    opened.close()


def test_moment_that_another_process_announces_ends_the_wait(redis_world: RedisWorld, waker: RedisWaker) -> None:
    other = redis_world.create
    assert woken_after(waker, redis_world, lambda: other(interval_seconds=60), before=HOUR) < 15


def test_later_moments_do_not_end_the_wait(redis_world: RedisWorld, waker: RedisWaker) -> None:
    now = redis_world.dispatch.horizon().now
    threading.Timer(0.2, lambda: redis_world.create(interval_seconds=7200)).start()
    begun = time.monotonic()
    waker.wait(timedelta(seconds=1), before=now + HOUR)
    assert time.monotonic() - begun >= 1


def test_wake_ends_the_wait_and_is_remembered(redis_world: RedisWorld, waker: RedisWaker) -> None:
    waker.wake()
    assert woken_after(waker, redis_world, lambda: None, before=HOUR) < 15
    assert woken_after(waker, redis_world, waker.wake, before=HOUR) < 15


def test_waker_that_may_not_listen_is_a_timer_and_says_so_once(
    redis_world: RedisWorld, redis_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gnomon.storage.redis.waker.RECONNECT_SECONDS", 0.02)
    redis_world.client.execute_command("ACL", "SETUSER", "quiet", "on", ">quiet", "~*", "resetchannels", "+@all")
    try:
        deaf = RedisWaker(RedisDatabase(connect(re.sub(r"//:[^@]+@", "//quiet:quiet@", redis_url)), namespace="test"))
        deaf.wait(timedelta(seconds=1), before=datetime(2200, 1, 1, tzinfo=UTC))
        wait_until("it complains", lambda: "can't listen" in caplog.text)
        deaf.wait(timedelta(seconds=0.5), before=datetime(2200, 1, 1, tzinfo=UTC))
        deaf.close()
        assert caplog.text.count("can't listen") == 1
    finally:
        redis_world.client.execute_command("ACL", "DELUSER", "quiet")


def test_wait_survives_the_loss_of_its_connection(redis_world: RedisWorld, waker: RedisWaker) -> None:
    redis_world.client.client_kill_filter(_type="pubsub")
    # it looks when it listens again, and hears what is announced then
    waker.wait(timedelta(seconds=20), before=datetime(2200, 1, 1, tzinfo=UTC))
    assert woken_after(waker, redis_world, lambda: redis_world.create(interval_seconds=60), before=HOUR) < 15


# Commands that Redis 6.2 has.
KNOWN = """
    TIME GET HMGET HGET HGETALL HSET HDEL HEXISTS HINCRBY EXISTS DEL RPUSH LTRIM LRANGE ZADD ZREM ZRANGE ZRANGEBYSCORE
    ZREVRANGEBYSCORE ZREVRANGEBYLEX ZRANGEBYLEX ZCARD ZSCORE ZCOUNT SADD SREM SRANDMEMBER PUBLISH PEXPIRE SET SETNX
"""


def test_scripts_use_nothing_that_redis_6_2_lacks() -> None:
    folder = files("gnomon.storage.redis") / "lua"
    used: set[str] = set()
    for script in folder.iterdir():
        text = script.read_text(encoding="utf-8")
        used |= set(re.findall(r"call\(\s*'([A-Z]+)'", text)) | set(re.findall(r"'(S[A-Z]+)' or '(?:S[A-Z]+)'", text))
        assert "goto" not in text
    assert used <= set(KNOWN.split())


def test_durations_are_counted_in_the_buckets_of_the_metrics(redis_world: RedisWorld) -> None:
    job = redis_world.create(overlap="allow")
    for seconds in (0.001, DURATION_BUCKETS[0], 4000.0):
        made = redis_world.service.run_now(str(job.id)).execution.id
        (claimed,) = redis_world.claim([made])
        outcome = record(claimed)
        object.__setattr__(outcome, "duration", timedelta(seconds=seconds))
        redis_world.executions.record([outcome])
    (tally, _) = redis_world.history.tallies()
    assert (tally.count, tally.duration_buckets[0], tally.duration_buckets[1], tally.duration_buckets[-1]) == (
        3,
        1,
        1,
        1,
    )


def test_row_that_another_hand_wrote_is_held_and_stops_nobody(redis_world: RedisWorld) -> None:
    broken, sound = redis_world.create(), redis_world.create()
    redis_world.client.hset(f"{redis_world.database.prefix}job:{broken.id}", "timing", json.dumps({"starts_at": None}))
    redis_world.advance(HOUR)
    done = redis_world.dispatch.dispatch(plan_batch, limit=10)
    assert list(done.held) == [broken.id]
    assert len(redis_world.history_of(sound)) == 1
    assert redis_world.jobs.get(broken.id).hold_reason is not None
    redis_world.service.update(str(broken.id), {"timeout_seconds": 5})
    assert len(redis_world.dispatched()) == 1


def test_id_that_exists_is_not_created_twice(redis_world: RedisWorld) -> None:
    job = redis_world.create()
    definition = job.definition
    assert definition is not None
    with pytest.raises(Conflict):
        redis_world.jobs.create(lambda now: NewJob(id=job.id, definition=definition, next_run=now))


def test_namespace_that_would_tear_the_keys_apart_is_refused() -> None:
    for name in ("", "a}b", "{", "a b", "x" * 101):
        with pytest.raises(ConfigurationError):
            RedisDatabase(connect("redis://127.0.0.1:9/0"), namespace=name)
