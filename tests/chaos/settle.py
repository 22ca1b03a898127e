"""After all is mended: everything must go on by itself, and come to an end when the schedules are paused."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from typing import Any

import psycopg2
import requests
from psycopg2.extensions import connection as Session

from chaos.api import Api
from chaos.cluster import WORKERS
from chaos.post import PostOffice

_CATCH_UP_SECONDS = 60
_SETTLE_SECONDS = 180

_LATE = "select id from jobs where status = 'RUNNING' and next_run < now() - interval '5 seconds'"
_HAS_CLAIMED = "select 1 from executions where worker = %s and claimed_at > %s limit 1"
_GOING = "select id from jobs where deleted_at is null and (status = 'RUNNING' or paused_until is not null)"
_UNFINISHED = "select 1 from executions where state in ('WAITING', 'PENDING', 'RUNNING') limit 1"


def settle(database_url: str, api: Api, post_office: PostOffice | None) -> Sequence[str]:
    """Returns when nothing is unfinished, or it took too long. Names what does not go on though all is mended."""
    mended_at = datetime.now(UTC)
    with closing(psycopg2.connect(database_url)) as session:
        session.autocommit = True
        rows = partial(_rows, session)
        wait_for(lambda: not rows(_LATE), _CATCH_UP_SECONDS)
        stuck = [f"job:{job_id}" for (job_id,) in rows(_LATE)]
        wait_for(lambda: all(rows(_HAS_CLAIMED, name, mended_at) for name in WORKERS), _CATCH_UP_SECONDS)
        stuck += [name for name in WORKERS if not rows(_HAS_CLAIMED, name, mended_at)]
        stuck += [url for url in api.urls if not wait_for(partial(_answers, url), _CATCH_UP_SECONDS)]
        wait_for(lambda: _pause_all(api, rows(_GOING)), _CATCH_UP_SECONDS)
        stuck += [f"pause-of-job:{job_id}" for (job_id,) in rows(_GOING)]
        wait_for(lambda: not rows(_UNFINISHED), _SETTLE_SECONDS)
        if post_office is not None and not wait_for(post_office.post.drained, _CATCH_UP_SECONDS):
            stuck.append("witness-of-messages")
    return stuck


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it became true within that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _pause_all(api: Api, jobs: Sequence[tuple[str]]) -> bool:
    """Whether there was none left to pause."""
    for (job_id,) in jobs:
        api.call("POST", f"/jobs/{job_id}/pause", {})
    return not jobs


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/jobs?limit=1", timeout=5).ok
    except requests.RequestException:
        return False


def _rows(session: Session, query: str, *values: Any) -> list[Any]:
    with session.cursor() as cursor:
        cursor.execute(query, values)
        return cursor.fetchall()
