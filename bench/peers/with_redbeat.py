"""Celery beat with celery-redbeat (https://redbeat.readthedocs.io/en/latest/config.html), and a prefork worker.

Its entries repeat; these do so once a day, and are due when the bench says.

    with_redbeat.py seed COUNT WARM_UP LEAD SPACING | beat | worker PROCESSES
"""

import sys
from datetime import UTC, datetime, timedelta

import effect
from celery import Celery
from celery.schedules import schedule
from celery.signals import beat_init, worker_ready
from redbeat import RedBeatSchedulerEntry
from redbeat.schedulers import get_redis

DAY = timedelta(days=1)

app = Celery("with_redbeat", broker=effect.QUEUE_URL)
app.conf.update(
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    worker_enable_remote_control=False,
    redbeat_redis_url=effect.QUEUE_URL,
    beat_max_loop_interval=1,
    redbeat_lock_timeout=60,  # five intervals otherwise, and a beat that is late by these ends with an error
    timezone="UTC",
)


@app.task(name="call")
def call(number: int, due: float) -> None:
    effect.call(number, due)


@worker_ready.connect
@beat_init.connect
def say_so(**_: object) -> None:
    effect.say_ready()


def seed(jobs: effect.Seeding) -> None:
    daily = schedule(DAY, app=app)
    moments = {}
    for number, due in jobs:
        entry = RedBeatSchedulerEntry(f"job-{number}", "call", daily, args=[number, due], app=app)
        entry.last_run_at = datetime.fromtimestamp(due, UTC) - DAY
        moments[entry.save().key] = due
    # save() takes what is left from now on for what is left from the last run on: right only for what ran just now.
    get_redis(app).zadd(app.redbeat_conf.schedule_key, moments)
    jobs.tell()


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "seed":
        seed(effect.Seeding(*arguments))
    elif command == "beat":
        app.start(["beat", "--scheduler", "redbeat.RedBeatScheduler", "--loglevel", "WARNING", "--pidfile="])
    else:
        options = ["--pool", "prefork", "--concurrency", arguments[0], "--loglevel", "WARNING"]
        app.worker_main(["worker", *options, "--without-gossip", "--without-mingle"])
