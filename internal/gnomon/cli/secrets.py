"""Random passwords and keys for the compose file, so that it needs no step before it and has no default ones."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from gnomon.cli.sealing import PRIVATE_FILE, PUBLIC_FILE, ensure_pair
from gnomon.job.api_key import make_key
from gnomon.job.errors import ConfigurationError

USER = "gnomon"
_PASSWORDS = ("postgres_password", "redis_password", "rabbitmq_password", "flower_password")


def write_secrets(folder: Path, workers_folder: Path, monitoring_folder: Path) -> list[str]:
    """Writes what is missing in `folder`, and returns the names of the passwords and keys it made.

    What exists is kept; the files that contain a password are made again. The private sealing key goes to
    `workers_folder`, and the key for /metrics to `monitoring_folder`. Raises ConfigurationError.
    """
    wanted: dict[Path, Callable[[], str]] = {folder / name: _password for name in _PASSWORDS}
    wanted |= {folder / "admin_key": _api_key, monitoring_folder / "metrics_key": _api_key}
    try:
        made = [path.name for path, make in wanted.items() if _write_new(path, make)]
        passwords = {name: (folder / name).read_text(encoding="ascii") for name in _PASSWORDS}
        for name, text in _derived(passwords).items():
            _write(folder / name, text)
        if ensure_pair(workers_folder / PRIVATE_FILE, folder / PUBLIC_FILE):
            made.append(PUBLIC_FILE)
    except OSError as error:
        raise ConfigurationError(f"secrets can't be written to {folder}: {error.strerror}") from error
    return made


def _derived(passwords: dict[str, str]) -> dict[str, str]:
    """Files that contain a password, in the form their reader wants."""
    redis, rabbitmq = passwords["redis_password"], passwords["rabbitmq_password"]
    return {
        "valkey.conf": f"requirepass {redis}\n",
        "redis_url": f"redis://:{redis}@redis:6379/0",
        "rabbitmq.conf": f"default_user = {USER}\ndefault_pass = {rabbitmq}\n",
        "rabbitmq_url": f"amqp://{USER}:{rabbitmq}@rabbitmq:5672//",
        "flower_auth": f"{USER}:{passwords['flower_password']}",
    }


def _password() -> str:
    return secrets.token_urlsafe(32)


def _api_key() -> str:
    return make_key().text


def _write_new(path: Path, make: Callable[[], str]) -> bool:
    if path.exists():
        return False
    _write(path, make())
    return True


def _write(path: Path, text: str) -> None:
    """All of it or nothing, readable by the owner and the group."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o440), "w", encoding="ascii") as file:
        os.fchmod(file.fileno(), 0o440)  # whatever the umask is
        file.write(text)
    draft.replace(path)
