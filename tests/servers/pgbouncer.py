"""A PgBouncer of our own (from the system's package pgbouncer) before one Postgres, on a loopback port."""

import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2

from gnomon.embedded.ports import LOOPBACK, free_port
from gnomon.embedded.processes import Child, Server, start_child, stop_child, wait_until_ready
from gnomon.job.errors import ConfigurationError

_CONFIGURATION = """\
[databases]
* = host={host} port={behind}
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {folder}/users.txt
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = 200
server_reset_query = DISCARD ALL
ignore_startup_parameters = extra_float_digits,options
"""


class PgBouncer(Server):
    """Shares `size` connections in the given `mode`: session or transaction. It drops what clients set by `options`."""

    def __init__(self, folder: Path, *, before: str, mode: str, size: int = 20) -> None:
        """`before`: the URL of a database of the Postgres behind."""
        self._folder = folder.absolute()
        self._before = urlsplit(before)
        self._mode = mode
        self._size = size
        self._port = free_port()
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """The way to the same database."""
        user = self._before.netloc.rpartition("@")[0]
        return self._before._replace(netloc=f"{user}@{LOOPBACK}:{self._port}").geturl()

    def start(self) -> None:
        """Raises ConfigurationError when it is not installed."""
        program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            raise ConfigurationError("there is no pgbouncer: install the system's package of that name")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o755)
        (self._folder / "users.txt").write_text(f'"{self._before.username}" "{self._before.password or ""}"\n')
        settings = self._folder / "pgbouncer.ini"
        settings.write_text(
            _CONFIGURATION.format(
                host=LOOPBACK,
                behind=self._before.port,
                port=self._port,
                folder=self._folder,
                mode=self._mode,
                size=self._size,
            )
        )
        log = self._folder / "pgbouncer.log"
        self._child = start_child([program, str(settings)], log=log, as_nobody=os.geteuid() == 0)
        wait_until_ready(self._child, self._answers, name="PgBouncer", log=log)

    def stop(self) -> None:
        if self._child is not None:
            stop_child(self._child)
            self._child = None

    def _answers(self) -> bool:
        try:
            psycopg2.connect(self.url, connect_timeout=1).close()
        except psycopg2.Error:
            return False
        return True
