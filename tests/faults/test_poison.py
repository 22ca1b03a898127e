"""One execution, definition, schedule, message or answer is poison: the rest goes on, and the culprit is visible."""

import json
import pickle
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import kombu
from servers.target import Behaviour, Connection, Request, Target, answer, raw
from support.cluster import Cluster, Role, cluster, wait_until
from support.world import World

from gnomon.job.model import Execution, Job, State
from gnomon.queue.celery.app import TASK_NAME, create_app
from gnomon.queue.celery.publisher import CeleryQueue

SCALED = {"SCHEDULER_MAX_JOB_LOCK_TIME": "5s"}
NEIGHBOURS = 60


class Supervised:
    """A worker that is started anew whenever it has ended, as a service manager would."""

    def __init__(self, started: Cluster) -> None:
        self._cluster = started
        self._stopping = threading.Event()
        self.workers: list[Role] = [started.start("worker")]
        self._thread = threading.Thread(target=self._run, name="supervisor")
        self._thread.start()

    def kill(self) -> None:
        """What the culprit does to it; the supervisor sees to the rest."""
        worker = self.workers[-1]
        worker.kill()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(0.05):
            if not self.workers[-1].running:
                self.workers.append(self._cluster.start("worker"))


@contextmanager
def supervised(started: Cluster) -> Iterator[Supervised]:
    worker = Supervised(started)
    try:
        worker.workers[0].wait_ready()
        yield worker
    finally:
        worker.stop()


def killing(worker: Supervised) -> Behaviour:
    """The request ends who sent it."""

    async def behave(request: Request, connection: Connection) -> None:
        worker.kill()

    return behave


def due_now(world: World, target: Target, path: str, count: int = 1, **more: object) -> list[Job]:
    """Jobs that all fall due when `make_due` says so."""
    return [world.create(http_job={"url": target.url(path), "body": "{}"}, **more) for _ in range(count)]


def only_execution(world: World, job: Job) -> Execution:
    (execution,) = world.history_of(job)
    return execution


def states(world: World, jobs: Sequence[Job]) -> set[str]:
    return {state for job in jobs for state in world.states_of(job)}


def test_execution_that_ends_its_worker_each_time_fails_alone_and_names_the_workers(
    world: World, database_url: str, redis_url: str, target: Target, tmp_path: Path
) -> None:
    target.on("/neighbour", answer(delay=0.1))
    neighbours = due_now(world, target, "/neighbour", NEIGHBOURS)
    (culprit,) = due_now(world, target, "/culprit")
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path, **SCALED) as started:
        started.start_ready("scheduler")
        with supervised(started) as worker:
            target.on("/culprit", killing(worker))
            world.make_due(culprit, *neighbours)
            wait_until("the culprit has failed", lambda: world.states_of(culprit) == ["FAILED"], seconds=240, pause=0.2)
            wait_until("the neighbours are through", lambda: states(world, neighbours) == {"SUCCEEDED"}, seconds=60)
            names = {worker_id(one) for one in worker.workers[:-1]}
    failed = only_execution(world, culprit)
    assert (failed.error_code, failed.attempt, failed.failures) == ("lost", 4, 4)
    message = failed.error_message or ""
    assert message.startswith("lost 4 times: the workers ")
    assert len(names) == 4
    assert [name for name in names if name not in message] == []
    taken_along = world.one("select count(distinct execution_id) from attempts where outcome = 'LOST'") - 1
    assert taken_along > NEIGHBOURS / 4  # it did meet them in flight


def worker_id(worker: Role) -> str:
    """As it names itself when it is ready."""
    return worker.text.partition("gnomon.bootstrap.worker: worker ")[2].split()[0]


def test_at_most_once_execution_that_ends_its_worker_is_unknown_after_its_only_attempt(
    world: World, database_url: str, redis_url: str, target: Target, tmp_path: Path
) -> None:
    (culprit,) = due_now(world, target, "/culprit", delivery="at_most_once")
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path, **SCALED) as started:
        started.start_ready("scheduler")
        with supervised(started) as worker:
            target.on("/culprit", killing(worker))
            world.make_due(culprit)
            wait_until("its outcome is unknown", lambda: world.states_of(culprit) == ["UNKNOWN"], seconds=60)
            name = worker_id(worker.workers[0])
    ended = only_execution(world, culprit)
    assert (ended.error_code, ended.attempt, ended.error_message) == (
        "lost",
        1,
        f"the worker {name} did not renew its lease",
    )
    assert len(target.requests) == 1


