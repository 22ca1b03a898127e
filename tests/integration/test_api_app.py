"""What holds for every route, the probes, the metrics and the documentation."""

import logging
import re
from typing import Any
from uuid import uuid4

import pytest
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from prometheus_client.parser import text_string_to_metric_families
from support.api import created, make_client, problem
from support.world import World, record

from gnomon.embedded.postgres import EmbeddedPostgres
from gnomon.job.errors import Unavailable
from gnomon.job.handlers import HandlerSpec
from gnomon.job.instance import Identity, Role
from gnomon.job.model import State


@pytest.fixture
def client(world: World) -> FlaskClient:
    return make_client(world)


@pytest.fixture
def cut_off(world: World, postgres: EmbeddedPostgres) -> FlaskClient:
    """A client of an API whose database does not answer."""
    client = make_client(world)
    client.get("/jobs")
    postgres.kill()
    return client


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1/nothing", "/v2/jobs", "/docs/static/../app.py", "/docs/static/none.js"]
)
def test_unknown_path_is_a_problem(client: FlaskClient, path: str) -> None:
    assert problem(client.get(path), 404)["title"] == "Not Found"


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/jobs"), ("POST", "/health"), ("FOO", "/v1/jobs")])
def test_wrong_method_is_a_problem_that_says_which_are_allowed(client: FlaskClient, method: str, path: str) -> None:
    response = client.open(path, method=method)
    problem(response, 405)
    assert "GET" in response.headers["Allow"]


def test_trailing_slash_does_not_matter(client: FlaskClient) -> None:
    assert client.get("/jobs/").get_json() == []


def test_request_id_is_taken_over_when_harmless(client: FlaskClient) -> None:
    assert client.get("/version", headers={"X-Request-Id": "abc-1.2_3"}).headers["X-Request-Id"] == "abc-1.2_3"
    assert problem(client.get("/x", headers={"X-Request-Id": "mine"}), 404)["request_id"] == "mine"
    for harmful in ("a b", "<script>", "x" * 129, ""):
        made = client.get("/version", headers={"X-Request-Id": harmful}).headers["X-Request-Id"]
        assert re.fullmatch("[0-9a-f]{32}", made)


