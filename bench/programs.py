"""References and peers as what they are: programs of their own, in processes of their own."""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from support.cluster import Role

from bench.bed import Bed
from bench.usage import Meter


class Programs:
    """Processes that share an environment; their logs are files of `folder`."""

    def __init__(self, bed: Bed, *, python: Path, environment: Mapping[str, str], folder: Path) -> None:
        self._bed = bed
        self._python = str(python)
        self._environment = {**os.environ, **environment, "PYTHONUNBUFFERED": "1"}
        self._folder = folder
        self.roles: list[Role] = []

    def run(self, program: Path, *arguments: object) -> str:
        """To its end. What it printed; raises RuntimeError with what it complained of."""
        command = [self._python, str(program), *map(str, arguments)]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{program.name} {arguments} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        return done.stdout.strip()

    def start(self, name: str, program: Path, *arguments: object) -> Role:
        """It prints that it "is ready"."""
        number = len(self.roles) + 1
        command = [self._python, str(program), *map(str, arguments)]
        role = Role(f"{name}-{number}", command, self._environment, self._folder / f"{number}-{name}.log")
        self.roles.append(role)
        return role

    def meter(self) -> Meter:
        """From now on: CPU seconds of each process and of each server."""
        return Meter({**{role.name: role.pid for role in self.roles}, **self._bed.servers()})

    def logs(self) -> str:
        """The end of each."""
        return "\n".join(f"--- {role.name}\n{role.text[-2000:]}" for role in self.roles)

    def stop(self) -> None:
        running: Sequence[Role] = [role for role in self.roles if role.running]
        for role in running:
            with contextlib.suppress(AssertionError):
                role.stop(10)


@contextlib.contextmanager
def programs(bed: Bed, *, python: Path, environment: Mapping[str, str], name: str) -> Iterator[Programs]:
    """Ended whatever happens."""
    folder = bed.folder / f"programs-{name}"
    folder.mkdir(exist_ok=True)
    built = Programs(bed, python=python, environment=environment, folder=folder)
    try:
        yield built
    finally:
        built.stop()