UNREADABLE = [
    '{"type": "HTTP"}',
    '{"type": "a carrier pigeon", "interval_seconds": 60}',
    "[1, 2, 3]",
    '{"type": "HTTP", "interval_seconds": 1, "http_job": {"url": 5}}',
    """{"type": "HTTP", "interval_seconds": %s, "http_job": {"url": "http://a/"}}""" % ("9" * 5000),
]
IMPOSSIBLE = [
    "cron_schedule = 'not a cron', interval_seconds = null, anchor_at = null",
    "cron_schedule = '* * * * *', timezone = 'Mars/Olympus', interval_seconds = null, anchor_at = null",
    "interval_seconds = 9223372036854775807",
    "interval_seconds = -5",
    "anchor_at = null",
    "next_run = '-infinity'",
    "next_run = '0001-01-01'",
    "misfire_grace_seconds = 'Infinity'",
    "misfire_grace_seconds = 'NaN'",
    "misfire_policy = 'hope'",
    "spread_seconds = -2147483648",
]


def test_definitions_and_schedules_that_can_not_be_read_cost_no_other_job_anything(
    world: World, database_url: str, redis_url: str, target: Target, tmp_path: Path
) -> None:
    healthy = due_now(world, target, "/healthy", 20, interval_seconds=1)
    unreadable = due_now(world, target, "/never", len(UNREADABLE))
    impossible = due_now(world, target, "/never", len(IMPOSSIBLE))
    world.make_due(*unreadable, *impossible)
    for job, definition in zip(unreadable, UNREADABLE, strict=True):
        world.sql("update job_revisions set definition = cast(:d as jsonb) where job_id = :id", d=definition, id=job.id)
    for job, change in zip(impossible, IMPOSSIBLE, strict=True):
        world.sql(f"update jobs set {change} where id = :id", id=job.id)
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path) as started:
        started.start_ready("scheduler", "worker")
        wait_until("healthy jobs run", lambda: successes(world, healthy) > 3 * len(healthy))
        wait_until(
            "the unreadable have failed",
            lambda: (
                world.one("select count(*) from executions where error_code = 'definition_unreadable'")
                == len(UNREADABLE)
            ),
        )
    held = world.sql("select id, hold_reason, held_until - now() as rest from jobs where hold_reason is not null")
    assert {row.id for row in held} == {job.id for job in impossible}
    assert all("schedule can't be" in row.hold_reason for row in held), held
    assert all(timedelta(minutes=58) < row.rest <= timedelta(hours=1) for row in held)
    assert not target.received("/never")


def successes(world: World, jobs: Sequence[Job]) -> int:
    count: int = world.one(
        "select count(*) from executions where state = 'SUCCEEDED' and job_id = any(cast(:ids as uuid[]))",
        ids="{" + ",".join(str(job.id) for job in jobs) + "}",
    )
    return count


FORGED = {"task": TASK_NAME, "id": "forged", "lang": "py"}


class Vandal:
    """Somebody with access to the broker."""

    def __init__(self, queue_url: str) -> None:
        self._connection = kombu.Connection(queue_url)
        self._queue = CeleryQueue(create_app(queue_url))

    def name(self, *ids: UUID) -> None:
        """Messages just like the scheduler's."""
        self._queue.publish("io", ids)

    def forge(
        self, body: bytes, *, content_type: str = "application/json", content_encoding: str = "utf-8", **headers: object
    ) -> None:
        self._connection.Producer().publish(
            body,
            routing_key="io",
            headers={**FORGED, **headers},
            content_type=content_type,
            content_encoding=content_encoding,
        )

    def close(self) -> None:
        self._queue.close()
        self._connection.release()


