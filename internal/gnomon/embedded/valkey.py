"""A Valkey server of our own, on one loopback port."""

import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from gnomon.embedded.binaries import find_valkey
from gnomon.embedded.ports import LOOPBACK, free_port
from gnomon.embedded.processes import Child, Server, feed, kill_child, start_child, stop_child, wait_until_ready


class EmbeddedValkey(Server):
    """Valkey below `data_dir`, or in a temporary folder that goes with stop() when None. The password is new each time.

    `persist` keeps an append-only file, synced each second; without it a restart comes up empty. `settings` are further
    valkey.conf settings.
    A port that is not given is chosen once and kept over restarts.
    """

    def __init__(
        self,
        data_dir: Path | None,
        *,
        port: int | None = None,
        persist: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.port = port or free_port()
        self._given_dir = data_dir.absolute() if data_dir else None
        self._data_dir = self._given_dir
        self._persist = persist
        self._settings = dict(settings or {})
        self._password = secrets.token_urlsafe(24)
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """redis:// with the password inside; database 0."""
        return f"redis://:{self._password}@{LOOPBACK}:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """The server, while it runs."""
        return self._child.pid if self._child and self._child.poll() is None else None

    def start(self) -> None:
        """Start the server and return when it answers. Nothing when it already runs.

        Raises ConfigurationError when there is no valkey-server, ServerFailed when it does not come up.
        """
        if self.pid:
            return
        program = find_valkey()
        folder = self._make_folder()
        log = folder / "valkey.log"
        self._child = start_child([str(program), "-"], log=log, stdin=subprocess.PIPE)
        feed(self._child, self._configuration(folder))
        wait_until_ready(self._child, self._answers, name="Valkey", log=log)

    def stop(self) -> None:
        """Orderly end; with `persist` everything is on disk."""
        if self._child is not None:
            stop_child(self._child)
            self._child = None
        if self._given_dir is None and self._data_dir is not None:
            shutil.rmtree(self._data_dir)
            self._data_dir = None

    def kill(self) -> None:
        """SIGKILL; without `persist` everything it held is lost."""
        if self._child is not None:
            kill_child(self._child)
            self._child = None

    def restart(self) -> None:
        """Stop and start on the same port with the same password."""
        if self._child is not None:
            stop_child(self._child)
            self._child = None
        self.start()

    def _make_folder(self) -> Path:
        if self._data_dir is None:
            self._data_dir = Path(tempfile.mkdtemp(prefix="gnomon-valkey-"))
        self._data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self._data_dir

    def _configuration(self, folder: Path) -> str:
        """Handed over on stdin, where no other user can read the password."""
        return "\n".join(
            [
                f"bind {LOOPBACK}",
                f"port {self.port}",
                f"dir {_quoted(folder)}",
                f"requirepass {self._password}",
                f"appendonly {'yes' if self._persist else 'no'}",
                "appendfsync everysec",
                'save ""',
                "maxmemory-policy noeviction",  # a broker that evicts loses messages
                *(f"{name} {value}" for name, value in self._settings.items()),
                "",
            ]
        )

    def _answers(self) -> bool:
        """Speaks the protocol itself: +PONG comes only when the append-only file is loaded."""
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1) as link:
                link.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2 and (more := link.recv(256)):
                    answer += more
        except OSError:
            return False
        return answer.endswith(b"+PONG\r\n")


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
