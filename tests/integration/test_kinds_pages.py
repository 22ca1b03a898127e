"""Commands and snippets of docs/http.md and docs/amqp.md, run as they are printed."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
import requests
from servers.target import Target
from support.cluster import wait_until
from support.up import ROOT, Up

HTTP = (ROOT / "docs" / "http.md").read_text()
AMQP = (ROOT / "docs" / "amqp.md").read_text()
PRINTED_BROKER = "amqp://guest:guest@127.0.0.1:5672/"


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    started = Up().wait_ready()
    yield started
    started.stop(signal.SIGTERM)


def commands(page: str, **elsewhere: str) -> list[str]:
    """The page's commands, with other addresses for those it prints."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL)).strip()
    for printed, real in elsewhere.items():
        blocks = blocks.replace(printed.replace("broker", PRINTED_BROKER), real)
    return re.split(r"\n+(?=curl)", blocks)


def answer_to(command: str) -> Any:
    done = subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True, timeout=90)
    return json.loads(done.stdout)


def succeeds(up: Up, name: str) -> None:
    """Waits until an execution of the job has succeeded."""

    def has_succeeded() -> bool:
        found = requests.get(f"{up.url}/v1/jobs/name:{name}/executions", timeout=10).json()
        failed = [one for one in found if one["state"] == "FAILED"]
        assert not failed, failed
        return any(one["success"] for one in found)

    wait_until(f"{name} has run", has_succeeded, seconds=90)


def test_http_job_of_the_page_calls_as_the_page_says(up: Up, target: Target) -> None:
    places = {"http://127.0.0.1:8000": up.url, "http://127.0.0.1:9000": target.url("")}
    create, run, executions, sign, run_signed = commands(HTTP, **places)
    job = answer_to(create)
    assert job["http_job"]["auth"] == {"type": "bearer", "token": "***"}
    execution = answer_to(run)
    (request,) = target.wait_for(lambda seen: len(seen) == 1, timeout=60)
    assert (request.method, request.path, request.body) == ("POST", "/invoices?month=last", b'{"dry_run": false}')
    headers = dict(request.headers)
    assert headers["Authorization"] == "Bearer s3cret"
    assert headers["Idempotency-Key"] == execution["id"]
    assert headers["X-Scheduler-Attempt"] == "1"
    assert headers["X-Scheduler-Scheduled-At"].endswith("Z")
    assert (headers["Accept"], headers["Accept-Encoding"]) == ("*/*", "identity")
    succeeds(up, "invoices")
    assert execution["id"] in [one["id"] for one in answer_to(executions)]
    assert answer_to(sign)["http_job"]["signing_secrets"] == ["***"]
    answer_to(run_signed)
    *_, signed = target.wait_for(lambda seen: len(seen) == 2, timeout=60)
    (snippet,) = re.findall(r"```python\n(.*?)```", HTTP, re.DOTALL)
    (secret,) = re.findall(r"whsec_[A-Za-z0-9]{20,}", sign)
    exec(snippet, names := dict[str, Any]())
    headers = dict(signed.headers)
    assert names["is_genuine"](secret, headers, signed.body)
    assert not names["is_genuine"](secret, headers, signed.body + b" ")
    assert not names["is_genuine"](secret, {**headers, "webhook-timestamp": "1700000000"}, signed.body)


def test_amqp_job_of_the_page_publishes_for_its_consumer(up: Up, rabbitmq_url: str, tmp_path: Path) -> None:
    places = {"http://127.0.0.1:8000": up.url, "broker": rabbitmq_url}
    create, run, executions, create_bytes = commands(AMQP, **places)
    (snippet,) = re.findall(r"```python\n(.*?)```", AMQP, re.DOTALL)
    program = tmp_path / "consumer.py"
    program.write_text(snippet.replace(PRINTED_BROKER, rabbitmq_url))
    log = tmp_path / "consumer.log"
    with log.open("wb") as output:
        consumer = subprocess.Popen([sys.executable, str(program)], stdout=output, stderr=output)
    try:
        wait_until("the queue is there", lambda: consumer.poll() is None and queue_is_there(rabbitmq_url), seconds=90)
        assert ":***@" in answer_to(create)["amqp_job"]["connection"]
        execution = answer_to(run)
        wait_until("the consumer works", lambda: 'working on {"report": "daily"} of 20' in log.read_text(), seconds=90)
        succeeds(up, "reports")
        assert execution["id"] in [one["id"] for one in answer_to(executions)]
        requests.post(f"{up.url}/v1/jobs/name:reports/pause", json={}, timeout=10).raise_for_status()
    finally:
        consumer.kill()
        consumer.wait()
    drain(rabbitmq_url)
    answer_to(create_bytes)
    succeeds(up, "bytes")
    assert drain(rabbitmq_url) == [b"\xff\x00\x01"]


def queue_is_there(url: str) -> bool:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        try:
            connection.channel().queue_declare("reports", passive=True)
        except pika.exceptions.ChannelClosedByBroker:
            return False
        return True


def drain(url: str) -> list[bytes]:
    """The messages in the queue; those that a consumer held come back a moment after its end."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        deadline = time.monotonic() + 20
        while channel.queue_declare("reports", passive=True).method.consumer_count and time.monotonic() < deadline:
            time.sleep(0.05)
        found = []
        while (message := channel.basic_get("reports", auto_ack=True))[0] is not None:
            found.append(message[2])
        return found
