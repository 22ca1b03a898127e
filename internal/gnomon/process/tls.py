"""What to say when a server could not prove who it is."""

import ssl
from collections.abc import Iterator


def refused_certificate(error: BaseException) -> str | None:
    """Why the TLS handshake behind a driver's error failed, in OpenSSL's words; None where it was something else.

    The words name the host that was asked for, and nothing that is secret.
    """
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is refused: {cause.verify_message.rstrip('.')}"
        if isinstance(cause, ssl.SSLError) and cause.reason:
            return f"no TLS with it: {cause.reason.lower().replace('_', ' ')}"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
