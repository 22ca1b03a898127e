"""As many children as are wanted, each replaced as soon as it is gone."""

import asyncio
import logging

from gnomon.worker.children.process import Birth, ChildLost, ChildProcess

log = logging.getLogger(__name__)


class Pool:
    """Lives on the loop it is made on. `max_calls`: a child is replaced after so many."""

    RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
    START_SECONDS = 60.0

    def __init__(self, birth: Birth, *, size: int, max_calls: int) -> None:
        self._birth = birth
        self._max_calls = max_calls
        self._idle: asyncio.Queue[ChildProcess] = asyncio.Queue()
        self._living: set[ChildProcess] = set()
        self.trouble = "they are being started"
        loop = asyncio.get_running_loop()
        self._keepers = [loop.create_task(self._keep()) for _ in range(size)]

    async def acquire(self) -> ChildProcess:
        """One that is ready, for the caller alone; waits for it."""
        while True:
            child = await self._idle.get()
            if child.usable:
                return child

    def release(self, child: ChildProcess) -> None:
        """Gives it back. One that is dead, or has had its calls, is replaced."""
        if child.calls >= self._max_calls:
            child.kill("retired", "it has had its calls")
        if child.usable:
            self._idle.put_nowait(child)

    async def aclose(self) -> None:
        """Kills all of them."""
        for keeper in self._keepers:
            keeper.cancel()
        for child in self._living:
            child.kill("stopped", "the worker stops")
        await asyncio.gather(*(child.wait(1.0) for child in list(self._living)))

    async def _keep(self) -> None:
        """One place in the pool."""
        failures = 0
        while True:
            child = ChildProcess()
            try:
                await child.start(self._birth)
                self._living.add(child)
                await asyncio.wait_for(asyncio.shield(child.ready), self.START_SECONDS)
            except (ChildLost, OSError, TimeoutError) as error:
                self._give_up(child, error)
                await asyncio.sleep(self.RETRY_SECONDS[min(failures, len(self.RETRY_SECONDS) - 1)])
                failures += 1
                continue
            failures = 0
            self._idle.put_nowait(child)
            await child.ended.wait()
            self._living.discard(child)

    def _give_up(self, child: ChildProcess, error: Exception) -> None:
        self.trouble = str(error) or f"none was ready within {self.START_SECONDS:g} s"
        log.error("a child process for handlers could not be started, and is tried again: %s", self.trouble)
        if child in self._living:
            child.kill("failed", self.trouble)
            self._living.discard(child)
