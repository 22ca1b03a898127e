"""Jobs: creating, editing, pausing, deleting and listing them."""

import contextlib
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from support.keys import OPEN
from support.timed import TimedScene, insist, together
from support.world import HTTP_JOB, record

from gnomon.job.errors import Conflict, InvalidJob, NameTaken, NotFound, RevisionMismatch
from gnomon.job.model import Job, JobStatus, State, Trigger
from gnomon.job.ports import ExecutionQuery, JobQuery
from gnomon.job.sealing import opened

FAR = "2100-01-01T00:00:00Z"


def read(world: TimedScene, job: Job) -> Job:
    return world.service.get(str(job.id))


def names(world: TimedScene, **query: object) -> list[str | None]:
    return [job.name for job in world.service.list(JobQuery(**query)).items]  # type: ignore[arg-type]


def test_job_is_read_as_it_was_created(world: TimedScene) -> None:
    job = world.create(
        name="nightly",
        cron_schedule="0 3 * * *",
        timezone="Europe/Berlin",
        tags=["a", "b"],
        starts_at="2030-06-01T00:00:00Z",
        ends_at=FAR,
        spread_seconds=60,
        timeout_seconds=5,
        retry={"max_attempts": 7, "initial_seconds": 0.5},
        misfire={"policy": "run_all", "grace_seconds": 1.5, "limit": 9},
        overlap="queue",
        delivery="at_most_once",
        http_job={**HTTP_JOB, "auth": {"type": "basic", "username": "u", "password": "été"}},
    )
    assert read(world, job) == world.service.get("name:nightly") == job
    assert (job.status, job.revision, job.kind, job.tags) == (JobStatus.RUNNING, 1, "HTTP", ("a", "b"))
    assert job.created_at == job.updated_at
    assert job.definition is not None
    assert opened(job.definition, job_id=job.id, unseal=OPEN).target.auth.password == "été"


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        ({"execute_at": "2020-01-01T00:00:00Z"}, "/execute_at"),
        ({"cron_schedule": "0 0 1 1 *", "ends_at": "2020-01-01T00:00:00Z"}, "/ends_at"),
        ({"interval_seconds": 0}, "/interval_seconds"),
    ],
)
def test_job_that_would_never_run_is_refused_and_nothing_is_stored(
    world: TimedScene, document: dict[str, object], pointer: str
) -> None:
    with pytest.raises(InvalidJob) as raised:
        world.create(**document)
    assert raised.value.errors[0].pointer == pointer
    assert names(world) == []
    assert world.dispatch.horizon().at is None


def test_name_belongs_to_one_living_job(world: TimedScene) -> None:
    world.create(name="nightly")
    other = world.create(name="other")
    with pytest.raises(NameTaken, match="nightly"):
        world.create(name="nightly")
    with pytest.raises(NameTaken):
        world.service.update(str(other.id), {"name": "nightly"})
    assert read(world, other) == other
    world.service.delete("name:nightly")
    with pytest.raises(NotFound, match="nightly"):
        world.service.get("name:nightly")
    renamed = world.service.update(str(other.id), {"name": "nightly"})
    assert world.service.get("name:nightly") == renamed
    assert world.create(name="other").id != other.id


def test_one_of_many_that_want_a_name_gets_it(world: TimedScene) -> None:
    made: list[Job] = []

    def want() -> None:
        with contextlib.suppress(NameTaken):
            made.append(insist(lambda: world.create(name="nightly")))

    together(*[want] * 6)
    assert [job.id for job in made] == [world.service.get("name:nightly").id]
    assert names(world) == ["nightly"]


def test_edit_of_a_policy_makes_a_revision_and_leaves_next_run_alone(world: TimedScene) -> None:
    job = world.create(interval_seconds=60)
    world.advance(timedelta(seconds=10))
    edited = world.service.update(str(job.id), {"timeout_seconds": 5, "name": "a", "tags": ["x"]})
    assert (edited.revision, edited.next_run, edited.created_at) == (2, job.next_run, job.created_at)
    assert (edited.name, edited.tags) == ("a", ("x",))
    assert edited.updated_at > job.updated_at
    assert edited == read(world, job) == world.service.get("name:a")


def test_edit_that_changes_nothing_makes_no_revision(world: TimedScene) -> None:
    job = world.create(interval_seconds=60)
    world.advance(timedelta(seconds=10))
    assert world.service.update(str(job.id), {"interval_seconds": 60}) == job == read(world, job)


