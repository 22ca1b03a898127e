"""Jobs out and in again as lines of JSON: the same jobs, however many, whatever breaks on the way."""

import json
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests
from flask.testing import FlaskClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from servers.api_server import ApiServer
from support.api import HOURLY, created, make_client, problem
from support.world import World

from gnomon.job.document import format_instant
from gnomon.job.errors import Unavailable
from gnomon.job.handlers import HandlerSpec
from gnomon.job.quotas import Quotas
from gnomon.storage.postgres.imports import PostgresImportStore
from gnomon.storage.postgres.quotas import limited_by

NDJSON = "application/x-ndjson"
EMPTY = "truncate jobs, job_revisions, job_events, executions, attempts cascade"
Document = dict[str, Any]

START = datetime(2027, 1, 1, tzinfo=UTC)
instants = st.integers(0, 5_000_000_000).map(lambda seconds: format_instant(START + timedelta(seconds=seconds)))
schedules = st.one_of(
    st.fixed_dictionaries({"interval_seconds": st.integers(1, 315_576_000)}, optional={"anchor_at": instants}),
    st.fixed_dictionaries(
        {"cron_schedule": st.sampled_from(["* * * * *", "@hourly", "0 9 * * 1-5", "30 0 2 * * *"])},
        optional={"timezone": st.sampled_from(["UTC", "Europe/Paris", "Asia/Kolkata"])},
    ),
    st.fixed_dictionaries({"execute_at": instants}),
)
targets = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.just("HTTP"),
            "http_job": st.fixed_dictionaries(
                {"url": st.sampled_from(["https://example.com/a?b=c", "example.org"])},
                optional={
                    "method": st.sampled_from(["PATCH", "PUT"]),
                    "body": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
                    "headers": st.dictionaries(st.sampled_from(["X-A", "X-B"]), st.just("1")),
                    "valid_response_codes": st.lists(st.integers(200, 599), unique=True, max_size=3),
                },
            ),
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("AMQP"),
            "amqp_job": st.fixed_dictionaries(
                {"connection": st.just("amqp://broker.example.com/"), "routing_key": st.sampled_from(["", "a.b"])},
                optional={"headers": st.just({"x-delay": 5, "nested": {"a": [True, "b"]}})},
            ),
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["sync_one", "async_one"]),
            "payload": st.dictionaries(
                st.text("abc", min_size=1, max_size=3), st.none() | st.integers(0, 9), max_size=3
            ),
        }
    ),
)
policies = st.fixed_dictionaries(
    {},
    optional={
        "tags": st.lists(st.sampled_from(["billing", "\u00e9t\u00e9", "a b"]), unique=True),
        "overlap": st.sampled_from(["skip", "allow", "queue"]),
        "delivery": st.sampled_from(["at_least_once", "at_most_once"]),
        "timeout_seconds": st.sampled_from([0.1, 1, 86_400]),
        "retry": st.fixed_dictionaries({"max_attempts": st.integers(1, 100)}, optional={"jitter": st.floats(0, 1)}),
        "misfire": st.fixed_dictionaries({"policy": st.sampled_from(["run_all", "skip"])}),
        "spread_seconds": st.integers(0, 86_400),
    },
)
documents = (
    st.tuples(targets, schedules, policies)
    .map(lambda parts: {**parts[0], **parts[1], **parts[2]})
    .filter(lambda document: not ("execute_at" in document and document.get("spread_seconds")))
)


@pytest.fixture
def client(world: World) -> FlaskClient:
    return make_client(world)


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(database_url, tmp_path) as started:
        yield started


def exported(client: FlaskClient, **query: Any) -> list[Document]:
    response = client.get("/v1/jobs/export", query_string=query)
    assert response.status_code == 200, response.get_data(as_text=True)
    assert response.mimetype == NDJSON
    return [json.loads(line) for line in response.get_data(as_text=True).splitlines()]


def imported(client: FlaskClient, lines: Sequence[Mapping[str, Any] | str], **query: Any) -> Document:
    body = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    response = client.post("/v1/jobs/import", data=body.encode(), content_type=NDJSON, query_string=query)
    assert response.status_code == 200, response.get_data(as_text=True)
    answer: Document = response.get_json()
    assert answer["lines"] == sum(answer[name] for name in ("created", "replaced", "unchanged", "refused"))
    return answer


