"""Takes a job's own secrets out of what targets and libraries say: a target may echo the request."""

import base64
import html
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from urllib.parse import quote, quote_plus

from gnomon.job.outcome import ELLIPSIS, Outcome, Succeeded
from gnomon.job.secret import revealed
from gnomon.job.target import AmqpTarget, BasicAuth, BearerAuth, HandlerTarget, HttpTarget, Target

MASK = b"***"
MIN_FRAGMENT = 6  # shorter parts of an encoded secret are found in any text


class Scrubber:
    """Replaces secrets by ***: as they are, percent-encoded, JSON- and HTML-escaped, in hex and in base64."""

    def __init__(self, secrets: tuple[bytes, ...]) -> None:
        forms = sorted({form for secret in secrets for form in _forms(secret)}, key=len, reverse=True)
        self._longest = max(map(len, forms), default=0)
        self._pattern = re.compile(b"|".join(map(_as_pattern, forms))) if forms else None

    def clean(self, data: bytes, *, whole: bool = True) -> bytes:
        """Without the secrets. Where the data was cut off (not `whole`), without an end that may begin one."""
        if self._pattern is None:
            return data
        end = len(data) if whole else max(0, len(data) - self._longest + 1)
        parts, at = [], 0
        for found in self._pattern.finditer(data):
            if found.start() >= end:
                break
            parts += [data[at : found.start()], MASK]
            at = found.end()
        return b"".join([*parts, data[at : max(at, end)]])

    def clean_text(self, text: str) -> str:
        """The same of a text that may have been cut off with an ellipsis."""
        cleaned = self.clean(text.encode("utf-8", "surrogatepass"), whole=not text.endswith(ELLIPSIS))
        return cleaned.decode("utf-8", "replace")


def scrubbed(outcome: Outcome, target: Target) -> Outcome:
    """The outcome with a message that repeats no secret, whatever a library or a server put into it."""
    if isinstance(outcome, Succeeded):
        return outcome
    return replace(outcome, message=scrubber_of(target).clean_text(outcome.message))


def scrubber_of(target: Target) -> Scrubber:
    """For what is kept of an attempt at this target."""
    return _scrubber(tuple(sorted(_secrets(target))))


@lru_cache(maxsize=1024)
def _scrubber(secrets: tuple[bytes, ...]) -> Scrubber:
    return Scrubber(secrets)


def _secrets(target: Target) -> set[bytes]:
    match target:
        case HttpTarget():
            headers = [revealed(value) for name, value in target.headers.items() if target.keeps_secret(name)]
            texts = [*_of_auth(target.auth), *map(_without_scheme, headers), *map(revealed, target.signing_secrets)]
            return {text.encode() for text in [*texts, *(secret.removeprefix("whsec_") for secret in texts)] if text}
        case AmqpTarget():
            return {target.broker.password.encode()} - {b"", b"guest"}
        case HandlerTarget():
            return set()


def _of_auth(auth: BasicAuth | BearerAuth | None) -> list[str]:
    match auth:
        case BasicAuth(username=username, password=password):
            return [revealed(password), base64.b64encode(f"{username}:{revealed(password)}".encode()).decode()]
        case BearerAuth(token=token):
            return [revealed(token)]
        case None:
            return []


def _without_scheme(value: str) -> str:
    """`Bearer abc` may be echoed as `abc`."""
    scheme, space, credentials = value.strip().partition(" ")
    return credentials.strip() if space and scheme.isalpha() else value.strip()


def _forms(secret: bytes) -> Iterator[bytes]:
    """How it may be written. Nothing can be done about what a target makes of it that is none of these."""
    text = secret.decode("utf-8", "replace")
    yield secret
    yield from (quote(text, safe="").encode(), quote_plus(text).encode(), quote(text).encode())
    yield b"".join(b"%%%02X" % byte for byte in secret)
    escaped = json.dumps(text)[1:-1]
    yield from (escaped.encode(), escaped.replace("/", "\\/").encode())
    yield json.dumps(text, ensure_ascii=False)[1:-1].encode()
    yield re.sub("[<>&']", lambda found: f"\\u{ord(found.group()):04x}", escaped).encode()
    yield html.escape(text).encode()
    yield html.escape(text, quote=False).encode()
    yield secret.hex().encode()
    yield from _base64_forms(secret)


def _base64_forms(secret: bytes) -> Iterator[bytes]:
    """Also as a part of something longer, where what is before it moves it by a byte or two."""
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + secret)
        fragment = encoded[(0, 2, 3)[shift] :].rstrip(b"=")
        fragment = fragment[:-1] if (shift + len(secret)) % 3 else fragment  # it is made of what comes after, too
        if len(fragment) >= MIN_FRAGMENT:
            yield fragment
            yield fragment.translate(bytes.maketrans(b"+/", b"-_"))


def _as_pattern(form: bytes) -> bytes:
    """Hex digits are written in either case."""
    pattern = re.escape(form)
    return b"(?i:" + pattern + b")" if b"%" in form or re.fullmatch(rb"[0-9a-f]+", form) else pattern
