"""One target in a hundred takes requests and does not answer for 30 s: what becomes of the others?"""

import contextlib
import socket
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial

from support.cluster import wait_until
from support.world import World

from bench import seed
from bench.bed import Bed
from bench.case import Case, Figures, Goal, Scale, Section, ratio
from bench.recorded import wait_recorded
from gnomon.job.model import Job

SHARE = 100  # one in so many
TIMEOUT = 30
WARM_UP = 300
BROKER = "redis"
# To each of the jobs that hang, a URL of its own; they share them where there are fewer.
SPREAD = """
update job_revisions r set definition = jsonb_set(r.definition, '{http_job,url}', to_jsonb(chosen.url))
from (
    select job_id,
        (cast(:urls as text[]))[1 + row_number() over (order by job_id) % cardinality(cast(:urls as text[]))] as url
    from job_revisions where definition #>> '{http_job,url}' = :of and job_id <> :model
) as chosen
where r.job_id = chosen.job_id
"""
# What a hung call would hold up the end of the stack by.
SETTINGS = {"SCHEDULER_WORKER_SHUTDOWN_TIMEOUT": "1s"}


def name_of(hosts: str) -> str:
    return f"hanging/{hosts}/{BROKER}/gnomon"


def cases(scale: Scale) -> Sequence[Case]:
    hung = scale.burst // SHARE
    measured = partial(measure, jobs=scale.burst - hung, hung=hung)
    hosts = {"none": 0, "one-host": 1, "a-host-each": hung}
    return [Case(name=name_of(where), measure=partial(measured, hosts=count)) for where, count in hosts.items()]


def measure(bed: Bed, *, jobs: int, hung: int, hosts: int) -> Figures:
    """The jobs a second of those whose target answers."""
    with (
        bed.database() as database_url,
        bed.queue(BROKER) as queue_url,
        bed.world(database_url) as world,
        bed.stack(database_url=database_url, queue_url=queue_url, **SETTINGS) as stack,
        _hanging(hosts) as urls,
    ):
        stack.start_ready("scheduler", "worker")
        answering, silent = (_model(world, url) for url in (bed.sink.url(), bed.sink.hanging_url))
        seed.copy(world, answering, WARM_UP, due=seed.now(world))
        total = WARM_UP
        wait_recorded(world, total)

        def make(due: datetime) -> None:
            nonlocal total
            total += jobs
            if urls:
                seed.copy(world, silent, hung, due=due)
                world.sql(SPREAD, model=silent.id, urls=list(urls), of=bed.sink.hanging_url)
            seed.copy(world, answering, jobs, due=due)

        due = seed.in_time(world, jobs + hung, make=make, end=lambda: _wait_until_over(world, total))
        ended = wait_recorded(world, total)
        under_way = world.one("select count(*) from executions where state = 'RUNNING'")
    return {"jobs_per_s": jobs / (ended - due).total_seconds(), "under_way_at_the_end": under_way}


def _model(world: World, url: str) -> Job:
    later = seed.now(world) + timedelta(days=1)
    call = {"url": url, "method": "POST", "body": "{}"}
    return world.create(execute_at=later.isoformat(), timeout_seconds=TIMEOUT, retry={"max_attempts": 1}, http_job=call)


def _wait_until_over(world: World, total: int) -> None:
    """Those that hang, too."""
    wait_recorded(world, total)
    wait_until(
        "no call hangs", lambda: world.one("select count(*) from executions where state = 'RUNNING'") == 0, seconds=120
    )


@contextlib.contextmanager
def _hanging(hosts: int) -> Iterator[Sequence[str]]:
    """The URLs of so many servers. The kernel takes connections and requests; nobody reads them."""
    with contextlib.ExitStack() as opened:
        servers = [opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4_096)) for _ in range(hosts)]
        yield [f"http://127.0.0.1:{server.getsockname()[1]}/hang" for server in servers]


def _goals() -> Iterator[Goal]:
    for hosts, text in {"one-host": "all of one host", "a-host-each": "each of a host of its own"}.items():
        yield Goal(
            text=f"1 % of targets hang for 30 s, {text}: the rest at >= 0.8 x the rate without them",
            value=ratio(name_of(hosts), name_of("none"), "jobs_per_s"),
            at_least=0.8,
        )


SECTION = Section(name="hanging", cases=cases, goals=[*_goals()])
