"""Every bad input of the corpus against an API process: what it answers, and what it is afterwards."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from support.bad_inputs import EXISTING, JOB, answer_to, corpus, refusal_in
from support.cluster import Role, cluster, wait_until

from gnomon.embedded.ports import free_port

GROWTH = 96 * 2**20  # bytes; what is allocated once included. A bomb that is unpacked takes more


@dataclass(frozen=True)
class Api:
    """A process of `gnomon api` with one job."""

    role: Role
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def memory(self) -> int:
        """The most bytes that its serving process ever held."""
        (worker,) = Path(f"/proc/{self.role.pid}/task/{self.role.pid}/children").read_text().split()
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{worker}/status").read_text())
        assert found
        return int(found[1]) * 1024

    def jobs(self) -> list[str]:
        """All of them, as they are answered."""
        return [json.dumps(job, sort_keys=True) for job in requests.get(f"{self.url}/jobs", timeout=30).json()]


@pytest.fixture
def api(database_url: str, tmp_path: Path) -> Iterator[Api]:
    port = free_port()
    settings = {"SCHEDULER_WEB_API_HOST": f"127.0.0.1:{port}", "SCHEDULER_WEB_READ_TIMEOUT": "30s"}
    with cluster(database_url=database_url, queue_url="redis://127.0.0.1:1/0", folder=tmp_path, **settings) as built:
        started = Api(built.start("api"), port)
        wait_until("the API is ready", lambda: _is_ready(started), seconds=60)
        made = requests.post(f"{started.url}/jobs", json={**JOB, "name": EXISTING}, timeout=30)
        assert made.status_code == 201, made.text
        yield started


def _is_ready(api: Api) -> bool:
    assert api.role.running, api.role.text
    try:
        return requests.get(f"{api.url}/health/ready", timeout=5).ok
    except requests.ConnectionError:
        return False


def test_each_bad_input_gets_its_refusal_and_does_no_harm(api: Api) -> None:
    jobs, memory = api.jobs(), api.memory()
    wrong = []
    for bad in corpus():
        answer = answer_to(bad.sent, api.port)
        try:
            refusal = refusal_in(answer)
        except AssertionError as error:
            wrong.append(f"{bad.name}: {error}")
            continue
        if refusal != bad.refusal:
            wrong.append(f"{bad.name}: {refusal} instead of {bad.refusal}\n    {answer[-600:]!r}")
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong)
    assert api.jobs() == jobs
    assert api.memory() - memory < GROWTH
    assert "Traceback" not in api.role.text
    assert not re.search(r"\b(ERROR|CRITICAL)\b", api.role.text), api.role.text


def test_corpus_names_no_input_twice() -> None:
    names = [bad.name for bad in corpus()]
    assert len(names) == len(set(names)) >= 150
