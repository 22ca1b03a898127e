"""Whatever is done to a job, and whenever: its executions and skips are the moments that its schedule owes."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.aging import let_pass
from support.books import unbalanced_moments
from support.world import HTTP_JOB, World, record

from gnomon.job.bulk import Act, Bulk
from gnomon.job.errors import Conflict, InvalidJob, NotFound
from gnomon.job.model import Job, State
from gnomon.job.ports import JobQuery

# Hours pass, so that what a cron rule means does not change with the age of things.
HOURS = st.integers(1, 30)
SCHEDULES = (
    {"cron_schedule": "*/10 * * * *"},
    {"cron_schedule": "0 * * * *", "spread_seconds": 3000},
    {"interval_seconds": 600},
    {"delay_seconds": 1800},
    {"delay_seconds": 3},
)
NAME = "nightly"
Step = Callable[[World, Job], None]


def _pass(hours: int) -> Step:
    return lambda world, job: let_pass(world, timedelta(hours=hours))


def _pass_and_dispatch(hours: int) -> Step:
    def step(world: World, job: Job) -> None:
        let_pass(world, timedelta(hours=hours))
        _dispatch(world, job)

    return step


def _edit(document: dict[str, object]) -> Step:
    return lambda world, job: _ask(lambda: world.service.update(str(job.id), document))


def _put(document: dict[str, object]) -> Step:
    """By its name, as a whole; one that was deleted is made anew, and the books of the old one stay closed."""
    whole = {"type": "HTTP", "http_job": HTTP_JOB, **document}
    return lambda world, job: _ask(lambda: world.service.put(NAME, whole))


def _in_bulk(act: Callable[[World], Act]) -> Step:
    query = JobQuery(kind="HTTP", limit=10)
    return lambda world, job: _ask(lambda: Bulk(world.service, world.overview).act(query, act(world), expected=None))


def _pause_one(world: World) -> Act:
    def act(job: Job) -> None:
        world.service.pause(str(job.id), if_revision=job.revision)

    return act


def _resume_one(world: World) -> Act:
    def act(job: Job) -> None:
        world.service.resume(str(job.id), if_revision=job.revision)

    return act


def _run_one(world: World) -> Act:
    return lambda job: world.service.run_now(str(job.id), may_wait=True).execution.id


def _delete_one(world: World) -> Act:
    return lambda job: world.service.delete(str(job.id), if_revision=job.revision)


def _dispatch(world: World, job: Job) -> None:
    while world.dispatched(limit=10):
        pass


def _finish(world: World, job: Job) -> None:
    """All that is due is done, one after the other."""
    while ids := world.dispatch.republish(limit=10_000).get("io"):
        world.executions.record([record(claimed) for claimed in world.claim(ids)])


def _claim_and_fail(world: World, job: Job) -> None:
    ids = [row.id for row in world.sql("select id from executions where state = 'PENDING'")]
    world.executions.record([record(claimed, State.PENDING) for claimed in world.claim(ids)])


def _cancel_all(world: World, job: Job) -> None:
    for row in world.sql("select id from executions where state in ('WAITING', 'PENDING', 'RUNNING')"):
        _ask(lambda execution=row.id: world.service.cancel(str(execution)))  # type: ignore[misc]


def _pause(world: World, job: Job) -> None:
    _ask(lambda: world.service.pause(str(job.id)))


def _pause_for_an_hour(world: World, job: Job) -> None:
    end: datetime = world.one("select now() + interval '90 minutes'")
    _ask(lambda: world.service.pause(str(job.id), until=end.isoformat()))


def _resume(world: World, job: Job) -> None:
    _ask(lambda: world.service.resume(str(job.id)))


def _run(world: World, job: Job) -> None:
    _ask(lambda: world.service.run_now(str(job.id), may_wait=True))


def _backfill(world: World, job: Job) -> None:
    now: datetime = world.one("select now()")
    since = (now - timedelta(hours=40)).isoformat()
    _ask(lambda: world.service.backfill(str(job.id), since=since, until=now.isoformat()))


def _delete(world: World, job: Job) -> None:
    _ask(lambda: world.service.delete(str(job.id)))


def _soon(seconds: int, cancelled: int, change: Step) -> Step:
    """Moments of the next seconds, for a dispatch that looks ahead: one of many to come, or four and no more.

    One of them may be cancelled before the job is changed.
    """

    def step(world: World, job: Job) -> None:
        now: datetime = world.one("select now()")
        document = {"interval_seconds": seconds, "starts_at": (now + timedelta(seconds=2)).isoformat()}
        ends_at = None if seconds > 1 else (now + timedelta(seconds=5)).isoformat()
        _edit({**document, "ends_at": ends_at})(world, job)
        _dispatch(world, job)
        ahead = world.sql("select id from executions where scheduled_at > now() and state = 'PENDING' order by id")
        for row in ahead[cancelled : cancelled + 1]:
            world.service.cancel(str(row.id))
        change(world, job)

    return step


def _ask(request: Callable[[], object]) -> None:
    """A refusal is an answer like any other: the books have to be right after it as well."""
    try:
        request()
    except (Conflict, InvalidJob, NotFound):
        return


CHANGES = st.one_of(
    st.sampled_from([*SCHEDULES, {"tags": ["x"]}, {"overlap": "allow"}]).map(_edit),
    st.sampled_from(SCHEDULES).map(_put),
    st.sampled_from([_pause, _pause_for_an_hour, _resume, _delete, _dispatch]),
)
STEPS = st.one_of(
    HOURS.map(_pass_and_dispatch),
    HOURS.map(_pass),
    st.sampled_from([*SCHEDULES, {"tags": ["x"]}, {"overlap": "allow"}, {"overlap": "queue"}]).map(_edit),
    st.sampled_from(
        [_dispatch, _finish, _claim_and_fail, _cancel_all, _pause, _pause_for_an_hour, _resume, _run, _backfill]
    ),
    st.builds(_soon, st.sampled_from([600, 1]), st.integers(0, 9), CHANGES),
    st.sampled_from([_pause, _resume, _finish, _delete]),
    st.sampled_from([*SCHEDULES, {"cron_schedule": "30 * * * *", "overlap": "queue"}]).map(_put),
    st.sampled_from([_pause_one, _resume_one, _run_one, _delete_one]).map(_in_bulk),
)


def _play(world: World, schedule: dict[str, object], policies: dict[str, object], steps: list[Step]) -> None:
    for table in ("jobs", "job_events", "executions", "idempotency_keys"):
        world.sql(f"delete from {table}")
    job = world.create(**schedule, **policies, name=NAME)
    for step in [*steps, _dispatch]:
        step(world, job)
        assert unbalanced_moments(world, job.id) == {}


POLICIES = st.fixed_dictionaries(
    {
        "overlap": st.sampled_from(["skip", "allow", "queue"]),
        "misfire": st.fixed_dictionaries(
            {
                "policy": st.sampled_from(["run_once", "run_all", "skip"]),
                "grace_seconds": st.sampled_from([0, 60, 4000]),
                "limit": st.sampled_from([1, 3, 100]),
            }
        ),
    }
)
HISTORIES = {
    "schedule": st.sampled_from(SCHEDULES),
    "policies": POLICIES,
    "steps": st.lists(STEPS, min_size=6, max_size=20),
}
UNHURRIED = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], print_blob=True
)


@pytest.fixture(params=[timedelta(0), timedelta(seconds=5)], ids=["at the moment", "ahead"])
def world(world: World, request: pytest.FixtureRequest) -> World:
    world.dispatch = world.scheduler(ahead=request.param)
    return world


@given(**HISTORIES)
@UNHURRIED
def test_books_stay_right_whatever_is_done_to_a_job(
    world: World, schedule: dict[str, object], policies: dict[str, object], steps: list[Step]
) -> None:
    _play(world, schedule, policies, steps)


@pytest.mark.long
@given(**HISTORIES)
@settings(UNHURRIED, max_examples=400)
def test_books_stay_right_in_many_more_histories(
    world: World, schedule: dict[str, object], policies: dict[str, object], steps: list[Step]
) -> None:
    _play(world, schedule, policies, steps)
