"""What the operator lets jobs be, as the API says it."""

from datetime import timedelta

import pytest
from flask.testing import FlaskClient
from support.api import created, make_client, only_error
from support.world import World

from gnomon.job.quotas import Quotas
from gnomon.job.service import JobService


def limited(world: World, quotas: Quotas) -> FlaskClient:
    """A client of an API with these quotas."""
    world.service = JobService(
        jobs=world.jobs, runs=world.runs, history=world.history, catalog=world.catalog, quotas=quotas
    )
    return make_client(world)


@pytest.mark.parametrize(
    ("schedule", "pointer"),
    [
        ({"cron_schedule": "*/10 * * * * *"}, "/cron_schedule"),
        ({"schedule": "@every 30s"}, "/schedule"),
        ({"cron_schedule": None, "interval_seconds": 59}, "/interval_seconds"),
    ],
)
def test_job_that_is_too_frequent_is_refused_where_it_says_so(
    world: World, schedule: dict[str, object], pointer: str
) -> None:
    client = limited(world, Quotas(min_interval=timedelta(minutes=1)))
    document = {"type": "HTTP", "http_job": {"url": "https://example.com/"}, **schedule}
    error = only_error(client.post("/v1/jobs", json=document))
    assert error["pointer"] == pointer
    assert "limits.min_interval" in error["hint"]


def test_frequent_job_that_exists_goes_on_when_the_limit_is_raised(world: World) -> None:
    job = created(make_client(world), cron_schedule="* * * * * *")
    client = limited(world, Quotas(min_interval=timedelta(minutes=1)))
    path = f"/v1/jobs/{job['id']}"
    assert client.patch(path, json={"tags": ["slow"]}).status_code == 200
    assert client.put(path, json={**job, "timezone": "Europe/Paris"}).status_code == 200
    only_error(client.patch(path, json={"cron_schedule": "*/2 * * * * *"}))
    assert client.patch(path, json={"cron_schedule": "* * * * *"}).status_code == 200
    only_error(client.patch(path, json={"cron_schedule": "* * * * * *"}))
    assert client.delete(path).status_code == 204
