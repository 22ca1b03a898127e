"""./scripts/up as a newcomer runs it."""

import os
import signal
import subprocess
import threading
from pathlib import Path

from gnomon.embedded.ports import free_port
from support.cluster import wait_until

ROOT = Path(__file__).parents[2]


class Up:
    """A run of ./scripts/up, from a folder, in a process group of its own, with further variables."""

    def __init__(self, *arguments: str, folder: Path = ROOT, **variables: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [str(ROOT / "scripts/up"), "--port", str(self.port), *arguments],
            cwd=folder,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        self.lines.extend(line.rstrip("\n") for line in iter(self._process.stdout.readline, ""))

    def wait_ready(self) -> "Up":
        wait_until(
            "up is ready", lambda: f"ready {self.url}" in self.lines or self._process.poll() is not None, seconds=90
        )
        assert self._process.poll() is None, "\n".join(self.lines)
        return self

    @property
    def commands(self) -> list[str]:
        """The lines to try that it prints."""
        return [line for line in self.lines if line.startswith("curl ")]

    def children(self) -> list[int]:
        """Every process that it started, by the parent links of /proc."""
        parents: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                except OSError:
                    continue
        found = [self._process.pid]
        for pid in found:
            found.extend(child for child, parent in parents.items() if parent == pid)
        return found

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self._process.send_signal(number)
        code = self._process.wait(60)
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code
