"""Jobs made and changed over the REST API while things break. What is refused or unanswered is counted and goes on."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import requests

Document = Mapping[str, Any]

_TIMEOUT_SECONDS = (1.0, 4.0)
_ONE_OFFS_PER_SECOND = 4.0
_ACTIONS_PER_SECOND = 1.5
_RETRY = {"max_attempts": 8, "initial_seconds": 0.5, "max_seconds": 4}
# What may be answered while servers are away, or two actions cross.
_EXPECTED = frozenset((200, 201, 202, 204, 404, 409, 412, 503))

_PATHS = ("ok", "ok", "ok", "ok", "slow/0.5", "slow/1.5", "flaky/503/1", "flaky/500/2", "reset/1")
_OVERLAPS = ("skip", "allow", "queue")
_MISFIRES = ("run_once", "run_all", "skip")


class Api:
    """Speaks to one of the API processes, another each time."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = urls
        self._numbers = count()
        self.answers: Counter[str] = Counter()
        self.surprises: list[str] = []

    def call(self, method: str, path: str, document: Document | None = None, *, patient: bool = False) -> Any:
        """The answer's document ({} for none), or None if it was no success. `patient` repeats what got no answer."""
        for _ in range(40 if patient else 1):
            response = self._send(method, path, document)
            if response is not None and response.status_code < 500:
                break
            time.sleep(0.5 if patient else 0)
        if response is None or not response.ok:
            return None
        return response.json() if response.content else {}

    def _send(self, method: str, path: str, document: Document | None) -> requests.Response | None:
        url = self._urls[next(self._numbers) % len(self._urls)]
        verb = f"{method} {'/'.join(part for part in path.split('/') if '-' not in part)}"
        headers = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else {}
        try:
            response = requests.request(method, url + path, json=document, headers=headers, timeout=_TIMEOUT_SECONDS)
        except requests.RequestException:
            self.answers[f"{verb}: none"] += 1
            return None
        self.answers[f"{verb}: {response.status_code}"] += 1
        if response.status_code not in _EXPECTED:
            self.surprises.append(f"{verb} {document}: {response.status_code} {response.text[:300]}")
        return response


class Load:
    """Makes the standing jobs, then one-offs all the time, and acts on the jobs that are there to be acted on."""

    def __init__(self, api: Api, sink_url: str, seed: int, folder: Path) -> None:
        self._api = api
        self._sink_url = sink_url
        self._created = (folder / "created.txt").open("a")
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._acted_on: list[str] = []
        self._threads = [
            threading.Thread(target=self._repeat, args=(work, random.Random(f"{seed} {work.__name__}"), rate))
            for work, rate in ((self._make_one_off, _ONE_OFFS_PER_SECOND), (self._act, _ACTIONS_PER_SECOND))
        ]

    def start(self) -> None:
        """Returns when the standing jobs are there."""
        rng = random.Random(0)
        for document in standing_jobs(rng):
            self.create(self._with_target(document, rng), patient=True)
        for _ in range(15):
            self._add_acted_on(rng, patient=True)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """No more jobs, no more actions."""
        self._stopping.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        self._created.close()

    def create(self, document: Document, *, patient: bool = False) -> str | None:
        """The id, if it was acknowledged."""
        answer = self._api.call("POST", "/jobs", document, patient=patient)
        if answer is None:
            return None
        with self._lock:
            print(answer["id"], file=self._created, flush=True)
        job_id: str = answer["id"]
        return job_id

    def _repeat(self, work: Callable[[random.Random], None], rng: random.Random, rate: float) -> None:
        while not self._stopping.wait(rng.expovariate(rate)):
            work(rng)

    def _make_one_off(self, rng: random.Random) -> None:
        delay = rng.uniform(0.5, 6.0)
        at = datetime.now(UTC) + timedelta(seconds=delay + 1)
        when: Document = {"delay_seconds": delay} if rng.random() < 0.5 else {"execute_at": at.isoformat()}
        self.create(self._with_target({**when, "overlap": "allow"}, rng))

    def _act(self, rng: random.Random) -> None:
        job_id = rng.choice(self._acted_on)
        match rng.choices(("tag", "delete"), (4, 1))[0]:
            case "tag":
                self._api.call("PATCH", f"/jobs/{job_id}", {"tags": [f"t{rng.randrange(1000)}"]})
            case "reschedule":
                self._api.call("PATCH", f"/jobs/{job_id}", self._with_target(_schedule(rng), rng))
            case "delete":
                self._api.call("DELETE", f"/jobs/{job_id}")
                self._acted_on.remove(job_id)
                self._add_acted_on(rng)

    def _add_acted_on(self, rng: random.Random, *, patient: bool = False) -> None:
        document = {**_schedule(rng), "overlap": rng.choice(_OVERLAPS)}
        if job_id := self.create(self._with_target(document, rng), patient=patient):
            self._acted_on.append(job_id)
        elif not self._acted_on:
            self._stopping.wait(1)
            self._add_acted_on(rng, patient=True)

    def _with_target(self, document: Document, rng: random.Random) -> Document:
        delivery = rng.choice(("at_least_once", "at_least_once", "at_most_once"))
        path = document.get("path") or rng.choice(_PATHS)
        target = {"url": f"{self._sink_url}/{path}", "method": "POST", "body": "{}"}
        given = {key: value for key, value in document.items() if key != "path"}
        return {
            "type": "HTTP",
            "http_job": target,
            "retry": _RETRY,
            "timeout_seconds": 5,
            "delivery": delivery,
            **given,
        }


def _schedule(rng: random.Random) -> Document:
    if rng.random() < 0.5:
        return {"interval_seconds": rng.choice((1, 2, 3, 5))}
    return {"cron_schedule": f"*/{rng.choice((2, 3, 5))} * * * * *"}


def standing_jobs(rng: random.Random) -> list[Document]:
    """About 35 executions a second, of every policy."""
    short_grace = [{"policy": policy, "grace_seconds": 3, "limit": 20} for policy in _MISFIRES]
    overlapping = [
        {"interval_seconds": 1, "overlap": overlap, "path": path}
        for overlap in _OVERLAPS
        for path in ("ok", "slow/0.5", "slow/1.5", "slow/3")
    ]
    return [
        *overlapping,
        *({"interval_seconds": 1, "overlap": "allow", "path": "ok", "misfire": misfire} for misfire in short_grace),
        *({"interval_seconds": 2, "overlap": "queue", "misfire": misfire} for misfire in short_grace),
        *({"interval_seconds": 2, "overlap": rng.choice(_OVERLAPS)} for _ in range(8)),
        *({"interval_seconds": 5, "overlap": rng.choice(_OVERLAPS)} for _ in range(15)),
        *({"interval_seconds": 10, "overlap": rng.choice(_OVERLAPS)} for _ in range(15)),
        *(
            {"cron_schedule": f"*/{step} * * * * *", "overlap": rng.choice(_OVERLAPS)}
            for step in (2, 2, 3, 3, 5, 5, 10)
        ),
        *({"cron_schedule": "* * * * *", "overlap": rng.choice(_OVERLAPS)} for _ in range(8)),
    ]