@settings(
    max_examples=20,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(documents, st.booleans()), min_size=1, max_size=6))
def test_what_is_imported_is_what_was_exported(world: World, defined: list[tuple[Document, bool]]) -> None:
    world.sql(EMPTY)
    world.announce(HandlerSpec(name="sync_one", queue="handlers"), HandlerSpec(name="async_one", queue="async"))
    client = make_client(world)
    for number, (document, named) in enumerate(defined):
        created_one = client.post("/v1/jobs", json={**document, **({"name": f"job-{number}"} if named else {})})
        assert created_one.status_code == 201, created_one.get_data(as_text=True)
        if number % 3 == 0:
            client.post(f"/v1/jobs/{created_one.get_json()['id']}/pause", json={"reason": "for now"})
    before = exported(client)
    assert len(before) == len(defined)
    assert imported(client, before)["unchanged"] == len(before)
    world.sql(EMPTY)
    assert imported(client, before)["created"] == len(before)
    assert sorted(exported(client), key=by_id) == sorted(before, key=by_id)
    assert imported(client, before)["unchanged"] == len(before)


def by_id(document: Document) -> str:
    return str(document["id"])


def test_export_takes_the_filters_of_the_list(client: FlaskClient) -> None:
    for name, tags in (("a", ["x"]), ("b", ["x", "y"]), ("c", [])):
        created(client, name=name, tags=tags)
    assert [job["name"] for job in exported(client, tag="x")] == ["b", "a"]
    assert [job["name"] for job in exported(client)] == ["c", "b", "a"]
    problem(client.get("/v1/jobs/export?tagg=x"), 422)
    problem(client.get("/v1/jobs/export?limit=1"), 422)


def test_export_goes_over_all_pages(client: FlaskClient, world: World) -> None:
    imported(client, [{**HOURLY, "name": f"job-{number}"} for number in range(450)])
    assert {job["name"] for job in exported(client)} == {f"job-{number}" for number in range(450)}


def test_secrets_are_left_out_and_stay_where_they_are(client: FlaskClient, world: World) -> None:
    call = {"url": "https://example.com/", "auth": {"type": "bearer", "token": "canary"}}
    created(client, name="a", http_job=call)
    (line,) = exported(client)
    assert "canary" not in json.dumps(line)
    assert line["http_job"]["auth"]["token"] == "***"
    assert imported(client, [line])["unchanged"] == 1
    assert imported(client, [{**line, "tags": ["x"]}])["replaced"] == 1
    stored = world.one("select definition::text from job_revisions order by revision desc limit 1")
    assert '"***"' not in stored
    world.sql(EMPTY)
    (error,) = imported(client, [line])["errors"]
    assert error["pointer"] == "/http_job/auth"
    assert "none is stored here" in error["detail"]


def test_each_line_stands_for_itself(client: FlaskClient) -> None:
    taken = created(client, name="taken")
    answer = imported(
        client,
        [
            {**HOURLY, "name": "first"},
            "",
            "{",
            {**HOURLY, "name": "bad", "interval_second": 5},
            {**HOURLY, "name": "worse", "schedule": "* * *", "cron_schedule": None},
            "[1]",
            HOURLY,
            {**HOURLY, "name": "last", "id": str(uuid4())},
            {**HOURLY, "name": "first", "tags": ["again"]},
            {"name": "first", "id": 7},
            {**HOURLY, "name": "x", "http_job": {"url": "https://example.com/", "nul": "\0"}},
            {**HOURLY, "name": "another", "id": taken["id"]},
        ],
    )
    assert (answer["created"], answer["replaced"], answer["refused"]) == (2, 2, 7)
    assert [(error["line"], error["pointer"]) for error in answer["errors"]] == [
        (3, ""),
        (4, "/interval_second"),
        (5, "/schedule"),
        (6, ""),
        (7, "/name"),
        (10, "/id"),
        (11, "/http_job/nul"),
    ]
    assert {job["name"]: job["tags"] for job in exported(client)} == {"first": ["again"], "last": [], "another": []}


