"""`gnomon sealing`: the keys that credentials of jobs are sealed to."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gnomon.job.errors import ConfigurationError
from gnomon.sealing.keys import PrivateKey

if TYPE_CHECKING:
    from gnomon.settings import Settings

PUBLIC_FILE, PRIVATE_FILE = "sealing_public_keys", "sealing_private_keys"


def add_pair(private: Path, public: Path) -> str:
    """Writes a new pair of keys before those that are in the files, the private one first; returns its id.

    Raises ConfigurationError.
    """
    key = PrivateKey.generate()
    try:
        _write(private, [key.reveal(), *_lines(private)], mode=0o400)
        _write(public, [str(key.public), *_lines(public)], mode=0o444)
    except OSError as error:
        raise ConfigurationError(f"sealing keys can't be written: {error.filename}: {error.strerror}") from error
    return key.public.id


def ensure_pair(private: Path, public: Path) -> bool:
    """Makes the first pair; True if it did. A public key that is missing is made from its private one."""
    if not private.exists():
        add_pair(private, public)
        return True
    if not public.exists():
        _write(public, [str(PrivateKey.parse(line).public) for line in _lines(private)], mode=0o444)
    return False


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="ascii").split() if path.exists() else []


def _write(path: Path, lines: list[str], *, mode: int) -> None:
    """All of it or nothing, and at no moment readable by others."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="ascii") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask is
        file.writelines(f"{line}\n" for line in lines)
    draft.replace(path)


def rotated(settings: "Settings") -> tuple[list[str], bool]:
    """Seals all that is stored to the newest key. What there is to say of it, and whether the old keys can go."""
    from gnomon.bootstrap.sealing import rotate

    done = rotate(settings, lambda count: click.echo(f"{count} revisions …", err=True))
    said = [f"{done.changed} revisions were sealed anew, to the key {done.key}"]
    said += [f"not sealed anew: {failure}" for failure in done.failures]
    if done.late:
        said.append("an API still seals to another key: give it the new public key first, then run this again")
    complete = not (done.failures or done.late)
    if complete and done.old:
        said.append(f"no longer needed by what is stored: {', '.join(done.old)}; take them out of secrets-private-keys")
    return said, complete
