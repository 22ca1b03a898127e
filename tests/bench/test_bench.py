"""The bench works: each case of it gives figures. How large they are is asked of nobody here."""

import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.missing import give_up

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "scripts/bench"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    """What the short form wrote."""
    done = subprocess.run(
        [BENCH, "--short", "--out", folder], capture_output=True, text=True, timeout=1200, check=False
    )
    if "*** NO " in done.stderr:
        give_up(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(next(folder.glob("*.json")).read_text())
    return found


@pytest.fixture(scope="module")
def listed() -> list[str]:
    return subprocess.run([BENCH, "--short", "--list"], capture_output=True, text=True, check=True).stdout.split()


def test_list_ends_silently_where_nobody_reads_on() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run([BENCH, "--list"], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(write)
    assert "Error" not in done.stderr
    assert done.returncode == -signal.SIGPIPE


def test_each_case_has_figures(results: dict[str, Any], listed: list[str]) -> None:
    assert Counter(case["name"] for case in results["cases"]) == Counter(listed)
    for case in results["cases"]:
        assert case["medians"], case["name"]
        assert all(value >= 0 for value in case["medians"].values()), case
    assert results["failures"] == {}


def test_each_group_is_drawn(results: dict[str, Any], folder: Path) -> None:
    groups = {case["name"].split("/")[0] for case in results["cases"]}
    drawn = {path.stem.rpartition("-")[2]: path.read_text() for path in folder.glob("*.svg")}
    assert drawn.keys() == groups
    assert all(text.rstrip().endswith("</svg>") for text in drawn.values())


def test_machine_is_told(results: dict[str, Any]) -> None:
    assert results["machine"]["cores"] == os.cpu_count()
    assert {"postgres", "valkey", "rabbitmq", "sink"} <= results["servers"].keys()


def test_cache_of_definitions_spares_postgres_its_statements(results: dict[str, Any]) -> None:
    sent = {case["name"].rpartition("/")[2]: case["medians"].get("statements") for case in results["cases"]}
    assert (sent["postgres"], sent["cache"]) == (2, 0)


def test_run_that_is_broken_off_tells_what_it_has_measured(tmp_path: Path, results: dict[str, Any]) -> None:
    command = [BENCH, "--short", "--only", "definitions,steady", "--out", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        while not running.stdout.readline().startswith("[definitions 1/1] definitions/120-jobs/cache"):
            assert running.poll() is None
        running.terminate()
        told = running.stdout.read()
    assert "FAILED the rest: broken off" in told
    assert running.returncode == 1
    [written] = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    assert [case["name"] for case in written["cases"]] == [
        "definitions/120-jobs/postgres",
        "definitions/120-jobs/cache",
    ]