@pytest.mark.parametrize("path", ["/jobs", "/health", "/metrics", "/docs", "/openapi.json", "/nothing"])
def test_answers_bear_security_headers(client: FlaskClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_unexpected_error_says_nothing_of_itself(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> None:
        raise RuntimeError("insert into jobs values ('canary-secret')")

    monkeypatch.setattr(world.service, "get", fail)
    client = make_client(world)
    with caplog.at_level(logging.ERROR):
        document = problem(client.get("/jobs/1"), 500)
    assert "canary" not in str(document)
    assert "canary" not in caplog.text
    (event,) = (entry for entry in caplog.records if entry.name == "gnomon.api.problems")
    assert document["request_id"] in event.getMessage()
    assert "RuntimeError" in event.getMessage()
    assert "test_api_app.py" in vars(event)["frames"]


def test_without_the_database_requests_are_asked_to_come_back(
    cut_off: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    for path in ("/jobs", "/version", "/health", "/v1/health/ready"):
        response = cut_off.get(path)
        document = problem(response, 503)
        assert int(response.headers["Retry-After"]) > 0
        assert not re.search(r"127\.0\.0\.1|port|socket|postgres", document["detail"])
    assert cut_off.get("/health/live").get_json() == {"status": "ok"}


def test_probes_and_version(client: FlaskClient) -> None:
    for path in ("/health", "/health/live", "/health/ready", "/v1/health"):
        assert client.get(path).get_json() == {"status": "ok"}
    assert client.get("/version").get_json() == {"name": "gnomon", "version": "1.2.3"}


def test_live_does_not_ask_whether_it_is_ready(world: World) -> None:
    def ready() -> None:
        raise Unavailable("not yet", retry_after_seconds=7)

    client = make_client(world, ready=ready)
    assert client.get("/health/live").status_code == 200
    assert client.get("/health/ready").headers["Retry-After"] == "7"


def samples(client: FlaskClient) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    response = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.mimetype == "text/plain"
    families = text_string_to_metric_families(response.get_data(as_text=True))
    found = [sample for family in families for sample in family.samples]
    keys = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in found]
    assert len(set(keys)) == len(keys)
    return {key: sample.value for key, sample in zip(keys, found, strict=True)}


def test_metrics_count_the_whole_fleet(client: FlaskClient, world: World) -> None:
    job = world.due(overlap="allow")
    for state in (State.SUCCEEDED, State.FAILED, State.UNKNOWN, State.SUCCEEDED):
        (claimed,) = world.claim(world.dispatched())
        world.executions.record([record(claimed, state)])  # each took 20 ms
        world.make_due(job)
    (claimed,) = world.claim(world.dispatched())
    world.executions.record([record(claimed, State.PENDING)])
    kind = (("kind", "HTTP"),)
    found = samples(client)
    assert found["gnomon_database_up", ()] == 1
    for name, count in (("jobs_started", 5), ("jobs_completed", 2), ("jobs_failed", 2)):
        assert found[name, kind] == count
        assert found[f"{name}_total", kind] == count
    assert found["job_duration_seconds_count", kind] == 5
    assert found["job_duration_seconds_sum", kind] == pytest.approx(0.1)
    assert found["job_duration_seconds_bucket", (*kind, ("le", "0.01"))] == 0
    assert found["job_duration_seconds_bucket", (*kind, ("le", "0.025"))] == 5
    assert found["job_duration_seconds_bucket", (*kind, ("le", "+Inf"))] == 5
    assert str(job.id) not in client.get("/metrics").get_data(as_text=True)


def test_metrics_of_a_new_installation_are_zero(client: FlaskClient) -> None:
    found = samples(client)
    assert found["jobs_started", (("kind", "HTTP"),)] == 0
    assert found["job_duration_seconds_count", (("kind", "HTTP"),)] == 0


def test_metrics_count_requests_by_route_and_known_method(client: FlaskClient) -> None:
    job = created(client)
    client.get(f"/v1/jobs/{job['id']}")
    client.get(f"/jobs/{job['id']}")
    client.open("/jobs", method="BREW")
    client.get("/nothing/at/all")
    counted = {
        (labels["method"], labels["route"], labels["status"]): value
        for (name, pairs), value in samples(client).items()
        if name == "gnomon_http_request_duration_seconds_count" and (labels := dict(pairs))
    }
    assert counted == {
        ("POST", "/jobs", "201"): 1,
        ("GET", "/jobs/<reference>", "200"): 2,
        ("GET", "none", "404"): 1,
    }


def test_metrics_without_the_database_are_those_of_the_process(cut_off: FlaskClient) -> None:
    cut_off.get("/health/live")
    found = samples(cut_off)
    assert found["gnomon_database_up", ()] == 0
    assert found["gnomon_http_request_total", (("method", "GET"), ("status", "200"))] == 2
    assert not [name for name, _ in found if name.startswith(("job", "gnomon_instances"))]


def test_apps_count_for_themselves(world: World) -> None:
    first, second = make_client(world), make_client(world)
    first.get("/version")
    key = ("gnomon_http_request_total", (("method", "GET"), ("status", "200")))
    assert samples(first)[key] == 1
    assert key not in samples(second)


def test_openapi_document_tells_every_route(client: FlaskClient) -> None:
    document = client.get("/v1/openapi.json").get_json()
    assert client.get("/openapi.json").get_json() == document
    told = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    served = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in client.application.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule.startswith("/v1/") and rule.rule not in ("/v1/openapi.json", "/v1/metrics")
    }
    assert told == served


def test_answers_fit_the_openapi_document(client: FlaskClient, world: World) -> None:
    document = client.get("/openapi.json").get_json()

    def check(name: str, answer: Any) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        Draft202012Validator(schema).validate(answer)
        assert answer.keys() <= document["components"]["schemas"][name]["properties"].keys()

    job = world.due()
    (claimed,) = world.claim(world.dispatched())
    world.executions.record([record(claimed)])
    check("CreatedJob", created(client, name="a", tags=["x"]))
    check("Job", client.get(f"/jobs/{job.id}").get_json())
    check("Execution", client.get(f"/jobs/{job.id}/executions").get_json()[0])
    process = Identity(id=uuid4(), name="one", role=Role.WORKER, host="here", pid=1, version="1", queues=("io",))
    handlers = [HandlerSpec(name="a", queue="async"), HandlerSpec(name="b", queue="async", schema={"type": "object"})]
    world.instances.beat(process, handlers=handlers)
    check("Instance", client.get("/instances").get_json()[0])
    for handler in client.get("/handlers").get_json():
        check("Handler", handler)
    check("Problem", client.get("/nothing").get_json())
    check("Problem", client.post("/jobs", json={"x": 1}).get_json())


def fetched(client: FlaskClient, path: str) -> tuple[str, str]:
    with client.get(path) as response:
        assert response.status_code == 200
        return response.get_data().decode("latin1"), response.mimetype


def test_docs_need_no_other_origin(client: FlaskClient) -> None:
    assert client.get("/").headers["Location"] == "/docs"
    response = client.get("/docs")
    page = response.get_data(as_text=True)
    assert "'self'" in response.headers["Content-Security-Policy"]
    assert not re.search(r"https?:|//", page.removeprefix("<!doctype html>"))
    paths = re.findall(r'(?:src|href|data-document)="([^"]+)"', page)
    assert len(paths) == 5
    for path in paths:
        assert fetched(client, path)[0]
    text, mimetype = fetched(client, "/docs/static/docs.js")
    assert mimetype == "text/javascript"
    assert "validatorUrl: null" in text


def test_docs_can_be_given_a_key_and_keep_it_nowhere(client: FlaskClient) -> None:
    document = client.get("/openapi.json").get_json()
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    assert document["security"] == [{"key": []}]
    assert document["paths"]["/v1/health"]["get"]["security"] == []
    assert "security" not in document["paths"]["/v1/jobs"]["get"]
    assert "persistAuthorization: false" in fetched(client, "/docs/static/docs.js")[0]
