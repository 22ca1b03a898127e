"""Trying many executions again: which, what each obeys, and that no request does it twice."""

import json
import re
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text
from support.api import make_client, only_error, problem
from support.cluster import wait_until
from support.world import World, record

from gnomon.api.schemas.repeats import RepeatRequest
from gnomon.job import repeats as module
from gnomon.job.errors import CountDiffers, InvalidJob, KeyReused, Unavailable
from gnomon.job.model import Execution, Job, State, Trigger
from gnomon.job.ports import Repeated, RepeatQuery
from gnomon.job.repeats import How

PAGE = Path(__file__).parents[2] / "docs/retrying-what-failed.md"
FAILURES = (State.FAILED, State.UNKNOWN)


def fail(world: World, job: Job, state: State = State.FAILED) -> Execution:
    """A scheduled execution of the job that ended so."""
    world.make_due(job)
    (claimed,) = world.claim(world.dispatched())
    world.executions.record([record(claimed, state, error_message="said no")])
    return world.history.get(claimed.id)


def repeat(world: World, *, key: str | None = None, how: dict[str, Any] | None = None, **query: Any) -> Repeated:
    return world.repeats.repeat(RepeatQuery(**{"states": FAILURES, **query}), How(**how or {}), key=key)


def patiently(world: World) -> Repeated:
    """A lock is waited for no longer than a second."""
    while True:
        try:
            return repeat(world)
        except Unavailable:
            continue


def repeated(done: Repeated) -> list[UUID | None]:
    return [execution.repeats for execution in done.created]


@pytest.fixture
def client(world: World) -> FlaskClient:
    return make_client(world)


class TestWhich:
    def test_what_failed_is_tried_again_the_oldest_first(self, world: World) -> None:
        job = world.create(overlap="allow")
        ended = [fail(world, job, state) for state in (State.FAILED, State.SUCCEEDED, State.UNKNOWN, State.CANCELLED)]
        done = repeat(world)
        assert repeated(done) == [ended[0].id, ended[2].id]
        assert (done.matched, done.refused, done.replayed) == (2, [], False)
        assert {(one.trigger, one.state) for one in done.created} == {(Trigger.RETRY_OF, State.PENDING)}
        assert [one.id for one in done.created] == sorted(one.id for one in done.created)
        assert all(one.scheduled_at <= world.one("select now()") for one in done.created)
        assert repeated(repeat(world, states=[State.CANCELLED])) == [ended[3].id]

    def test_what_was_tried_again_is_left_out_unless_asked_for(self, world: World) -> None:
        job = world.create(overlap="allow")
        failed = fail(world, job)
        (again,) = repeat(world).created
        assert repeat(world).matched == 0
        assert repeated(repeat(world, again=True)) == [failed.id]
        (claimed,) = world.claim([again.id])
        world.executions.record([record(claimed, State.FAILED)])
        assert repeated(repeat(world)) == [again.id]  # the try that failed too

    def test_filters_are_those_of_the_list(self, world: World) -> None:
        first, second = world.create(overlap="allow"), world.create(overlap="allow")
        of_first, of_second = fail(world, first), fail(world, second)
        manual = world.service.run_now(str(second.id)).execution
        (claimed,) = world.claim([manual.id])
        world.executions.record([record(claimed, State.FAILED)])

        def matching(**query: Any) -> list[UUID]:
            found = world.repeats.matching(RepeatQuery(**{"states": FAILURES, **query}))
            assert found.count == len(found.oldest)
            return [execution.id for execution in found.oldest]

        assert matching() == sorted([of_first.id, of_second.id, manual.id])
        assert matching(job_id=first.id) == [of_first.id]
        assert matching(trigger=Trigger.MANUAL) == [manual.id]
        assert matching(until=of_first.scheduled_at) == [of_first.id]
        assert of_first.id not in matching(since=of_second.scheduled_at)
        assert matching(job_id=uuid4()) == matching(states=[State.CANCELLED]) == []

    def test_no_more_than_the_limit_are_tried_and_the_rest_comes_next(self, world: World) -> None:
        job = world.create(overlap="allow")
        failed = [fail(world, job) for _ in range(3)]
        done = repeat(world, how={"limit": 2})
        assert (done.matched, repeated(done)) == (3, [failed[0].id, failed[1].id])
        assert repeated(repeat(world, how={"limit": 2})) == [failed[2].id]

    def test_other_number_than_expected_changes_nothing(self, world: World) -> None:
        job = world.create(overlap="allow")
        fail(world, job)
        with pytest.raises(CountDiffers, match="1 match, not 2"):
            repeat(world, how={"expected": 2})
        assert len(world.history_of(job)) == 1
        assert len(repeat(world, how={"expected": 1}).created) == 1

    @pytest.mark.parametrize("state", sorted(set(State) - {State.FAILED, State.UNKNOWN, State.CANCELLED}))
    def test_what_did_not_fail_can_not_be_asked_for(self, world: World, state: State) -> None:
        with pytest.raises(InvalidJob) as raised:
            repeat(world, states=[State.FAILED, state])
        assert raised.value.errors[0].pointer == "/state/1"

    def test_limit_has_bounds(self, world: World) -> None:
        for limit in (0, 1_001):
            with pytest.raises(InvalidJob):
                repeat(world, how={"limit": limit})


