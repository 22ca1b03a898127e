"""Cursors of keyset paging: where a page ended, opaque to the client."""

import base64
import binascii
from datetime import datetime
from uuid import UUID

from gnomon.job.errors import InvalidJob


def write_cursor(instant: datetime, last_id: UUID) -> str:
    """URL-safe text that `read_cursor` takes back."""
    return base64.urlsafe_b64encode(f"{instant.isoformat()} {last_id}".encode()).decode().rstrip("=")


def read_cursor(cursor: str) -> tuple[datetime, UUID]:
    """Raises InvalidJob at /cursor for a text that no page gave."""
    try:
        instant, last_id = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split(" ")
        read = datetime.fromisoformat(instant), UUID(last_id)
    except (ValueError, binascii.Error) as error:
        raise InvalidJob.at("/cursor", "is not a cursor that a page gave", "follow the Link header") from error
    if read[0].tzinfo is None:
        raise InvalidJob.at("/cursor", "is not a cursor that a page gave", "follow the Link header")
    return read
