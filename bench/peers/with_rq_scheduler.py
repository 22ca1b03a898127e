"""rq-scheduler, looking once a second, which is as often as it can (https://github.com/rq/rq-scheduler), and workers of
rq that do not fork for each job (SimpleWorker, https://python-rq.org/docs/workers/#performance-notes).

    with_rq_scheduler.py seed COUNT WARM_UP LEAD SPACING | scheduler | worker
"""

import logging
import sys
from datetime import UTC, datetime

from effect import QUEUE_URL, Seeding, call, say_ready
from redis import Redis
from rq import Queue, SimpleWorker
from rq_scheduler import Scheduler

QUEUE = "bench"
SECONDS = 1


def connect() -> Scheduler:
    return Scheduler(queue_name=QUEUE, connection=Redis.from_url(QUEUE_URL), interval=SECONDS)


def seed(jobs: Seeding) -> None:
    scheduler = connect()
    for number, due in jobs:
        moment = datetime.fromtimestamp(due, UTC).replace(tzinfo=None)  # it wants UTC without saying so
        scheduler.enqueue_at(moment, call, number, due, job_result_ttl=0)
    jobs.tell()


def work() -> None:
    connection = Redis.from_url(QUEUE_URL)
    worker = SimpleWorker([Queue(QUEUE, connection=connection)], connection=connection)
    say_ready()
    worker.work(logging_level=logging.WARNING)


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "seed":
        seed(Seeding(*arguments))
    elif command == "scheduler":
        say_ready()
        connect().run()
    else:
        work()
