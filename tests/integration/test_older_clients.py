"""A client that was generated from the description of an older management API reads every answer of this one.

It is strict: a field that its description requires and an answer lacks is an error, and so is a value of another type.
"""

import importlib
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import attrs
import httpx
import pytest
from pydantic import ConfigDict, TypeAdapter
from support.api import make_client
from support.world import World, record

from gnomon.job.model import State

DESCRIPTION = Path(__file__).parents[1] / "support" / "older_management_api.yaml"
STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)


@pytest.fixture(scope="module", params=["/v1", ""], ids=["versioned", "unversioned"])
def generated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The package that the generator writes for these paths."""
    folder = tmp_path_factory.mktemp("older")
    description, options = folder / "api.yaml", folder / "options.yaml"
    description.write_text(DESCRIPTION.read_text().replace("  /v1/jobs", f"  {request.param}/jobs"))
    options.write_text("post_hooks: []\n")
    name = f"older_client_{request.param.strip('/') or 'plain'}"
    tool = [str(Path(sys.executable).with_name("openapi-python-client")), "generate", "--meta", "none"]
    where = ["--path", str(description), "--config", str(options), "--output-path", str(folder / name)]
    subprocess.run([*tool, *where, "--fail-on-warning"], check=True, capture_output=True, timeout=120)
    sys.path.insert(0, str(folder))
    yield importlib.import_module(name)
    sys.path.remove(str(folder))


class OlderClient:
    """The generated operations, each answer of which is checked against the types that the client promises."""

    def __init__(self, package: ModuleType, world: World) -> None:
        self._package = package.__name__
        app = make_client(world).application
        options = {"transport": httpx.WSGITransport(app=app, remote_addr="127.0.0.1")}
        self._client = package.Client(base_url="http://localhost", httpx_args=options)

    def model(self, name: str) -> Any:
        return getattr(importlib.import_module(f"{self._package}.models"), name)

    def ask(self, operation: str, status: int, *path: str, **given: Any) -> Any:
        module = importlib.import_module(f"{self._package}.api.jobs.{operation}")
        response = module.sync_detailed(*path, client=self._client, **given)
        assert response.status_code == status, response.content
        answered = response.parsed
        if status >= 400:
            assert type(answered).__name__ == "Error"
        for one in answered if isinstance(answered, list) else [answered]:
            if one is not None:
                check_types(one)
        return answered

    def http(self, **more: Any) -> Any:
        given = {"url": "https://example.com/hook", "method": "POST", **more}
        return self.model("Http").from_dict(given)

    def create(self, **fields: Any) -> Any:
        body = {"type": "HTTP", "cron_schedule": "*/10 * * * *", "http_job": self.http().to_dict(), **fields}
        return self.ask("create_job", 201, body=self.model("JobCreate").from_dict(body))


def check_types(model: Any) -> None:
    """The generated classes take required fields only, but values of any type."""
    hints = typing.get_type_hints(type(model), vars(sys.modules[type(model).__module__]) | _imports_of(model))
    for field in attrs.fields(type(model)):
        value = getattr(model, field.name)
        TypeAdapter(hints[field.name], config=STRICT).validate_python(value)
        if attrs.has(type(value)):
            check_types(value)


def _imports_of(model: Any) -> dict[str, Any]:
    """What the module of a generated class imports for type checkers only."""
    package = type(model).__module__.rpartition(".")[0]
    return vars(importlib.import_module(package))


@pytest.fixture
def older(generated: ModuleType, world: World) -> OlderClient:
    return OlderClient(generated, world)


def test_every_field_that_is_sent_is_stored(older: OlderClient, world: World) -> None:
    http = older.http(
        headers={"Content-Type": "application/json", "X-Team": "billing"},
        body="{}",
        valid_response_codes=[200, 201],
        auth={"type": "basic", "username": "foo", "password": "bar"},
    )
    made = older.create(tags=["billing", "nightly"], http_job=http.to_dict())
    read = older.ask("get_job", 200, str(made.id))
    assert (read.tags, read.status.value, read.cron_schedule) == (["billing", "nightly"], "RUNNING", "*/10 * * * *")
    assert read.http_job.to_dict() == {**http.to_dict(), "auth": {**http.auth.to_dict(), "password": "***"}} | {
        name: value for name, value in read.http_job.to_dict().items() if name not in http.to_dict()
    }
    update = older.model("JobUpdate").from_dict(
        {
            "status": "STOPPED",
            "tags": ["other"],
            "cron_schedule": "0 3 * * *",
            "http": older.http(url="https://example.com/other", method="PUT", body="changed").to_dict(),
        }
    )
    changed = older.ask("update_job", 200, str(made.id), body=update)
    read = older.ask("get_job", 200, str(made.id))
    for one in (changed, read):
        assert (one.status.value, one.tags, one.cron_schedule) == ("STOPPED", ["other"], "0 3 * * *")
        assert (one.http_job.url, one.http_job.method, one.http_job.body) == (
            "https://example.com/other",
            "PUT",
            "changed",
        )
    resumed = older.ask("update_job", 200, str(made.id), body=older.model("JobUpdate").from_dict({"status": "RUNNING"}))
    assert (resumed.status.value, resumed.tags) == ("RUNNING", ["other"])


def test_message_is_created_and_updated(older: OlderClient) -> None:
    amqp = {
        "connection": "amqp://user:pass@broker.example.com/vhost",
        "exchange": "my_exchange",
        "routing_key": "my_routing_key",
        "headers": {"x-delay": 10000},
        "body": "Hello",
        "body_encoding": None,
        "content_type": "text/plain",
    }
    body = {"type": "AMQP", "execute_at": "2030-01-01T09:00:00Z", "amqp_job": amqp}
    made = older.ask("create_job", 201, body=older.model("JobCreate").from_dict(body))
    assert made.execute_at.isoformat() == made.next_run.isoformat() == "2030-01-01T09:00:00+00:00"
    update = older.model("JobUpdate").from_dict({"amqp": {**amqp, "routing_key": "another"}})
    changed = older.ask("update_job", 200, str(made.id), body=update)
    assert (changed.amqp_job.routing_key, changed.amqp_job.headers.to_dict()) == ("another", {"x-delay": 10000})


def test_lists_are_read_by_tags_limit_and_offset(older: OlderClient) -> None:
    made = [older.create(tags=["a", "b"] if number else ["a"]) for number in range(3)]
    newest_first = [job.id for job in reversed(made)]
    assert [job.id for job in older.ask("list_jobs", 200)] == newest_first
    assert [job.id for job in older.ask("list_jobs", 200, limit=1, offset=1)] == [made[1].id]
    assert [job.id for job in older.ask("list_jobs", 200, tags=["a"])] == newest_first
    assert [job.id for job in older.ask("list_jobs", 200, tags=["a", "b"])] == newest_first[:2]
    assert [job.id for job in older.ask("list_jobs", 200, tags=["a,b"])] == newest_first[:2]


def test_executions_are_read_in_every_state(older: OlderClient, world: World) -> None:
    job = world.due(overlap="allow")
    for state, error in ((State.SUCCEEDED, None), (State.FAILED, "it said no"), (State.UNKNOWN, "nobody knows")):
        (claimed,) = world.claim(world.dispatched())
        world.executions.record([record(claimed, state, error_message=error)])
        world.make_due(job)
    world.claim(world.dispatched())
    world.make_due(job)
    world.dispatched()
    found = older.ask("list_executions", 200, str(job.id))
    assert [(one.success, one.error_message) for one in found] == [
        (None, None),
        (None, None),
        (False, "nobody knows"),
        (False, "it said no"),
        (True, None),
    ]
    assert {one.job_id for one in found} == {job.id}
    failed = older.ask("list_executions", 200, str(job.id), failed_only=True)
    assert [one.error_message for one in failed] == ["nobody knows", "it said no"]
    assert len(older.ask("list_executions", 200, str(job.id), limit=1, offset=4)) == 1


def test_every_error_is_read(older: OlderClient) -> None:
    nobody = str(uuid4())
    update = older.model("JobUpdate").from_dict({"tags": ["x"]})
    for operation, given in (("get_job", {}), ("update_job", {"body": update}), ("delete_job", {})):
        assert nobody in older.ask(operation, 404, nobody, **given).error
    assert nobody in older.ask("list_executions", 404, nobody).error
    assert "limit" in older.ask("list_jobs", 422, limit=0).error
    body = {"type": "HTTP", "cron_schedule": "61 * * * *", "http_job": older.http().to_dict()}
    assert "minute" in older.ask("create_job", 422, body=older.model("JobCreate").from_dict(body)).error
    made = older.create()
    wrong = older.model("JobUpdate").from_dict({"status": "COMPLETED"})
    assert "status" in older.ask("update_job", 422, str(made.id), body=wrong).error


def test_deleted_job_is_gone(older: OlderClient) -> None:
    made = older.create()
    assert older.ask("delete_job", 204, str(made.id)) is None
    older.ask("delete_job", 404, str(made.id))
