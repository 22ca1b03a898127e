"""How many requests a caller of the API may make."""

import logging
import threading

import pytest
import redis
from flask.testing import FlaskClient
from support.api import created, make_client, problem
from support.world import World

from gnomon.api.rate_limits import RateLimiter
from gnomon.embedded.valkey import EmbeddedValkey
from gnomon.job.api_key import Key, make_key, to_store
from gnomon.job.errors import ConfigurationError, Unavailable
from gnomon.job.principal import Role
from gnomon.job.rates import SECOND, Rate, Taken, take
from gnomon.storage.redis.rates import PREFIX, RedisBuckets

SLOW = Rate(per_second=1, burst=3)  # one more is allowed only after the test is over


@pytest.fixture
def client(world: World) -> FlaskClient:
    # a clock that stands still: however slow the machine is, nothing comes back
    return make_client(world, limiter=RateLimiter(SLOW, clock=lambda: 1000.0))


def ask(client: FlaskClient, address: str = "192.0.2.7", path: str = "/v1/jobs") -> int:
    return client.get(path, environ_base={"REMOTE_ADDR": address}).status_code


def test_too_many_requests_are_refused_with_what_to_do(client: FlaskClient) -> None:
    assert [ask(client) for _ in range(3)] == [200] * 3
    response = client.get("/v1/jobs", environ_base={"REMOTE_ADDR": "192.0.2.7"})
    found = problem(response, 429)
    assert found["type"] == "urn:gnomon:problem:too-many-requests"
    assert "limits.requests" in found["detail"]
    assert response.headers["Retry-After"] == "1"
    assert response.headers["RateLimit"] == '"requests";r=0;t=3'


def test_each_answer_says_what_is_left(client: FlaskClient) -> None:
    response = client.get("/v1/jobs")
    assert response.headers["RateLimit-Policy"] == '"requests";q=3;w=3'
    assert response.headers["RateLimit"] == '"requests";r=2;t=1'
    problem(missing := client.get("/nothing"), 404)
    assert missing.headers["RateLimit"] == '"requests";r=1;t=2'


def test_other_addresses_go_on_and_a_network_of_ipv6_is_one_caller(client: FlaskClient) -> None:
    assert [ask(client, f"2001:db8:1:2::{number}") for number in range(4)] == [200, 200, 200, 429]
    assert ask(client, "2001:db8:1:3::1") == 200
    assert ask(client, "192.0.2.8") == 200


def test_an_ipv4_address_is_the_same_caller_over_either_protocol(client: FlaskClient) -> None:
    addresses = ["192.0.2.7", "::ffff:192.0.2.7", "192.0.2.7", "::ffff:192.0.2.7"]
    assert [ask(client, address) for address in addresses] == [200, 200, 200, 429]
    assert ask(client, "::ffff:192.0.2.8") == 200


def test_each_key_is_a_caller_wherever_it_is_used_from(client: FlaskClient, world: World) -> None:
    keys = [make_key(), make_key()]
    for key in keys:
        world.keys.add(to_store(key, name=key.id, role=Role.READ, expires_at=None, created_by="a test"))

    def ask_with(key: Key, address: str) -> int:
        headers = {"Authorization": f"Bearer {key.text}"}
        return client.get("/v1/jobs", headers=headers, environ_base={"REMOTE_ADDR": address}).status_code

    addresses = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]
    assert [ask_with(keys[0], address) for address in addresses] == [200, 200, 200, 429]
    assert ask_with(keys[1], "192.0.2.1") == 200


@pytest.mark.parametrize("path", ["/health", "/v1/health/live", "/health/ready", "/v1/version"])
def test_probes_are_never_refused(client: FlaskClient, path: str) -> None:
    assert {ask(client, path="/v1/jobs") for _ in range(9)} == {200, 429}
    assert {ask(client, path=path) for _ in range(9)} == {200}


def test_refused_requests_are_counted_and_change_nothing(client: FlaskClient, world: World) -> None:
    for _ in range(3):
        created(client)
    problem(client.post("/v1/jobs", json={}), 429)
    with world.engine.connect() as connection:
        assert connection.exec_driver_sql("select count(*) from jobs").scalar() == 3
    metrics = client.get("/metrics", environ_base={"REMOTE_ADDR": "192.0.2.9"}).get_data(as_text=True)
    assert 'status="429"' in metrics


def test_processes_share_the_limit(redis_url: str) -> None:
    rate = Rate(per_second=1, burst=40)
    limiters = [RateLimiter(rate, shared=RedisBuckets(redis_url)) for _ in range(4)]
    allowed: list[bool] = []
    threads = [
        threading.Thread(target=lambda limiter=limiter: allowed.extend(limiter.take("a").allowed for _ in range(20)))
        for limiter in limiters
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(allowed) == 80
    assert 40 <= sum(allowed) <= 60  # one a second comes back, and the machine may be slow


def test_redis_counts_as_the_arithmetic_does(redis_url: str) -> None:
    rate = Rate(per_second=1, burst=5)
    buckets = RedisBuckets(redis_url)
    expected = Taken(allowed=True, debt=0)
    for _ in range(8):
        answer = buckets.take("a", rate)
        expected = take(rate, expected.debt)
        assert answer.allowed == expected.allowed
        assert expected.debt - SECOND < answer.debt <= expected.debt  # less the time that has gone by


def test_a_bucket_that_is_full_again_is_gone_from_redis(redis_url: str) -> None:
    RedisBuckets(redis_url).take("a", Rate(per_second=1, burst=5))
    with redis.Redis.from_url(redis_url) as client:
        assert 0 < client.pttl(f"{PREFIX}a") <= 1000


def test_a_clock_that_was_set_back_does_not_lock_callers_out(redis_url: str) -> None:
    rate = Rate(per_second=1, burst=5)
    with redis.Redis.from_url(redis_url) as client:
        client.set(f"{PREFIX}a", 4_000_000_000 * SECOND)
    refused = RedisBuckets(redis_url).take("a", rate)
    assert refused == Taken(allowed=False, debt=rate.most)


def test_without_redis_requests_go_on_within_the_limit_of_the_process(
    world: World, valkey: EmbeddedValkey, caplog: pytest.LogCaptureFixture
) -> None:
    valkey.start()
    url = valkey.url
    valkey.kill()
    client = make_client(world, limiter=RateLimiter(Rate(per_second=1, burst=3), shared=RedisBuckets(url)))
    with caplog.at_level(logging.WARNING):
        answers = [ask(client) for _ in range(30)]
    assert answers[:3] == [200] * 3
    assert 429 in answers
    assert sum("can't be shared now" in record.message for record in caplog.records) == 1
    with pytest.raises(Unavailable):
        RedisBuckets(url).take("a", SLOW)


@pytest.mark.parametrize("value", ["text", b"\xff"])
def test_garbage_in_redis_stops_nobody(redis_url: str, value: str | bytes) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set(f"{PREFIX}a", value)
    assert RateLimiter(SLOW, shared=RedisBuckets(redis_url)).take("a").allowed


def test_a_wrong_address_ends_the_start() -> None:
    with pytest.raises(ConfigurationError):
        RedisBuckets("http://example.com")
