"""What the leader removes and what it leaves, and that nobody who dispatches, claims or records is held up by it."""

import itertools
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from servers.target import Target, answer
from support.aging import let_pass
from support.books import unbalanced_moments
from support.cluster import cluster, wait_until
from support.world import World, record

from gnomon.job.ids import scheduled_id
from gnomon.job.instance import Identity, Role
from gnomon.job.model import Job, State
from gnomon.job.ports import RepeatQuery, Tally
from gnomon.job.retention import Retention
from gnomon.scheduler import housekeeping as module
from gnomon.scheduler.housekeeping import GONE_FOR, UNSEEN_FOR, Housekeeper
from gnomon.storage.postgres import housekeeping

DAY = timedelta(days=1)
KEPT = Retention(newest=0)
NO_STOP = threading.Event()


def ended(world: World, job: Job, state: str = "SUCCEEDED", *, ago: timedelta, **more: Any) -> UUID:
    """An execution whose moment, and end, were so long ago."""
    moment = world.one("select now()") - ago
    final = state not in ("WAITING", "PENDING", "RUNNING")
    values = {
        "id": scheduled_id(job.id, moment),
        "job_id": job.id,
        "revision": 1,
        "kind": "HTTP",
        "queue": "io",
        "scheduled_at": moment,
        "trigger": "SCHEDULE",
        "state": state,
        "max_attempts": 4,
        "overlap": "allow",
        "available_at": moment,
        "finished_at": moment if final else None,
        "next_publish_at": moment if state == "PENDING" else None,
        "lease_expires_at": moment if state == "RUNNING" else None,
        **more,
    }
    names = ", ".join(values)
    world.sql(f"insert into executions ({names}) values ({', '.join(f':{name}' for name in values)})", **values)
    found = values["id"]
    assert isinstance(found, UUID)
    return found


def pruned(world: World, retention: Retention = KEPT) -> int:
    """A whole sweep by age."""
    total, after = 0, None
    while True:
        swept = world.housekeeping.prune_aged(retention, after=after)
        total, after = total + swept.removed, swept.after
        if after is None:
            return total


