"""The floor: how fast these libraries can do the work when nothing is promised.

Due rows are claimed a thousand at a time by one statement, travel a hundred per message through a Redis list or a
RabbitMQ queue, are called by libcurl, and are written down in groups. What is lost on the way is lost: no lease, no
fence, no republishing, no retry, no execution apart from its job, no check of the address, of the answer or of a
connection that died.

    floor.py install | seed FIRST COUNT LEAD | dispatcher | worker CLIENT

CLIENT is `multi`, libcurl's multi interface with handles whose options are set once, or `async`, the same on the event
loop of Gnomon's worker, with its way to drive libcurl and a task for each call.
"""

import asyncio
import json
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import pika
import pycurl
import redis
import uvloop

from bench.due_rows import connect, seed
from gnomon.worker.executors.http_multi import Multi

QUEUE_URL = os.environ["BENCH_QUEUE_URL"]
TARGET = os.environ["BENCH_URL"]
QUEUE = "floor"
CLAIMED_AT_ONCE = 1000
PER_MESSAGE = 100
IN_FLIGHT = 512  # per worker
GROUP_SECONDS = 0.01
POLL_SECONDS = 0.002

Job = tuple[int, float]  # number, due moment
Outcome = tuple[int, int]  # number, status

INSTALL = """
create table floor_jobs (id bigint primary key, due_at timestamptz not null, url text not null,
    state text not null default 'DUE', status int, finished_at timestamptz);
create index floor_due on floor_jobs (due_at, id) where state = 'DUE'
"""
CLAIM = """
update floor_jobs set state = 'CLAIMED' where id in (
    select id from floor_jobs where state = 'DUE' and due_at <= now() order by due_at, id limit %s
    for update skip locked
) returning id, extract(epoch from due_at)::float8
"""
RECORD = """
update floor_jobs set state = 'DONE', status = outcome.status, finished_at = clock_timestamp()
from unnest(%s::bigint[], %s::int[]) outcome (id, status) where floor_jobs.id = outcome.id
"""


def dispatch() -> None:
    publish = publisher()
    with connect().cursor() as cursor:
        print("the dispatcher is ready", flush=True)
        while True:
            cursor.execute(CLAIM, (CLAIMED_AT_ONCE,))
            jobs = cursor.fetchall()
            if jobs:
                publish([json.dumps(jobs[start : start + PER_MESSAGE]) for start in range(0, len(jobs), PER_MESSAGE)])
            else:
                time.sleep(POLL_SECONDS)


def rabbitmq_channel() -> "pika.adapters.blocking_connection.BlockingChannel":
    parameters = pika.URLParameters(QUEUE_URL)
    parameters.heartbeat = 0
    channel = pika.BlockingConnection(parameters).channel()
    channel.queue_declare(QUEUE)
    return channel


def publisher() -> Callable[[list[str]], object]:
    if QUEUE_URL.startswith("redis"):
        client = redis.Redis.from_url(QUEUE_URL)
        return lambda messages: client.rpush(QUEUE, *messages)
    channel = rabbitmq_channel()

    def publish(messages: list[str]) -> None:
        for message in messages:
            channel.basic_publish("", QUEUE, message.encode())

    return publish


def messages() -> Iterator[bytes | str]:
    """Blocks until there is one; on RabbitMQ each consumer has a few ahead of it."""
    if QUEUE_URL.startswith("redis"):
        client = redis.Redis.from_url(QUEUE_URL)
        while True:
            if (found := client.blpop([QUEUE], timeout=1)) is not None:
                yield found[1]
    channel = rabbitmq_channel()
    channel.basic_qos(prefetch_count=2)
    for method, _, body in channel.consume(QUEUE):
        channel.basic_ack(method.delivery_tag)
        yield body


def record(outcomes: "queue.SimpleQueue[Outcome]") -> None:
    """In groups: all that is there some milliseconds after the first of them."""
    with connect().cursor() as cursor:
        while True:
            group = [outcomes.get()]
            time.sleep(GROUP_SECONDS)
            group += [outcomes.get() for _ in range(outcomes.qsize())]
            cursor.execute(RECORD, ([number for number, _ in group], [status for _, status in group]))


