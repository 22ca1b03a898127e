"""The programs in examples/, run as examples/README.md prints them."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from support.cluster import wait_until
from support.up import ROOT, Up

from gnomon.embedded.ports import free_port
from gnomon.job.api_key import make_key

KEY = make_key().text
EXAMPLES = ROOT / "examples"
README = (EXAMPLES / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.strip().splitlines()]


def command_of(name: str) -> str:
    """The line of the README that runs this example; with this interpreter, which need not be in .venv."""
    (command,) = [line for line in COMMANDS if f"examples/{name}" in line]
    return command.replace(".venv/bin/python", sys.executable)


class Program:
    """A command that goes on until it is interrupted."""

    def __init__(self, name: str, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                ["sh", "-c", f"exec {command_of(name)}"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=_take_interrupts,
            )

    @property
    def text(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str) -> None:
        """Until it says so."""
        wait_until(f"{text!r}:\n{self.text}", lambda: text in self.text or self._process.poll() is not None, seconds=60)
        assert text in self.text

    def interrupt(self) -> int:
        """Ctrl-C, and the exit code."""
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(20)


def _take_interrupts() -> None:
    """As on a terminal: what a script runs in the background ignores them, and so would the program."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def running(name: str, environment: Mapping[str, str], folder: Path) -> Iterator[Program]:
    program = Program(name, environment, folder / f"{name}.log")
    try:
        yield program
        assert program.interrupt() == 0, program.text
    finally:
        program._process.kill()
        program._process.wait()


def run(name: str, environment: Mapping[str, str]) -> str:
    """What an example says that ends by itself."""
    command = ["sh", "-c", command_of(name)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    started = Up(SCHEDULER_AUTH_ADMIN_KEY=KEY).wait_ready()
    yield started
    started.stop(signal.SIGTERM)


@pytest.fixture
def environment(up: Up, tmp_path: Path) -> Mapping[str, str]:
    return {
        **os.environ,
        "GNOMON": up.url,
        "GNOMON_KEY": KEY,
        "RECEIVER": f"http://127.0.0.1:{free_port()}",
        "DONE": str(tmp_path / "done.db"),
    }


def delete(environment: Mapping[str, str], name: str) -> None:
    url = f"{environment['GNOMON']}/v1/jobs/name:{name}"
    assert requests.delete(url, timeout=10).status_code == 401
    requests.delete(url, headers={"Authorization": f"Bearer {KEY}"}, timeout=10).raise_for_status()


def done_in(folder: Path) -> list[str]:
    """The executions that were worked on."""
    with sqlite3.connect(folder / "done.db") as database:
        found = [execution for (execution,) in database.execute("select execution from done")]
    database.close()
    return found


def test_http_job_calls_a_receiver_that_drops_repeats(environment: Mapping[str, str], tmp_path: Path) -> None:
    with running("http_receiver.py", environment, tmp_path) as receiver:
        receiver.wait_for("listening on")
        said = run("http_job.sh", environment)
        receiver.wait_for('working on {"report": "daily"} for execution')
        wait_until("it has worked twice", lambda: len(done_in(tmp_path)) >= 2, seconds=90)
        (again, *_) = done_in(tmp_path)
        headers = {"Idempotency-Key": again, "X-Scheduler-Attempt": "2"}
        assert requests.post(environment["RECEIVER"], data="{}", headers=headers, timeout=10).status_code == 204
    assert f"execution {again} has been worked on: attempt 2 is a repeat" in receiver.text
    assert '"state":"SUCCEEDED"' in said.replace(" ", "")
    delete(environment, "report")


def test_amqp_job_publishes_for_a_consumer(environment: Mapping[str, str], rabbitmq_url: str, tmp_path: Path) -> None:
    environment = {**environment, "BROKER": rabbitmq_url}
    with running("amqp_consumer.py", environment, tmp_path) as consumer:
        consumer.wait_for("waiting for messages")
        said = run("amqp_job.py", environment)
        consumer.wait_for('working on {"order": 4711} for execution')
    found = re.search(r"execution (\S+): SUCCEEDED", said)
    assert found
    assert found[1] in done_in(tmp_path)
    assert ":***@" in said
    delete(environment, "orders")


def test_job_calls_a_function_in_a_worker(tmp_path: Path) -> None:
    """`./scripts/up` as the README has it, with tasks.py, but for its port."""
    command = command_of("tasks.py")
    assert command.startswith("PYTHONPATH=examples ./scripts/up --worker-handlers tasks")
    up = Up("--worker-handlers", "tasks", folder=EXAMPLES).wait_ready()
    try:
        handlers = f"{up.url}/v1/handlers"
        wait_until("both are announced", lambda: requests.get(handlers, timeout=10).text.count('"shop.') >= 2)
        said = run("task_job.sh", {**os.environ, "GNOMON": up.url})
        shops = {"type": "shop.poll", "delay_seconds": 0, "payload": {"shops": ["a", "b"]}}
        job = requests.post(f"{up.url}/v1/jobs", json=shops, timeout=10).json()
        executions = f"{up.url}/v1/jobs/{job['id']}/executions"
        wait_until("the shops are polled", lambda: "2 shops polled" in requests.get(executions, timeout=10).text)
        assert "printed" in said or "PENDING" in said or "RUNNING" in said
        wait_until("both are printed", lambda: any("copy 2 of the invoice for order 4711" in x for x in up.lines))
    finally:
        up.stop()


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh")))
def test_example_is_in_the_readme_and_in_a_test(example: str) -> None:
    assert command_of(example)
    tests = (path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert any(example in text for text in tests)


def test_jobs_in_memory_run_until_the_program_is_interrupted(tmp_path: Path) -> None:
    with running("embed_memory.py", os.environ, tmp_path) as program:
        for text in ("heartbeat due at", "hello you", "flaky worked at attempt"):
            program.wait_for(text)


def test_jobs_in_redis_are_shared_by_the_copies_of_a_program(redis_url: str, tmp_path: Path) -> None:
    environment = {**os.environ, "STORE": redis_url}
    (tmp_path / "other").mkdir()
    with (
        running("embed_redis.py", environment, tmp_path) as one,
        running("embed_redis.py", environment, tmp_path / "other") as other,
    ):
        wait_until("they have swept five times", lambda: len(_swept(one) + _swept(other)) >= 5, seconds=60)
        assert one.interrupt() == 0
        count = len(_swept(other))
        wait_until("the other goes on", lambda: len(_swept(other)) >= count + 2, seconds=60)
    assert len(set(_swept(one) + _swept(other))) == len(_swept(one) + _swept(other))
    assert "SUCCEEDED by" in one.text


def _swept(program: Program) -> list[str]:
    return re.findall(r"sweeps for (\S+), attempt 1", program.text)


def test_service_keeps_its_jobs_in_its_postgres(database_url: str, tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running("embed_postgres.py", {**os.environ, "STORE": database_url, "PORT": str(port)}, tmp_path) as service:
        service.wait_for("listening on")
        wait_until("it serves", lambda: _visits(url) > 0, seconds=60)
        wait_until("its jobs are stored", lambda: len(requests.get(f"{url}/jobs", timeout=20).json()) == 2, seconds=60)
        assert requests.post(f"{url}/report", timeout=20).status_code == 202
        service.wait_for("report for")


def _visits(url: str) -> int:
    try:
        visits: int = requests.get(url, timeout=20).json()["visits"]
    except requests.ConnectionError:
        return 0
    return visits