def left(world: World) -> set[UUID]:
    return {row.id for row in world.sql("select id from executions")}


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts so small that it takes several of them."""
    monkeypatch.setattr(housekeeping, "PART", 3)
    monkeypatch.setattr(housekeeping, "JOBS_PART", 2)


@pytest.mark.parametrize(
    ("state", "days"), [("SUCCEEDED", 7), ("SKIPPED", 7), ("FAILED", 30), ("UNKNOWN", 30), ("CANCELLED", 30)]
)
def test_history_is_kept_as_long_as_its_outcome_says(world: World, state: str, days: int) -> None:
    job = world.create()
    kept = ended(world, job, state, ago=days * DAY - timedelta(hours=1))
    ended(world, job, state, ago=days * DAY + timedelta(hours=1))
    assert pruned(world) == 1
    assert left(world) == {kept}


@pytest.mark.parametrize("state", ["WAITING", "PENDING", "RUNNING"])
def test_what_is_unfinished_stays_however_old(world: World, state: str) -> None:
    job = world.create(overlap="allow")
    unfinished = ended(world, job, state, ago=400 * DAY)
    ended(world, job, ago=400 * DAY + timedelta(seconds=1))
    assert pruned(world) == 1
    assert world.housekeeping.prune_crowded(job.id, Retention(per_job=1)) == 0
    assert left(world) == {unfinished}


def test_what_ended_lately_stays_however_old_its_moment(world: World) -> None:
    job = world.create()
    made_up_for = ended(world, job, ago=300 * DAY, trigger="BACKFILL", finished_at=datetime.now(UTC))
    assert pruned(world) == 0
    assert left(world) == {made_up_for}


def test_attempts_go_with_their_execution(world: World) -> None:
    old = ended(world, world.create(), ago=8 * DAY)
    world.sql("insert into attempts (execution_id, attempt, finished_at, outcome) values (:id, 1, now(), 'x')", id=old)
    assert pruned(world) == 1
    assert world.sql("select * from attempts") == []


def test_newest_of_a_job_stay_whatever_their_age(world: World) -> None:
    rare, deleted = world.create(), world.create()
    ids = [[ended(world, job, ago=days * DAY) for days in range(100, 110)] for job in (rare, deleted)]
    world.service.delete(str(deleted.id))
    assert pruned(world, Retention(newest=4)) == 6 + 10
    assert left(world) == set(ids[0][:4])


def test_sweep_passes_by_what_is_kept(world: World, parts: None) -> None:
    job = world.create()
    kept = [ended(world, job, "FAILED", ago=(9 + number) * DAY) for number in range(8)]
    for number in range(8):
        ended(world, job, ago=(9 + number) * DAY + timedelta(hours=1))
    assert pruned(world) == 8
    assert left(world) == set(kept)


def test_execution_that_a_request_is_answered_with_stays(world: World) -> None:
    job = world.create()
    answered, forgotten = (ended(world, job, ago=days * DAY, trigger="MANUAL") for days in (50, 51))
    for number, (resource, expires) in enumerate(((answered, "1 hour"), (forgotten, "-1 hour"))):
        world.sql(
            "insert into idempotency_keys (principal, key, fingerprint, resource_id, expires_at) "
            "values ('', :key, '', :resource, now() + cast(:expires as interval))",
            key=str(number),
            resource=resource,
            expires=expires,
        )
    assert pruned(world) == 1
    assert left(world) == {answered}
    assert world.housekeeping.forget_keys() == 1
    assert world.housekeeping.forget_keys() == 0


def test_try_again_stays_as_long_as_what_it_tried(world: World) -> None:
    job = world.create()
    failed = ended(world, job, "FAILED", ago=29 * DAY)
    again = ended(world, job, ago=28 * DAY, trigger="RETRY_OF", repeats=failed)
    assert pruned(world) == 0
    assert world.housekeeping.prune_crowded(job.id, Retention(per_job=1)) == 0
    assert world.repeats.matching(RepeatQuery(states=[State.FAILED])).count == 0
    world.sql("update executions set finished_at = finished_at - interval '2 days'")
    assert pruned(world) == 1
    assert left(world) == {again}
    assert pruned(world) == 1


def crowded(world: World, retention: Retention) -> list[UUID]:
    return list(world.housekeeping.untidy_jobs(retention, after=None).crowded)


def test_job_keeps_its_newest_of_each_kind(world: World, parts: None) -> None:
    job, quiet = world.create(), world.create()
    minute = timedelta(minutes=1)
    fine = [ended(world, job, "SKIPPED" if number % 2 else "SUCCEEDED", ago=number * minute) for number in range(20)]
    wrong = [ended(world, job, "FAILED", ago=(100 + number) * minute) for number in range(10)]
    other = [ended(world, quiet, ago=number * minute) for number in range(5)]
    retention = Retention(per_job=6)
    assert crowded(world, retention) == [job.id]
    assert list(
        itertools.takewhile(bool, (world.housekeeping.prune_crowded(job.id, retention) for _ in range(99)))
    ) == [
        *(3, 1),
        *(3, 3, 3, 3, 2),
    ]
    assert left(world) == {*fine[:6], *wrong[:6], *other}


def test_untidy_jobs_are_found_part_by_part(world: World, parts: None) -> None:
    jobs = [world.create() for _ in range(5)]
    for job in jobs:
        for number in range(3):
            ended(world, job, ago=number * DAY)
    found: list[UUID] = []
    after = None
    for _ in range(3):
        part = world.housekeeping.untidy_jobs(Retention(per_job=2), after=after)
        found += part.crowded
        after = part.after
    assert after is None
    assert found == sorted(job.id for job in jobs)


def revisions(world: World, job: Job) -> list[int]:
    return [
        row.revision for row in world.sql("select revision from job_revisions where job_id = :id order by 1", id=job.id)
    ]


def calling(number: int) -> dict[str, Any]:
    return {"http_job": {"url": f"http://127.0.0.1:9/{number}"}}


def retarget(world: World, job: Job, times: int = 1) -> None:
    for number in range(times):
        world.service.update(str(job.id), calling(number + world.service.get(str(job.id)).revision))


def grow_old(world: World, job: Job, by: timedelta) -> None:
    """All that was said of the job was said so much earlier."""
    world.sql("update job_revisions set created_at = created_at - :by where job_id = :id", by=by, id=job.id)
    world.sql(
        "update job_events set at = at - :by, owed_from = owed_from - :by, owed_until = owed_until - :by "
        "where job_id = :id",
        by=by,
        id=job.id,
    )


def test_revisions_go_that_nobody_refers_to(world: World) -> None:
    job = world.create()
    retarget(world, job, times=4)
    ended(world, job, ago=timedelta(0), revision=3)
    assert list(world.housekeeping.untidy_jobs(KEPT, after=None).edited) == []
    grow_old(world, job, 8 * DAY)
    assert list(world.housekeeping.untidy_jobs(KEPT, after=None).edited) == [job.id]
    assert world.housekeeping.drop_revisions(job.id) == 2
    assert revisions(world, job) == [1, 3, 5]  # what it owes began with the first one
    assert world.housekeeping.drop_revisions(job.id) == 0


def test_revision_stays_while_its_job_is_locked(world: World) -> None:
    """Who holds the lock may be about to make an execution of it."""
    job = world.create()
    retarget(world, job, times=2)
    with world.engine.begin() as other:
        other.exec_driver_sql(f"select 1 from jobs where id = '{job.id}' for no key update")
        assert world.housekeeping.drop_revisions(job.id) == 0
    assert world.housekeeping.drop_revisions(job.id) == 1


def test_books_stay_right_when_history_and_revisions_are_gone(world: World) -> None:
    """An edit of the schedule in the middle; what lies before what is kept needs no definition any more."""

    def finish() -> None:
        (claimed,) = world.claim(world.dispatched())
        world.executions.record([record(claimed)])
        assert unbalanced_moments(world, job.id) == {}

    job = world.due(interval_seconds=7200)
    finish()
    world.service.update(str(job.id), {"interval_seconds": 3600})
    retarget(world, job)
    let_pass(world, DAY)
    assert pruned(world, Retention(newest=0, succeeded=DAY / 2)) == 1
    assert unbalanced_moments(world, job.id) == {}
    assert world.housekeeping.drop_revisions(job.id) == 0  # the books before the edit are still to be read
    finish()
    let_pass(world, 40 * DAY)
    assert pruned(world) == 2
    assert world.housekeeping.drop_revisions(job.id) == 1
    assert revisions(world, job) == [2, 3]
    world.sql("update jobs set next_run = now() where id = :id", id=job.id)
    missing = unbalanced_moments(world, job.id)
    assert len(missing) > 900  # of forty days with one each hour, none of which has its row
    assert min(missing) > world.one("select until from prunings")


def backfilled(world: World, job: Job) -> int:
    """How many moments of the last hundred days a backfill would make up for."""
    since, until = (world.one("select now()") - days * DAY for days in (100, 0))
    moments = world.service.backfill(str(job.id), since=since.isoformat(), until=until.isoformat(), dry_run=True)
    return len(moments)


def test_backfill_does_not_repeat_what_was_forgotten(world: World) -> None:
    """Thirty days, ten of them in a pause; retention removes all that ran or was skipped."""
    job = world.create(interval_seconds=86_400, starts_at=(world.one("select now()") - 10 * DAY).isoformat())
    assert backfilled(world, job) == 11  # nothing was owed before the job was born
    for paused in (False, True, False):
        if paused:
            world.service.pause(str(job.id))
        let_pass(world, 10 * DAY)
        if paused:
            world.service.resume(str(job.id))
        world.dispatched()
    world.sql("update executions set state = 'CANCELLED' where state = 'PENDING'")
    world.sql("update executions set finished_at = scheduled_at")
    ran = world.one("select count(*) from executions where state = 'CANCELLED'")
    assert backfilled(world, job) == 11 + 30 - ran
    assert pruned(world, Retention(newest=0, succeeded=timedelta(0), failed=timedelta(0))) > ran
    assert left(world) == set()
    assert backfilled(world, job) == 11 + 10


def test_deleted_job_goes_with_the_last_of_its_history(world: World) -> None:
    job = world.create()
    old = ended(world, job, "FAILED", ago=20 * DAY)
    world.service.delete(str(job.id))
    world.sql("update jobs set deleted_at = deleted_at - interval '8 days'")
    assert list(world.housekeeping.untidy_jobs(KEPT, after=None).gone) == []
    assert world.housekeeping.drop_jobs([job.id], KEPT) == 0
    world.sql("delete from executions where id = :id", id=old)
    assert list(world.housekeeping.untidy_jobs(KEPT, after=None).gone) == [job.id]
    assert world.housekeeping.drop_jobs([job.id], KEPT) == 1
    assert revisions(world, job) == []
    assert world.one("select count(*) from job_events where job_id = :id", id=job.id) == 2


def test_deleted_job_is_known_for_a_while_though_it_never_ran(world: World) -> None:
    job = world.create()
    world.service.delete(str(job.id))
    assert world.housekeeping.drop_jobs([job.id], KEPT) == 0
    living = world.create()
    assert world.housekeeping.drop_jobs([living.id], KEPT) == 0


def trimmed(world: World, retention: Retention) -> int:
    total, after = 0, None
    while True:
        swept = world.housekeeping.trim_trail(retention, after=after)
        total, after = total + swept.removed, swept.after
        if after is None:
            return total


def test_trail_is_kept_as_far_as_the_books_need_it(world: World, parts: None) -> None:
    gone, job = world.create(), world.create()
    world.service.delete(str(gone.id))
    world.sql("delete from jobs where id = :id", id=gone.id)
    for _ in range(3):
        world.service.pause(str(job.id))
        world.service.resume(str(job.id))
    world.sql("update job_events set at = at - interval '400 days' where id > 0")
    assert trimmed(world, KEPT) == 2  # what is left of the one that is gone
    for entry in (gone, job):
        grow_old(world, entry, 10 * DAY)
    ended(world, job, ago=9 * DAY)
    assert pruned(world) == 1
    assert trimmed(world, KEPT) == 6
    assert [row.action for row in world.sql("select action from job_events")] == ["RESUMED"]
    assert trimmed(world, Retention(trail=500 * DAY)) == 0


def totals(world: World) -> dict[str, tuple[int, float, tuple[int, ...]]]:
    return {
        tally.outcome: (tally.count, tally.duration_sum, tuple(tally.duration_buckets))
        for tally in world.history.tallies()
    }


def worked(world: World, name: str, times: int) -> Identity:
    """A worker that has carried out so many executions."""
    process = Identity(id=uuid4(), name=name, role=Role.WORKER, host="here", pid=1, version="1")
    world.instances.beat(process)
    store = type(world.executions)(world.engine, instance=process.id, worker=name)
    for _ in range(times):
        job = world.due(overlap="allow")
        (claimed,) = store.claim(world.dispatched(), delivery=uuid4(), lease=timedelta(seconds=30))
        assert claimed.job_id == job.id
        store.record([record(claimed)])
    return process


def forget(world: World) -> int:
    return world.housekeeping.forget_instances(gone_for=GONE_FOR, unseen_for=UNSEEN_FOR)


def owners(world: World) -> set[UUID]:
    return {row.instance_id for row in world.sql("select instance_id from tallies")}


def test_what_forgotten_processes_counted_is_kept(world: World) -> None:
    dead, left_long_ago, living = (worked(world, name, times) for name, times in (("a", 2), ("b", 1), ("c", 3)))
    before = totals(world)
    assert before["SUCCEEDED"][0] == 6
    world.sql("update instances set heartbeat_at = now() - interval '61 minutes' where id = :id", id=dead.id)
    world.sql("update instances set left_at = now() - interval '61 minutes' where id = :id", id=left_long_ago.id)
    assert forget(world) == 2
    assert {instance.id for instance in world.instances.list()} == {living.id}
    assert owners(world) == {living.id, housekeeping.NOBODY}
    assert totals(world) == before
    world.sql("update instances set heartbeat_at = now() - interval '61 minutes'")
    assert forget(world) == 1
    assert owners(world) == {housekeeping.NOBODY}
    assert totals(world) == before
    assert forget(world) == 0


def test_process_that_counts_on_after_it_was_forgotten_is_not_counted_twice(world: World) -> None:
    process = worked(world, "frozen", 1)
    world.sql("update instances set heartbeat_at = now() - interval '61 minutes'")
    forget(world)
    store = type(world.executions)(world.engine, instance=process.id, worker="frozen")
    world.due()
    (claimed,) = store.claim(world.dispatched(), delivery=uuid4(), lease=timedelta(seconds=30))
    store.record([record(claimed)])
    assert totals(world)["SUCCEEDED"][0] == 2
    forget(world)
    assert totals(world)["SUCCEEDED"][0] == 2


def test_counts_of_processes_that_never_registered_are_folded_too(world: World) -> None:
    world.due()
    (claimed,) = world.claim(world.dispatched())
    world.executions.record([record(claimed)])
    before = totals(world)
    assert forget(world) == 0
    assert owners(world) == {housekeeping.NOBODY}
    assert totals(world) == before


def test_sums_never_fall_while_processes_are_forgotten_and_others_count(world: World) -> None:
    over = threading.Event()
    fallen: list[tuple[Sequence[Tally], Sequence[Tally]]] = []
    failures: list[BaseException] = []

    def watch() -> None:
        last: Sequence[Tally] = []
        while not over.is_set():
            now = world.history.tallies()
            seen = {tally.outcome: tally.count for tally in now}
            if any(seen.get(tally.outcome, 0) < tally.count for tally in last):
                fallen.append((last, now))
            last = now

    def fold() -> None:
        try:
            while not over.is_set():
                world.sql("update instances set heartbeat_at = now() - interval '61 minutes' where random() < 0.5")
                forget(world)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=target) for target in (watch, fold, fold)]
    for thread in threads:
        thread.start()
    try:
        for number in range(15):
            worked(world, f"worker-{number}", 2)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert (fallen, failures) == ([], [])
    assert totals(world)["SUCCEEDED"][0] == 30
    assert totals(world)["started"][0] == 30


def test_name_that_nobody_announced_for_long_is_forgotten(world: World) -> None:
    world.sql(
        "insert into announced (kind, name, queue, since, last_seen_at) values "
        "('handler', 'old', 'async', now(), now() - interval '31 days'), "
        "('handler', 'down', 'async', now(), now() - interval '29 days')"
    )
    forget(world)
    assert [handler.name for handler in world.catalog.handlers()] == ["down"]


def test_second_leader_finds_nothing_to_do(world: World) -> None:
    job = world.create()
    retarget(world, job, times=2)
    ended(world, job, ago=50 * DAY)
    with world.engine.begin() as other:
        other.exec_driver_sql(f"select pg_advisory_xact_lock({housekeeping.LOCK_KEY})")
        assert pruned(world) == 0
        assert world.housekeeping.prune_crowded(job.id, Retention(per_job=1)) == 0
        assert world.housekeeping.drop_revisions(job.id) == 0
        assert world.housekeeping.drop_jobs([job.id], KEPT) == 0
        assert trimmed(world, KEPT) == 0
        assert world.housekeeping.forget_keys() == 0
        assert forget(world) == 0
    assert pruned(world) == 1
    assert world.housekeeping.drop_revisions(job.id) == 1


class Clock:
    """A time of our own."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def scheduler(world: World, clock: Clock) -> tuple[Housekeeper, UUID]:
    """A housekeeper whose process has registered."""
    me = Identity(id=uuid4(), name="clock", role=Role.SCHEDULER, host="here", pid=1, version="1")
    world.instances.beat(me)
    return Housekeeper(world.housekeeping, world.instances, me=me.id, retention=KEPT, clock=clock), me.id