def handle() -> pycurl.Curl:
    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, TARGET)
    curl.setopt(pycurl.POSTFIELDS, "{}")
    curl.setopt(pycurl.WRITEFUNCTION, len)  # takes the answer's body for read
    curl.setopt(pycurl.NOSIGNAL, 1)
    curl.setopt(pycurl.TIMEOUT, 30)
    return curl


def headers(job: Job) -> list[str]:
    return [
        "Content-Type: application/json",
        f"Idempotency-Key: {job[0]}",
        f"X-Scheduler-Scheduled-At: {job[1]}",
    ]


def work_with_multi(outcomes: "queue.SimpleQueue[Outcome]") -> None:
    fetched: queue.Queue[list[Job]] = queue.Queue(maxsize=2)

    def fetch() -> None:
        for message in messages():
            fetched.put(json.loads(message))

    threading.Thread(target=fetch, daemon=True).start()
    multi = pycurl.CurlMulti()
    multi.setopt(pycurl.M_MAXCONNECTS, IN_FLIGHT)
    spare = [handle() for _ in range(IN_FLIGHT)]
    running: dict[pycurl.Curl, Job] = {}
    waiting: deque[Job] = deque()
    while True:
        if not waiting and (not running or not fetched.empty()):
            waiting.extend(fetched.get())
        while spare and waiting:
            curl, job = spare.pop(), waiting.popleft()
            curl.setopt(pycurl.HTTPHEADER, headers(job))
            multi.add_handle(curl)
            running[curl] = job
        multi.perform()
        more = 1
        while more:
            more, succeeded, failed = multi.info_read()
            for curl in (*succeeded, *(broken[0] for broken in failed)):
                multi.remove_handle(curl)
                outcomes.put((running.pop(curl)[0], curl.getinfo(pycurl.RESPONSE_CODE)))
                spare.append(curl)
        if running and not (spare and (waiting or not fetched.empty())):
            multi.select(0.01)


async def work_with_async_multi(outcomes: "queue.SimpleQueue[Outcome]") -> None:
    loop = asyncio.get_running_loop()
    multi = Multi(max_connections=IN_FLIGHT)
    calls: set[asyncio.Task[None]] = set()
    spare = [handle() for _ in range(IN_FLIGHT)]
    waiting: deque[Job | None] = deque()  # None is the end of a message: once that is begun, another may come
    room = threading.Semaphore(2)  # messages ahead of the calls

    def fetch() -> None:
        for message in messages():
            room.acquire()
            loop.call_soon_threadsafe(arrive, json.loads(message))

    def arrive(jobs: list[Job]) -> None:
        waiting.extend(jobs)
        waiting.append(None)
        start()

    def start() -> None:
        while spare and waiting:
            job = waiting.popleft()
            if job is None:
                room.release()
                continue
            calls.add(call := loop.create_task(perform(job, spare.pop())))
            call.add_done_callback(calls.discard)

    async def perform(job: Job, curl: pycurl.Curl) -> None:
        curl.setopt(pycurl.HTTPHEADER, headers(job))
        code, _ = await multi.perform(curl)
        outcomes.put((job[0], 0 if code else curl.getinfo(pycurl.RESPONSE_CODE)))
        spare.append(curl)
        start()

    threading.Thread(target=fetch, daemon=True).start()
    await asyncio.Event().wait()


def work(client: str) -> None:
    outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    threading.Thread(target=record, args=(outcomes,), daemon=True).start()
    print("the worker is ready", flush=True)
    if client == "multi":
        work_with_multi(outcomes)
    else:
        uvloop.run(work_with_async_multi(outcomes))


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "install":
        connect().cursor().execute(INSTALL)
    elif command == "seed":
        seed("floor_jobs", int(arguments[0]), int(arguments[1]), float(arguments[2]))
    elif command == "dispatcher":
        dispatch()
    else:
        work(arguments[0])
