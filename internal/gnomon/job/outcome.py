"""How one attempt ended, in words the database and the logs can hold."""

import re
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

MAX_MESSAGE = 500
MAX_EXCERPT = 4096
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
ELLIPSIS = "…"
# PostgreSQL refuses NUL, UTF-8 has no lone surrogates, and the other controls can forge or hide log lines.
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class Sent(StrEnum):
    """How far the attempt got: the target can't have seen it, may have seen it, or has answered."""

    NOT_SENT = "not_sent"
    MAYBE_SENT = "maybe_sent"
    ANSWERED = "answered"


@dataclass(frozen=True)
class Succeeded:
    """The target did what was asked. The status is None where the protocol has none.

    `recorded`: the store has it already, because it was written together with the effect.
    """

    response_status: int | None = None
    response_excerpt: str | None = None
    recorded: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "response_excerpt", _clean_excerpt(self.response_excerpt))


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The attempt failed. `code` is a short stable word; `permanent` says that trying again can't help.

    `retry_after` is what the target asked for; how far it is obeyed is decided in retry.py.
    """

    code: str
    message: str
    sent: Sent
    permanent: bool
    response_status: int | None = None
    response_excerpt: str | None = None
    retry_after: timedelta | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", clean_text(self.message, MAX_MESSAGE))
        object.__setattr__(self, "response_excerpt", _clean_excerpt(self.response_excerpt))


Outcome = Succeeded | Failed


def clean_text(value: str | bytes, limit: int) -> str:
    """At most `limit` characters (>= 1), the last one "…" where more was cut off.

    Bytes are read as UTF-8. What neither the database nor a log line can hold becomes U+FFFD: bytes that are not UTF-8,
    lone surrogates, and all control characters but newline and tab. CRLF becomes a newline.
    """
    if isinstance(value, bytes):
        value = value[: 4 * limit + 4].decode("utf-8", "replace")  # no more can count: a character has at most 4 bytes
    text = UNPRINTABLE.sub(REPLACEMENT, value[: 2 * limit + 2].replace("\r\n", "\n"))
    return text if len(text) <= limit else text[: limit - 1] + ELLIPSIS


def _clean_excerpt(excerpt: str | None) -> str | None:
    return None if excerpt is None else clean_text(excerpt, MAX_EXCERPT)
