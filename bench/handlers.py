"""Handlers that do nothing, for workers of the queues `async` and `handlers`."""

from gnomon.worker.handlers import handler


@handler("bench_async")
async def nothing_on_the_loop() -> None:
    pass


@handler("bench_sync")
def nothing_in_a_process() -> None:
    pass
