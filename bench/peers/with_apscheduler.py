"""APScheduler 3 with its SQLAlchemyJobStore on Postgres and a pool of threads
(https://apscheduler.readthedocs.io/en/3.x/userguide.html).

"Job stores must never be shared between schedulers": each process has a table of its own and a part of the jobs. A
scheduler does not see what another process adds, so the jobs are there before it starts.

    with_apscheduler.py seed PROCESSES COUNT WARM_UP LEAD SPACING | scheduler INDEX
"""

import logging
import sys
from datetime import UTC, datetime

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.schedulers.blocking import BlockingScheduler
from effect import DATABASE_URL, Seeding, call, say_ready
from sqlalchemy.engine import make_url

THREADS = 20
DEFAULTS = {"misfire_grace_time": None, "coalesce": False}


def store(index: int) -> SQLAlchemyJobStore:
    url = make_url(DATABASE_URL).set(drivername="postgresql+psycopg2")
    return SQLAlchemyJobStore(url=url, tablename=f"apscheduler_jobs_{index}")


def seed(processes: int, jobs: Seeding) -> None:
    schedulers = []
    for index in range(processes):
        scheduler = BackgroundScheduler(jobstores={"default": store(index)}, job_defaults=DEFAULTS, timezone=UTC)
        scheduler.start(paused=True)
        schedulers.append(scheduler)
    for number, due in jobs:
        moment = datetime.fromtimestamp(due, UTC)
        schedulers[number % processes].add_job(call, "date", run_date=moment, args=(number, due))
    for scheduler in schedulers:
        scheduler.shutdown()
    jobs.tell()


def run(index: int) -> None:
    logging.basicConfig(level=logging.WARNING)
    executors = {"default": ThreadPoolExecutor(THREADS)}
    scheduler = BlockingScheduler(
        jobstores={"default": store(index)}, executors=executors, job_defaults=DEFAULTS, timezone=UTC
    )
    say_ready()
    scheduler.start()


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "seed":
        seed(int(arguments[0]), Seeding(*arguments[1:]))
    else:
        run(int(arguments[0]))
