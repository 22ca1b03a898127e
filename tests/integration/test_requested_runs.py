"""What requests leave in the books, on Postgres; what all stores have in common is in tests/conformance."""

import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest
from support.books import unbalanced_moments
from support.world import World

from gnomon.job.errors import Conflict, InvalidJob
from gnomon.job.model import Job, JobStatus

FAR = "2100-01-01T00:00:00Z"


def events(world: World, job: Job) -> list[tuple[Any, ...]]:
    rows = world.sql(
        "select action, revision, owed_from, owed_until, reason from job_events where job_id = :id order by id",
        id=job.id,
    )
    return [tuple(row) for row in rows]


def test_keys_that_are_over_are_forgotten(world: World) -> None:
    job = world.create(overlap="allow")
    for number in range(5):
        world.service.run_now(str(job.id), key=f"old-{number}")
    world.sql("update idempotency_keys set expires_at = now() - interval '1 second'")
    world.service.run_now(str(job.id), key="new")
    assert world.one("select array_agg(key) from idempotency_keys") == [hashlib.sha256(b"new").hexdigest()]


class TestPause:
    def test_paused_job_gets_no_executions_and_says_why(self, world: World) -> None:
        job = world.create(interval_seconds=60)
        paused = world.service.pause(str(job.id), reason="the target moves")
        assert (paused.status, paused.next_run, paused.pause_reason) == (JobStatus.STOPPED, None, "the target moves")
        assert paused.revision == job.revision
        assert events(world, job)[1:] == [("PAUSED", 1, None, job.next_run, "the target moves")]
        assert unbalanced_moments(world, job.id) == {}

    def test_what_was_created_before_goes_on(self, world: World) -> None:
        job = world.due()
        ids = world.dispatched()
        world.service.pause(str(job.id))
        assert len(world.claim(ids)) == 1

    def test_resumed_job_goes_on_at_the_next_moment_and_owes_nothing_of_the_pause(self, world: World) -> None:
        job = world.create(interval_seconds=1)
        world.service.pause(str(job.id))
        world.sql("select pg_sleep(1.1)")
        resumed = world.service.resume(str(job.id))
        assert resumed.status is JobStatus.RUNNING
        assert resumed.pause_reason is None
        assert world.one("select next_run > updated_at and next_run <= updated_at + interval '1 second' from jobs")
        assert world.dispatched() == []
        assert unbalanced_moments(world, job.id) == {}

    def test_pause_ends_by_itself(self, world: World) -> None:
        job = world.create(interval_seconds=1)
        end = world.one("select now() + interval '1.5 seconds'")
        paused = world.service.pause(str(job.id), until=end.isoformat())
        assert paused.paused_until == end
        assert paused.next_run is not None
        assert paused.next_run >= end
        assert world.dispatch.horizon().at == end
        world.sql("select pg_sleep(extract(epoch from :end - now()))", end=paused.next_run)
        assert len(world.dispatched()) == 1
        resumed = world.service.get(str(job.id))
        assert (resumed.status, resumed.paused_until) == (JobStatus.RUNNING, None)
        assert events(world, job)[-1] == ("RESUMED", 1, end, None, None)
        assert unbalanced_moments(world, job.id) == {}

    def test_pausing_again_changes_the_reason_and_the_end(self, world: World) -> None:
        job = world.create()
        world.service.pause(str(job.id), reason="one", until=FAR)
        again = world.service.pause(str(job.id), reason="two")
        assert (again.pause_reason, again.paused_until, again.next_run) == ("two", None, None)
        world.service.pause(str(job.id), reason="two")
        assert [event[0] for event in events(world, job)] == ["CREATED", "PAUSED", "PAUSED"]
        assert unbalanced_moments(world, job.id) == {}

    def test_edit_of_a_paused_job_holds_after_the_pause(self, world: World) -> None:
        job = world.create(cron_schedule="0 0 * * *")
        world.service.pause(str(job.id), until=FAR)
        edited = world.service.update(str(job.id), {"cron_schedule": "0 12 * * *"})
        assert (edited.status, edited.next_run) == (JobStatus.STOPPED, datetime(2100, 1, 1, 12, tzinfo=UTC))

    @pytest.mark.parametrize(
        ("until", "why"),
        [("2020-01-01T00:00:00Z", "has passed"), ("2100-01-01T00:00:00", "offset"), ("soon", "RFC 3339")],
    )
    def test_end_that_makes_no_sense_is_refused(self, world: World, until: str, why: str) -> None:
        job = world.create()
        with pytest.raises(InvalidJob, match=why) as raised:
            world.service.pause(str(job.id), until=until)
        assert raised.value.errors[0].pointer == "/until"
        assert world.service.get(str(job.id)).status is JobStatus.RUNNING

    def test_one_off_can_not_be_paused_beyond_its_moment(self, world: World) -> None:
        job = world.create(execute_at="2090-01-01T00:00:00Z")
        with pytest.raises(InvalidJob, match="no moment after"):
            world.service.pause(str(job.id), until=FAR)

    def test_one_off_whose_moment_has_passed_can_not_be_resumed(self, world: World) -> None:
        job = world.create(delay_seconds=0.05)
        world.service.pause(str(job.id))
        world.sql("select pg_sleep(0.1)")
        with pytest.raises(Conflict, match="execute_at"):
            world.service.resume(str(job.id))
        assert world.history_of(job) == []
        assert unbalanced_moments(world, job.id) == {}

    def test_completed_job_has_nothing_to_pause_or_to_resume(self, world: World) -> None:
        job = world.create(delay_seconds=0)
        world.dispatched()
        with pytest.raises(Conflict, match="COMPLETED"):
            world.service.pause(str(job.id))
        with pytest.raises(Conflict, match="no moment"):
            world.service.resume(str(job.id))

    def test_new_schedule_makes_a_completed_job_run_again(self, world: World) -> None:
        job = world.create(delay_seconds=0)
        world.dispatched()
        edited = world.service.update(str(job.id), {"interval_seconds": 3600})
        assert edited.status is JobStatus.RUNNING
        assert unbalanced_moments(world, job.id) == {}


