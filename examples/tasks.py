"""Handlers: functions that jobs call by name. docs/handlers.md tells more."""

import asyncio

from gnomon import Context, PermanentError, handler


@handler("shop.invoice")
def invoice(order: int, context: Context, copies: int = 1) -> dict[str, int]:
    """Runs in a child process of a worker of the queue `handlers`."""
    if order <= 0:
        raise PermanentError(f"there is no order {order}")
    for copy in range(copies):
        context.check()  # raises if nobody wants it any more
        print(f"copy {copy + 1} of the invoice for order {order}")
    return {"printed": copies}


@handler("shop.poll")
async def poll(shops: list[str]) -> str:
    """Runs on the event loop of a worker of the queue `async`, beside hundreds of others."""
    await asyncio.gather(*(asyncio.sleep(0.1) for _ in shops))
    return f"{len(shops)} shops polled"
