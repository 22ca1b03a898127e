"""What an HTTP attempt amounts to, decided from what libcurl and the callbacks saw."""

import codecs
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from urllib.parse import urlsplit

import pycurl

from gnomon.job.outcome import ELLIPSIS, Failed, Outcome, Sent, Succeeded
from gnomon.job.target import HttpTarget
from gnomon.worker.executors.http_attempt import MAX_HEADER_BYTES, Attempt
from gnomon.worker.executors.redirect import REDIRECTS, NotFollowed
from gnomon.worker.executors.scrub import scrubber_of

ORIGIN = re.compile(r"[^/?#]*//[^/?#]*")
UTF_8 = codecs.getincrementaldecoder("utf-8")
MAX_RETRY_AFTER = timedelta(hours=1)
RETRYABLE_STATUSES = frozenset((408, 425, 429))

TOO_LARGE = 100  # CURLE_TOO_LARGE: one header longer than libcurl takes; pycurl has no name for it
HANG_UPS = (pycurl.E_GOT_NOTHING, pycurl.E_SEND_ERROR, pycurl.E_RECV_ERROR, pycurl.E_PARTIAL_FILE)
WEIRD_SERVER_REPLY = pycurl.E_FTP_WEIRD_SERVER_REPLY  # its name of old; HTTP uses it too
NOT_HTTP = (pycurl.E_UNSUPPORTED_PROTOCOL, WEIRD_SERVER_REPLY, pycurl.E_BAD_CONTENT_ENCODING)
TLS_ERRORS = frozenset(
    getattr(pycurl, name)
    for name in dir(pycurl)
    if name.startswith("E_SSL_") or name in ("E_PEER_FAILED_VERIFICATION", "E_USE_SSL_FAILED")
)


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How libcurl ended a transfer. `code` is a CURLE code, 0 when libcurl is content, None when it broke down itself.

    `text` is libcurl's, which may quote the URL. `status` is the last one received, 0 for none. `elapsed` and
    `retry_after` are seconds.
    """

    code: int | None
    text: str = ""
    status: int = 0
    connected: bool = False
    errno: int = 0
    elapsed: float = 0.0
    retry_after: int = 0


@dataclass(frozen=True, kw_only=True)
class Place:
    """Host and port of a target: all of its URL that may be shown."""

    host: str
    port: int

    @classmethod
    def of(cls, target: HttpTarget) -> "Place":
        """Where the target's URL points."""
        origin = ORIGIN.match(target.url)
        return _place(origin.group() if origin else target.url)

    def resolved(self, addresses: Sequence[str]) -> list[str]:
        """The value of CURLOPT_RESOLVE, empty if the host is an address; "+" has libcurl forget it after a while."""
        if self.host in addresses:
            return []
        bracketed = (f"[{address}]" if ":" in address else address for address in addresses)
        return [f"+{self.host}:{self.port}:{','.join(bracketed)}"]

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class HttpVerdict:
    """Turns the facts about one attempt into its outcome. `excerpt_bytes` is how much of the answer is kept.

    `target` is the job's; `place` and `attempt` are those of the request that was made last, after so many `redirects`.
    """

    target: HttpTarget
    place: Place
    attempt: Attempt
    excerpt_bytes: int
    redirects: int = 0

    def outcome(self, ending: Ending) -> Outcome:
        """The outcome: an answer's status decides once it has arrived whole, or is longer than we care to read."""
        attempt = self.attempt
        if attempt.error is not None or ending.code is None:
            return self._failed("internal_error", f"the HTTP engine broke down while calling {self.place}")
        if attempt.resend_refused:
            return self._failed("resend_refused", f"{self.place} hung up under the request; it is not sent twice")
        if self._has_answer(ending):
            return self._answered(ending)
        return self._sent_failure(ending) if attempt.requested else self._unsent_failure(ending)

    def leads_on(self, ending: Ending) -> bool:
        """Whether this ended in a redirect that the job has followed."""
        attempt, target = self.attempt, self.target
        whole = attempt.error is None and not attempt.resend_refused and attempt.headers_complete
        return (
            whole
            and self._has_answer(ending)
            and ending.status in REDIRECTS
            and bool(attempt.locations)
            and self.redirects < target.follow_redirects
            and not target.accepts(ending.status)
        )

    def not_followed(self, ending: Ending, reason: NotFollowed) -> Failed:
        """The outcome of a redirect that no worker follows."""
        return Failed(
            code="bad_redirect",
            message=f"{self.place} answered {ending.status}, a redirect that is not followed: {reason}{self._journey}",
            sent=Sent.ANSWERED,
            permanent=True,
            response_status=ending.status,
            response_excerpt=self._excerpt(),
        )

    def _has_answer(self, ending: Ending) -> bool:
        return self.attempt.body_overlong or ending.code == pycurl.E_OK

    @property
    def _journey(self) -> str:
        if not self.redirects:
            return ""
        return f" (after {self.redirects} redirect{'s' if self.redirects > 1 else ''})"

    def _answered(self, ending: Ending) -> Outcome:
        if not self.attempt.headers_complete:
            return self._failed("reset", f"{self.place} hung up in the middle of its answer's headers")
        if ending.status < 200:
            return self._failed(
                "bad_response", f"{self.place} answered {ending.status}, which ends no HTTP/1.1 exchange"
            )
        excerpt = self._excerpt()
        if self.target.accepts(ending.status):
            return Succeeded(response_status=ending.status, response_excerpt=excerpt)
        retryable = ending.status >= 500 or ending.status in RETRYABLE_STATUSES
        return Failed(
            code="http_status",
            message=f"{self.place} answered {ending.status}{self._journey}",
            sent=Sent.ANSWERED,
            permanent=not retryable,
            response_status=ending.status,
            response_excerpt=excerpt,
            retry_after=_retry_after(ending) if retryable else None,
        )

    def _unsent_failure(self, ending: Ending) -> Failed:
        gate = self.attempt.gate
        if gate.refusal is not None and (not gate.opened or ending.code == pycurl.E_ABORTED_BY_CALLBACK):
            return self._blocked(f"{self.place} must not be called: {gate.refusal}")
        if ending.code == pycurl.E_OPERATION_TIMEDOUT:
            return self._failed(
                "timeout", f"gave up on {self.place} after {ending.elapsed:.1f} s {self._phase(ending)}"
            )
        if ending.code == pycurl.E_COULDNT_RESOLVE_HOST:
            return self._failed("dns", f"the name {self.place.host!r} could not be resolved: {ending.text}")
        if ending.code == pycurl.E_COULDNT_CONNECT:
            return self._failed("refused", f"{self.place} could not be reached: {_error_text(ending.errno)}")
        if ending.code in TLS_ERRORS:
            return self._failed("tls", f"no secure connection to {self.place}: {ending.text}")
        if ending.code == pycurl.E_URL_MALFORMAT:
            return self._failed("bad_url", f"the HTTP engine does not take the URL of {self.place}", permanent=True)
        return self._failed("reset", f"the connection to {self.place} failed (libcurl error {ending.code})")

    def _sent_failure(self, ending: Ending) -> Failed:
        if ending.code == pycurl.E_OPERATION_TIMEDOUT:
            return self._failed(
                "timeout", f"gave up on {self.place} after {ending.elapsed:.1f} s {self._phase(ending)}"
            )
        if ending.code == TOO_LARGE or self.attempt.header_bytes >= MAX_HEADER_BYTES:
            return self._failed("response_too_large", f"the headers of {self.place}'s answer are too large")
        if ending.code in NOT_HTTP:
            return self._failed("bad_response", f"what {self.place} answered is not HTTP")
        if ending.code == pycurl.E_RECV_ERROR and self.attempt.headers_complete and not ending.errno:
            return self._failed("bad_response", f"{self.place} broke the framing of its answer's body")
        if ending.code in HANG_UPS:
            return self._failed("reset", f"{self.place} hung up {self._phase(ending)}")
        return self._failed("reset", f"the call to {self.place} broke off (libcurl error {ending.code})")

    @property
    def sent(self) -> Sent:
        """How far an attempt got that no answer ended; one who redirects may have acted before."""
        return Sent.MAYBE_SENT if self.attempt.requested or self.redirects else Sent.NOT_SENT

    def cancelled(self) -> Failed:
        """The outcome of an attempt that was aborted because the executor closes."""
        return self._failed("cancelled", f"the call to {self.place} was aborted: this worker stops")

    def _blocked(self, message: str) -> Failed:
        """A redirect to where nothing may be called is an answer."""
        sent = Sent.ANSWERED if self.redirects else Sent.NOT_SENT
        return Failed(code="egress_blocked", message=f"{message}{self._journey}", sent=sent, permanent=True)

    def _failed(self, code: str, message: str, *, permanent: bool = False) -> Failed:
        return Failed(code=code, message=f"{message}{self._journey}", sent=self.sent, permanent=permanent)

    def _phase(self, ending: Ending) -> str:
        if self.attempt.requested:
            return "in the middle of its answer" if ending.status else "before any answer"
        if not self.attempt.gate.opened:
            return "looking up its name"
        return "in the TLS handshake" if ending.connected else "connecting"

    def _excerpt(self) -> str | None:
        """The beginning of the body, without the job's own secrets (a target may echo the request)."""
        if not self.attempt.body:
            return None
        body = scrubber_of(self.target).clean(bytes(self.attempt.body), whole=not self.attempt.body_overlong)
        whole = len(body) <= self.excerpt_bytes and not self.attempt.body_overlong
        # Not final: a character cut in half is left out rather than replaced.
        text = UTF_8("replace").decode(body[: self.excerpt_bytes], final=whole)
        return (text if whole else text[:-1] + ELLIPSIS) or None


@lru_cache(maxsize=4_096)
def _place(origin: str) -> Place:
    parts = urlsplit(origin)
    return Place(host=parts.hostname or "", port=parts.port or (443 if parts.scheme == "https" else 80))


def _retry_after(ending: Ending) -> timedelta | None:
    """What Retry-After asks for; libcurl reads both of its forms. None when there is none, or nothing to wait for."""
    return min(timedelta(seconds=ending.retry_after), MAX_RETRY_AFTER) if ending.retry_after > 0 else None


def _error_text(errno: int) -> str:
    return os.strerror(errno).lower() if errno else "connection failed"
