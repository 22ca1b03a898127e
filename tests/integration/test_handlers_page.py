"""docs/handlers.md, as a newcomer follows it."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from support.cluster import wait_until
from support.up import ROOT, Up

PAGE = (ROOT / "docs/handlers.md").read_text()
MODULES = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = [
    command
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for command in re.split(r"\n(?=curl)", block.strip())
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the modules of the page."""
    made = tmp_path_factory.mktemp("page")
    for name, text in MODULES.items():
        (made / f"{name}.py").write_text(text)
    return made


@pytest.fixture(scope="module")
def up(folder: Path) -> Iterator[Up]:
    started = Up("--worker-handlers", ",".join(MODULES), folder=folder).wait_ready()
    wait_until(
        "the handlers are announced",
        lambda: "stock.reorder" in requests.get(f"{started.url}/v1/handlers", timeout=60).text,
        seconds=120,
    )
    yield started
    started.stop()


def run_curl(up: Up, command: str) -> Any:
    done = subprocess.run(
        ["sh", "-c", command.replace("http://127.0.0.1:8000", up.url)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def test_commands_work_as_they_are_printed(up: Up) -> None:
    start, create, run, history, handlers = COMMANDS
    assert start == "./scripts/up --worker-handlers mails"
    created = run_curl(up, create)
    assert (created["type"], created.get("warnings", [])) == ("email_notification", [])
    assert run_curl(up, run)["job_id"] == created["id"]
    wait_until("it has run", lambda: any(one["success"] for one in run_curl(up, history)), seconds=120)
    (execution,) = [one for one in run_curl(up, history) if one["success"]]
    assert json.loads(execution["response_excerpt"]) == {"sent_to": "user@example.com"}
    assert {"email_notification", "stock.reorder"} == {one["name"] for one in run_curl(up, handlers)}
    assert any("to user@example.com: Good morning" in line for line in up.lines if line.startswith("handlers "))


def test_payload_that_does_not_fit_is_refused(up: Up) -> None:
    job = {"type": "email_notification", "interval_seconds": 60, "payload": {"recipient": 5}}
    answer = requests.post(f"{up.url}/v1/jobs", json=job, timeout=60)
    assert answer.status_code == 422
    assert "/payload/recipient" in answer.text


def test_permanent_error_is_not_tried_again(up: Up) -> None:
    job = {"type": "email_notification", "delay_seconds": 0, "payload": {"recipient": "nobody", "message": ""}}
    made = requests.post(f"{up.url}/v1/jobs", json=job, timeout=60).json()

    def executions() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = requests.get(f"{up.url}/v1/jobs/{made['id']}/executions", timeout=60).json()
        return found

    wait_until("it has ended", lambda: [one["state"] for one in executions()] == ["FAILED"], seconds=120)
    (execution,) = executions()
    assert (execution["attempt"], execution["error_message"]) == (1, "PermanentError: nobody is no address")


def test_retry_strategy_is_known(up: Up) -> None:
    retry = {"strategy": "office_hours", "max_attempts": 9}
    job = {"type": "HTTP", "interval_seconds": 3600, "http_job": {"url": f"{up.url}/health/live"}, "retry": retry}
    assert requests.post(f"{up.url}/v1/jobs", json=job, timeout=60).status_code == 201


def test_modules_pass_the_type_checker(folder: Path) -> None:
    """What users write against the decorators is typed."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "mails.py", "stock.py"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
