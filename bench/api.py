"""Requests a second of the API under wrk, beside a bare handler that does the same statements on the same server.

Each request bears a key, as where more than one person works. Both keep in mind what they have read of keys.
"""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from uuid import UUID

from bench.bed import Bed
from bench.case import Case, Figures, Goal, Scale, Section, ratio
from bench.references.bare_api import bare_api
from gnomon.job.api_key import make_key, to_store
from gnomon.job.errors import ConfigurationError
from gnomon.job.principal import Role

CONNECTIONS = (1, 8, 64)
SHORT_CONNECTIONS = (8,)
JOBS = 200  # that are read and changed in turn
VALUES = 4  # that each is changed to in turn, so that each request changes something
# The limit's work is done for each request, and no request is refused.
SETTINGS = {"SCHEDULER_LIMITS_REQUESTS": "100000", "SCHEDULER_LIMITS_BURST": "1000000"}
JOB = {
    "type": "HTTP",
    "interval_seconds": 86_400,
    "http_job": {"url": "http://127.0.0.1:8080/hook", "method": "POST", "body": '{"greeting": "hello"}'},
    "tags": ["bench"],
}


@dataclass(frozen=True, kw_only=True)
class Served:
    """A server that answers, the jobs it has, and a key that it takes."""

    url: str
    jobs: Sequence[UUID]
    key: str


def creations(_: Sequence[UUID]) -> Iterator[tuple[str, str, object]]:
    yield "POST", "/v1/jobs", JOB


def reads(jobs: Sequence[UUID]) -> Iterator[tuple[str, str, object]]:
    return (("GET", f"/v1/jobs/{job}", None) for job in jobs)


def lists(_: Sequence[UUID]) -> Iterator[tuple[str, str, object]]:
    yield "GET", "/v1/jobs?limit=50", None


def changes(jobs: Sequence[UUID]) -> Iterator[tuple[str, str, object]]:
    return (("PATCH", f"/v1/jobs/{job}", {"tags": [f"bench-{value}"]}) for value, job in product(range(VALUES), jobs))


OPERATIONS = {"create": creations, "get": reads, "list": lists, "patch": changes}
COMPARED = ("create", "get")


def name_of(operation: str, connections: int, who: str) -> str:
    return f"api/{operation}/{connections}-connections/{who}"


def cases(scale: Scale) -> Sequence[Case]:
    seconds = 1 if scale.short else round(scale.seconds / 6)
    return [
        Case(
            name=name_of(operation, connections, who),
            measure=partial(measure, operation=operation, connections=connections, seconds=seconds, who=who),
        )
        for operation in OPERATIONS
        for connections in (SHORT_CONNECTIONS if scale.short else CONNECTIONS)
        for who in (("gnomon", "bare") if operation in COMPARED else ("gnomon",))
    ]


def measure(bed: Bed, *, operation: str, connections: int, seconds: int, who: str) -> Figures:
    served = bed.keep(f"api {who}", partial(SERVERS[who], bed))
    requests = bed.folder / f"requests-{operation}-{who}.txt"
    lines = ((method, path, body and json.dumps(body)) for method, path, body in OPERATIONS[operation](served.jobs))
    requests.write_text("".join(f"{method}\t{path}\t{body or ''}\n" for method, path, body in lines))
    return wrk(served.url, requests, key=served.key, connections=connections, seconds=seconds)


def wrk(url: str, requests: Path, *, key: str, connections: int, seconds: int) -> Figures:
    """Takes longer where a busy machine answers nothing. Raises AssertionError where a request was not a success."""
    program = shutil.which("wrk")
    if program is None:
        raise ConfigurationError("the section api needs wrk: apt-get install wrk")
    load = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
    script = ["-s", str(Path(__file__).with_name("wrk.lua")), url, "--", str(requests), key]
    told = subprocess.run([program, *load, *script], check=True, capture_output=True, text=True).stdout
    said = next(line.removeprefix("FIGURES ") for line in told.splitlines() if line.startswith("FIGURES "))
    figures = json.loads(said)
    assert figures["refused"] + figures["broken"] == 0, f"{requests}: {said}"
    if not figures["requests"]:
        return wrk(url, requests, key=key, connections=connections, seconds=4 * seconds)
    return {
        "requests_per_s": figures["requests"] / figures["seconds"],
        "p50_ms": figures["p50_ms"],
        "p99_ms": figures["p99_ms"],
    }


@contextlib.contextmanager
def _gnomon(bed: Bed) -> Iterator[Served]:
    with (
        _database(bed) as (database_url, jobs, key),
        bed.queue("redis") as queue_url,
        bed.stack(database_url=database_url, queue_url=queue_url, **SETTINGS) as stack,
    ):
        yield Served(url=stack.start_api(), jobs=jobs, key=key)


@contextlib.contextmanager
def _bare(bed: Bed) -> Iterator[Served]:
    with _database(bed) as (database_url, jobs, key), bare_api(database_url) as url:
        yield Served(url=url, jobs=jobs, key=key)


@contextlib.contextmanager
def _database(bed: Bed) -> Iterator[tuple[str, Sequence[UUID], str]]:
    """Its URL, the jobs in it, and a key that may create more."""
    with bed.database() as database_url, bed.world(database_url) as world:
        jobs = [world.create(**JOB).id for _ in range(JOBS)]
        key = make_key()
        world.keys.add(to_store(key, name="bench", role=Role.WRITE, expires_at=None, created_by="bench"))
        yield database_url, jobs, key.text


SERVERS: dict[str, Callable[[Bed], AbstractContextManager[Served]]] = {"gnomon": _gnomon, "bare": _bare}


def _goals() -> Iterator[Goal]:
    for operation, connections in product(COMPARED, CONNECTIONS):
        ours, bare = (name_of(operation, connections, who) for who in ("gnomon", "bare"))
        yield Goal(
            text=f"api, {operation}, {connections} connections: >= 0.8 x a bare handler of the same statement",
            value=ratio(ours, bare, "requests_per_s"),
            at_least=0.8,
        )


SECTION = Section(name="api", cases=cases, goals=[*_goals()])
