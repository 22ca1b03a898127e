"""Signatures of requests, as Standard Webhooks 1.0 has them: symmetric, over id, time and body."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

MAX_SIGNING_SECRETS = 2
PREFIX = "whsec_"
SIZES = range(24, 65)  # bytes; what the specification recommends


def signing_secret_fault(secret: str) -> str | None:
    """Why this can't sign; None when it can. Quotes nothing of it."""
    if not secret.startswith(PREFIX):
        return f"does not begin with {PREFIX}"
    try:
        size = len(_key(secret))
    except ValueError:
        return "is not base64"
    return None if size in SIZES else f"is {size} bytes long"


def signature_headers(secrets: Sequence[str], *, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers; one signature for each secret. `timestamp` is in Unix seconds."""
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    digests = [hmac.new(_key(secret), signed, hashlib.sha256).digest() for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests),
    }


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
