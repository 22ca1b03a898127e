"""Receives the calls of http_job.sh, and does the work of each execution once.

    .venv/bin/python examples/http_receiver.py

RECEIVER is where it listens (http://127.0.0.1:9000). DONE is the database in which it notes what it has done
(done.db, here in memory).
"""

import contextlib
import os
import sqlite3
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit

RECEIVER = urlsplit(os.environ.get("RECEIVER", "http://127.0.0.1:9000"))
DONE = sqlite3.connect(os.environ.get("DONE", ":memory:"))
DONE.execute("create table if not exists done (execution text primary key)")


class Receiver(BaseHTTPRequestHandler):
    """A service that jobs call."""

    def do_POST(self) -> None:
        execution = self.headers["Idempotency-Key"]
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        with DONE:  # the note and the work in one transaction: both happen, or neither does
            new = DONE.execute("insert or ignore into done values (?)", [execution]).rowcount
            if new:
                print(f"working on {body} for execution {execution}", flush=True)
            else:
                attempt = self.headers["X-Scheduler-Attempt"]
                print(f"execution {execution} has been worked on: attempt {attempt} is a repeat", flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """No line for each request."""


if __name__ == "__main__":
    server = HTTPServer((RECEIVER.hostname or "127.0.0.1", RECEIVER.port or 9000), Receiver)
    print(f"listening on {RECEIVER.geturl()}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
