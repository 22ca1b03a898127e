"""A worker process that admits messages on command and writes down what happens to it.

Run as a program it is the worker; `QueueWorker` starts one.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from support.cluster import wait_until


class QueueWorker:
    """One worker on the queue `io`. After `hold` its `admit` blocks, until `let_go` or the drain."""

    def __init__(
        self, queue_url: str, folder: Path, *, threads: int = 8, task_events: bool = False, stopping: bool = False
    ) -> None:
        self._events = folder / "events"
        self._gate, self._refuse, self._slow = folder / "gate", folder / "refuse", folder / "slow"
        self._log = folder / "log"
        self._events.touch()
        settings = {
            "url": queue_url,
            "folder": str(folder),
            "threads": threads,
            "task_events": task_events,
            "stopping": stopping,
        }
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, __file__, json.dumps(settings)],
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def wait_ready(self) -> Self:
        """Returns when it consumes."""
        self.wait_for("ready")
        return self

    def hold(self) -> None:
        """From now on `admit` blocks."""
        self._gate.touch()

    def let_go(self) -> None:
        """Blocked calls of `admit` return."""
        self._gate.unlink()

    def refuse(self) -> None:
        """From now on `admit` raises Unavailable."""
        self._refuse.touch()

    def accept(self) -> None:
        """Ends `refuse`."""
        self._refuse.unlink()

    def drain_slowly(self) -> None:
        """Its `drain` will take until `finish_drain`."""
        self._slow.touch()

    def finish_drain(self) -> None:
        """Lets `drain` return."""
        self._slow.unlink()

    def events(self, *names: str) -> list[dict[str, Any]]:
        """What happened, in order."""
        lines = self._events.read_text().splitlines()
        return [event for event in map(json.loads, lines) if not names or event["event"] in names]

    def wait_for(self, name: str, *, count: int = 1, seconds: float = 30) -> None:
        """Returns when it has happened `count` times."""
        wait_until(
            f"{count} x {name}; its log ends with\n{self.log[-3000:]}",
            lambda: len(self.events(name)) >= count or self.process.poll() is not None,
            seconds=seconds,
        )
        assert len(self.events(name)) >= count, f"it ended with {self.process.poll()}:\n{self.log[-3000:]}"

    def wait_for_ids(self, ids: Iterable[UUID], *, seconds: float = 30) -> None:
        """Returns when all of them have been admitted."""
        wanted = {str(one) for one in ids}
        wait_until(
            f"{len(wanted)} ids are admitted; the worker's log ends with\n{self.log[-3000:]}",
            lambda: wanted <= self.admitted,
            seconds=seconds,
        )

    @property
    def admitted(self) -> set[str]:
        """The ids of all calls of `admit` that have begun."""
        return {one for event in self.events("admit") for one in event["ids"]}

    @property
    def log(self) -> str:
        """All it has logged."""
        return self._log.read_text(errors="replace")

    def stop(self, seconds: float = 20) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            print(self.log[-6000:])
        self.process.kill()
        self.process.wait()


class _Diary:
    """One line an event, by any thread."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")
        self._lock = threading.Lock()

    def note(self, event: str, **fields: Any) -> None:
        with self._lock:
            self._file.write(json.dumps({"event": event, **fields}) + "\n")
            self._file.flush()


def main(*, url: str, folder: str, threads: int, task_events: bool, stopping: bool) -> int:
    """The worker."""
    from gnomon.job.errors import Unavailable
    from gnomon.queue.celery.app import create_app
    from gnomon.queue.celery.consumer import run_worker

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    diary, draining = _Diary(Path(folder, "events")), threading.Event()
    gate, refuse, slow = Path(folder, "gate"), Path(folder, "refuse"), Path(folder, "slow")

    def admit(ids: Sequence[UUID]) -> None:
        if refuse.exists():
            diary.note("refused")
            raise Unavailable("as the test wants it")
        diary.note("admit", ids=[str(one) for one in ids])
        while gate.exists() and not draining.wait(0.01):
            pass
        diary.note("admitted", drained=draining.is_set())

    def drain() -> None:
        diary.note("drain")
        draining.set()
        while slow.exists():
            time.sleep(0.01)

    code = run_worker(
        create_app(url, task_events=task_events),
        admit=admit,
        drain=drain,
        queues=["io"],
        threads=threads,
        on_ready=lambda: diary.note("ready"),
        stopping=lambda: stopping,
    )
    diary.note("end", code=code, sigterms=len(received))
    return code


if __name__ == "__main__":
    sys.exit(main(**json.loads(sys.argv[1])))
