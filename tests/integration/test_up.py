"""./scripts/up and README, as a newcomer uses them."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from servers.target import Target
from support.cluster import wait_until
from support.up import ROOT, Up

README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    started = Up().wait_ready()
    yield started
    started.stop(signal.SIGTERM)


def run_curl(command: str) -> Any:
    """The JSON answer of a line to try."""
    done = subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True, timeout=30)
    return json.loads(done.stdout) if done.stdout.strip() else None


def test_job_posted_with_curl_calls_a_receiver_every_second(up: Up, target: Target) -> None:
    body = {
        "type": "HTTP",
        "interval_seconds": 1,
        "http_job": {"url": target.url("/hook"), "method": "POST", "body": "{}"},
    }
    job = requests.post(f"{up.url}/v1/jobs", json=body, timeout=10).json()
    calls = target.wait_for(lambda seen: len(seen) >= 4, timeout=20)
    assert {request.body for request in calls} == {b"{}"}
    executions = requests.get(f"{up.url}/v1/jobs/{job['id']}/executions", timeout=10).json()
    done = [execution for execution in executions if execution["success"]]
    assert len(done) >= 3
    assert all(execution["lateness_seconds"] >= 0 for execution in done)
    metrics = requests.get(f"{up.url}/metrics", timeout=10).text
    counted = re.search(r'^jobs_completed\{kind="HTTP"\} (\S+)$', metrics, re.MULTILINE)
    assert counted
    assert float(counted[1]) >= 3


def test_each_process_has_no_more_of_the_sealing_keys_than_it_needs(up: Up) -> None:
    def roles_with(variable: str) -> set[str]:
        found = set()
        for pid in up.children():
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"gnomon.cli.main" in command and variable.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.add(command[command.index(b"gnomon.cli.main") + 1].decode())
        return found

    assert roles_with("SCHEDULER_SECRETS_PUBLIC_KEYS_FILE=") == {"api"}
    assert roles_with("SCHEDULER_SECRETS_PRIVATE_KEYS_FILE=") == {"worker"}


def test_lines_to_try_work_as_they_are_printed(up: Up) -> None:
    create, jobs, executions = up.commands
    created = run_curl(create)
    assert created["name"] == "hello"
    assert created["id"] in [job["id"] for job in run_curl(jobs)]
    wait_until("it has run", lambda: any(one["success"] for one in run_curl(executions)), seconds=20)


def test_commands_of_the_readme_work_as_they_are_printed(up: Up) -> None:
    (block,) = [block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "curl" in block]
    commands = re.split(r"\n(?=curl)", block.replace("http://127.0.0.1:8000", up.url).strip())
    created, read, _history, ran, paused, resumed, patched, deleted = (run_curl(command) for command in commands)
    assert created["id"] == read["id"] == ran["job_id"]
    assert (paused["status"], resumed["status"]) == ("STOPPED", "RUNNING")
    assert (patched["interval_seconds"], patched["revision"]) == (60, 2)
    assert deleted is None
    assert requests.get(f"{up.url}/v1/jobs/{created['id']}", timeout=10).status_code == 404


def test_everything_it_started_ends_with_it_and_jobs_survive_in_their_folder(tmp_path: Path) -> None:
    first = Up("--data", str(tmp_path / "data")).wait_ready()
    job = requests.post(
        f"{first.url}/v1/jobs",
        json={"type": "HTTP", "name": "kept", "cron_schedule": "0 0 1 1 *", "http_job": {"url": "example.com"}},
        timeout=10,
    ).json()
    started = first.children()
    assert len(started) > 5
    assert first.stop(signal.SIGINT) == 0
    assert [pid for pid in started if _lives(pid)] == []

    began = time.monotonic()
    second = Up("--data", str(tmp_path / "data")).wait_ready()
    print(f"second start: {time.monotonic() - began:.1f} s")
    kept = requests.get(f"{second.url}/v1/jobs/name:kept", timeout=10).json()
    assert kept["id"] == job["id"]
    assert second.stop(signal.SIGTERM) == 0


def test_taken_port_is_named(up: Up) -> None:
    other = subprocess.run(
        ["./scripts/up", "--port", str(up.port)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert other.returncode == 1
    assert str(up.port) in other.stderr


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
