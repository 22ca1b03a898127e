"""Servers and processes are killed under load; nothing is lost, nothing is booked twice."""

from pathlib import Path

from servers.target import Target, answer
from support.books import unbalanced_moments
from support.cluster import cluster, wait_until
from support.world import World

from gnomon.embedded.valkey import EmbeddedValkey

JOBS = 500
# All jobs call one host, which takes 0.3 s to answer.
SCALED = {"SCHEDULER_MAX_JOB_LOCK_TIME": "5s", "SCHEDULER_WORKER_CONCURRENCY_PER_HOST": "256"}


def unfinished(world: World) -> int:
    count: int = world.one("select count(*) from executions where state in ('WAITING', 'PENDING', 'RUNNING')")
    return count


def succeeded(world: World) -> int:
    count: int = world.one("select count(*) from executions where state = 'SUCCEEDED'")
    return count


def test_no_moment_is_lost_or_doubled_when_worker_scheduler_and_broker_are_killed(
    world: World, database_url: str, redis_url: str, valkey: EmbeddedValkey, target: Target, tmp_path: Path
) -> None:
    target.on("/hook", answer(delay=0.3))  # at any moment about a third of the jobs are in flight
    job = {"interval_seconds": 1, "http_job": {"url": target.url("/hook"), "method": "POST", "body": "{}"}}
    jobs = [world.create(**job) for _ in range(JOBS)]
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path, **SCALED) as started:
        scheduler, worker = started.start_ready("scheduler", "worker")
        wait_until("jobs run", lambda: succeeded(world) > JOBS)
        worker.kill()
        started.start("worker").wait_ready()
        wait_until("jobs run again without the first worker", lambda: _progress(world), seconds=60)
        scheduler.kill()
        started.start("scheduler").wait_ready()
        wait_until("jobs run again without the first scheduler", lambda: _progress(world), seconds=60)
        valkey.kill()
        valkey.start()
        wait_until("jobs run again with an empty broker", lambda: _progress(world), seconds=60)
        world.sql("update jobs set status = 'STOPPED'")
        wait_until("everything is in a final state", lambda: unfinished(world) == 0, seconds=90)

    assert {j.id: unbalanced_moments(world, j.id) for j in jobs if unbalanced_moments(world, j.id)} == {}
    assert world.one("select count(*) from attempts where outcome = 'LOST'") > 10  # the kill hit work in flight
    done = {str(row.id) for row in world.sql("select id from executions where state = 'SUCCEEDED'")}
    assert done <= target.keys().keys()  # a success was answered by the target itself


def _progress(world: World) -> bool:
    """Whether nearly every job has a success that fell due within the last three seconds."""
    fresh = world.one(
        "select count(distinct job_id) from executions "
        "where state = 'SUCCEEDED' and scheduled_at > now() - interval '3 seconds'"
    )
    return bool(fresh >= JOBS * 0.95)


def test_two_schedulers_and_two_workers_share_five_thousand_due_jobs(
    world: World, database_url: str, queue_url: str, target: Target, tmp_path: Path
) -> None:
    first = world.create(interval_seconds=86_400, http_job={"url": target.url("/hook"), "method": "POST"})
    columns = (
        "type, queue, status, interval_seconds, anchor_at, timezone, spread_seconds, misfire_policy, "
        "misfire_grace_seconds, misfire_limit, overlap, max_attempts, tags, revision"
    )
    world.sql(
        f"insert into jobs (id, next_run, {columns}) select gen_random_uuid(), now() + interval '1 day', {columns} "
        "from jobs, generate_series(1, 4999)"
    )
    world.sql(
        "insert into job_revisions (job_id, revision, definition) select j.id, 1, r.definition from jobs j, "
        "job_revisions r where r.job_id = :id and j.id <> :id",
        id=first.id,
    )
    with cluster(database_url=database_url, queue_url=queue_url, folder=tmp_path) as started:
        started.start_ready("scheduler", "scheduler", "worker", "worker")
        world.sql("update jobs set next_run = now()")
        wait_until("all have succeeded", lambda: succeeded(world) == 5000, seconds=60)
        per_worker = world.sql("select worker, count(*) as total from executions group by worker")
    assert len(per_worker) == 2
    assert world.one("select count(*) from executions") == 5000
    assert world.one("select max(attempt) from executions") == 1
    keys = target.keys()
    assert len(keys) == 5000
    assert set(keys.values()) == {1}


def test_month_of_downtime_is_worked_off_while_other_jobs_stay_on_time(
    world: World, database_url: str, redis_url: str, target: Target, tmp_path: Path
) -> None:
    behind = [world.create(cron_schedule="* * * * *", http_job={"url": target.url("/late")}) for _ in range(1000)]
    world.sql("update jobs set next_run = date_trunc('minute', now() - interval '30 days')")
    punctual = world.create(interval_seconds=1, http_job={"url": target.url("/punctual")})
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path) as started:
        started.start_ready("worker")
        started.start_ready("scheduler")
        wait_until(
            "all are current",
            lambda: world.one("select count(*) from jobs where next_run < now() - interval '1 minute'") == 0,
            seconds=120,
        )
        ran = "select count(*) from executions where job_id = :id and first_started_at is not null"
        wait_until("the punctual job has run", lambda: world.one(ran, id=punctual.id) > 0)
    # it did not wait for the last of those that were behind, and missed nothing
    assert world.one(
        f"{ran} and first_started_at < (select max(created_at) from executions where error_code = 'misfire')",
        id=punctual.id,
    )
    assert (
        world.one("select count(*) from executions where job_id = :id and error_code = 'misfire'", id=punctual.id) == 0
    )
    ran = world.sql(
        "select count(*) filter (where state <> 'SKIPPED') as runs, sum(greatest(skipped_count, 1)) as moments, "
        "count(distinct scheduled_at) as rows, count(*) as total from executions where job_id = :id",
        id=behind[0].id,
    )[0]
    assert 1 <= ran.runs <= 4  # the newest of those missed, and the minutes since
    assert 30 * 1440 <= ran.moments <= 30 * 1440 + 4
    assert ran.rows == ran.total