def one_of_each(world: World, target: Target) -> dict[str, UUID]:
    """Executions that no message may start, or start again."""
    succeeded, retrying, future = due_now(world, target, "/forbidden", 3)
    queued = world.create(interval_seconds=3600, overlap="queue", http_job={"url": target.url("/forbidden")})
    world.make_due(succeeded, retrying, future, queued)
    world.dispatched()
    world.make_due(queued)
    world.dispatched()
    world.sql(
        "update executions set state = 'RUNNING', attempt = 1, lease_expires_at = now() + interval '1 hour'"
        " where state = 'PENDING'"
    )
    world.sql("update executions set state = 'SUCCEEDED', finished_at = now() where job_id = :id", id=succeeded.id)
    world.sql(
        "update executions set state = 'PENDING', available_at = now() + interval '1 hour', "
        "next_publish_at = now() + interval '1 hour' where job_id = any(cast(:ids as uuid[]))",
        ids=f"{{{retrying.id},{future.id}}}",
    )
    world.sql("update executions set failures = 1 where job_id = :id", id=retrying.id)
    found = {
        "finished": world.one("select id from executions where job_id = :id", id=succeeded.id),
        "to be retried": world.one("select id from executions where job_id = :id", id=retrying.id),
        "in the future": world.one("select id from executions where job_id = :id", id=future.id),
        "running": world.one("select id from executions where job_id = :id and state = 'RUNNING'", id=queued.id),
        "waiting": world.one("select id from executions where state = 'WAITING'"),
    }
    assert len(found) == 5
    return found


def test_rubbish_and_lies_on_the_broker_start_nothing_twice_or_early_while_jobs_run(
    world: World, database_url: str, queue_url: str, target: Target, tmp_path: Path
) -> None:
    target.on("/hook", answer(delay=0.05))
    jobs = due_now(world, target, "/hook", 20, interval_seconds=1)
    forbidden = one_of_each(world, target)
    texts = [str(one) for one in forbidden.values()]
    before = world.sql(
        "select id, state, attempt from executions where id = any(cast(:ids as uuid[])) order by id",
        ids="{" + ",".join(texts) + "}",
    )
    vandal = Vandal(queue_url)
    with cluster(database_url=database_url, queue_url=queue_url, folder=tmp_path) as started:
        _, worker = started.start_ready("scheduler", "worker")
        wait_until("jobs run", lambda: successes(world, jobs) > 20)
        for _ in range(5):
            vandal.forge(b"\xff\xfe no JSON {")
            vandal.forge(b"[" * 50_000)
            vandal.forge(
                pickle.dumps([[], {"ids": texts}, {}]),
                content_type="application/x-python-serialize",
                content_encoding="binary",
            )
            vandal.forge(json.dumps([[], {"ids": texts}, {}]).encode(), task="os.system")
            vandal.forge(json.dumps([[], {"ids": texts}, {}]).encode(), task="celery.chord")
            vandal.forge(json.dumps([[], {"ids": texts}, {}]).encode(), eta="2000-01-01T00:00:00+00:00")
            vandal.forge(json.dumps([[], {"ids": texts * 10_000}, {}]).encode())
            vandal.forge(json.dumps([[], {"ids": texts * 100}, {}]).encode())
            vandal.name(*(uuid4() for _ in range(500)))
            vandal.name(*forbidden.values(), *forbidden.values())
            everything = [row.id for row in world.sql("select id from executions")]
            vandal.name(*everything)
            vandal.name(*reversed(everything))
            done = successes(world, jobs)
            wait_until("jobs go on", lambda n=done: successes(world, jobs) > n + 20)
        vandal.close()
        world.sql("update jobs set status = 'STOPPED'")
        ids = "{" + ",".join(texts) + "}"
        wait_until(
            "all that was due is done",
            lambda: (
                world.one(
                    "select count(*) from executions where state in ('PENDING', 'RUNNING', 'WAITING') "
                    "and id <> all(cast(:ids as uuid[]))",
                    ids=ids,
                )
                == 0
            ),
        )
        assert worker.running
        assert len(started._roles) == 2
    after = world.sql(
        "select id, state, attempt from executions where id = any(cast(:ids as uuid[])) order by id", ids=ids
    )
    assert after == before
    assert not target.received("/forbidden")
    assert set(target.keys("/hook").values()) == {1}
    assert world.one("select count(*) from executions where state in ('FAILED', 'UNKNOWN')") == 0
    assert world.one(
        "select min(first_started_at - scheduled_at) >= interval '0' from executions where attempt = 1 "
        "and state = 'SUCCEEDED' and worker is not null"
    )