def whole_round(housekeeper: Housekeeper) -> int:
    """Steps until it rests."""
    return 1 + sum(1 for _ in itertools.takewhile(lambda rest: rest < module.LOOK, iter(housekeeper.step, None)))


def test_leader_tidies_up_and_then_rests(world: World, parts: None) -> None:
    clock = Clock()
    leader, _ = scheduler(world, clock)
    follower, _ = scheduler(world, clock)
    job = world.create()
    ids = [ended(world, job, ago=(8 + number) * DAY) for number in range(10)]
    assert follower.step() == module.LOOK
    assert left(world) == set(ids)
    assert whole_round(leader) > 5
    assert left(world) == set()
    again = ended(world, job, ago=9 * DAY)
    assert leader.step() == module.LOOK
    clock.now += module.EVERY.total_seconds() - 1
    assert leader.step() == module.LOOK
    assert left(world) == {again}
    clock.now += 1
    whole_round(leader)
    assert left(world) == set()


def test_follower_takes_over_when_the_leader_is_dead(world: World) -> None:
    clock = Clock()
    _, leader_id = scheduler(world, clock)
    follower, _ = scheduler(world, clock)
    ended(world, world.create(), ago=9 * DAY)
    assert follower.step() == module.LOOK
    world.sql("update instances set heartbeat_at = now() - interval '1 minute' where id = :id", id=leader_id)
    clock.now += module.LOOK.total_seconds()
    whole_round(follower)
    assert left(world) == set()


