"""A small web service that counts visits and has its own jobs, kept in its Postgres beside its other tables.

    .venv/bin/python examples/embed_postgres.py

STORE is the database (postgresql://postgres@127.0.0.1:5432/postgres); PORT where it listens (9001).
`GET /` counts a visit, `GET /jobs` tells what is planned, `POST /report` asks for a report now.
"""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from gnomon import Context, Cron, Every, Overlapping, Scheduler

STORE = os.environ.get("STORE", "postgresql://postgres@127.0.0.1:5432/postgres")
PORT = int(os.environ.get("PORT", "9001"))

scheduler = Scheduler(STORE, namespace="visits")
visits = 0


@scheduler.job("report", Every("1m"), misfire="run_once")
def report(context: Context) -> dict[str, int]:
    """What it returns is kept with the execution."""
    print(f"report for {context.scheduled_at:%H:%M:%S}: {visits} visits", flush=True)
    return {"visits": visits}


@scheduler.job("nightly", Cron("30 3 * * *", timezone="Europe/Berlin"), delivery="at_most_once")
def forget() -> None:
    """At most once: better not at all than twice."""
    global visits
    visits = 0


class Service(BaseHTTPRequestHandler):
    """Answers in JSON."""

    def do_GET(self) -> None:
        global visits
        if self.path == "/jobs":
            jobs = [{"name": job.name, "next_run": str(job.next_run), "status": job.status} for job in scheduler.jobs()]
            return self.answer(200, jobs)
        visits += 1
        return self.answer(200, {"visits": visits})

    def do_POST(self) -> None:
        try:
            self.answer(202, {"execution": str(scheduler.run_now("report").id)})
        except Overlapping as error:
            self.answer(409, {"error": str(error)})

    def answer(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
        """Not each request."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", PORT), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"listening on http://127.0.0.1:{PORT}", flush=True)
    scheduler.run()
    server.shutdown()
