"""libcurl's multi handle on an event loop.

pycurl's own AsyncCurlMulti has the loop watch each socket, and starts and cancels a timer for each step of each call:
that costs more than the calls. Here all sockets are in one epoll set, and the loop watches that.
"""

import asyncio
import contextlib
import select

import pycurl

Ended = tuple[int, str]  # a CURLE code, and libcurl's words

EVENTS = {
    pycurl.POLL_NONE: 0,
    pycurl.POLL_IN: select.EPOLLIN,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
}


class MultiBroken(Exception):
    """libcurl refuses to go on with any of the transfers."""


class Multi:
    """Lives on the loop of the first `perform`; not for use from other threads.

    `max_connections`: how many idle connections are kept. `broken`: of no more use.
    """

    def __init__(self, *, max_connections: int) -> None:
        self.broken = False
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, max_connections)
        self._epoll = select.epoll()
        self._watched: dict[int, int] = {}
        self._under_way: dict[pycurl.Curl, asyncio.Future[Ended]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._is_due = False

    async def perform(self, curl: pycurl.Curl) -> Ended:
        """Carries out one transfer. Cancelling aborts it. Raises MultiBroken, and CancelledError after `close`."""
        loop = self._loop or self._begin()
        ended: asyncio.Future[Ended] = loop.create_future()
        self._under_way[curl] = ended
        try:
            self._add(curl)
            return await ended
        finally:
            self._drop(curl)

    def close(self) -> None:
        """Aborts what is under way and closes all connections."""
        for ended in self._under_way.values():
            ended.cancel()
        for curl in list(self._under_way):
            self._drop(curl)
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None:
            self._loop.remove_reader(self._epoll.fileno())
        self._loop = None
        self._multi.close()
        self._epoll.close()

    def fail(self, reason: str) -> None:
        """Gives this handle up, and with it all that is under way."""
        self.broken = True
        for ended in self._under_way.values():
            if not ended.done():
                ended.set_exception(MultiBroken(reason))

    def _begin(self) -> asyncio.AbstractEventLoop:
        if self._multi.closed:
            raise asyncio.CancelledError
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self._on_ready)
        return self._loop

    def _add(self, curl: pycurl.Curl) -> None:
        try:
            self._multi.add_handle(curl)
        except pycurl.error as error:
            self.broken = True
            raise MultiBroken(str(error)) from error

    def _drop(self, curl: pycurl.Curl) -> None:
        """Once; libcurl closes the connection of a transfer that was under way."""
        if self._under_way.pop(curl, None) is not None:
            with contextlib.suppress(pycurl.error):  # it was never added, or the handle is broken
                self._multi.remove_handle(curl)

    def _on_socket(self, what: int, descriptor: int, _multi: object, _assigned: object) -> None:
        """libcurl says what it waits for at a socket. Must not call libcurl."""
        known = self._watched.get(descriptor)
        if what == pycurl.POLL_REMOVE:
            if known is not None:
                del self._watched[descriptor]
                with contextlib.suppress(OSError):  # one that is closed has left the set by itself
                    self._epoll.unregister(descriptor)
            return
        events = EVENTS[what]
        if known is None:
            self._epoll.register(descriptor, events)
        elif known != events:
            self._epoll.modify(descriptor, events)
        self._watched[descriptor] = events

    def _on_timer(self, milliseconds: int) -> None:
        """libcurl says when it wants to be called next. Must not call libcurl.

        A timer that is too early is left alone: libcurl takes no offence, and says again when it wants to be called.
        """
        if self._loop is None or milliseconds < 0:
            return
        if milliseconds == 0:
            if not self._is_due:
                self._is_due = True
                self._loop.call_soon(self._on_due)
            return
        at = self._loop.time() + milliseconds / 1_000
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(at, self._on_time), at

    def _on_due(self) -> None:
        self._is_due = False
        self._drive([(pycurl.SOCKET_TIMEOUT, 0)])

    def _on_time(self) -> None:
        self._timer = None
        self._drive([(pycurl.SOCKET_TIMEOUT, 0)])

    def _on_ready(self) -> None:
        self._drive([(descriptor, _selected(events)) for descriptor, events in self._epoll.poll(0)])

    def _drive(self, actions: list[tuple[int, int]]) -> None:
        if self._multi.closed or self.broken:
            return
        try:
            for descriptor, events in actions:
                self._multi.socket_action(descriptor, events)
            _, succeeded, failed = self._multi.info_read()
        except pycurl.error as error:
            self.fail(str(error))
            return
        for curl in succeeded:
            self._end(curl, (pycurl.E_OK, ""))
        for curl, code, text in failed:
            self._end(curl, (code, text))

    def _end(self, curl: pycurl.Curl, ended: Ended) -> None:
        future = self._under_way.get(curl)
        if future is not None and not future.done():
            future.set_result(ended)


def _selected(events: int) -> int:
    """In libcurl's terms: an error or a hang-up is something to read."""
    writable = pycurl.CSELECT_OUT if events & select.EPOLLOUT else 0
    return writable | (pycurl.CSELECT_IN if events & ~select.EPOLLOUT else 0)
