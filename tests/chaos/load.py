"""Jobs made and changed over the REST API while things break. What is refused or unanswered is counted and goes on."""

import json
import random
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from chaos.api import Api
from chaos.post import PostOffice

Document = Mapping[str, Any]

_ONE_OFFS_PER_SECOND = 4.0
_ACTIONS_PER_SECOND = 1.5
_RETRY = {"max_attempts": 8, "initial_seconds": 0.5, "max_seconds": 4}
_PATIENT = 40
# How often which action is taken.
_ACTIONS = {"tag": 3, "reschedule": 3, "delete": 2, "pause": 3, "resume": 3, "run": 4, "cancel": 3, "backfill": 1}

_SHARE_OF_MESSAGES = 0.6  # of jobs that would call a path that is always well
_PATHS = ("ok", "ok", "ok", "ok", "slow/0.5", "slow/1.5", "flaky/503/1", "flaky/500/2", "reset/1")
HANDLERS = ("chaos_child", "chaos_loop", "chaos_row")
_SHARE_OF_HANDLERS = 0.3  # of jobs that may call anything
_HANDLED = (
    *("chaos_child:return", "chaos_child:return", "chaos_child:slow", "chaos_child:raise", "chaos_child:give_up"),
    *("chaos_child:die", "chaos_child:exit", "chaos_child:hang"),
    *("chaos_loop:return", "chaos_loop:return", "chaos_loop:slow", "chaos_loop:raise", "chaos_loop:give_up"),
    "chaos_loop:hang",
    *("chaos_row:return", "chaos_row:return", "chaos_row:slow", "chaos_row:raise", "chaos_row:die", "chaos_row:hang"),
)
_ADDRESSES = ("127.0.0.1", "127.0.0.2")  # what hangs has a host of its own
_OVERLAPS = ("skip", "allow", "queue")
_MISFIRES = ("run_once", "run_all", "skip")


class Targets:
    """What jobs call: the sink, handlers, and where there is one, the post office."""

    def __init__(self, sink_url: str, post_office: PostOffice | None) -> None:
        self._sink_url = sink_url
        self._post_office = post_office

    def draw(self, rng: random.Random, path: str | None) -> Document:
        """The part of a job that says what it calls: `path`, or anything when that is None.

        A path of the sink, or a handler and what it does: `chaos_child:die`.
        """
        path = path or rng.choice(_HANDLED if rng.random() < _SHARE_OF_HANDLERS else _PATHS)
        handler, _, does = path.partition(":")
        if handler in HANDLERS:
            return {"type": handler, "payload": {"does": does}}
        is_message, choice = rng.random() < _SHARE_OF_MESSAGES, rng.random()
        if is_message and path == "ok" and self._post_office is not None:
            return {"type": "AMQP", "amqp_job": self._post_office.message(choice)}
        url = self._sink_url.replace(*_ADDRESSES) if path.startswith("hang/") else self._sink_url
        return {"type": "HTTP", "http_job": {"url": f"{url}/{path}", "method": "POST", "body": "{}"}}


