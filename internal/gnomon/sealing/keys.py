"""The keys that secrets of jobs are sealed to: X25519, written as one word that tells a public from a private one."""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from gnomon.job.errors import ConfigurationError

PUBLIC = "gnomon-sealing-public-1-"
PRIVATE = "gnomon-sealing-private-1-"
SIZE = 32


@dataclass(frozen=True)
class PublicKey:
    """Seals. `id` is what stored secrets name it by."""

    key: X25519PublicKey

    @classmethod
    def parse(cls, text: str) -> "PublicKey":
        """Raises ConfigurationError, which quotes nothing: it may be the private one."""
        if text.startswith(PRIVATE):
            raise ConfigurationError("secrets-public-keys holds a private key: keep those where only workers read them")
        return cls(X25519PublicKey.from_public_bytes(_bytes(text, PUBLIC, "secrets-public-keys")))

    @property
    def id(self) -> str:
        return hashlib.sha256(self.key.public_bytes_raw()).hexdigest()[:16]

    def __str__(self) -> str:
        return PUBLIC + _text(self.key.public_bytes_raw())


@dataclass(frozen=True)
class PrivateKey:
    """Opens. Shown only by `reveal`."""

    key: X25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> "PrivateKey":
        return cls(X25519PrivateKey.generate())

    @classmethod
    def parse(cls, text: str) -> "PrivateKey":
        """Raises ConfigurationError, which quotes nothing."""
        return cls(X25519PrivateKey.from_private_bytes(_bytes(text, PRIVATE, "secrets-private-keys")))

    @property
    def public(self) -> PublicKey:
        return PublicKey(self.key.public_key())

    def reveal(self) -> str:
        """The text for the setting."""
        return PRIVATE + _text(self.key.private_bytes_raw())


def parse_public(texts: Sequence[str]) -> list[PublicKey]:
    """In the order given. Raises ConfigurationError."""
    return [PublicKey.parse(text) for text in texts]


def parse_private(texts: Sequence[str]) -> list[PrivateKey]:
    """In the order given. Raises ConfigurationError."""
    return [PrivateKey.parse(text) for text in texts]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _bytes(text: str, prefix: str, setting: str) -> bytes:
    try:
        raw = base64.b64decode(text.removeprefix(prefix) + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not text.startswith(prefix) or len(raw) != SIZE:
        raise ConfigurationError(
            f"{setting}: a key there is not one of {prefix}…: `gnomon sealing generate` makes them"
        )
    return raw