def test_edit_does_not_drop_a_moment_that_was_due(world: TimedScene) -> None:
    job = world.create(interval_seconds=60)
    owed = world.make_due(job, ago=30)
    edited = world.service.update(str(job.id), {"ends_at": FAR})
    assert edited.next_run == owed


def test_edit_of_the_schedule_moves_next_run(world: TimedScene) -> None:
    job = world.create(interval_seconds=3600)
    world.advance(timedelta(seconds=7))
    edited = world.service.update(str(job.id), {"interval_seconds": 60})
    assert edited.next_run == edited.updated_at + timedelta(seconds=60)
    assert world.dispatch.horizon().at == edited.next_run


def test_new_schedule_makes_a_completed_job_run_again(world: TimedScene) -> None:
    job = world.create(delay_seconds=0)
    world.dispatched()
    assert read(world, job).status is JobStatus.COMPLETED
    edited = world.service.update(str(job.id), {"interval_seconds": 60})
    assert edited.status is JobStatus.RUNNING
    assert edited.next_run is not None


def test_change_that_is_refused_changes_nothing(world: TimedScene) -> None:
    job = world.create(delay_seconds=3600)
    with pytest.raises(InvalidJob, match="has passed"):
        world.service.update(str(job.id), {"execute_at": "2020-01-01T00:00:00Z"})
    with pytest.raises(RevisionMismatch, match="at revision 1, not 2"):
        world.service.update(str(job.id), {"timeout_seconds": 6}, if_revision=2)
    assert read(world, job) == job


def test_concurrent_edits_each_make_a_revision(world: TimedScene) -> None:
    job = world.create()

    edits: list[dict[str, object]] = [{"timeout_seconds": 1.5}, {"tags": ["a"]}, {"name": "b"}, {"overlap": "allow"}]
    together(*[partial(insist, partial(world.service.update, str(job.id), edit)) for edit in edits])
    edited = read(world, job)
    assert edited.revision == 5
    assert edited.definition is not None
    assert (edited.name, edited.tags, edited.definition.timeout) == ("b", ("a",), timedelta(seconds=1.5))


def test_deleted_job_is_not_found_and_its_history_stays(world: TimedScene) -> None:
    job = world.due(interval_seconds=10, overlap="queue")
    ids = world.dispatched()
    world.make_due(job)
    world.dispatched()
    world.service.delete(str(job.id))
    for call in (read, lambda w, j: w.service.delete(str(j.id)), lambda w, j: w.service.update(str(j.id), {})):
        with pytest.raises(NotFound, match=str(job.id)):
            call(world, job)
    assert world.states_of(job) == ["CANCELLED", "CANCELLED"]
    assert world.claim(ids) == []
    world.advance(timedelta(hours=1))
    assert world.dispatched() == []
    assert world.dispatch.republish(limit=10) == {}
    assert world.dispatch.horizon().at is None


def test_history_of_what_never_was_is_not_found(world: TimedScene) -> None:
    job = world.create()
    assert world.history_of(job) == []
    world.service.delete(str(job.id))
    assert world.history_of(job) == []
    unknown = "018f0000-0000-7000-8000-000000000000"
    with pytest.raises(NotFound, match=unknown):
        world.service.executions(unknown, ExecutionQuery())
    with pytest.raises(NotFound, match=unknown):
        world.service.execution(unknown)


def test_paused_job_gets_no_executions_and_says_why(world: TimedScene) -> None:
    job = world.create(interval_seconds=60)
    paused = world.service.pause(str(job.id), reason="the target moves")
    assert (paused.status, paused.next_run, paused.pause_reason) == (JobStatus.STOPPED, None, "the target moves")
    assert paused.revision == job.revision
    world.advance(timedelta(minutes=10))
    assert world.dispatched() == []
    resumed = world.service.resume(str(job.id))
    assert (resumed.status, resumed.pause_reason) == (JobStatus.RUNNING, None)
    assert resumed.next_run is not None
    assert timedelta(0) <= resumed.next_run - world.now() <= timedelta(seconds=60)
    assert world.states_of(job) == []


def test_what_was_created_before_a_pause_goes_on(world: TimedScene) -> None:
    job = world.due()
    ids = world.dispatched()
    world.service.pause(str(job.id))
    assert len(world.claim(ids)) == 1


