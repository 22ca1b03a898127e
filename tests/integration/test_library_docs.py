"""The snippets of docs/library.md and the README, run and type-checked as users would."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.cluster import wait_until

ROOT = Path(__file__).parents[2]
SNIPPETS = [
    found
    for page in ("docs/library.md", "README.md")
    for found in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    if "from gnomon" in found
]


def snippet(text: str) -> str:
    """The one that holds this text."""
    (found,) = [one for one in SNIPPETS if text in one]
    return str(found)


def test_first_program_runs_until_it_is_interrupted(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(snippet("scheduler.run()  # until"))
    with (tmp_path / "output").open("w+") as output:
        program = subprocess.Popen([sys.executable, "program.py"], cwd=tmp_path, stdout=output, stderr=output)
        try:
            wait_until("it greets twice", lambda: (tmp_path / "output").read_text().count("hello you") >= 2)
            program.send_signal(signal.SIGINT)
            assert program.wait(30) == 0, (tmp_path / "output").read_text()
        finally:
            program.kill()
            program.wait()


def test_program_of_the_readme_runs(redis_url: str, tmp_path: Path) -> None:
    program = snippet("scheduler.run()  # or start").replace("redis://127.0.0.1:6379/0", redis_url)
    (tmp_path / "program.py").write_text(
        program.replace("scheduler.run()", "scheduler.start(); print(scheduler.jobs())")
    )
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "name='nightly'" in done.stdout


def test_steering_works_as_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(snippet("scheduler.pause"), "docs/library.md", "exec"), {})
    assert "['report']" in capsys.readouterr().out


def test_printed_test_passes_with_the_fixture_beside_it(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["gnomon.testing"]\n')
    more = (
        "\n\ndef test_fixture(gnomon_scheduler: ManualScheduler) -> None:\n    assert gnomon_scheduler.jobs() == []\n"
    )
    (tmp_path / "test_report.py").write_text(snippet("test_report_is_tried_again") + more)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_snippets_and_examples_pass_a_users_type_checker(tmp_path: Path) -> None:
    files = []
    for number, one in enumerate(SNIPPETS):
        files.append(tmp_path / f"snippet_{number}.py")
        files[-1].write_text(one)
    files += sorted((ROOT / "examples").glob("embed_*.py"))
    for file in files:
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(file)],
            cwd=tmp_path,  # without this project's own configuration
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{file}: {done.stdout}{done.stderr}"


def test_type_checker_refuses_what_is_wrong(tmp_path: Path) -> None:
    wrong = "from gnomon import Scheduler\n\nScheduler().register('nightly', '0 3 * * *', print)\n"
    (tmp_path / "wrong.py").write_text(wrong)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "wrong.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "arg-type" in done.stdout, done.stdout + done.stderr
