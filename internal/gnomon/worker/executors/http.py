"""Calls HTTP targets: one event loop and one libcurl multi handle carry all calls of a process."""

import asyncio
import logging
from collections.abc import Callable

import pycurl

from gnomon import __version__
from gnomon.job.address import EgressPolicy
from gnomon.job.outcome import Outcome
from gnomon.job.target import HttpTarget
from gnomon.worker.defects import log_defect
from gnomon.worker.executors import BrokenOff, Call
from gnomon.worker.executors.egress import EgressGuard
from gnomon.worker.executors.http_attempt import Attempt
from gnomon.worker.executors.http_multi import Multi, MultiBroken
from gnomon.worker.executors.http_outcome import Ending, HttpVerdict, Place
from gnomon.worker.executors.http_request import CONNECT_TIMEOUT, Deadline, default_ca_file, limit_time, prepare
from gnomon.worker.executors.http_sockets import Sockets
from gnomon.worker.executors.premises import Premises
from gnomon.worker.executors.redirect import NotFollowed, followed
from gnomon.worker.executors.resolver import Addresses, LookupFailed, Resolver, system_lookup

log = logging.getLogger(__name__)


class HttpExecutor:
    """Lives on the loop of the first `execute`; not for use from other threads.

    `max_response_bytes`: a longer answer is cut off there and judged by its status. `excerpt_bytes`: how much of it is
    kept in the outcome. `max_connections`: how many idle connections are kept, about as many as calls are in flight at
    once; it does not limit those. `ca_file`: who may vouch for https targets; the system's bundle when None.
    `lookup`: finds the addresses of a host name; it may block. `premises`: what is our own.
    """

    def __init__(
        self,
        *,
        policy: EgressPolicy,
        max_response_bytes: int = 65_536,
        excerpt_bytes: int = 4_096,
        max_connections: int = 512,
        user_agent: str = f"gnomon/{__version__}",
        ca_file: str | None = None,
        lookup: Callable[[str], Addresses] = system_lookup,
        premises: Premises | None = None,
    ) -> None:
        self._guard = EgressGuard(policy, protocol="HTTP", premises=premises)
        self._sockets = Sockets()
        self._resolver = Resolver(lookup)
        self._max_response_bytes = max_response_bytes
        self._excerpt_bytes = excerpt_bytes
        self._max_connections = max_connections
        self._user_agent = user_agent
        self._ca_file = ca_file or default_ca_file()
        self._spare: list[pycurl.Curl] = []
        self._closed = False
        self._multi = Multi(max_connections=max_connections)

    async def execute(self, target: HttpTarget, call: Call) -> Outcome:
        """Makes one attempt. Raises nothing but BrokenOff; cancelling aborts the transfer and its connection."""
        verdict = self._begin(target, target, redirects=0)
        if self._closed:
            return verdict.cancelled()
        try:
            request, deadline = target, Deadline(call.timeout)
            while verdict.leads_on(ending := await self._attempt(request, call, verdict, deadline)):
                try:
                    request = followed(request, ending.status, verdict.attempt.locations)
                except NotFollowed as reason:
                    return verdict.not_followed(ending, reason)
                verdict = self._begin(target, request, redirects=verdict.redirects + 1)
                deadline.begin_leg()
            return verdict.outcome(ending)
        except asyncio.CancelledError as error:
            if _task_is_cancelled():
                raise BrokenOff(verdict.sent) from error
            return verdict.cancelled()  # only the transfer was: the executor closed, or its multi handle broke down
        except Exception as error:
            log_defect(log, error, "execution %s, attempt %s: the HTTP engine failed", call.execution_id, call.attempt)
            return verdict.outcome(Ending(code=None))

    async def aclose(self) -> None:
        """Aborts what is under way, which then fails with the code `cancelled`, and closes all connections."""
        self._closed = True
        self._resolver.close()
        self._multi.close()
        while self._spare:
            self._spare.pop().close()

    def _begin(self, target: HttpTarget, request: HttpTarget, *, redirects: int) -> HttpVerdict:
        """What is to be found out about a request: the target's own, or one that a redirect asks for."""
        place = Place.of(request)
        attempt = Attempt(self._guard.gate(place.host), self._sockets, max_response_bytes=self._max_response_bytes)
        return HttpVerdict(
            target=target, place=place, attempt=attempt, excerpt_bytes=self._excerpt_bytes, redirects=redirects
        )

    async def _attempt(self, request: HttpTarget, call: Call, verdict: HttpVerdict, deadline: Deadline) -> Ending:
        place, attempt = verdict.place, verdict.attempt
        addresses = self._resolver.known(place.host)
        if addresses is None:
            try:
                addresses = await self._resolver.resolve(place.host, timeout=deadline.seconds_left(CONNECT_TIMEOUT))
            except LookupFailed as failure:
                return Ending(code=pycurl.E_COULDNT_RESOLVE_HOST, text=str(failure))
            except TimeoutError:
                return Ending(code=pycurl.E_OPERATION_TIMEDOUT, elapsed=deadline.elapsed())
        resolved = place.resolved(addresses)
        ending = await self._send(request, call, attempt, deadline, resolved)
        if attempt.stale:  # nothing was sent: another connection is not another sending
            ending = await self._send(request, call, attempt, deadline, resolved)
        if not attempt.requested:
            self._resolver.forget(place.host)
        return ending

    async def _send(
        self, request: HttpTarget, call: Call, attempt: Attempt, deadline: Deadline, resolved: list[str]
    ) -> Ending:
        curl = self._spare.pop() if self._spare else pycurl.Curl()
        reusable = False
        try:
            prepare(curl, request, call, user_agent=self._user_agent, ca_file=self._ca_file)
            limit_time(curl, deadline)
            curl.setopt(pycurl.RESOLVE, resolved)
            if attempt.stale:
                curl.setopt(pycurl.FRESH_CONNECT, 1)
            attempt.listen(curl)
            ending = await self._transfer(curl, deadline)
            reusable = ending.code is not None
        finally:
            self._put_away(curl, reusable=reusable)
        return ending

    async def _transfer(self, curl: pycurl.Curl, deadline: Deadline) -> Ending:
        try:
            code, text = await self._working_multi().perform(curl)
        except MultiBroken:
            self._working_multi()
            return Ending(code=None)
        return _ending(curl, deadline, code, text)

    def _working_multi(self) -> Multi:
        """The multi handle; a new one when the old one broke down."""
        if self._multi.broken and not self._closed:
            broken, self._multi = self._multi, Multi(max_connections=self._max_connections)
            log.error("libcurl's multi handle broke down and is replaced; the calls under way failed")
            broken.close()
        return self._multi

    def _put_away(self, curl: pycurl.Curl, *, reusable: bool) -> None:
        if self._closed or not reusable or len(self._spare) >= self._max_connections:
            curl.close()
            return
        curl.reset()  # at once: it drops the callbacks, the body and the credentials
        self._spare.append(curl)


def _ending(curl: pycurl.Curl, deadline: Deadline, code: int, text: str) -> Ending:
    return Ending(
        code=code,
        text=text,
        status=curl.getinfo(pycurl.RESPONSE_CODE),
        connected=curl.getinfo(pycurl.CONNECT_TIME) > 0,
        errno=curl.getinfo(pycurl.OS_ERRNO),
        elapsed=deadline.elapsed(),
        retry_after=curl.getinfo(pycurl.RETRY_AFTER),
    )


def _task_is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
