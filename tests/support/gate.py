"""A target's behaviour that is told when to answer."""

import asyncio
import threading

from servers.target import Behaviour, Connection, Request, answer


class Gate:
    """Nothing is answered until `open` is set. `inside` are in it now, and `most` were at once."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.inside = self.most = 0

    def behaviour(self) -> Behaviour:
        """For one target, or several paths of it."""
        answered = answer()

        async def behave(request: Request, connection: Connection) -> None:
            self.inside += 1
            self.most = max(self.most, self.inside)
            gone = asyncio.ensure_future(connection.until_gone())
            try:
                while not self.open.is_set() and not gone.done():
                    await asyncio.sleep(0.02)
            finally:
                gone.cancel()
                await asyncio.wait([gone])  # until then it reads what is for others
                self.inside -= 1
            if connection.open:
                await answered(request, connection)

        return behave
