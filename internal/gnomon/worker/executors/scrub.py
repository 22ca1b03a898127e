"""Takes a job's own secrets out of what targets and libraries say: a target may echo the request."""

import base64
import contextlib
import html
import re
import string
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from gnomon.job.outcome import ELLIPSIS, Outcome, Succeeded
from gnomon.job.secret import revealed
from gnomon.job.target import AmqpTarget, BasicAuth, BearerAuth, HandlerTarget, HttpTarget, Target

MASK = b"***"
MIN_FRAGMENT = 6  # shorter parts of an encoded secret are found in any text
UNRESERVED = frozenset(string.ascii_letters + string.digits + "-_.~")  # nobody escapes these


class Scrubber:
    """Replaces secrets by ***: as they are, percent-encoded, JSON- and HTML-escaped, in hex and in base64."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        encoded = sorted({form for secret in secrets for form in _encoded(secret.encode())}, key=len, reverse=True)
        spelled = sorted(secrets, key=len, reverse=True)
        patterns = [*map(_of_hex_digits, encoded), *map(_spelled, spelled)]
        self._longest = max((sum(map(_longest_spelling, secret)) for secret in secrets), default=0)
        self._pattern = re.compile(b"|".join(patterns)) if patterns else None

    def clean(self, data: bytes, *, whole: bool = True) -> bytes:
        """Without the secrets. Where the data was cut off (not `whole`), without an end that may begin one."""
        if self._pattern is None:
            return data
        end = len(data) if whole else max(0, len(data) - self._longest + 1)
        cleaned, at = bytearray(), 0
        for found in self._pattern.finditer(data):
            if found.start() >= end:
                break
            cleaned += data[at : found.start()] + MASK
            at = found.end()
        return bytes(cleaned + data[at : max(at, end)])

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
def _scrubber(secrets: tuple[str, ...]) -> Scrubber:
    return Scrubber(secrets)


def _secrets(target: Target) -> set[str]:
    match target:
        case HttpTarget():
            headers = {name: revealed(value) for name, value in target.headers.items() if target.keeps_secret(name)}
            texts = [*_of_auth(target.auth), *map(revealed, target.signing_secrets)]
            texts += [text for name, value in headers.items() for text in _of_header(name, value.strip())]
            return {*texts, *(text.removeprefix("whsec_") for text in texts)} - {""}
        case AmqpTarget():
            return {target.broker.password} - {"", "guest"}
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


def _of_header(name: str, value: str) -> list[str]:
    """`Bearer abc` may be echoed as `abc`, and cookies one by one."""
    if name.lower() == "cookie":
        cookies = (cookie.partition("=")[2].strip() for cookie in value.split(";"))
        return [value, *(cookie for cookie in cookies if len(cookie) >= MIN_FRAGMENT)]
    scheme, space, credentials = value.partition(" ")
    return [credentials.strip() if space and scheme.isalpha() else value]


def _spelled(secret: str) -> bytes:
    """A pattern of the secret with any of its characters escaped in any of the ways that formats have."""
    return b"".join(map(_spellings, secret))


def _longest_spelling(char: str) -> int:
    """Bytes: %61, or \\ud83d\\ude00, or &#x1f600;."""
    return 3 if char in UNRESERVED else 12


@lru_cache(maxsize=512)
def _spellings(char: str) -> bytes:
    raw = char.encode()
    if char in UNRESERVED:
        return re.escape(raw)
    units = char.encode("utf-16-be").hex("-", 2).split("-")
    ways = [
        b"".join(b"%%%02x" % byte for byte in raw),
        "".join(f"\\u{unit}" for unit in units).encode(),
        b"\\" + raw,
        html.escape(char).encode(),
        f"&#{ord(char)};".encode(),
        f"&#x{ord(char):x};".encode(),
        *((b"+",) if char == " " else ()),
        raw,
    ]
    return b"(?i:" + b"|".join(map(re.escape, dict.fromkeys(ways))) + b")"


def _encoded(secret: bytes) -> Iterator[bytes]:
    """In base64 also as a part of something longer, where what is before it moves it by a byte or two."""
    with contextlib.suppress(UnicodeEncodeError):
        yield secret.decode().encode("latin-1")  # as headers are sent
    yield secret.hex().encode()
    yield b"".join(b"%%%02x" % byte for byte in secret)
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + secret)
        fragment = encoded[(0, 2, 3)[shift] :].rstrip(b"=")
        fragment = fragment[:-1] if (shift + len(secret)) % 3 else fragment  # it is made of what comes after, too
        if len(fragment) >= MIN_FRAGMENT:
            yield fragment
            yield fragment.translate(bytes.maketrans(b"+/", b"-_"))


def _of_hex_digits(form: bytes) -> bytes:
    """These are written in either case."""
    pattern = re.escape(form)
    return b"(?i:" + pattern + b")" if re.fullmatch(rb"[%0-9a-f]+", form) else pattern