def test_trail_of_a_job_tells_what_was_done_and_what_it_owed(world: World) -> None:
    job = world.create(interval_seconds=3600)
    world.service.update(str(job.id), {"tags": ["a"]})
    edited = world.service.update(str(job.id), {"interval_seconds": 60})
    world.service.pause(str(job.id))
    world.service.resume(str(job.id))
    last = world.service.get(str(job.id)).next_run
    world.service.delete(str(job.id))
    trail = events(world, job)
    assert [(action, revision) for action, revision, *_ in trail] == [
        ("CREATED", 1),
        ("EDITED", 2),
        ("EDITED", 3),
        ("PAUSED", 3),
        ("RESUMED", 3),
        ("DELETED", 3),
    ]
    assert trail[1][2:4] == (None, None)
    assert trail[2][2] == trail[2][3] == edited.updated_at
    assert trail[-1][3] == last
    assert unbalanced_moments(world, job.id) == {}


class TestUnreadableDefinition:
    @staticmethod
    def broken(world: World) -> Job:
        job = world.create(name="broken", tags=["a"])
        world.sql('update job_revisions set definition = \'{"type": "FAX MACHINE"}\' where job_id = :id', id=job.id)
        return job

    def test_job_is_listed_with_the_reason(self, world: World) -> None:
        job, other = self.broken(world), world.create()
        listed = {one.id: one for one in world.service.list(_all()).items}
        assert listed.keys() == {job.id, other.id}
        read = listed[job.id]
        assert (read.definition, read.name, read.kind, read.tags) == (None, "broken", "HTTP", ("a",))
        assert "/type" in (read.unreadable or "")

    def test_job_is_mended_by_a_complete_definition(self, world: World) -> None:
        job = self.broken(world)
        with pytest.raises(InvalidJob):
            world.service.update(str(job.id), {"tags": ["b"]})
        whole = {"type": "HTTP", "http_job": {"url": "http://a.example/"}, "interval_seconds": 60}
        mended = world.service.update(str(job.id), whole)
        assert mended.unreadable is None
        assert mended.definition is not None

    def test_job_can_be_paused_and_deleted_but_not_resumed(self, world: World) -> None:
        job = self.broken(world)
        assert world.service.pause(str(job.id)).status is JobStatus.STOPPED
        with pytest.raises(Conflict, match="can't be read"):
            world.service.resume(str(job.id))
        world.service.delete(str(job.id))


def _all() -> Any:
    from gnomon.job.ports import JobQuery

    return JobQuery()
