"""Sealing and opening with HPKE (RFC 9180): X25519, HKDF-SHA256, ChaCha20-Poly1305; what it is bound to is the info.

The single-shot interface takes no associated data beside the info, which section 8.1 of the RFC means for this use.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from gnomon.job.errors import SecretUnreadable
from gnomon.job.secret import Sealed
from gnomon.sealing.keys import PrivateKey, PublicKey

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


class Sealer:
    """Seals to one public key. It can't open what it sealed."""

    def __init__(self, key: PublicKey) -> None:
        self._key = key
        self.key = key.id

    def __call__(self, text: str, binding: bytes) -> Sealed:
        """Another ciphertext each time."""
        box = _SUITE.encrypt(text.encode(), self._key.key, info=binding)
        return Sealed(key=self.key, box=base64.urlsafe_b64encode(box).decode())


class Opener:
    """Opens with whichever of the keys a secret was sealed to."""

    def __init__(self, keys: Sequence[PrivateKey]) -> None:
        self._keys: Mapping[str, PrivateKey] = {key.public.id: key for key in keys}

    @property
    def keys(self) -> frozenset[str]:
        """Which secrets it can open, by the key they name."""
        return frozenset(self._keys)

    def __call__(self, secret: Sealed, binding: bytes) -> str:
        """Raises SecretUnreadable."""
        key = self._keys.get(secret.key)
        if key is None:
            raise SecretUnreadable.without_key(secret.key)
        try:
            box = base64.b64decode(secret.box, altchars=b"-_", validate=True)
            return _SUITE.decrypt(box, key.key, info=binding).decode()
        except (InvalidTag, binascii.Error, ValueError):
            raise SecretUnreadable(
                "it was not sealed for this job, this field and this address: set it again", permanent=True
            ) from None
