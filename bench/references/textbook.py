"""Celery as its first steps show it: a loop sends one message for each due row, prefork processes call the target with
requests and write down each outcome.

Better than the textbook where that costs no thought: each process keeps its database connection and its
requests.Session, and results that nobody reads are not stored (https://docs.celeryq.dev/en/stable/userguide/tasks.html,
"Ignore results you don't want").

    textbook.py install | seed FIRST COUNT LEAD | dispatcher | worker PROCESSES
"""

import os
import sys
import time

import psycopg2
import requests
from celery import Celery
from celery.signals import worker_process_init, worker_ready

from bench.due_rows import connect, seed

BATCH = 100
POLL_SECONDS = 0.01

INSTALL = """
create table textbook_jobs (id bigint primary key, due_at timestamptz not null, url text not null,
    state text not null default 'DUE', status int, finished_at timestamptz);
create index textbook_due on textbook_jobs (due_at, id) where state = 'DUE'
"""
TAKE = """
update textbook_jobs set state = 'SENT' where id in (
    select id from textbook_jobs where state = 'DUE' and due_at <= now() order by due_at, id limit %s
    for update skip locked
) returning id, url, extract(epoch from due_at)::float8
"""
RECORD = "update textbook_jobs set state = 'DONE', status = %s, finished_at = clock_timestamp() where id = %s"

app = Celery("textbook", broker=os.environ["BENCH_QUEUE_URL"])
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True, worker_enable_remote_control=False)


class Process:
    """What each process opens once."""

    session: requests.Session
    database: psycopg2.extensions.connection


@worker_process_init.connect
def open_once(**_: object) -> None:
    Process.session = requests.Session()
    Process.database = connect()


@worker_ready.connect
def say_so(**_: object) -> None:
    print("the worker is ready", flush=True)


@app.task(name="textbook.call")
def call(number: int, url: str, due: float) -> None:
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": str(number),
        "X-Scheduler-Scheduled-At": str(due),
    }
    response = Process.session.post(url, data="{}", headers=headers, timeout=30)
    with Process.database.cursor() as cursor:
        cursor.execute(RECORD, (response.status_code, number))


def dispatch() -> None:
    with connect().cursor() as cursor:
        print("the dispatcher is ready", flush=True)
        while True:
            cursor.execute(TAKE, (BATCH,))
            rows = cursor.fetchall()
            for row in rows:
                call.delay(*row)
            if not rows:
                time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "install":
        connect().cursor().execute(INSTALL)
    elif command == "seed":
        seed("textbook_jobs", int(arguments[0]), int(arguments[1]), float(arguments[2]))
    elif command == "dispatcher":
        dispatch()
    else:
        options = ["--pool", "prefork", "--concurrency", arguments[0], "--loglevel", "WARNING"]
        app.worker_main(["worker", *options, "--without-gossip", "--without-mingle"])