def test_leader_that_was_replaced_breaks_off(world: World, parts: None) -> None:
    clock = Clock()
    leader, me = scheduler(world, clock)
    job = world.create()
    for number in range(30):
        ended(world, job, ago=(8 + number) * DAY)
    while len(left(world)) > 25:
        leader.step()
    world.sql("update instances set left_at = now() where id = :id", id=me)
    clock.now += module.LOOK.total_seconds()
    count = len(left(world))
    assert leader.step() == module.LOOK
    assert len(left(world)) == count > 0


def test_retention_works_under_load_and_holds_up_nobody(world: World) -> None:
    """Old history is removed beside dispatches, claims and records, none of which meets a lock."""
    jobs = [world.due(overlap="allow") for _ in range(20)]
    for job in jobs:
        world.sql(
            "insert into executions (id, job_id, revision, kind, queue, scheduled_at, trigger, state, max_attempts, "
            "overlap, available_at, finished_at) "
            "select cast(lpad(to_hex(floor(extract(epoch from at) * 1000)::bigint), 12, '0') || "
            "substr(md5(random()::text), 1, 20) as uuid), :job, 1, 'HTTP', 'io', at, 'MANUAL', 'SUCCEEDED', 1, "
            "'allow', at, at from (select now() - interval '8 days' - make_interval(secs => n) as at "
            "from generate_series(1, 500) n) as moments",
            job=job.id,
        )
    over = threading.Event()
    failures: list[BaseException] = []

    def old() -> int:
        count: int = world.one("select count(*) from executions where finished_at < now() - interval '7 days'")
        return count

    def tidy() -> None:
        try:
            while not over.is_set():
                pruned(world)
                for job in jobs:
                    world.housekeeping.prune_crowded(job.id, Retention(per_job=3))
                    world.housekeeping.drop_revisions(job.id)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=tidy) for _ in range(2)]
    for thread in threads:
        thread.start()
    succeeded = 0
    try:
        for _ in range(15):
            world.make_due(*jobs)
            claimed = world.claim(world.dispatched())
            assert len(claimed) == len(jobs)
            succeeded += len(world.executions.record([record(one) for one in claimed]))
        wait_until("the old history is gone", lambda: bool(failures) or old() == 0)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert succeeded == 15 * len(jobs)
    assert totals(world)["SUCCEEDED"][0] == succeeded
    assert old() == 0