class TestWhatEachObeys:
    @pytest.mark.parametrize("overlap", ["skip", "queue"])
    def test_of_a_job_that_does_not_overlap_one_is_tried_and_the_others_are_refused(
        self, world: World, overlap: str
    ) -> None:
        job = world.create(overlap=overlap)
        failed = [fail(world, job) for _ in range(3)]
        done = repeat(world)
        assert repeated(done) == [failed[0].id]
        assert [(one.execution_id, one.code) for one in done.refused] == [
            (failed[1].id, "overlapping"),
            (failed[2].id, "overlapping"),
        ]
        assert str(job.id) in done.refused[0].reason
        assert "queue" in done.refused[0].reason

    @pytest.mark.parametrize("overlap", ["skip", "queue"])
    def test_asked_to_wait_they_run_one_after_the_other_the_oldest_first(self, world: World, overlap: str) -> None:
        job = world.create(overlap=overlap)
        failed = [fail(world, job) for _ in range(3)]
        done = repeat(world, how={"may_wait": True})
        assert [(one.repeats, one.state) for one in done.created] == [
            (failed[0].id, State.PENDING),
            (failed[1].id, State.WAITING),
            (failed[2].id, State.WAITING),
        ]
        ran = []
        for _ in range(3):
            (claimed,) = world.claim(one.id for one in done.created)
            world.executions.record([record(claimed)])
            ran.append(world.history.get(claimed.id).repeats)
        assert ran == [one.id for one in failed]

    def test_unfinished_execution_is_in_the_way(self, world: World) -> None:
        job = world.create()
        failed = fail(world, job)
        world.make_due(job)
        world.dispatched()
        done = repeat(world)
        assert done.created == []
        assert [(one.execution_id, one.code) for one in done.refused] == [(failed.id, "overlapping")]

    def test_job_that_overlaps_itself_starts_ten_a_second(self, world: World) -> None:
        job = world.create(overlap="allow")
        for _ in range(3):
            fail(world, job)
        done = repeat(world)
        times = [one.available_at for one in done.created]
        waits = [later - times[0] for later in times]
        assert waits == [timedelta(0), module.REPEAT_PACE, 2 * module.REPEAT_PACE]

    def test_deleted_job_is_refused_and_costs_the_others_nothing(self, world: World) -> None:
        gone, stays = world.create(), world.create()
        of_gone, of_stays = fail(world, gone), fail(world, stays)
        world.service.delete(str(gone.id))
        done = repeat(world)
        assert repeated(done) == [of_stays.id]
        assert [(one.execution_id, one.code) for one in done.refused] == [(of_gone.id, "deleted")]

    def test_they_are_what_their_jobs_say_now_or_said_then(self, world: World) -> None:
        job = world.create(overlap="allow", retry={"max_attempts": 2})
        fail(world, job)
        world.service.update(str(job.id), {"retry": {"max_attempts": 7}})
        (now,) = repeat(world).created
        (then,) = repeat(world, how={"same_revision": True}, again=True, trigger=Trigger.SCHEDULE).created
        assert (now.revision, now.max_attempts) == (2, 7)
        assert (then.revision, then.max_attempts) == (1, 2)

    def test_they_are_published_at_once(self, world: World) -> None:
        job = world.create()
        fail(world, job)
        (again,) = repeat(world).created
        assert world.dispatch.republish(limit=10) == {"io": [again.id]}

    def test_paused_and_completed_jobs_are_tried_again_too(self, world: World) -> None:
        paused, once = world.create(), world.create(interval_seconds=None, delay_seconds=0)
        (claimed,) = world.claim(world.dispatched())
        world.executions.record([record(claimed, State.FAILED)])
        fail(world, paused)
        world.service.pause(str(paused.id))
        assert {one.job_id for one in repeat(world).created} == {paused.id, once.id}


