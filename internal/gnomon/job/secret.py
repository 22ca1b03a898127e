"""A secret of a job: text while a client gives it or a worker uses it, sealed where it is stored."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sealed:
    """What only the holder of a private key can read. `key` names that key; `box` is the ciphertext, base64url."""

    key: str
    box: str = field(repr=False)

    def __str__(self) -> str:
        """Of no use to whoever sends it by mistake."""
        return "***"


Secret = str | Sealed


def revealed(secret: Secret) -> str:
    """The text, for sending it. A sealed one here is a fault of ours: workers open definitions before they use them."""
    if isinstance(secret, Sealed):
        raise TypeError("the secret is sealed: open the definition first")
    return secret
