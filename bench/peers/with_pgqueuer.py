"""pgqueuer as docs/guides/performance-tuning.md of https://github.com/janbjorge/pgqueuer says: large batches for short
jobs, its autovacuum settings, one connection for each queue manager. On asyncpg and uvloop. Its default durability,
which outlives a crash of the server.

    with_pgqueuer.py install | seed COUNT WARM_UP LEAD SPACING | worker
"""

import json
import sys
import time
from datetime import timedelta

import asyncpg
import uvloop
from effect import DATABASE_URL, AsyncCaller, Seeding, say_ready
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

BATCH = 1_000
CONNECTIONS = 100


async def install() -> None:
    connection = await asyncpg.connect(DATABASE_URL)
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    await queries.optimize_autovacuum()
    await connection.close()


async def seed(jobs: Seeding) -> None:
    connection = await asyncpg.connect(DATABASE_URL)
    queries = Queries(AsyncpgDriver(connection))
    listed = list(jobs)
    for start in range(0, len(listed), 1_000):
        part = listed[start : start + 1_000]
        now = time.time()
        await queries.enqueue(
            ["call"] * len(part),
            [json.dumps(job).encode() for job in part],
            [0] * len(part),
            [timedelta(seconds=due - now) for _, due in part],
        )
    await connection.close()
    jobs.tell()


async def work() -> None:
    connection = await asyncpg.connect(DATABASE_URL)
    queuer = PgQueuer(AsyncpgDriver(connection))
    caller = AsyncCaller(CONNECTIONS)

    @queuer.entrypoint("call")
    async def call(job: Job) -> None:
        number, due = json.loads(job.payload or b"")
        await caller.call(number, due)

    say_ready()
    await queuer.run(batch_size=BATCH, dequeue_timeout=timedelta(seconds=30))


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "install":
        uvloop.run(install())
    elif command == "seed":
        uvloop.run(seed(Seeding(*arguments)))
    else:
        uvloop.run(work())
