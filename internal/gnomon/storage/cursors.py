"""Cursors of keyset paging: where a page ended, opaque to the client."""

import base64
from datetime import datetime
from uuid import UUID

from gnomon.job.errors import InvalidJob


def write_cursor(instant: datetime, last_id: UUID) -> str:
    """URL-safe text that `read_cursor` takes back."""
    return base64.urlsafe_b64encode(f"{instant.isoformat()} {last_id}".encode()).decode().rstrip("=")


def write_place(number: int) -> str:
    """The same for lists that are in the order of a number."""
    return base64.urlsafe_b64encode(str(number).encode()).decode().rstrip("=")


def read_place(cursor: str) -> int:
    """Raises InvalidJob at /cursor for a text that no page gave."""
    try:
        place = int(_decoded(cursor))
    except ValueError as error:
        raise _foreign() from error
    if not 0 <= place < 2**63:
        raise _foreign()
    return place


def read_cursor(cursor: str) -> tuple[datetime, UUID]:
    """Raises InvalidJob at /cursor for a text that no page gave."""
    try:
        instant, last_id = _decoded(cursor).split(" ")
        read = datetime.fromisoformat(instant), UUID(last_id)
    except ValueError as error:
        raise _foreign() from error
    if read[0].tzinfo is None:
        raise _foreign()
    return read


def _decoded(cursor: str) -> str:
    """Raises ValueError."""
    return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()


def _foreign() -> InvalidJob:
    return InvalidJob.at("/cursor", "is not a cursor that a page gave", "follow the Link header")
