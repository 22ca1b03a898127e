"""docker-compose.yml without a container engine: its form, its promises, and whether our services start as it says.

Each of our services is run with its own command and environment; only host names, paths and ports are replaced by
those of local servers. So a wrong flag, variable or file in the compose file fails here.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import psycopg2
import pytest
import redis
import requests
import yaml

from gnomon.embedded.binaries import find_valkey
from gnomon.embedded.ports import free_port
from gnomon.embedded.postgres import EmbeddedPostgres
from gnomon.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SCHEMA = json.loads((Path(__file__).parent / "compose_spec" / "compose-spec.json").read_text())
ONE_SHOTS = {"secrets", "migrate"}
OURS = {name for name, service in SERVICES.items() if service["image"] == "gnomon"}
PUBLISHED = {"api": "127.0.0.1:8000:8000", "flower": "127.0.0.1:5555:5555", "prometheus": "127.0.0.1:9090:9090"}
READY_SECONDS = 60
STOP_SECONDS = 30

services = pytest.mark.parametrize("name", SERVICES)


def test_file_is_valid_by_the_compose_specification() -> None:
    validator = jsonschema.validators.validator_for(SCHEMA)(SCHEMA)
    assert [error.message for error in validator.iter_errors(COMPOSE)] == []


@services
def test_every_service_runs_with_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert "container_name" not in service, "a fixed name can't be scaled"
    assert name in OURS or not service["user"].startswith("0"), "our own image has its user inside"


@services
def test_only_what_people_open_is_published_and_only_on_loopback(name: str) -> None:
    assert SERVICES[name].get("ports", []) == ([PUBLISHED[name]] if name in PUBLISHED else [])


@services
def test_every_service_that_stays_is_checked_and_restarted(name: str) -> None:
    service = SERVICES[name]
    if name in ONE_SHOTS:
        assert service["healthcheck"] == {"disable": True}
    else:
        assert service["restart"] == "unless-stopped"
        assert name == "api" or service["healthcheck"]["test"], "the check of the API is in the image"


@pytest.mark.parametrize("name", ["scheduler", "worker", "handlers", "async", "flower"])
def test_check_of_a_service_of_ours_is_a_program(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][:3] == ["CMD", "python", "-c"]
    compile(SERVICES[name]["healthcheck"]["test"][3], name, "exec")


def test_scheduler_is_unhealthy_without_a_connection_to_postgres(tmp_path: Path) -> None:
    table = tmp_path / "tcp"
    script = SERVICES["scheduler"]["healthcheck"]["test"][3].replace("/proc/net/tcp", str(table))
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    for state, code in (("01", 0), ("06", 1)):  # established, closing
        table.write_text(f"{head}   0: 0200A8C0:9C40 0300A8C0:1538 {state} 00000000:00000000 00:00000000 00000000\n")
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == code


@services
def test_service_waits_for_what_it_needs(name: str) -> None:
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        wanted = "service_completed_successfully" if needed in ONE_SHOTS else "service_healthy"
        assert how == {"condition": wanted}
        assert needed in SERVICES


@services
def test_foreign_images_are_pinned(name: str) -> None:
    assert name in OURS or re.fullmatch(r"[\w./-]+:v?\d+\.\d+(\.\d+)?(-\w+)?", SERVICES[name]["image"])


def test_volumes_and_networks_are_declared() -> None:
    mounts = {mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])}
    assert {mount for mount in mounts if not mount.startswith(".")} == set(COMPOSE["volumes"])
    assert all((ROOT / mount).is_dir() for mount in mounts if mount.startswith("."))
    networks = {network for service in SERVICES.values() for network in service.get("networks", [])}
    assert networks == set(COMPOSE["networks"])


def test_no_password_is_written_anywhere() -> None:
    environments = [service.get("environment", {}) for service in SERVICES.values()]
    variables = {name: str(value) for environment in environments for name, value in environment.items()}
    secret = {variable: value for variable, value in variables.items() if re.search("PASS|SECRET|_URL", variable)}
    assert secret
    assert all("/secrets/" in value or "/worker-secrets/" in value for value in secret.values())


def test_only_workers_of_jobs_have_what_opens_credentials() -> None:
    mounted = {
        name
        for name, service in SERVICES.items()
        if any(mount.startswith("worker-secrets:") for mount in service.get("volumes", []))
    }
    assert mounted == {"secrets", "worker"}
    assert SERVICES["worker"]["command"] == ["worker"]


def test_image_is_pinned_runs_as_nobody_special_and_holds_the_program() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("FROM") and not re.search(r":\d+\.\d+\.\d+-slim-\w+", line)] == []
    assert "USER 10001:10001" in lines
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    copied = [line.split()[1] for line in lines if line.startswith("COPY") and "--from" not in line]
    assert all((ROOT / path).exists() for path in copied)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) <= allowed


class Installation:
    """The servers and secrets that the compose file would have, on this machine."""

    def __init__(self, folder: Path, postgres: EmbeddedPostgres, *, redis_port: int) -> None:
        self.folder = folder
        self.secrets = folder / "secrets"
        self.secrets.mkdir()
        self.worker_secrets = folder / "worker-secrets"
        self.worker_secrets.mkdir()
        self.monitoring = folder / "monitoring"
        self.monitoring.mkdir()
        self.api_port, self.flower_port = free_port(), free_port()
        self._replaced = {
            "/secrets": str(self.secrets),
            "/worker-secrets": str(self.worker_secrets),
            "/monitoring-secrets": str(self.monitoring),
            "postgres:5432": f"127.0.0.1:{postgres.port}",
            "0.0.0.0:8000": f"127.0.0.1:{self.api_port}",
            "--address=0.0.0.0 --port=5555": f"--address=127.0.0.1 --port={self.flower_port}",
            "$$": "$",
        }
        self._redis_port = redis_port

    def localized(self, text: str) -> str:
        """`text` with this machine's names, and `${NAME:-default}` as when NAME is not set."""
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
        for there, here in self._replaced.items():
            text = text.replace(there, here)
        return text

    def environment(self, name: str) -> dict[str, str]:
        """What the service's container would have, and where the programs are."""
        declared = SERVICES[name].get("environment", {})
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {"PATH": programs, "HOME": str(self.folder)} | {
            variable: self.localized(str(value)) for variable, value in declared.items()
        }

    def command(self, name: str) -> list[str]:
        """The service's program; the image's entry point is the command line of this checkout."""
        service = SERVICES[name]
        entrypoint = service.get("entrypoint") or [sys.executable, "-m", "gnomon.cli.main"]
        return [*entrypoint, *(self.localized(word) for word in service["command"])]

    def cwd(self, name: str) -> Path:
        """The folder of this checkout that is mounted where the service works; else that of the installation."""
        place = SERVICES[name].get("working_dir")
        mounts = (mount.split(":") for mount in SERVICES[name].get("volumes", []))
        return next((ROOT / here for here, there, *_ in mounts if there == place), self.folder)

    def run_to_end(self, name: str) -> subprocess.CompletedProcess[str]:
        """A service that ends by itself."""
        return subprocess.run(
            self.command(name),
            env=self.environment(name),
            cwd=self.folder,
            timeout=READY_SECONDS,
            capture_output=True,
            text=True,
            check=False,
        )

    def make_secrets(self) -> None:
        """Runs the service `secrets`, and points the broker's address at this machine."""
        result = self.run_to_end("secrets")
        assert result.returncode == 0, result.stderr
        url = self.secrets / "redis_url"
        text = url.read_text().replace("redis:6379", f"127.0.0.1:{self._redis_port}")
        url.chmod(0o640)
        url.write_text(text)

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text()

    @contextlib.contextmanager
    def running(self, name: str) -> Iterator["Service"]:
        """A service that stays. It must end with code 0 on SIGTERM."""
        log = self.folder / f"{name}.log"
        with (
            log.open("w") as output,
            subprocess.Popen(
                self.command(name), env=self.environment(name), cwd=self.cwd(name), stdout=output, stderr=output
            ) as process,
        ):
            service = Service(process, log)
            try:
                yield service
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=STOP_SECONDS) == 0, service.text
            finally:
                process.kill()