def test_dry_run_changes_nothing(client: FlaskClient, world: World) -> None:
    created(client, name="here")
    before = exported(client)
    lines = [{**HOURLY, "name": "new"}, {**HOURLY, "name": "here", "tags": ["x"]}, {**HOURLY, "name": "bad name"}]
    answer = imported(client, lines, dry_run="true")
    assert (answer["dry_run"], answer["created"], answer["replaced"], answer["refused"]) == (True, 1, 1, 1)
    assert exported(client) == before
    assert world.one("select count(*) from job_events") == 1


def test_jobs_that_are_here_go_on_as_they_do(client: FlaskClient) -> None:
    for name, status in (("running", "STOPPED"), ("paused", "RUNNING")):
        created(client, name=name)
        if name == "paused":
            client.post("/v1/jobs/name:paused/pause", json={})
        imported(client, [{**HOURLY, "name": name, "status": status, "tags": ["x"]}])
    assert {job["name"]: job["status"] for job in exported(client)} == {"running": "RUNNING", "paused": "STOPPED"}


def test_created_jobs_are_paused_and_complete_as_they_were(client: FlaskClient, world: World) -> None:
    soon, past = datetime.now(UTC) + timedelta(hours=1), datetime.now(UTC) - timedelta(hours=1)
    stopped = {"status": "STOPPED"}
    once = {"type": "HTTP", "http_job": {"url": "example.com"}, "execute_at": format_instant(past)}
    answer = imported(
        client,
        [
            {
                **HOURLY,
                "name": "paused",
                "status": "STOPPED",
                "pause_reason": "why",
                "paused_until": format_instant(soon),
            },
            {**HOURLY, "name": "over", **stopped, "paused_until": format_instant(past)},
            {**once, "name": "done", "status": "COMPLETED"},
            {**once, "name": "late"},
            {**HOURLY, "name": "never-done", "status": "COMPLETED"},
        ],
    )
    assert [(error["line"], error["pointer"]) for error in answer["errors"]] == [(4, "/execute_at"), (5, "/status")]
    jobs = {job["name"]: job for job in client.get("/v1/jobs").get_json()}
    assert {name: job["status"] for name, job in jobs.items()} == {
        "paused": "STOPPED",
        "over": "RUNNING",
        "done": "COMPLETED",
    }
    assert jobs["paused"]["pause_reason"] == "why"
    assert jobs["done"]["next_run"] is None
    assert world.dispatched() == []


def test_id_of_a_deleted_job_is_not_given_again(client: FlaskClient) -> None:
    job = created(client)
    client.delete(f"/v1/jobs/{job['id']}")
    (error,) = imported(client, [{**HOURLY, "id": job["id"]}])["errors"]
    assert "was deleted here" in error["detail"]


def test_no_more_jobs_come_in_than_the_quota_allows(client: FlaskClient, world: World) -> None:
    store = PostgresImportStore(limited_by(world.engine, Quotas(jobs=3)))
    world.imports.put = store.put  # type: ignore[method-assign]
    answer = imported(client, [{**HOURLY, "name": f"job-{number}"} for number in range(5)])
    assert (answer["created"], answer["refused"]) == (3, 2)
    assert [error["line"] for error in answer["errors"]] == [4, 5]
    assert "limits.jobs" in answer["errors"][0]["detail"]


def test_body_must_be_lines_of_json(client: FlaskClient) -> None:
    response = client.post("/v1/jobs/import", json=HOURLY)
    problem(response, 415)
    assert response.headers["Accept-Post"] == NDJSON
    assert imported(client, [])["lines"] == 0


def test_only_lines_have_a_limit(client: FlaskClient) -> None:
    text = {**HOURLY, "http_job": {"url": "example.com", "body": "x" * 100_000}}
    assert imported(client, [{**text, "name": f"job-{number}"} for number in range(4)])["created"] == 4
    lines = [json.dumps({**HOURLY, "name": "first"}), "x" * 300_000, json.dumps({**HOURLY, "name": "never"})]
    document = problem(client.post("/v1/jobs/import", data="\n".join(lines), content_type=NDJSON), 413)
    assert "done up to line 0: nothing" in document["detail"] or "done up to line 1: 1 created" in document["detail"]
    assert "never" not in {job["name"] for job in exported(client)}