class TestOnce:
    def test_same_key_again_gives_the_same_executions(self, world: World) -> None:
        job = world.create(overlap="allow")
        failed = [fail(world, job) for _ in range(3)]
        first = repeat(world, key="k")
        world.service.retry(str(failed[0].id))  # somebody else's, of the same second
        again = repeat(world, key="k")
        assert [one.id for one in again.created] == [one.id for one in first.created]
        assert repeated(again) == [one.id for one in failed]
        assert again.replayed
        assert len(world.history_of(job)) == 7

    def test_key_with_another_request_is_refused(self, world: World) -> None:
        job = world.create()
        fail(world, job)
        repeat(world, key="k")
        for other in ({"how": {"may_wait": True}}, {"job_id": job.id}, {"states": [State.FAILED]}):
            with pytest.raises(KeyReused):
                repeat(world, key="k", **other)
        with pytest.raises(KeyReused):
            world.service.run_now(str(job.id), key="k")

    def test_key_of_a_request_that_found_nothing_finds_nothing_later(self, world: World) -> None:
        job = world.create()
        assert repeat(world, key="k").matched == 0
        fail(world, job)
        assert repeat(world, key="k").created == []

    def test_refused_count_does_not_use_up_the_key(self, world: World) -> None:
        fail(world, world.create())
        with pytest.raises(CountDiffers):
            repeat(world, key="k", how={"expected": 5})
        assert len(repeat(world, key="k").created) == 1

    def test_what_somebody_else_is_trying_again_just_now_is_refused(self, world: World) -> None:
        job = world.create(overlap="allow")
        failed = fail(world, job)
        done: list[Repeated] = []
        with world.engine.begin() as other:
            other.execute(text("select from jobs for no key update"))
            request = threading.Thread(target=lambda: done.append(patiently(world)))
            request.start()
            waits = (
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            )
            wait_until("it waits for the job", lambda: bool(done) or world.one(waits) == 1)
            other.execute(
                text(
                    "insert into executions (id, job_id, revision, kind, queue, scheduled_at, trigger, state, "
                    "max_attempts, overlap, available_at, next_publish_at, repeats) select gen_random_uuid(), job_id, "
                    "revision, kind, queue, now(), 'RETRY_OF', 'PENDING', 4, overlap, now(), now(), id from executions"
                )
            )
        request.join()
        assert done[0].created == []
        assert {one.code for one in done[0].refused} <= {"tried_again"}
        assert world.one("select count(*) from executions where repeats = :id", id=failed.id) == 1

    @pytest.mark.parametrize("key", ["k", None])
    def test_twins_at_once_try_each_execution_again_once(self, world: World, key: str | None) -> None:
        jobs = [world.create(overlap="allow") for _ in range(3)]
        failed = {fail(world, job).id for job in jobs for _ in range(3)}
        done: list[Repeated] = []
        twins = [threading.Thread(target=lambda: done.append(repeat(world, key=key))) for _ in range(8)]
        for twin in twins:
            twin.start()
        for twin in twins:
            twin.join()
        assert len(done) == 8
        rows = world.sql("select repeats, count(*) as times from executions where repeats is not null group by repeats")
        assert {row.repeats: row.times for row in rows} == dict.fromkeys(failed, 1)
        if key is not None:
            assert len({tuple(one.id for one in each.created) for each in done}) == 1


def test_a_thousand_are_tried_again_in_one_request(world: World) -> None:
    job = world.create(overlap="allow")
    first = fail(world, job)
    world.sql(
        "insert into executions (id, job_id, revision, kind, queue, scheduled_at, trigger, state, max_attempts,"
        " overlap, available_at) select gen_random_uuid(), job_id, revision, kind, queue, scheduled_at, trigger, state,"
        " max_attempts, overlap, available_at from executions, generate_series(1, 1500) where id = :id",
        id=first.id,
    )
    done = repeat(world)
    assert (done.matched, len(done.created)) == (1_501, 1_000)
    assert len(repeat(world, how={"expected": 501}).created) == 501