class Load:
    """Makes the standing jobs, then one-offs all the time, and acts on the jobs that are there to be acted on."""

    def __init__(self, api: Api, targets: Targets, seed: int, folder: Path) -> None:
        self._api = api
        self._targets = targets
        self._folder = folder
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
            self.create(self._with_target(document, rng), tries=_PATIENT)
        for _ in range(15):
            self._add_acted_on(rng, tries=_PATIENT)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """No more jobs, no more actions."""
        self._stopping.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def create(self, document: Document, *, tries: int = 1) -> str | None:
        """The id, if it was acknowledged."""
        answer = self._api.call("POST", "/jobs", document, tries=tries)
        if answer is None:
            return None
        job_id: str = answer["id"]
        self._note("created.jsonl", {"id": job_id})
        return job_id

    def _note(self, file: str, what: Document) -> None:
        with self._lock, (self._folder / file).open("a") as notes:
            print(json.dumps(what), file=notes)

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
        match rng.choices(list(_ACTIONS), list(_ACTIONS.values()))[0]:
            case "tag":
                self._api.call("PATCH", f"/jobs/{job_id}", {"tags": [f"t{rng.randrange(1000)}"]})
            case "reschedule":
                self._api.call("PATCH", f"/jobs/{job_id}", _schedule(rng))
            case "delete":
                self._api.call("DELETE", f"/jobs/{job_id}")
                self._acted_on.remove(job_id)
                self._add_acted_on(rng)
            case "pause":
                until = (datetime.now(UTC) + timedelta(seconds=rng.uniform(1, 10))).isoformat()
                self._api.call("POST", f"/jobs/{job_id}/pause", rng.choice(({"until": until}, {"reason": "chaos"})))
            case "resume":
                self._api.call("POST", f"/jobs/{job_id}/resume")
            case "run":
                self._run(job_id, rng)
            case "cancel":
                self._cancel_one_of(job_id, rng)
            case "backfill":
                now = datetime.now(UTC)
                stretch = {"from": (now - timedelta(seconds=rng.uniform(5, 30))).isoformat(), "to": now.isoformat()}
                self._api.call("POST", f"/jobs/{job_id}/backfill", stretch, key=str(rng.random()), tries=3)

    def _run(self, job_id: str, rng: random.Random) -> None:
        """Asked for again, with the same key, where there was no answer: that must be one execution."""
        key = str(rng.random())
        waits = rng.choice(("true", "false"))
        answer = self._api.call("POST", f"/jobs/{job_id}/run?queue={waits}", key=key, tries=3)
        self._note("runs.jsonl", {"job_id": job_id, "key": key, "execution_id": answer and answer["id"]})

    def _cancel_one_of(self, job_id: str, rng: random.Random) -> None:
        unfinished = "state=WAITING&state=PENDING&state=RUNNING"
        found = self._api.call("GET", f"/jobs/{job_id}/executions?{unfinished}")
        if found:
            self._api.call("POST", f"/executions/{rng.choice(found)['id']}/cancel")

    def _add_acted_on(self, rng: random.Random, *, tries: int = 1) -> None:
        document = {**_schedule(rng), "overlap": rng.choice(_OVERLAPS)}
        if job_id := self.create(self._with_target(document, rng), tries=tries):
            self._acted_on.append(job_id)
        elif not self._acted_on:
            self._stopping.wait(1)
            self._add_acted_on(rng, tries=_PATIENT)

    def _with_target(self, document: Document, rng: random.Random) -> Document:
        delivery = rng.choice(("at_least_once", "at_least_once", "at_most_once"))
        given = {key: value for key, value in document.items() if key != "path"}
        return {
            **self._targets.draw(rng, document.get("path")),
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
        # nearly as many as may be under way for one host, and more than that while a worker is away
        *({"interval_seconds": 1, "overlap": overlap, "path": "hang/1"} for overlap in ("allow", "allow", *_OVERLAPS)),
        *({"interval_seconds": 1, "overlap": "allow", "path": "ok", "misfire": misfire} for misfire in short_grace),
        *({"interval_seconds": 2, "overlap": "queue", "misfire": misfire} for misfire in short_grace),
        *({"interval_seconds": 5, "overlap": "skip", "path": path} for path in sorted(set(_HANDLED))),
        *({"interval_seconds": 2, "overlap": rng.choice(_OVERLAPS)} for _ in range(8)),
        *({"interval_seconds": 5, "overlap": rng.choice(_OVERLAPS)} for _ in range(15)),
        *({"interval_seconds": 10, "overlap": rng.choice(_OVERLAPS)} for _ in range(15)),
        *(
            {"cron_schedule": f"*/{step} * * * * *", "overlap": rng.choice(_OVERLAPS)}
            for step in (2, 2, 3, 3, 5, 5, 10)
        ),
        *({"cron_schedule": "* * * * *", "overlap": rng.choice(_OVERLAPS)} for _ in range(8)),
    ]
