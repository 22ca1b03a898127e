"""What the embedded servers decide without starting anything."""

import json
import shlex
import socket
from pathlib import Path

import pytest

from gnomon.cli.up import _examples, run_up
from gnomon.embedded.ports import free_port, port_is_free
from gnomon.embedded.supervisor import restart_delay


@pytest.mark.parametrize(("failures", "seconds"), [(1, 0.5), (2, 1), (3, 2), (6, 16), (7, 30), (10_000, 30)])
def test_restart_delay_doubles_up_to_half_a_minute(failures: int, seconds: float) -> None:
    assert restart_delay(failures) == seconds


def test_free_port_lies_below_the_ephemeral_range_and_is_free() -> None:
    port = free_port()
    assert port_is_free(port)
    assert 10_000 <= port < 49_152


def test_taken_port_is_refused_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run_up(port=port, data=tmp_path / "data") == 1
    assert f"port {port} on 127.0.0.1 is taken" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("port", [0, -1, 65_536])
def test_port_that_is_none_is_refused(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_up(port=port, data=None) == 1
    assert f"--port {port}" in capsys.readouterr().err


def test_examples_are_shell_commands_and_the_job_is_json() -> None:
    create, *others = (shlex.split(line) for line in _examples("http://127.0.0.1:8000"))
    job = json.loads(create[-1])
    assert job["http_job"] == {"url": "http://127.0.0.1:8000/health/live", "method": "GET"}
    assert job["interval_seconds"] == 10
    assert all(command[0] == "curl" for command in [create, *others])
