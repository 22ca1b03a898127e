"""procrastinate with async tasks, many at once in each worker
(https://procrastinate.readthedocs.io/en/stable/howto/production/concurrency.html), polling ten times a second: what is
scheduled is found by polling alone.

    with_procrastinate.py install | seed COUNT WARM_UP LEAD SPACING | worker
"""

import logging
import sys
from datetime import UTC, datetime

import uvloop
from effect import DATABASE_URL, AsyncCaller, Seeding, say_ready
from procrastinate import App, PsycopgConnector

CONCURRENCY = 30
POLL_SECONDS = 0.1

app = App(connector=PsycopgConnector(conninfo=DATABASE_URL, min_size=4, max_size=20))
callers: list[AsyncCaller] = []


@app.task(name="call")
async def call(number: int, due: float) -> None:
    await callers[0].call(number, due)


async def install() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


async def seed(jobs: Seeding) -> None:
    async with app.open_async():
        moments: dict[float, list[dict[str, object]]] = {}
        for number, due in jobs:
            moments.setdefault(due, []).append({"number": number, "due": due})
        for due, listed in moments.items():
            deferrer = call.configure(schedule_at=datetime.fromtimestamp(due, UTC))
            for start in range(0, len(listed), 1_000):
                await deferrer.batch_defer_async(*listed[start : start + 1_000])
    jobs.tell()


async def work() -> None:
    logging.getLogger("procrastinate").setLevel(logging.WARNING)
    callers.append(AsyncCaller(CONCURRENCY))
    async with app.open_async():
        say_ready()
        await app.run_worker_async(concurrency=CONCURRENCY, fetch_job_polling_interval=POLL_SECONDS)


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "install":
        uvloop.run(install())
    elif command == "seed":
        uvloop.run(seed(Seeding(*arguments)))
    else:
        uvloop.run(work())