def head(*lines: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", b"Content-Length: 2", *lines, b"", b"ok"])


# What each answer amounts to: state, error code, and what the excerpt or the message must contain.
ANSWERS: Mapping[str, tuple[Behaviour, str, str | None, str]] = {
    "NUL": (answer(body=b"a\x00b"), "SUCCEEDED", None, "a\ufffdb"),
    "no UTF-8": (answer(body=b"\xff\xfe\xc3"), "SUCCEEDED", None, "\ufffd"),
    "half a surrogate": (answer(body=b"\xed\xa0\x80 end"), "SUCCEEDED", None, "end"),
    "SQL": (answer(body=b"'; drop table executions; -- %s %(x)s :x {0} \\u0000"), "SUCCEEDED", None, "drop table"),
    "refusal with NUL": (answer(400, body=b"\x00" * 9000), "FAILED", "http_status", "\ufffd"),
    "control characters": (answer(400, body=bytes(range(32))), "FAILED", "http_status", "\ufffd"),
    "long header": (raw(head(b"X: " + b"x" * 2**20)), "FAILED", "response_too_large", "too large"),
    "2,000 headers": (raw(head(*(b"X-%d: y" % number for number in range(2000)))), "SUCCEEDED", None, "ok"),
    "20,000 headers": (
        raw(head(*(b"X-%d: y" % number for number in range(20_000)))),
        "FAILED",
        "response_too_large",
        "too large",
    ),
    "header with NUL": (raw(head(b"X: a\x00b")), "FAILED", "bad_response", "not HTTP"),
    "garbage": (raw(b"\x00\xff\x16\x03 garbage \r\n\r\n"), "FAILED", "bad_response", "not HTTP"),
    "status of garbage": (raw(b"HTTP/1.1 \xff\x00\xfe OK\r\n\r\n"), "FAILED", "bad_response", "not HTTP"),
    "status 999": (raw(b"HTTP/1.1 999 \xff\xfe\r\nContent-Length: 0\r\n\r\n"), "FAILED", "http_status", "999"),
    "reason with NUL": (
        raw(b"HTTP/1.1 200 \x00\xff\r\nContent-Length: 2\r\n\r\nok"),
        "FAILED",
        "bad_response",
        "not HTTP",
    ),
}


def test_answers_that_no_text_holds_are_recorded_cleanly_and_shown(
    world: World, database_url: str, redis_url: str, target: Target, tmp_path: Path
) -> None:
    jobs: dict[tuple[str, str], Job] = {}
    for number, (name, (behaviour, *_)) in enumerate(ANSWERS.items()):
        target.on(f"/{number}", behaviour)
        for delivery in ("at_least_once", "at_most_once"):
            (jobs[name, delivery],) = due_now(world, target, f"/{number}", delivery=delivery, retry={"max_attempts": 1})
    healthy = due_now(world, target, "/healthy", 50)
    world.make_due(*jobs.values(), *healthy)
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path) as started:
        _, worker = started.start_ready("scheduler", "worker")
        wait_until(
            "all are recorded",
            lambda: (
                world.one("select count(*) from executions where finished_at is not null") == len(jobs) + len(healthy)
            ),
        )
        assert "unrecordable" not in worker.text
    assert states(world, healthy) == {"SUCCEEDED"}
    for (name, delivery), job in jobs.items():
        _, state, code, text = ANSWERS[name]
        ended = only_execution(world, job)
        shown = (ended.error_message or "") + (ended.response_excerpt or "")
        doubtful = delivery == "at_most_once" and state == "FAILED" and ended.response_status is None
        assert ended.state is (State.UNKNOWN if doubtful else State(state)), name
        assert ended.error_code == code, name
        assert text in shown, (name, shown)
        assert "\x00" not in shown, name