class Service:
    """A running service and what it wrote."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def text(self) -> str:
        return self._log.read_text()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Returns as soon as `condition` holds; fails when the service ended or the time is up."""
        give_up_at = time.monotonic() + READY_SECONDS
        while not condition():
            assert self._process.poll() is None, f"ended with {self._process.returncode}: {self.text}"
            assert time.monotonic() < give_up_at, f"not ready after {READY_SECONDS} s: {self.text}"
            time.sleep(0.05)

    def events(self) -> list[dict[str, Any]]:
        """The log, which is JSON as there is no terminal; not what Celery writes past it when it stops."""
        return [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]


def status(url: str, auth: tuple[str, str] | None = None) -> int | None:
    """The status of GET `url`; None while nothing listens."""
    try:
        return requests.get(url, auth=auth, timeout=5).status_code
    except requests.ConnectionError:
        return None


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, postgres: EmbeddedPostgres) -> Iterator[Installation]:
    """Secrets made, servers running with the passwords in them, schema migrated: by the compose file's own commands."""
    postgres.start()
    installed = Installation(tmp_path_factory.mktemp("compose"), postgres, redis_port=free_port())
    installed.make_secrets()
    with scheduler_database(postgres, installed.secret("postgres_password")), broker(installed):
        result = installed.run_to_end("migrate")
        assert result.returncode == 0, result.stderr
        yield installed


@contextlib.contextmanager
def scheduler_database(postgres: EmbeddedPostgres, password: str) -> Iterator[None]:
    """The role and the database that the image of Postgres makes of its environment."""
    with contextlib.closing(psycopg2.connect(postgres.url_of("postgres"))) as session, session.cursor() as cursor:
        session.autocommit = True
        cursor.execute("create role scheduler login password %s", (password,))
        cursor.execute("create database scheduler owner scheduler")
        yield
        cursor.execute("drop database scheduler with (force)")
        cursor.execute("drop role scheduler")


