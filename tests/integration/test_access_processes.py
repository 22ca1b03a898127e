"""Processes of the API and of `gnomon keys` that know each other by the database only."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from support.cluster import Cluster, Role, cluster, wait_until
from support.world import World

from gnomon.embedded.ports import free_port
from gnomon.job.api_key import make_key

# Loopback, but not in a form that is known to be.
ELSEWHERE = "127.1"


@pytest.fixture
def started(database_url: str, tmp_path: Path) -> Iterator[Cluster]:
    with cluster(database_url=database_url, queue_url="redis://127.0.0.1:1/0", folder=tmp_path) as built:
        yield built


class Api:
    """A process of the API that others than this machine could ask."""

    def __init__(self, built: Cluster, **settings: str) -> None:
        self.port = free_port()
        self.role: Role = built.start("api", SCHEDULER_WEB_API_HOST=f"{ELSEWHERE}:{self.port}", **settings)

    def wait_ready(self) -> "Api":
        wait_until(f"the API answers:\n{self.role.text}", lambda: self.status("health/ready") == 200, seconds=60)
        return self

    def status(self, path: str = "jobs", key: str = "") -> int | None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            return requests.get(f"http://127.0.0.1:{self.port}/v1/{path}", headers=headers, timeout=10).status_code
        except requests.ConnectionError:
            assert self.role.running, self.role.text
            return None


def keys(database_url: str, *arguments: str) -> str:
    """What `gnomon keys` prints."""
    command = [sys.executable, "-m", "gnomon.cli.main", "keys", *arguments, "--db-url", database_url]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def test_api_that_others_could_ask_does_not_start_while_nobody_has_a_key(started: Cluster, world: World) -> None:
    api = Api(started)
    wait_until("the API has ended", lambda: not api.role.running, seconds=60)
    assert "beyond loopback, and nobody has a key" in api.role.text
    assert "gnomon keys create NAME --role admin" in api.role.text
    assert api.role.stop() == 2


def test_keys_that_are_made_and_revoked_reach_every_process_within_seconds(started: Cluster, database_url: str) -> None:
    first = keys(database_url, "create", "first", "--role", "admin")
    apis = [Api(started), Api(started)]
    for api in apis:
        api.wait_ready()
        assert api.status() == 401
        assert api.status(key=first) == 200
    second = keys(database_url, "create", "second", "--role", "read")
    assert [api.status(key=second) for api in apis] == [200, 200]
    keys(database_url, "revoke", "second")
    for api in apis:
        wait_until("the key is revoked here too", lambda api=api: api.status(key=second) == 401, seconds=10)  # type: ignore[misc]
    assert [api.status(key=first) for api in apis] == [200, 200]
    keys(database_url, "revoke", "first")
    for api in apis:
        wait_until("nobody is let in", lambda api=api: api.status(key=first) == 401, seconds=10)  # type: ignore[misc]
        assert api.status() == 401
    written = "".join(api.role.text for api in apis)
    assert not [key for key in (first, second) if key.split("_")[2] in written]


def test_api_that_is_insecure_on_purpose_is_so_until_the_first_key_is_made(started: Cluster, database_url: str) -> None:
    api = Api(started, SCHEDULER_AUTH_INSECURE="true").wait_ready()
    assert api.status() == 200
    assert "whoever reaches 127.1 may do everything" in api.role.text
    key = keys(database_url, "create", "first", "--role", "read")
    assert api.status() == 401
    assert api.status(key=key) == 200


def test_api_brings_the_keys_of_its_settings_along(started: Cluster, world: World, tmp_path: Path) -> None:
    admin, metrics = make_key(), make_key()
    (tmp_path / "admin_key").write_text(f"{admin.text}\n")
    settings = {
        "SCHEDULER_AUTH_ADMIN_KEY_FILE": str(tmp_path / "admin_key"),
        "SCHEDULER_AUTH_METRICS_KEY": metrics.text,
    }
    api = Api(started, **settings).wait_ready()
    assert api.status() == 401
    assert api.status(key=admin.text) == 200
    assert api.status("metrics", key=metrics.text) == 200
    assert api.status(key=metrics.text) == 403
    assert {key.name: key.role.value for key in world.keys.list()} == {
        "auth.admin_key": "admin",
        "auth.metrics_key": "metrics",
    }
    assert not [key for key in (admin, metrics) if key.secret in api.role.text]