def test_other_scheduler_keeps_house_when_the_leader_is_killed(
    world: World, target: Target, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """Beside jobs that run each second, with little history of each, whose books are right all the time."""
    target.on("/hook", answer())
    job = {"interval_seconds": 1, "http_job": {"url": target.url("/hook")}, "overlap": "allow"}
    jobs = [world.create(**job) for _ in range(5)]
    idle = world.create()
    settings = {"SCHEDULER_RETENTION_NEWEST": "0", "SCHEDULER_RETENTION_PER_JOB": "3"}
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path, **settings) as built:
        first, worker = built.start_ready("scheduler", "worker")
        crowd = "select min(count) from (select count(*) from executions group by job_id) as by_job"
        wait_until("there is more than is kept", lambda: (world.one(crowd) or 0) > 5)
        ended(world, idle, ago=9 * DAY)
        second = built.start("scheduler")
        second.wait_ready()
        first.kill()
        wait_until("the second keeps house", lambda: world.one("select count(*) from prunings") == 6, seconds=60)
        assert "keeps house" in second.text
        assert world.one("select count(*) from executions where job_id = :id", id=idle.id) == 0
        for one in jobs:
            world.service.pause(str(one.id))
        unfinished = "select count(*) from executions where state in ('WAITING', 'PENDING', 'RUNNING')"
        wait_until("all has ended", lambda: world.one(unfinished) == 0)
        assert {one.id: wrong for one in jobs if (wrong := unbalanced_moments(world, one.id))} == {}
        assert second.stop() == worker.stop() == 0
