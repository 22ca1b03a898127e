"""The cache of definitions: what it spares the database, and that nothing it does can hurt."""

import json
import logging
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import redis
from servers.certificates import self_signed
from servers.proxy import Proxy
from servers.tls_door import TlsDoor
from sqlalchemy import event
from support.keys import OPEN
from support.world import World

from gnomon.embedded.valkey import EmbeddedValkey
from gnomon.job.errors import ConfigurationError
from gnomon.job.model import Definition, Job
from gnomon.job.sealing import secrets_of
from gnomon.storage import cache
from gnomon.storage.cache import PREFIX, DefinitionCache
from gnomon.storage.postgres.executions import PostgresExecutionStore

ROOT = Path(__file__).parents[2]
PASSWORD = "hush hush"


class Cached:
    """A worker's store with a cache, and how often it has asked the database."""

    def __init__(self, world: World, url: str) -> None:
        self.now = 0.0
        self.asked = 0
        self.cache = DefinitionCache(url, clock=lambda: self.now + time.monotonic())
        self.store = PostgresExecutionStore(
            world.engine, instance=uuid4(), worker="w", cache=self.cache, keys=OPEN.keys
        )
        event.listen(world.engine, "before_cursor_execute", self._count)

    def get(self, *jobs: Job) -> dict[UUID, Definition]:
        return {
            key[0]: found for key, found in self.store.definitions([(job.id, job.revision) for job in jobs]).items()
        }

    def _count(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        self.asked += "job_revisions" in statement


@pytest.fixture
def job(world: World) -> Job:
    auth = {"type": "basic", "username": "u", "password": PASSWORD}
    return world.create(http_job={"url": "http://127.0.0.1:9/hook", "auth": auth})


@pytest.fixture
def client(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url) as opened:
        yield opened


def store_in_clear(world: World, job: Job) -> None:
    """As it was before there was sealing."""
    world.sql(
        "update job_revisions set definition = jsonb_set(definition, '{http_job,auth,password}', "
        "cast(:password as jsonb)) where job_id = :id",
        id=job.id,
        password=json.dumps(PASSWORD),
    )


def key_of(job: Job) -> str:
    return f"{PREFIX}{job.id}:{job.revision}"


def test_what_one_worker_has_read_spares_another_the_question(world: World, redis_url: str, job: Job) -> None:
    first = Cached(world, redis_url)
    second = Cached(world, redis_url)
    assert first.get(job) == {job.id: job.definition}
    assert (first.asked, second.asked) == (1, 1)
    assert second.get(job) == {job.id: job.definition}
    assert second.asked == 1


def test_only_those_that_are_missing_are_asked_for(world: World, redis_url: str, job: Job) -> None:
    cached = Cached(world, redis_url)
    cached.get(job)
    other = world.create()
    before = cached.asked
    assert cached.get(job, other) == {job.id: job.definition, other.id: other.definition}
    assert cached.asked == before + 1
    assert cached.get(other, job).keys() == {job.id, other.id}
    assert cached.asked == before + 1


def test_each_revision_has_its_own_place_and_is_forgotten_after_some_days(
    world: World, redis_url: str, job: Job, client: "redis.Redis"
) -> None:
    cached = Cached(world, redis_url)
    cached.get(job)
    edited = world.service.update(str(job.id), {"timeout_seconds": 7})
    assert cached.get(edited)[job.id].timeout == timedelta(seconds=7)
    assert cached.get(job) == {job.id: job.definition}
    assert {client.ttl(key_of(one)) > 6 * 86_400 for one in (job, edited)} == {True}


@pytest.mark.parametrize(
    "garbage", [b"", b"\xff\xfe", b"{", b"[]", b"null", b'{"type": "HTTP"}', b"[" * 100_000, b'{"retry": []}']
)
def test_garbage_is_not_used_and_replaced(
    world: World, redis_url: str, job: Job, client: "redis.Redis", garbage: bytes
) -> None:
    client.set(key_of(job), garbage)
    cached = Cached(world, redis_url)
    assert cached.get(job) == {job.id: job.definition}
    asked = cached.asked
    assert cached.get(job) == {job.id: job.definition}
    assert cached.asked == asked


def test_key_that_is_no_text_is_replaced(world: World, redis_url: str, job: Job, client: "redis.Redis") -> None:
    client.rpush(key_of(job), "x")
    cached = Cached(world, redis_url)
    assert cached.get(job) == {job.id: job.definition}
    assert client.type(key_of(job)) == b"string"


def test_definition_that_can_not_be_read_is_not_kept(
    world: World, redis_url: str, job: Job, client: "redis.Redis"
) -> None:
    world.sql("""update job_revisions set definition = '{"type": "HTTP"}'""")
    assert Cached(world, redis_url).get(job) == {}
    assert client.keys(f"{PREFIX}*") == []


def test_cache_that_is_away_is_left_alone_for_a_while_and_then_serves_again(
    world: World, valkey: EmbeddedValkey, redis_url: str, job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    valkey.kill()
    cached = Cached(world, redis_url)
    for _ in range(3):
        assert cached.get(job) == {job.id: job.definition}
    assert cached.asked == 3
    assert caplog.text.count("does not serve") == 1
    valkey.start()
    assert cached.get(job) == {job.id: job.definition}
    assert cached.asked == 4
    cached.now += cache.PAUSE
    cached.get(job)
    asked = cached.asked
    assert cached.get(job) == {job.id: job.definition}
    assert cached.asked == asked
    assert "serves again" in caplog.text


def test_cache_that_hangs_costs_one_wait(
    world: World, redis_url: str, job: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Proxy.before(redis_url) as link:
        cached = Cached(world, link.url(redis_url))
        cached.get(job)
        link.stall()
        asked = cached.asked
        for _ in range(20):
            assert cached.get(job) == {job.id: job.definition}
        assert cached.asked == asked + 20
        assert caplog.text.count("does not serve") == 1
        link.heal()


def test_cache_that_is_slow_is_left_alone(world: World, redis_url: str, job: Job) -> None:
    cached = Cached(world, redis_url)
    cached.get(job)
    original = cached.cache._client.mget

    def slowly(keys: list[str]) -> object:
        cached.now += cache.PATIENCE + 1
        return original(keys)

    cached.cache._client.mget = slowly  # type: ignore[method-assign, assignment]
    asked = cached.asked
    assert cached.get(job) == {job.id: job.definition}
    assert cached.asked == asked  # late, but it is the answer
    cached.get(job)
    assert cached.asked == asked + 1


def test_full_cache_and_a_wrong_password_hurt_nobody(
    world: World, redis_url: str, job: Job, client: "redis.Redis", caplog: pytest.LogCaptureFixture
) -> None:
    client.config_set("maxmemory", "1")
    try:
        assert Cached(world, redis_url).get(job) == {job.id: job.definition}
    finally:
        client.config_set("maxmemory", "0")
    wrong = f"redis://:sesame@{redis_url.rpartition('@')[2]}"
    assert Cached(world, wrong).get(job) == {job.id: job.definition}
    assert "sesame" not in caplog.text


def test_it_holds_secrets_sealed_and_none_that_were_stored_in_clear(
    world: World, redis_url: str, job: Job, client: "redis.Redis"
) -> None:
    Cached(world, redis_url).get(job)
    held = client.get(key_of(job))
    assert b"sealed" in held  # type: ignore[operator]
    assert PASSWORD.encode() not in held  # type: ignore[operator]
    store_in_clear(world, job)
    client.flushall()
    found = Cached(world, redis_url).get(job)[job.id]
    assert dict(secrets_of(found)) == {"/http_job/auth/password": PASSWORD}
    assert client.keys("*") == []


def test_what_is_sealed_to_a_key_that_this_worker_has_not_is_asked_for(
    world: World, redis_url: str, job: Job, client: "redis.Redis"
) -> None:
    Cached(world, redis_url).get(job)
    held = json.loads(client.get(key_of(job)))  # type: ignore[arg-type]
    held["http_job"]["auth"]["password"]["key"] = "of long ago"
    client.set(key_of(job), json.dumps(held))
    cached = Cached(world, redis_url)
    assert cached.get(job) == {job.id: job.definition}
    assert cached.asked == 1


def test_address_that_is_none_ends_the_start() -> None:
    with pytest.raises(ConfigurationError):
        DefinitionCache("memcached://127.0.0.1")


def test_cache_beyond_tls_is_used_only_if_its_certificate_is_trusted(
    world: World, redis_url: str, valkey: EmbeddedValkey, job: Job, tmp_path: Path
) -> None:
    certificate = self_signed(tmp_path)
    door = TlsDoor.before(redis_url, certificate)
    secured = door.url(redis_url)
    suspicious = Cached(world, secured)
    trusting = Cached(world, f"{secured}?ssl_ca_certs={certificate.certificate}")
    for cached, spared in ((suspicious, False), (trusting, True)):
        cached.get(job)
        asked = cached.asked
        assert cached.get(job) == {job.id: job.definition}
        assert (cached.asked == asked) is spared
    door.close()
