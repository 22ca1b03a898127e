"""Jobs inside one program, with nothing else to run: they live in its memory, and end with it.

.venv/bin/python examples/embed_memory.py
"""

import asyncio
import random
from datetime import timedelta

from gnomon import After, Context, Every, PermanentError, RetryPolicy, Scheduler

scheduler = Scheduler("memory://")


@scheduler.job("heartbeat", Every("2s"))
def heartbeat(context: Context) -> None:
    """A plain function runs in a thread."""
    print(f"heartbeat due at {context.scheduled_at:%H:%M:%S}", flush=True)


@scheduler.job("greet", Every("3s"), payload={"name": "you"})
async def greet(name: str) -> str:
    """An async one runs on the scheduler's event loop; its payload's fields are its arguments."""
    await asyncio.sleep(0.1)
    print(f"hello {name}", flush=True)
    return f"greeted {name}"


@scheduler.job("flaky", After("1s"), retry=RetryPolicy(max_attempts=10, initial=timedelta(milliseconds=200)))
def flaky(context: Context) -> str:
    """What it raises is tried again; PermanentError is not."""
    if context.attempt == 9:
        raise PermanentError("luck will not come")
    if context.attempt < 3 or random.random() < 0.2:
        raise ConnectionError("no luck yet")
    print(f"flaky worked at attempt {context.attempt}", flush=True)
    return "worked"


if __name__ == "__main__":
    print("Ctrl-C ends it", flush=True)
    scheduler.run()
