"""`gnomon keys`: who may ask the API."""

import getpass
import re
import socket
from collections.abc import Sequence
from datetime import UTC, datetime

from gnomon.bootstrap.keys import create_key, open_keys
from gnomon.cli.output import Form, rendered
from gnomon.job.api_key import ApiKey
from gnomon.job.document import format_instant, parse_instant
from gnomon.job.errors import ConfigurationError, InvalidJob
from gnomon.job.principal import Role
from gnomon.settings import Settings
from gnomon.settings.sources import parse_duration

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ @-]{0,99}")


def create(settings: Settings, *, name: str, role: str, expires: str | None) -> tuple[str, ApiKey]:
    """The key to be shown once, and what is stored of it. Raises ConfigurationError and NameTaken."""
    if not NAME.fullmatch(name):
        raise ConfigurationError(
            "a name has up to 100 letters, digits, spaces and . _ @ -, and begins with a letter or a digit"
        )
    expires_at = None if expires is None else _moment(expires)
    with open_keys(settings) as store:
        return create_key(store, name=name, role=Role(role), expires_at=expires_at, by=_operator())


def listed(settings: Settings, form: Form | None) -> str:
    """All keys, as far as they are stored."""
    with open_keys(settings) as store:
        return rendered(_rows(store.list()), form)


def revoke(settings: Settings, reference: str) -> ApiKey:
    """Raises NotFound."""
    with open_keys(settings) as store:
        return store.revoke(reference, by=_operator())


def _rows(keys: Sequence[ApiKey]) -> list[dict[str, str]]:
    return [
        {
            "id": key.id,
            "name": key.name,
            "role": key.role.value,
            "state": key.state,
            "created": _shown(key.created_at),
            "created by": key.created_by,
            "expires": _shown(key.expires_at),
            "last used": _shown(key.last_used_at),
            "revoked": _shown(key.revoked_at),
            "revoked by": key.revoked_by or "",
        }
        for key in keys
    ]


def _shown(moment: datetime | None) -> str:
    return "" if moment is None else format_instant(moment.replace(microsecond=0))


def _operator() -> str:
    """Whoever runs this command, as far as the system knows them."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in a container
        user = "?"
    return f"{user}@{socket.gethostname()}"[:200]


def _moment(expires: str) -> datetime:
    now = datetime.now(UTC)
    try:
        moment = now + parse_duration(expires)
    except (ValueError, OverflowError):
        try:
            moment = parse_instant(expires, "/expires")
        except InvalidJob as error:
            raise ConfigurationError(
                f"--expires {expires!r}: write 90d, 12h or a moment such as 2030-01-31T00:00:00Z"
            ) from error
    if moment <= now:
        raise ConfigurationError(f"--expires {expires!r} is not in the future")
    return moment
