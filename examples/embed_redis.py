"""Jobs that several copies of a program share over Redis: each moment runs in one of them.

    .venv/bin/python examples/embed_redis.py

Start it in as many terminals as you like, and kill one. STORE is the Redis (redis://127.0.0.1:6379/0).
"""

import logging
import os

from gnomon import Context, Every, Scheduler

STORE = os.environ.get("STORE", "redis://127.0.0.1:6379/0")

scheduler = Scheduler(STORE, namespace="examples", lease="5s")


@scheduler.job("sweep", Every("2s"), overlap="skip", timeout="10s")
def sweep(context: Context) -> str:
    """Only one copy does it; another does the next one, or this one too if the first dies."""
    print(f"process {os.getpid()} sweeps for {context.scheduled_at:%H:%M:%S}, attempt {context.attempt}", flush=True)
    return f"by {os.getpid()}"


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    scheduler.run()
    for execution in scheduler.executions("sweep", limit=5):
        print(f"{execution.scheduled_at:%H:%M:%S} {execution.state} {execution.response_excerpt or ''}")
    scheduler.stop()
