"""huey on Redis: its consumer with worker processes, no results kept where nobody reads them
(https://huey.readthedocs.io/en/latest/consumer.html). Its scheduler looks once a second, which is as often as it can.

    with_huey.py seed COUNT WARM_UP LEAD SPACING | consumer PROCESSES
"""

import logging
import sys
from datetime import UTC, datetime

import effect
from huey import RedisHuey
from huey.consumer_options import ConsumerConfig

huey = RedisHuey("bench", url=effect.QUEUE_URL, results=False)


@huey.task()
def call(number: int, due: float) -> None:
    effect.call(number, due)


@huey.on_startup()
def say_so() -> None:
    effect.say_ready()


def seed(jobs: effect.Seeding) -> None:
    for number, due in jobs:
        call.schedule((number, due), eta=datetime.fromtimestamp(due, UTC))
    jobs.tell()


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "seed":
        seed(effect.Seeding(*arguments))
    else:
        logging.getLogger("huey").setLevel(logging.WARNING)
        options = {"workers": int(arguments[0]), "worker_type": "process", "periodic": False}
        config = ConsumerConfig(**options)
        config.validate()
        huey.create_consumer(**config.values).run()