class TestOverHttp:
    @pytest.fixture
    def failed(self, world: World) -> list[Execution]:
        job = world.create(overlap="allow")
        return [fail(world, job) for _ in range(3)]

    def test_dry_run_tells_the_count_and_the_oldest(self, client: FlaskClient, failed: list[Execution]) -> None:
        response = client.post("/v1/executions/retry", json={"dry_run": True})
        assert response.status_code == 200
        answer = response.get_json()
        assert (answer["dry_run"], answer["count"]) == (True, 3)
        assert [one["id"] for one in answer["sample"]] == [str(one.id) for one in failed]
        assert answer["sample"][0]["error_message"] == "said no"
        assert client.post("/v1/executions/retry", json={"dry_run": True}).get_json() == answer

    def test_failures_are_tried_again(self, client: FlaskClient, world: World, failed: list[Execution]) -> None:
        headers = {"Idempotency-Key": "one"}
        body = {"job_id": str(failed[0].job_id), "expected_count": 3, "limit": 2, "state": ["FAILED"]}
        response = client.post("/v1/executions/retry", json=body, headers=headers)
        assert response.status_code == 202, response.text
        answer = response.get_json()
        assert (answer["count"], answer["remaining"], answer["refused"]) == (3, 1, [])
        assert [one["repeats"] for one in answer["created"]] == [str(one.id) for one in failed[:2]]
        shown = client.get(f"/executions/{answer['created'][0]['id']}").get_json()
        assert (shown["repeats"], shown["trigger"]) == (str(failed[0].id), "RETRY_OF")
        again = client.post("/executions/retry", json=body, headers=headers)
        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.get_json()["created"] == answer["created"]
        world.service.delete(str(failed[0].job_id))
        refused = client.post("/executions/retry", json={"state": ["FAILED"]}).get_json()["refused"]
        assert [(one["id"], one["code"]) for one in refused] == [(str(failed[2].id), "deleted")]

    def test_other_count_is_a_conflict_that_tells_the_real_one(
        self, client: FlaskClient, failed: list[Execution]
    ) -> None:
        document = problem(client.post("/v1/executions/retry", json={"expected_count": 2}), 409)
        assert document["type"].endswith("count-differs")
        assert document["detail"].startswith("3 match, not 2")

    @pytest.mark.parametrize(
        ("body", "pointer"),
        [
            ({"state": ["SUCCEEDED"]}, "/state/0"),
            ({"state": "FAILED"}, "/state"),
            ({"state": []}, "/state"),
            ({"trigger": "CRON"}, "/trigger"),
            ({"job_id": "first"}, "/job_id"),
            ({"scheduled_after": "yesterday"}, "/scheduled_after"),
            ({"expected_count": "3"}, "/expected_count"),
            ({"expected_count": -1}, "/expected_count"),
            ({"limit": 1001}, "/limit"),
            ({"limit": None}, "/limit"),
            ({"revision": "next"}, "/revision"),
            ({"dry_run": "yes"}, "/dry_run"),
            ({"stat": ["FAILED"]}, "/stat"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, client: FlaskClient, body: dict[str, Any], pointer: str) -> None:
        for asked in (body, {"dry_run": True, **body}):
            assert only_error(client.post("/v1/executions/retry", json=asked))["pointer"] == pointer

    def test_printed_commands_do_what_the_page_says(self, client: FlaskClient, failed: list[Execution]) -> None:
        blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
        look, do = (json.loads(re.search(r"-d '(.*)'", block, re.DOTALL)[1]) for block in blocks)  # type: ignore[index]
        assert all("http://127.0.0.1:8000/v1/executions/retry " in block for block in blocks)
        (key,) = re.findall(r"'Idempotency-Key: (\S+)'", blocks[1])
        assert client.post("/v1/executions/retry", json=look).get_json()["count"] == 3
        assert problem(client.post("/v1/executions/retry", json=do), 409)["detail"].startswith("3 match, not 400")
        done = client.post(
            "/v1/executions/retry", json={**do, "expected_count": 3}, headers={"Idempotency-Key": str(key)}
        )
        assert len(done.get_json()["created"]) == 3
        fields = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", PAGE.read_text(), re.MULTILINE)))
        assert set(fields) == set(RepeatRequest().fields)

    def test_body_that_was_forgotten_is_not_all_of_them(self, client: FlaskClient, failed: list[Execution]) -> None:
        assert client.post("/v1/executions/retry").status_code == 415
        assert len(client.get("/executions").get_json()) == 3
