"""Canary secrets, and whether a place shows one in any encoding."""

import base64
import secrets
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

SPECIAL = '/+="<&é'  # what encodings and formats treat in ways of their own
SIZE = 20


@dataclass
class Canaries:
    """Secrets that were handed out, by their names."""

    given: dict[str, str] = field(default_factory=dict)

    def new(self, name: str, *, special: str = SPECIAL) -> str:
        """A secret whose core nothing else in the world holds."""
        assert name not in self.given
        core = "".join(secrets.choice(string.ascii_letters) for _ in range(SIZE))
        self.given[name] = core
        return f"{core}{special}"

    def signing(self, name: str) -> str:
        """One that signs requests."""
        assert name not in self.given
        encoded = base64.b64encode(secrets.token_bytes(30)).decode()
        self.given[name] = encoded
        return f"whsec_{encoded}"

    def found_in(self, places: Mapping[str, bytes]) -> list[str]:
        """Which secret each place shows, and how."""
        needles = [(name, how, needle) for name, core in self.given.items() for how, needle in forms(core)]
        return [
            f"{place} shows {name} {how}"
            for place, shown in places.items()
            for name, how, needle in needles
            if needle in shown
        ]


def forms(core: str) -> Iterator[tuple[str, bytes]]:
    """No format escapes a letter or digit, so that JSON and HTML show the core as it is; half of it is enough."""
    raw = core.encode()
    for part in (raw[: SIZE // 2], raw[-SIZE // 2 :]):
        yield "as it is", part
        yield "backwards", part[::-1]
        yield "in hex", part.hex().encode()
        yield "in HEX", part.hex().upper().encode()
        yield "percent-encoded", b"".join(b"%%%02x" % byte for byte in part)
        yield "PERCENT-encoded", b"".join(b"%%%02X" % byte for byte in part)
        yield "in \\u", "".join(f"\\u{byte:04x}" for byte in part).encode()
        for shift in range(3):
            encoded = base64.b64encode(b"\0" * shift + part)[(0, 2, 3)[shift] :].rstrip(b"=")
            fragment = encoded[:-1] if (shift + len(part)) % 3 else encoded
            yield f"in base64 after {shift}", fragment
            yield f"in base64 for URLs after {shift}", fragment.translate(bytes.maketrans(b"+/", b"-_"))