def test_import_may_take_longer_than_a_request_may_arrive(server: ApiServer) -> None:
    """The server gives a whole request one second elsewhere."""

    def slowly() -> Iterator[bytes]:
        for number in range(4):
            time.sleep(0.6)
            yield json.dumps({**HOURLY, "name": f"job-{number}"}).encode().ljust(70_000) + b"\n"

    response = requests.post(
        f"http://127.0.0.1:{server.port}/v1/jobs/import",
        data=slowly(),
        headers={"Content-Type": NDJSON, "Host": "127.0.0.1"},
        timeout=60,
    )
    assert response.json()["created"] == 4


@pytest.mark.parametrize(("ends", "status"), [("closed", 400), ("silent", 408), ("malformed", 400)])
def test_what_came_before_the_body_broke_off_is_imported(
    server: ApiServer, world: World, ends: str, status: int
) -> None:
    lines = b"".join(json.dumps({**HOURLY, "name": f"job-{number}"}).encode() + b"\n" for number in range(600))
    head = f"POST /v1/jobs/import HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {NDJSON}\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        if ends == "malformed":
            chunk = f"{len(lines):x}\r\n".encode() + lines + b"\r\nnonsense\r\n"
            client.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)
        else:
            client.sendall(head.encode() + f"Content-Length: {len(lines) + 10}\r\n\r\n".encode() + lines)
        if ends == "closed":
            client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(65_536), b""))
    assert answer.startswith(f"HTTP/1.1 {status}".encode()), answer[:500]
    detail = json.loads(answer.partition(b"\r\n\r\n")[2])["detail"]
    assert "the body broke off; done up to line" in detail
    count = world.one("select count(*) from jobs")
    assert f"{count} created" in detail
    assert count > 580  # the last few may not have been handed on


def test_import_that_is_broken_off_by_the_database_is_repeated(client: FlaskClient, world: World) -> None:
    lines = [{**HOURLY, "name": f"job-{number}"} for number in range(250)]
    put, calls = world.imports.put, iter(range(10))

    def away(steps: Any, *, dry_run: bool) -> Any:
        if next(calls) == 1:
            raise Unavailable("the database is gone")
        return put(steps, dry_run=dry_run)

    world.imports.put = away  # type: ignore[method-assign]
    body = "\n".join(map(json.dumps, lines))
    response = client.post("/v1/jobs/import", data=body, content_type=NDJSON)
    assert "done up to line 100: 100 created" in problem(response, 503)["detail"]
    assert int(response.headers["Retry-After"]) > 0
    answer = imported(client, lines)
    assert (answer["unchanged"], answer["created"]) == (100, 150)


@pytest.mark.parametrize(
    ("count", "size"), [(8_000, 4_000), pytest.param(100_000, 1_000, marks=pytest.mark.long)], ids=["some", "many"]
)
def test_memory_does_not_grow_with_the_number_of_jobs(server: ApiServer, world: World, count: int, size: int) -> None:
    url = f"http://127.0.0.1:{server.port}/v1/jobs"
    requests.get(f"{url}/export", timeout=60)  # so there is a worker
    worker = int(Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()[0])

    def peak_of(number: int) -> int:
        """In KiB, of writing and reading so many jobs, all of whose text would be far more."""
        world.sql(EMPTY)
        Path(f"/proc/{worker}/clear_refs").write_text("5")  # the peak begins anew
        body = {"url": "example.com", "body": "x" * size}
        lines = (
            json.dumps({**HOURLY, "name": f"job-{one}", "http_job": body}).encode() + b"\n" for one in range(number)
        )
        answer = requests.post(f"{url}/import", data=lines, headers={"Content-Type": NDJSON}, timeout=3_000)
        assert answer.json()["created"] == number, answer.text
        with requests.get(f"{url}/export", stream=True, timeout=600) as response:
            assert sum(1 for _ in response.iter_lines()) == number
        (line,) = (line for line in Path(f"/proc/{worker}/status").read_text().splitlines() if "VmHWM" in line)
        return int(line.split()[1])

    few, many = peak_of(1_000), peak_of(count)
    print(f"{few} KiB for 1,000 jobs, {many} KiB for {count}")
    assert many - few < 12 * 1024 < count * size // 1024