@contextlib.contextmanager
def broker(installed: Installation) -> Iterator[None]:
    """Valkey as the compose file starts it, but for its port and folder."""
    url = installed.secret("redis_url")
    port = url.rpartition(":")[2].partition("/")[0]
    _, *arguments = [installed.localized(word) for word in SERVICES["redis"]["command"]]
    command = [str(find_valkey()), *arguments, "--port", port, "--bind", "127.0.0.1", "--dir", str(installed.folder)]
    with (
        (installed.folder / "valkey.log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        service = Service(process, installed.folder / "valkey.log")
        try:
            service.wait_until(lambda: answers_ping(url))
            yield
        finally:
            process.terminate()


def answers_ping(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False


@pytest.mark.parametrize("name", sorted(OURS - {"secrets", "flower"}))
def test_environment_holds_only_settings_that_exist(
    installation: Installation, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    load_settings({"config": None}, installation.environment(name))
    assert caplog.records == []


@pytest.mark.parametrize("name", sorted(OURS - {"secrets"}))
def test_addresses_of_the_internal_network_are_allowed_without_tls(
    installation: Installation, name: str, tmp_path: Path
) -> None:
    environment = installation.environment(name)
    for variable in [variable for variable in environment if variable.endswith("_URL_FILE")]:
        (tmp_path / variable).write_text("redis://:password@redis:6379/0")
        environment[variable] = str(tmp_path / variable)
    load_settings({"config": None}, environment)


def test_broker_refuses_whoever_has_no_password(installation: Installation) -> None:
    address = installation.secret("redis_url").rpartition("@")[2]
    with redis.Redis.from_url(f"redis://{address}") as client, pytest.raises(redis.exceptions.AuthenticationError):
        client.ping()


def test_secrets_and_migration_change_nothing_the_second_time(installation: Installation) -> None:
    passwords = ["postgres_password", "redis_url", "flower_auth", "sealing_public_keys"]
    before = [installation.secret(name) for name in passwords]
    keys = (installation.worker_secrets / "sealing_private_keys").read_text()
    assert not (installation.secrets / "sealing_private_keys").exists()
    installation.make_secrets()
    assert installation.run_to_end("migrate").returncode == 0
    assert [installation.secret(name) for name in passwords] == before
    assert (installation.worker_secrets / "sealing_private_keys").read_text() == keys


def test_api_becomes_ready_and_stops(installation: Installation) -> None:
    with installation.running("api") as service:
        service.wait_until(lambda: status(f"http://127.0.0.1:{installation.api_port}/health/ready") == 200)


def test_api_is_used_with_the_key_that_was_made_and_prometheus_has_one_of_its_own(installation: Installation) -> None:
    url = f"http://127.0.0.1:{installation.api_port}/v1"
    scrape = yaml.safe_load((ROOT / "config/prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    keys = {
        "nobody": "",
        "admin": installation.secret("admin_key"),
        "prometheus": Path(installation.localized(scrape["authorization"]["credentials_file"])).read_text(),
    }

    def asked(who: str, path: str) -> int:
        return requests.get(f"{url}/{path}", headers={"Authorization": f"Bearer {keys[who]}"}, timeout=5).status_code

    with installation.running("api") as service:
        service.wait_until(lambda: status(f"{url}/health/ready") == 200)
        answers = {(who, path): asked(who, path) for who in keys for path in ("jobs", "metrics")}
    assert answers == {
        ("nobody", "jobs"): 401,
        ("nobody", "metrics"): 401,
        ("admin", "jobs"): 200,
        ("admin", "metrics"): 200,
        ("prometheus", "jobs"): 403,
        ("prometheus", "metrics"): 200,
    }
    assert not [key for key in keys.values() if key and key in service.text]


def test_prometheus_sees_no_secret_but_its_key() -> None:
    mounts = {name: [mount.split(":")[0] for mount in service.get("volumes", [])] for name, service in SERVICES.items()}
    assert [name for name in mounts if "monitoring-secrets" in mounts[name]] == ["secrets", "api", "prometheus"]
    assert "secrets" not in mounts["prometheus"]


def test_workers_of_handlers_are_started_on_request_only() -> None:
    assert [name for name, service in SERVICES.items() if service.get("profiles") == ["handlers"]] == [
        "handlers",
        "async",
    ]


@pytest.mark.parametrize("name", ["scheduler", "worker", "handlers", "async"])
def test_scheduler_and_worker_become_ready_and_stop(installation: Installation, name: str) -> None:
    with installation.running(name) as service:
        service.wait_until(lambda: "is ready" in service.text)
    assert [event for event in service.events() if event["level"] in {"ERROR", "CRITICAL"}] == []


def test_flower_opens_with_the_password_only(installation: Installation) -> None:
    user, _, password = installation.secret("flower_auth").partition(":")
    url = f"http://127.0.0.1:{installation.flower_port}"
    with installation.running("flower") as service:
        service.wait_until(lambda: status(f"{url}/healthcheck") == 200)
        assert status(f"{url}/") == 401
        assert status(f"{url}/", auth=(user, "wrong")) == 401
        assert status(f"{url}/", auth=(user, password)) == 200
    assert password not in service.text
