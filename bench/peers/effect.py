"""What each peer's job does: a POST to the sink or nothing, and a mark in a file that it was done.

The file is how the bench counts, the same for all and cheap: one write of 16 bytes, whatever process it comes from.
"""

import os
import struct
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

MARK = struct.Struct("<qd")  # number of the job, when it was done

DATABASE_URL = os.environ["BENCH_DATABASE_URL"]
QUEUE_URL = os.environ["BENCH_QUEUE_URL"]
TARGET = os.environ["BENCH_URL"]  # empty: the job does nothing
_DONE = os.open(os.environ["BENCH_DONE"], os.O_WRONLY | os.O_APPEND)
_own = threading.local()


def mark(number: int) -> None:
    os.write(_DONE, MARK.pack(number, time.time()))


def headers(number: int, due: float) -> dict[str, str]:
    return {
        "Content-Type": "application/json",
        "Idempotency-Key": str(number),
        "X-Scheduler-Scheduled-At": datetime.fromtimestamp(due, UTC).isoformat(),
    }


def call(number: int, due: float) -> None:
    """With a requests.Session that the thread keeps."""
    if TARGET:
        if not hasattr(_own, "session"):
            import requests  # what has no use for it is not to pay for its import

            _own.session = requests.Session()
        _own.session.post(TARGET, data="{}", headers=headers(number, due), timeout=30).raise_for_status()
    mark(number)


class AsyncCaller:
    """With one aiohttp.ClientSession; made and used on one loop."""

    def __init__(self, connections: int) -> None:
        import aiohttp

        connector = aiohttp.TCPConnector(limit=connections)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60))

    async def call(self, number: int, due: float) -> None:
        if TARGET:
            async with self._session.post(TARGET, data="{}", headers=headers(number, due)) as response:
                response.raise_for_status()
                await response.read()
        mark(number)

    async def close(self) -> None:
        await self._session.close()


class Seeding:
    """The jobs to make: `seed COUNT WARM_UP LEAD SPACING`.

    COUNT jobs from number 0 on, the first due LEAD seconds from now, each SPACING seconds after the one before; and
    WARM_UP jobs with negative numbers, due two seconds before the first.
    """

    def __init__(self, count: str, warm_up: str, lead: str, spacing: str) -> None:
        self.due = round(time.time() + float(lead), 3)
        self._count, self._warm_up, self._spacing = int(count), int(warm_up), float(spacing)

    def __iter__(self) -> Iterator[tuple[int, float]]:
        for number in range(-self._warm_up, 0):
            yield number, self.due - 2.0
        for number in range(self._count):
            yield number, self.due + number * self._spacing

    def tell(self) -> None:
        """What the bench reads."""
        print(self.due)


def say_ready() -> None:
    print("the process is ready", flush=True)
