"""What the API is compared with: a Flask handler over psycopg2 that does the same statements and little else.

It lets in who has a key. No checks, no roles, no limits, no log, no document of the contract; on the API's own server,
with as many threads.
"""

import contextlib
import hmac
import sys
import threading
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import psycopg2
import psycopg2.extras
from flask import Flask, abort, jsonify, request
from flask.typing import ResponseReturnValue

from gnomon.api.server import serve
from gnomon.embedded.ports import LOOPBACK, free_port
from gnomon.embedded.processes import start_child, stop_child, wait_until_ready

KEY = "select digest, role from api_keys where id = %s and expires_at is null and revoked_at is null"
CLOCK = "select clock_timestamp()"
CREATE = """
with born as (
    insert into jobs (id, name, type, queue, status, cron_schedule, interval_seconds, anchor_at, execute_at, timezone,
        starts_at, ends_at, spread_seconds, misfire_policy, misfire_grace_seconds, misfire_limit, overlap, max_attempts,
        tags, revision, next_run, created_at, updated_at, created_by)
    values (%(id)s, null, %(type)s, 'io', 'RUNNING', null, %(interval_seconds)s, %(now)s, null, 'UTC',
        null, null, 0, 'run_once', 60, 1, 'skip', 3,
        %(tags)s, 1, %(next_run)s, %(now)s, %(now)s, '')
), revised as (
    insert into job_revisions (job_id, revision, definition) values (%(id)s, 1, %(definition)s)
), booked as (
    insert into job_events (job_id, action, revision, owed_from, principal)
    values (%(id)s, 'CREATED', 1, %(now)s, '')
)
select pg_notify('gnomon_wake', extract(epoch from cast(%(next_run)s as timestamptz))::text)
"""
GET = """
select jobs.id, jobs.name, jobs.type, jobs.tags, jobs.status, jobs.revision, jobs.next_run, jobs.created_at,
    jobs.updated_at, jobs.held_until, jobs.hold_reason, jobs.pause_reason, jobs.paused_until, job_revisions.definition,
    (select scheduled_at from executions where job_id = jobs.id and first_started_at is not null
        order by executions.id desc limit 1) as last_run,
    active.worker as locked_by, active.lease_expires_at as locked_until
from jobs
join job_revisions on job_revisions.job_id = jobs.id and job_revisions.revision = jobs.revision
left join lateral (
    select worker, lease_expires_at from executions where job_id = jobs.id and state = 'RUNNING'
    order by id desc limit 1
) active on true
where jobs.deleted_at is null and jobs.id = %s
"""

SECRET = 43  # characters; the checksum behind them is for people who mistype

_SCRIPT = Path(__file__)


@contextlib.contextmanager
def bare_api(database_url: str) -> Iterator[str]:
    """Serves a database that has Gnomon's tables: `POST /v1/jobs`, `GET /v1/jobs/<id>`. Yields where."""
    port = free_port()
    url = f"http://{LOOPBACK}:{port}"
    with TemporaryDirectory(prefix="bare-api-") as folder:
        log = Path(folder, "log")
        child = start_child([sys.executable, str(_SCRIPT), database_url, str(port)], log=log)
        try:
            wait_until_ready(child, lambda: _answers(url), name="the bare API", log=log)
            yield url
        finally:
            stop_child(child)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=5):
            return True
    except OSError:
        return False


def make_app(database_url: str) -> Flask:
    """Each thread has a connection of its own, on which each statement is a transaction."""
    app = Flask(__name__)
    own = threading.local()
    known: dict[str, tuple[str, str]] = {}

    def connection() -> psycopg2.extensions.connection:
        if not hasattr(own, "connection"):
            own.connection = psycopg2.connect(database_url)
            own.connection.autocommit = True
        found: psycopg2.extensions.connection = own.connection
        return found

    def read_key(key_id: str) -> tuple[str, str]:
        with connection().cursor() as cursor:
            cursor.execute(KEY, (key_id,))
            digest, role = cursor.fetchone() or abort(401)
        return digest, role

    @app.before_request
    def admit() -> None:
        if request.path == "/ready":
            return
        _, key_id, secret = request.headers["Authorization"].split("_")
        if key_id not in known:
            known[key_id] = read_key(key_id)
        digest, role = known[key_id]
        given = hmac.digest(secret[:SECRET].encode(), f"{key_id} {role} never".encode(), "sha256").hex()
        if not hmac.compare_digest(given, digest):
            abort(401)

    @app.post("/v1/jobs")
    def create() -> ResponseReturnValue:
        document = request.get_json()
        with connection().cursor() as cursor:
            cursor.execute(CLOCK)
            ((now,),) = cursor.fetchall()
        row = {
            "id": str(uuid4()),
            "type": document["type"],
            "interval_seconds": document["interval_seconds"],
            "tags": document.get("tags", []),
            "definition": psycopg2.extras.Json(document),
            "now": now,
            "next_run": now + timedelta(seconds=document["interval_seconds"]),
        }
        with connection().cursor() as cursor:
            cursor.execute(CREATE, row)
        answer = {**document, "id": row["id"], "revision": 1, "next_run": row["next_run"].isoformat()}
        return jsonify(answer), 201

    @app.get("/v1/jobs/<uuid:job_id>")
    def get(job_id: object) -> ResponseReturnValue:
        with connection().cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
            cursor.execute(GET, (str(job_id),))
            return jsonify(cursor.fetchone())

    @app.get("/ready")
    def ready() -> ResponseReturnValue:
        return "", 204

    return app


if __name__ == "__main__":
    serve(lambda: make_app(sys.argv[1]), host=LOOPBACK, port=int(sys.argv[2]))
