"""Commands of docs/api.md, run as they are printed, in their order."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.up import ROOT, Up

PAGE = (ROOT / "docs" / "api.md").read_text()
COMMANDS = re.split(r"\n+(?=curl)", "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).strip())
REFUSED = '"cron_shedule"'  # the one that shows an error


@pytest.fixture
def up() -> Iterator[Up]:
    started = Up().wait_ready()
    yield started
    started.stop(signal.SIGTERM)


def test_commands_of_the_page_do_what_it_says(up: Up, tmp_path: Path) -> None:
    answers = {}
    for command in COMMANDS:
        real = command.replace("http://127.0.0.1:8000", up.url)
        real = real if REFUSED in command else real.replace("curl -s", "curl -s -S -f", 1)
        done = subprocess.run(["sh", "-c", real], capture_output=True, text=True, timeout=90, check=False, cwd=tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        answers[command] = done.stdout

    def answer(part: str) -> str:
        (found,) = (text for command, text in answers.items() if part in command)
        return found

    assert json.loads(answer('"name": "nightly-backup", "cron'))["schedule_text"]
    assert "id" not in json.loads(answer("validate_only"))
    assert json.loads(answer("If-Match"))["revision"] == 2
    assert json.loads(answer("by-name/report"))["name"] == "report"
    assert json.loads(answer("Idempotency-Key"))["trigger"] == "MANUAL"
    assert json.loads(answer("backfill"))["count"] == 2
    assert len(json.loads(answer("next-runs"))["runs"]) == 3
    assert json.loads(answer("preview"))["warnings"]
    assert json.loads(answer("/why"))["reasons"]
    assert json.loads(answer("jobs/bulk"))["count"] == 0
    (error,) = (one for one in json.loads(answer(REFUSED))["errors"] if one["pointer"] == "/cron_shedule")
    assert "cron_schedule" in error["hint"]
    assert json.loads(answer("dry_run=true"))["unchanged"] == 1
    assert json.loads(answer("-T jobs.ndjson"))["unchanged"] == 1
    assert json.loads((tmp_path / "jobs.ndjson").read_text())["name"] == "nightly-backup"
    assert json.loads((tmp_path / "openapi.json").read_text())["openapi"].startswith("3.1")
    assert "jobs_started" in answer("/metrics")