def test_pause_ends_by_itself(world: TimedScene) -> None:
    job = world.create(interval_seconds=60)
    end = world.now() + timedelta(seconds=90)
    paused = world.service.pause(str(job.id), until=end.isoformat())
    assert (paused.paused_until, paused.next_run) == (end, job.created_at + timedelta(seconds=120))
    world.advance(timedelta(seconds=80))
    assert world.dispatched() == []
    assert read(world, job).status is JobStatus.STOPPED
    world.advance(timedelta(seconds=20))
    assert world.dispatched() == []
    resumed = read(world, job)
    assert (resumed.status, resumed.paused_until, resumed.next_run) == (JobStatus.RUNNING, None, paused.next_run)
    world.advance(timedelta(seconds=30))
    assert len(world.dispatched()) == 1


def test_pausing_again_changes_the_reason_and_the_end(world: TimedScene) -> None:
    job = world.create()
    world.service.pause(str(job.id), reason="one", until=FAR)
    again = world.service.pause(str(job.id), reason="two")
    assert (again.pause_reason, again.paused_until, again.next_run) == ("two", None, None)
    world.advance(timedelta(seconds=10))
    assert world.service.pause(str(job.id), reason="two") == again


def test_edit_of_a_paused_job_holds_after_the_pause(world: TimedScene) -> None:
    job = world.create(cron_schedule="0 0 * * *")
    world.service.pause(str(job.id), until=FAR)
    edited = world.service.update(str(job.id), {"cron_schedule": "0 12 * * *"})
    assert (edited.status, edited.next_run) == (JobStatus.STOPPED, datetime(2100, 1, 1, 12, tzinfo=UTC))


def test_completed_job_has_nothing_to_pause_or_to_resume(world: TimedScene) -> None:
    job = world.create(delay_seconds=0)
    world.dispatched()
    with pytest.raises(Conflict, match="COMPLETED"):
        world.service.pause(str(job.id))
    world.advance(timedelta(seconds=1))
    with pytest.raises(Conflict, match="no moment"):
        world.service.resume(str(job.id))


def test_jobs_are_listed_newest_first_in_pages_that_hold_each_once(world: TimedScene) -> None:
    for number in range(7):
        world.create(name=f"job-{number}", tags=["été & co"])
        world.advance(timedelta(seconds=1))
    world.create(name="other")
    found, cursor = [], None
    while True:
        page = world.service.list(JobQuery(limit=3, cursor=cursor, tags=["été & co"]))
        found.append([job.name for job in page.items])
        cursor = page.cursor
        if cursor is None:
            break
    assert found == [["job-6", "job-5", "job-4"], ["job-3", "job-2", "job-1"], ["job-0"]]
    assert names(world, limit=2, offset=1) == ["job-6", "job-5"]
    assert world.service.list(JobQuery(limit=8)).cursor is None
    assert names(world, offset=20) == []


def test_job_that_is_created_between_two_pages_moves_nothing(world: TimedScene) -> None:
    for name in "abcd":
        world.create(name=name)
        world.advance(timedelta(seconds=1))
    page = world.service.list(JobQuery(limit=2))
    world.create(name="e")
    assert names(world, limit=2, cursor=page.cursor) == ["b", "a"]


def test_jobs_are_chosen_by_status_kind_tags_and_part_of_the_name(world: TimedScene) -> None:
    for name, tags in (("nightly-backup", ["db", "prod"]), ("Nightly-report", ["prod"]), ("hook_1", ["db"])):
        world.create(name=name, tags=tags)
        world.advance(timedelta(seconds=1))
    world.create()
    world.service.pause("name:hook_1")
    assert names(world, name_contains="NIGHT") == ["Nightly-report", "nightly-backup"]
    assert names(world, name_contains="%") == []
    assert names(world, name_contains="_") == ["hook_1"]
    assert names(world, tags=["prod"]) == ["Nightly-report", "nightly-backup"]
    assert names(world, tags=["prod", "db"]) == ["nightly-backup"]
    assert names(world, status=JobStatus.STOPPED) == ["hook_1"]
    assert names(world, status=JobStatus.RUNNING, tags=["db"]) == ["nightly-backup"]
    assert len(names(world, kind="HTTP")) == 4
    assert names(world, kind="AMQP") == []


