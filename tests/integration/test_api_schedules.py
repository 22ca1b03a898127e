"""What schedules would do, over HTTP."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from support.api import created, make_client, only_error, problem
from support.world import World


@pytest.fixture
def client(world: World) -> FlaskClient:
    return make_client(world)


class TestNextRuns:
    def test_are_those_that_the_creation_told(self, client: FlaskClient) -> None:
        job = created(client, spread_seconds=3000)
        answer = client.get(f"/v1/jobs/{job['id']}/next-runs?count=5").get_json()
        assert [run["at"] for run in answer["runs"]] == job["next_runs"]
        assert (answer["schedule_text"], answer["timezone"]) == (job["schedule_text"], "UTC")

    def test_begin_at_any_moment_by_the_clocks_of_the_zone(self, client: FlaskClient) -> None:
        created(client, name="nightly", cron_schedule="30 2 * * *", timezone="Europe/Paris")
        path = "/jobs/name:nightly/next-runs?count=2&from=2030-03-30T23:00:00%2B01:00"
        answer = client.get(path).get_json()
        assert answer["runs"] == [
            {"at": "2030-03-31T01:00:00Z", "local": "2030-03-31T03:00:00+02:00"},
            {"at": "2030-04-01T00:30:00Z", "local": "2030-04-01T02:30:00+02:00"},
        ]
        assert "skip 2030-03-31 02:00 to 03:00" in answer["warnings"][0]

    def test_are_told_of_paused_and_completed_jobs(self, client: FlaskClient, world: World) -> None:
        created(client, name="paused")
        client.post("/jobs/name:paused/pause")
        assert len(client.get("/jobs/name:paused/next-runs").get_json()["runs"]) == 10
        created(client, name="once", cron_schedule=None, delay_seconds=0)
        world.dispatched()
        answer = client.get("/jobs/name:once/next-runs").get_json()
        assert answer["runs"] == []
        assert "never fires" in answer["warnings"][0]

    @pytest.mark.parametrize(
        ("query", "pointer"),
        [
            ("count=0", "/count"),
            ("count=501", "/count"),
            ("count=x", "/count"),
            ("from=now", "/from"),
            ("form=2030-01-01T00:00:00Z", "/form"),
        ],
    )
    def test_wrong_question_is_refused(self, client: FlaskClient, query: str, pointer: str) -> None:
        created(client, name="j")
        assert only_error(client.get(f"/jobs/name:j/next-runs?{query}"))["pointer"] == pointer
        problem(client.get("/jobs/name:nobody/next-runs"), 404)


class TestPreview:
    @pytest.mark.parametrize(
        ("document", "first"),
        [
            ({"cron_schedule": "0 9 * * 1"}, "2030-01-07T09:00:00Z"),
            ({"schedule": "0 9 * * *", "timezone": "Asia/Tokyo"}, "2030-01-02T00:00:00Z"),
            ({"interval_seconds": 3600, "anchor_at": "2029-01-01T00:10:00Z"}, "2030-01-01T00:10:00Z"),
            ({"interval_seconds": 3600, "starts_at": "2030-02-01T00:00:00Z"}, "2030-02-01T00:00:00Z"),
            ({"execute_at": "2030-05-01T00:00:00Z"}, "2030-05-01T00:00:00Z"),
        ],
    )
    def test_tells_the_moments(self, client: FlaskClient, document: dict[str, Any], first: str) -> None:
        body = {**document, "from": "2030-01-01T00:00:01Z", "count": 3}
        response = client.post("/v1/schedules/preview", json=body)
        assert response.status_code == 200, response.text
        assert response.get_json()["runs"][0]["at"] == first

    def test_begins_now_where_nothing_is_said(self, client: FlaskClient) -> None:
        answer = client.post("/schedules/preview", json={"cron_schedule": "* * * * *"}).get_json()
        assert len(answer["runs"]) == 10
        assert answer["schedule_text"] == "every minute, UTC"

    @pytest.mark.parametrize(
        ("document", "pointer"),
        [
            ({"cron_schedule": "61 * * * *"}, "/cron_schedule"),
            ({"schedule": "61 * * * *"}, "/schedule"),
            ({"cron_schedule": "0 0 30 2 *"}, "/cron_schedule"),
            ({"cron_schedule": "@daily", "schedule": "@daily"}, "/schedule"),
            ({"cron_schedule": "@daily", "interval_seconds": 5}, "/interval_seconds"),
            ({}, "/cron_schedule"),
            ({"cron_schedule": "@daily", "timezone": "Europe/Pari"}, "/timezone"),
            ({"cron_schedule": "@daily", "count": 501}, "/count"),
            ({"cron_schedule": "@daily", "from": "soon"}, "/from"),
            ({"cron_schedul": "@daily"}, "/cron_schedul"),
        ],
    )
    def test_refuses_what_a_job_could_not_have(
        self, client: FlaskClient, document: dict[str, Any], pointer: str
    ) -> None:
        assert only_error(client.post("/schedules/preview", json=document))["pointer"] == pointer
