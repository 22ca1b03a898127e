"""API keys: `gnm_<id>_<secret><checksum>`, 64 characters.

The prefix and the checksum (CRC-32) let scanners of repositories and logs tell a key from other text, and let one that
was mistyped be refused without looking it up. The secret has 256 random bits. What is stored is an HMAC-SHA-256 with
the secret as its key over what the key is: it leads nowhere without the key, and a row whose role or expiry was altered
fits no key.
"""

import hmac
import re
import secrets
import string
import zlib
from dataclasses import dataclass, field
from datetime import datetime

from gnomon.job.principal import Principal, Role

PREFIX = "gnm"
_ID_LENGTH = 10
_SECRET_LENGTH = 43  # of 62 characters: 256 bits
_CHECKSUM_LENGTH = 6
_ALPHABET = string.digits + string.ascii_letters
_ID_ALPHABET = string.digits + string.ascii_lowercase
_KEY = re.compile(
    rf"({PREFIX}_[0-9a-z]{{{_ID_LENGTH}}}_[0-9A-Za-z]{{{_SECRET_LENGTH}}})([0-9A-Za-z]{{{_CHECKSUM_LENGTH}}})"
)
# Also a part of one: what was cut off, or copied badly.
_LOOKS_LIKE_ONE = re.compile(rf"({PREFIX}_[0-9a-z]{{{_ID_LENGTH}}}_)[0-9A-Za-z]+")


@dataclass(frozen=True)
class Key:
    """A key as its owner holds it. Only `text` shows the secret."""

    id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """What is shown once, when it is made."""
        body = f"{PREFIX}_{self.id}_{self.secret}"
        return body + _checksum(body)


@dataclass(frozen=True, kw_only=True)
class NewKey:
    """A key about to be stored. `created_by` is for people."""

    id: str
    name: str
    role: Role
    digest: str = field(repr=False)
    expires_at: datetime | None
    created_by: str


@dataclass(frozen=True, kw_only=True)
class ApiKey(NewKey):
    """A stored key; `expired` by the store's clock. `last_used_at` may be a minute behind."""

    created_at: datetime
    revoked_at: datetime | None
    revoked_by: str | None
    last_used_at: datetime | None
    expired: bool

    @property
    def state(self) -> str:
        """active, expired or revoked."""
        return "revoked" if self.revoked_at else "expired" if self.expired else "active"

    @property
    def principal(self) -> Principal:
        """Whom it stands for."""
        return Principal(id=self.id, name=self.name, role=self.role)


def make_key() -> Key:
    """A new one, at random."""
    return Key(_random(_ID_ALPHABET, _ID_LENGTH), _random(_ALPHABET, _SECRET_LENGTH))


def read_key(text: str) -> Key | None:
    """None for what can't be a key: its checksum tells."""
    match = _KEY.fullmatch(text)
    if match is None or match[2] != _checksum(match[1]):
        return None
    _, key_id, secret = match[1].split("_")
    return Key(key_id, secret)


def to_store(key: Key, *, name: str, role: Role, expires_at: datetime | None, created_by: str) -> NewKey:
    """What is kept of a key. It expires at a whole second."""
    expires_at = None if expires_at is None else expires_at.replace(microsecond=0)
    return NewKey(
        id=key.id,
        name=name,
        role=role,
        digest=_digest(key, role, expires_at),
        expires_at=expires_at,
        created_by=created_by,
    )


def fits(key: Key, stored: ApiKey) -> bool:
    """Whether this is the key that was stored; takes as long whatever the answer is."""
    return hmac.compare_digest(_digest(key, stored.role, stored.expires_at), stored.digest)


def masked(text: str) -> str:
    """The text with the secret of every key in it left out; ids stay."""
    return _LOOKS_LIKE_ONE.sub(r"\1***", text)


def _digest(key: Key, role: Role, expires_at: datetime | None) -> str:
    expiry = "never" if expires_at is None else str(int(expires_at.timestamp()))
    return hmac.digest(key.secret.encode(), f"{key.id} {role} {expiry}".encode(), "sha256").hex()


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode())
    digits = ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits


def _random(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))