@pytest.mark.parametrize("cursor", ["x", "garbage", "é", ""])
def test_cursor_that_no_page_gave_is_refused(world: TimedScene, cursor: str) -> None:
    world.create()
    for ask in (
        lambda: world.service.list(JobQuery(cursor=cursor)),
        lambda: world.history.list(None, ExecutionQuery(cursor=cursor)),
    ):
        with pytest.raises(InvalidJob) as raised:
            ask()
        assert raised.value.errors[0].pointer == "/cursor"


def test_jobs_are_chosen_by_their_queue_and_by_when_they_are_due(world: TimedScene) -> None:
    world.create(name="soon", execute_at="2090-01-01T00:00:00Z")
    world.advance(timedelta(seconds=1))
    world.create(name="late", execute_at="2091-01-01T00:00:00.000001Z")
    never = world.create(name="never")
    world.service.pause(str(never.id))
    soon, late = datetime(2090, 1, 1, tzinfo=UTC), datetime(2091, 1, 1, microsecond=1, tzinfo=UTC)
    tick = timedelta(microseconds=1)
    assert names(world, next_run_after=soon) == ["late", "soon"]
    assert names(world, next_run_after=soon + tick) == ["late"]
    assert names(world, next_run_before=late) == ["late", "soon"]
    assert names(world, next_run_before=late - tick) == ["soon"]
    assert names(world, next_run_after=soon + tick, next_run_before=late - tick) == []
    assert sorted(map(str, names(world, queue="io"))) == ["late", "never", "soon"]
    assert names(world, queue="io", next_run_before=soon) == ["soon"]
    assert names(world, queue="handlers") == []


def test_job_at_another_revision_is_neither_deleted_nor_paused_nor_resumed(world: TimedScene) -> None:
    job = world.create(name="kept")
    world.service.update(str(job.id), {"tags": ["newer"]})
    for change in (world.service.delete, world.service.pause, world.service.resume):
        with pytest.raises(RevisionMismatch, match="at revision 2, not 1"):
            change(str(job.id), if_revision=1)
    assert read(world, job).status is JobStatus.RUNNING
    world.service.pause(str(job.id), if_revision=2)
    world.service.resume(str(job.id), if_revision=2)
    world.service.delete(str(job.id), if_revision=2)
    with pytest.raises(NotFound):
        read(world, job)


def test_executions_are_chosen_by_job_state_trigger_and_moment_and_paged(world: TimedScene) -> None:
    first = world.create(interval_seconds=600, overlap="allow")
    second = world.create(interval_seconds=6000)
    moments = []
    for state in (State.SUCCEEDED, State.FAILED, State.UNKNOWN):
        moments.append(world.make_due(first))
        (claimed,) = world.claim(world.dispatched())
        world.executions.record([record(claimed, state)])
    world.advance(timedelta(seconds=1))
    asked = world.service.run_now(str(second.id)).execution

    def listed(job: Job | None = None, **query: object) -> list[str]:
        page = world.history.list(None if job is None else job.id, ExecutionQuery(**query))  # type: ignore[arg-type]
        return [one.state.value for one in page.items]

    assert listed() == ["PENDING", "UNKNOWN", "FAILED", "SUCCEEDED"]
    assert listed(first) == ["UNKNOWN", "FAILED", "SUCCEEDED"]
    assert listed(states=[State.FAILED, State.UNKNOWN]) == ["UNKNOWN", "FAILED"]
    assert listed(first, states=[State.PENDING]) == []
    assert listed(trigger=Trigger.MANUAL) == listed(second) == ["PENDING"]
    assert listed(since=moments[1]) == ["PENDING", "UNKNOWN", "FAILED"]
    assert listed(until=moments[1]) == ["FAILED", "SUCCEEDED"]
    assert listed(since=moments[1], until=moments[1]) == ["FAILED"]
    assert listed(since=moments[1] + timedelta(microseconds=1), until=asked.scheduled_at, states=[State.PENDING]) == [
        "PENDING"
    ]
    assert listed(limit=2, offset=1) == ["UNKNOWN", "FAILED"]
    page = world.history.list(None, ExecutionQuery(limit=3))
    assert page.cursor is not None
    assert listed(cursor=page.cursor) == ["SUCCEEDED"]
    assert listed(first, cursor=page.cursor, limit=1) == ["SUCCEEDED"]
    assert world.history.list(None, ExecutionQuery(limit=4)).cursor is None
