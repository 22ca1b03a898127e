"""Who may ask for what: every route, with every kind of key and without one."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from support.api import HOURLY, created, make_client, problem
from support.world import World

from gnomon.api.access import FAILURES, Guarded, Open, needs
from gnomon.api.keyring import Keyring
from gnomon.api.throttle import Throttle
from gnomon.embedded.postgres import EmbeddedPostgres
from gnomon.job.api_key import Key, make_key, to_store
from gnomon.job.principal import Role

NOBODY = "018f0000-0000-7000-8000-000000000000"  # no job, and no execution, has this id
OPEN, METRICS, READ, WRITE, ADMIN = Open.TO_ALL, Role.METRICS, Role.READ, Role.WRITE, Role.ADMIN

# What each route needs, and what it answers to a request without a body for what does not exist.
ROUTES: dict[tuple[str, str], tuple[Role | Open, int]] = {
    ("GET", "/"): (OPEN, 302),
    ("GET", "/docs"): (OPEN, 200),
    ("GET", "/docs/static/<name>"): (OPEN, 404),
    ("GET", "/openapi.json"): (OPEN, 200),
    ("GET", "/health"): (OPEN, 200),
    ("GET", "/health/live"): (OPEN, 200),
    ("GET", "/health/ready"): (OPEN, 200),
    ("GET", "/version"): (READ, 200),
    ("GET", "/metrics"): (METRICS, 200),
    ("GET", "/jobs"): (READ, 200),
    ("POST", "/jobs"): (WRITE, 415),
    ("GET", "/jobs/export"): (READ, 200),
    ("POST", "/jobs/import"): (WRITE, 415),
    ("GET", "/jobs/<reference>"): (READ, 404),
    ("PATCH", "/jobs/<reference>"): (WRITE, 415),
    ("PUT", "/jobs/<reference>"): (WRITE, 415),
    ("DELETE", "/jobs/<reference>"): (WRITE, 404),
    ("PUT", "/jobs/by-name/<name>"): (WRITE, 415),
    ("GET", "/jobs/<reference>/executions"): (READ, 404),
    ("GET", "/jobs/<reference>/events"): (READ, 404),
    ("POST", "/jobs/<reference>/run"): (WRITE, 404),
    ("POST", "/jobs/<reference>/pause"): (WRITE, 404),
    ("POST", "/jobs/<reference>/resume"): (WRITE, 404),
    ("POST", "/jobs/<reference>/backfill"): (WRITE, 415),
    ("GET", "/jobs/<reference>/next-runs"): (READ, 404),
    ("GET", "/jobs/<reference>/why"): (READ, 404),
    ("POST", "/jobs/bulk"): (ADMIN, 415),
    ("POST", "/schedules/preview"): (READ, 415),
    ("GET", "/queues"): (READ, 200),
    ("GET", "/stats"): (READ, 200),
    ("GET", "/executions"): (READ, 200),
    ("GET", "/executions/<execution_id>"): (READ, 404),
    ("POST", "/executions/retry"): (ADMIN, 415),
    ("POST", "/executions/<execution_id>/cancel"): (WRITE, 404),
    ("POST", "/executions/<execution_id>/retry"): (WRITE, 404),
    ("GET", "/instances"): (READ, 200),
    ("GET", "/handlers"): (READ, 200),
}
NEVER_LET_IN = ["no key", "malformed", "unknown", "wrong secret", "expired", "revoked"]
ROLES = [role.value for role in Role]


def served(app: Flask) -> Iterator[tuple[str, str]]:
    """Every method of every rule."""
    for rule in app.url_map.iter_rules():
        for method in rule.methods or ():
            yield method, rule.rule.replace("<id:", "<")


def plain(rule: str) -> str:
    """Without the prefix, and without the kinds of its parameters."""
    return re.sub(r"<\w+:", "<", rule.removeprefix("/v1"))


def path_of(rule: str) -> str:
    prefix = "/v1" if rule.startswith("/v1") else ""
    return prefix + re.sub(r"<(\w+)>", lambda named: "none" if named[1] == "name" else NOBODY, plain(rule))


def add(world: World, role: Role, *, name: str | None = None, expires_at: datetime | None = None) -> Key:
    """A key that the store knows."""
    key = make_key()
    world.keys.add(to_store(key, name=name or key.id, role=role, expires_at=expires_at, created_by="a test"))
    return key


def bearing(key: Key | str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key if isinstance(key, str) else key.text}"}


def headers_for(world: World, who: str) -> dict[str, str]:
    key = add(world, Role(who) if who in ROLES else Role.ADMIN)
    match who:
        case "no key":
            return {}
        case "malformed":
            return bearing(key.text[:-1])
        case "unknown":
            return bearing(make_key())
        case "wrong secret":
            return bearing(Key(key.id, make_key().secret))
        case "expired":
            return bearing(add(world, Role.ADMIN, expires_at=datetime.now(UTC) - timedelta(seconds=5)))
        case "revoked":
            world.keys.revoke(key.id, by="a test")
    return bearing(key)


def patient(world: World, **access: Any) -> FlaskClient:
    """A client of an app that counts no failures."""
    return make_client(world, failures=Throttle(10**9, 1), **access)


def expected(method: str, rule: str, who: str) -> int:
    """HEAD is as GET; OPTIONS says which methods there are to whoever may read."""
    path = plain(rule)
    if method == "OPTIONS":
        needed, status = next(answer for (_, known), answer in ROUTES.items() if known == path)
        needed, status = (READ if needed in (WRITE, ADMIN) else needed), 200
    else:
        needed, status = ROUTES["GET" if method == "HEAD" else method, path]
    if needed is Open.TO_ALL or (who in ROLES and Role(who).includes(needed)):
        return status
    return 403 if who in ROLES else 401


def test_table_holds_every_route(world: World) -> None:
    app = make_client(world).application
    methods = {(method, plain(rule)) for method, rule in served(app) if method not in ("HEAD", "OPTIONS")}
    assert methods == ROUTES.keys()


@pytest.mark.parametrize("who", [*NEVER_LET_IN, *ROLES])
def test_every_route_answers_as_documented(world: World, who: str) -> None:
    client = patient(world)
    headers = headers_for(world, who)
    wrong = {}
    for method, rule in served(client.application):
        with client.open(path_of(rule), method=method, headers=headers) as response:
            if response.status_code != expected(method, rule, who):
                wrong[method, rule] = (response.status_code, expected(method, rule, who))
            if response.status_code == 401:
                assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert wrong == {}


def test_route_that_does_not_say_what_it_needs_can_not_be_registered(world: World) -> None:
    app = make_client(world).application
    with pytest.raises(TypeError, match="/secret does not say which role it needs"):
        app.get("/secret")(lambda: "secret")
    with pytest.raises(TypeError, match="/late"):
        app.add_url_rule("/late", "late")
    assert [rule.rule for rule in app.url_map.iter_rules() if rule.rule in ("/secret", "/late")] == []


def test_asynchronous_view_can_not_be_registered(world: World) -> None:
    """Nobody would wait for it: its answer would be a coroutine."""

    async def view() -> str:
        return "later"

    with pytest.raises(TypeError, match="the view of /later is asynchronous"):
        make_client(world).application.get("/later")(needs(Role.READ)(view))


def test_who_has_no_key_can_not_tell_what_exists(world: World) -> None:
    client = patient(world)
    job = created(client)
    add(world, Role.METRICS)
    asked = [
        ("GET", f"/jobs/{job['id']}"),
        ("GET", f"/jobs/{NOBODY}"),
        ("GET", "/nothing"),
        ("FOO", "/jobs"),
        ("PUT", "/jobs"),
        ("OPTIONS", "/jobs"),
        ("GET", "/v1/jobs/"),
        ("POST", "/health"),
    ]
    answers = []
    for method, path in asked:
        response = client.open(path, method=method)
        answers.append({key: value for key, value in problem(response, 401).items() if key != "request_id"})
        assert "Allow" not in response.headers
    too_large = client.post("/jobs", data=b"x" * 300_000, content_type="application/json")
    problem(too_large, 401)
    assert all(answer == answers[0] for answer in answers)
    assert client.head(f"/jobs/{job['id']}").status_code == client.head("/nothing").status_code == 401


def test_who_may_not_is_told_which_role_it_takes(world: World) -> None:
    client = patient(world)
    detail = problem(client.post("/jobs", json=HOURLY, headers=bearing(add(world, READ, name="viewer"))), 403)["detail"]
    assert detail == "this needs a key with the role write; that of 'viewer' has the role read"


def test_who_holds_a_key_that_is_over_is_told_so_and_others_are_not(world: World) -> None:
    client = patient(world)
    key = add(world, READ)
    world.keys.revoke(key.id, by="a test")
    assert problem(client.get("/jobs", headers=bearing(key)), 401)["detail"] == "this key is revoked"
    guess = Key(key.id, make_key().secret)
    unknown = problem(client.get("/jobs", headers=bearing(guess)), 401)["detail"]
    assert unknown == problem(client.get("/jobs", headers=bearing(make_key())), 401)["detail"]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_scheme_is_written_in_any_case(world: World, scheme: str) -> None:
    key = add(world, READ)
    assert patient(world).get("/jobs", headers={"Authorization": f"{scheme}  {key.text} "}).status_code == 200


@pytest.mark.parametrize("form", ["{}", "Basic {}", "Bearer", "Bearer {0}, Bearer {0}", "Bearer {} x", "Token {}"])
def test_key_in_another_form_is_not_taken(world: World, form: str) -> None:
    key = add(world, READ)
    problem(patient(world).get("/jobs", headers={"Authorization": form.format(key.text)}), 401)


def test_key_in_the_query_or_a_cookie_is_not_taken(world: World) -> None:
    client = patient(world)
    key = add(world, READ)
    problem(client.get(f"/jobs?access_token={key.text}"), 401)
    client.set_cookie("Authorization", f"Bearer {key.text}")
    problem(client.get("/jobs"), 401)


def test_without_any_key_everybody_on_this_machine_is_let_in_until_the_first_one_is_made(world: World) -> None:
    client = patient(world)
    assert created(client)["id"]
    add(world, METRICS)
    problem(client.get("/jobs"), 401)
    for key in world.keys.list():
        world.keys.revoke(key.id, by="a test")
    problem(client.get("/jobs"), 401)
    problem(patient(world).get("/jobs"), 401)


def test_without_any_key_nobody_is_let_in_where_others_than_this_machine_may_ask(world: World) -> None:
    client = patient(world, open_without_keys=False)
    problem(client.get("/jobs"), 401)
    assert client.get("/health").status_code == 200
    assert client.get("/jobs", headers=bearing(add(world, READ))).status_code == 200


def test_metrics_may_be_public(world: World) -> None:
    client = patient(world, metrics_public=True)
    add(world, READ)
    assert client.get("/metrics").status_code == 200
    problem(client.get("/jobs"), 401)


def test_key_is_let_in_no_more_two_seconds_after_it_was_revoked(world: World) -> None:
    now = [0.0]
    client = patient(world, keyring=Keyring(world.keys, clock=lambda: now[0]))
    key = add(world, READ)
    assert client.get("/jobs", headers=bearing(key)).status_code == 200
    world.keys.revoke(key.id, by="a test")
    now[0] += 2.01
    problem(client.get("/jobs", headers=bearing(key)), 401)


def test_key_expires_while_it_is_used(world: World) -> None:
    now = [0.0]
    client = patient(world, keyring=Keyring(world.keys, clock=lambda: now[0]))
    key = add(world, READ, expires_at=datetime.now(UTC) + timedelta(hours=1))
    assert client.get("/jobs", headers=bearing(key)).status_code == 200
    world.sql("update api_keys set expires_at = now() - interval '1 second'")
    now[0] += 2.01
    problem(client.get("/jobs", headers=bearing(key)), 401)


def test_row_that_was_altered_lets_nobody_in(world: World) -> None:
    key = add(world, READ)
    world.sql("update api_keys set role = 'admin'")
    problem(patient(world).get("/jobs", headers=bearing(key)), 401)


def test_use_is_noted_once_a_minute(world: World) -> None:
    client = patient(world)
    key = add(world, READ)
    add(world, READ)
    for _ in range(3):
        client.get("/jobs", headers=bearing(key))
    (used, unused) = world.keys.list()
    assert used.last_used_at is not None
    assert unused.last_used_at is None


def test_use_by_a_wrong_secret_is_not_noted(world: World) -> None:
    key = add(world, READ)
    patient(world).get("/jobs", headers=bearing(Key(key.id, make_key().secret)))
    assert world.keys.list()[0].last_used_at is None


def test_keys_of_settings_are_added_when_somebody_first_asks_and_replace_the_one_before(world: World) -> None:
    def brought(key: Key) -> FlaskClient:
        new = to_store(key, name="auth.admin_key", role=Role.ADMIN, expires_at=None, created_by="auth.admin_key")
        return patient(world, keyring=Keyring(world.keys, brought=[new]))

    first, second = make_key(), make_key()
    problem(brought(first).get("/jobs"), 401)
    assert brought(first).get("/jobs", headers=bearing(first)).status_code == 200
    assert brought(second).get("/jobs", headers=bearing(second)).status_code == 200
    problem(brought(first).get("/jobs", headers=bearing(first)), 401)
    assert brought(second).get("/jobs", headers=bearing(second)).status_code == 200
    assert [key.state for key in world.keys.list()] == ["revoked", "active"]


def test_key_of_a_setting_that_was_revoked_stays_so(world: World) -> None:
    key = make_key()
    new = to_store(key, name="auth.admin_key", role=Role.ADMIN, expires_at=None, created_by="auth.admin_key")
    patient(world, keyring=Keyring(world.keys, brought=[new])).get("/jobs")
    world.keys.revoke("auth.admin_key", by="a test")
    problem(patient(world, keyring=Keyring(world.keys, brought=[new])).get("/jobs", headers=bearing(key)), 401)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "localhost.evil.example:8000"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "null"},
        {"X-Forwarded-For": "198.51.100.7"},
        {"Forwarded": "for=198.51.100.7"},
    ],
)
def test_page_in_a_browser_can_not_use_an_api_without_keys(world: World, headers: dict[str, str]) -> None:
    client = patient(world)
    job = created(client)
    for method, path in (("GET", "/jobs"), ("POST", f"/jobs/{job['id']}/run"), ("DELETE", f"/jobs/{job['id']}")):
        response = client.open(path, method=method, headers=headers)
        assert "gnomon keys create" in problem(response, 403)["detail"]
        assert not [name for name in response.headers if name[0].startswith("Access-Control")]
    assert client.get(f"/jobs/{job['id']}/executions").get_json() == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost:8000", "Origin": "http://localhost:8000"},
        {"Host": "127.0.0.1:8000"},
        {"Host": "[::1]:8000", "Origin": "http://[::1]:8000"},
        {"Host": "gnomon.internal"},
    ],
)
def test_people_on_this_machine_can_use_an_api_without_keys(world: World, headers: dict[str, str]) -> None:
    assert patient(world, names=["gnomon.internal"]).post("/jobs", json=HOURLY, headers=headers).status_code == 201


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_body_that_a_form_can_send_is_not_taken(world: World, content_type: str | None) -> None:
    response = patient(world).post("/jobs", data=b'{"type": "HTTP"}', content_type=content_type)
    problem(response, 415)


def test_preflight_of_another_origin_is_given_no_permission(world: World) -> None:
    key = add(world, Role.ADMIN)
    asks = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for headers in (asks, {**asks, **bearing(key)}):
        response = patient(world).options("/jobs", headers=headers)
        assert not [name for name, _ in response.headers if name.startswith("Access-Control")]


def fail(client: FlaskClient, key: Key, times: int, **more: Any) -> list[int]:
    return [client.get("/jobs", headers=bearing(key), **more).status_code for _ in range(times)]


def from_address(address: str) -> dict[str, Any]:
    return {"environ_base": {"REMOTE_ADDR": address}}


def test_whoever_guesses_keys_is_told_to_wait_and_others_are_not(world: World) -> None:
    client = make_client(world)
    key = add(world, READ)
    assert [fail(client, make_key(), 1) for _ in range(FAILURES)] == [[401]] * FAILURES
    response = client.get("/jobs", headers=bearing(make_key()))
    assert 0 < int(response.headers["Retry-After"]) <= 60
    problem(response, 429)
    problem(client.get("/jobs", headers=bearing(key)), 429)  # from there, what is not known is not looked up
    problem(client.get("/jobs"), 401)
    assert client.get("/health").status_code == 200
    assert client.get("/jobs", headers=bearing(key), **from_address("192.0.2.2")).status_code == 200
    assert client.get("/jobs", headers=bearing(key)).status_code == 200  # it is known now


def test_guesses_at_one_key_from_everywhere_do_not_lock_its_owner_out(world: World) -> None:
    client = make_client(world)
    key = add(world, READ)
    answers = [
        fail(client, Key(key.id, make_key().secret), 1, **from_address(f"192.0.2.{number}"))[0] for number in range(30)
    ]
    assert answers == [401] * FAILURES + [429] * (30 - FAILURES)
    assert client.get("/jobs", headers=bearing(key), **from_address("198.51.100.1")).status_code == 200


def test_addresses_behind_a_trusted_proxy_are_told_apart(world: World) -> None:
    from ipaddress import ip_network

    client = make_client(world, trusted_proxies=[ip_network("10.0.0.0/8")])
    key = add(world, READ)
    bad = {**bearing(make_key()), "X-Forwarded-For": "203.0.113.1"}
    for _ in range(FAILURES + 1):
        last = client.get("/jobs", headers=bad, **from_address("10.0.0.1"))
    problem(last, 429)
    good = {**bearing(key), "X-Forwarded-For": "203.0.113.1, 198.51.100.7"}
    assert client.get("/jobs", headers=good, **from_address("10.0.0.1")).status_code == 200


def test_without_the_database_only_metrics_are_answered_to_those_who_were_let_in_before(
    world: World, postgres: EmbeddedPostgres
) -> None:
    now = [0.0]
    client = patient(world, keyring=Keyring(world.keys, clock=lambda: now[0]))
    key, late = add(world, READ), add(world, READ)
    client.get("/metrics", headers=bearing(key))
    postgres.kill()
    now[0] += 10
    assert "gnomon_database_up 0" in client.get("/metrics", headers=bearing(key)).get_data(as_text=True)
    problem(client.get("/version", headers=bearing(key)), 503)
    problem(client.get("/metrics", headers=bearing(late)), 503)
    problem(client.get("/metrics"), 401)
    assert client.get("/health/live").status_code == 200


def test_guard_is_what_the_app_is_made_of(world: World) -> None:
    app = make_client(world).application
    assert isinstance(app, Guarded)


def test_before_the_tables_are_there_nobody_is_let_in_and_told_to_come_back(world: World) -> None:
    world.sql("drop table api_keys")
    problem(patient(world).get("/jobs"), 503)
    problem(patient(world).get("/jobs", headers=bearing(make_key())), 503)


def test_requests_that_are_refused_are_counted(world: World) -> None:
    client = patient(world)
    key = add(world, METRICS)
    client.get("/jobs")
    client.get("/jobs", headers=bearing(key))
    text = client.get("/metrics", headers=bearing(key)).get_data(as_text=True)
    for status in (401, 403):
        assert f'gnomon_http_request_total{{method="GET",status="{status}"}} 1.0' in text
