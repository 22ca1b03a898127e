"""A Postgres server of our own, in one folder, on one loopback port."""

# ruff: noqa: S603 - commands are lists built here; no shell reads them

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import psycopg2
from psycopg2.extensions import connection

from gnomon.embedded.binaries import find_postgres
from gnomon.embedded.ports import LOOPBACK, free_port
from gnomon.embedded.processes import (
    NOBODY,
    Child,
    Server,
    as_nobody_command,
    kill_child,
    start_child,
    stop_child,
    wait_until_gone,
    wait_until_ready,
)
from gnomon.job.errors import ConfigurationError

USER = "gnomon"
DATABASE = "gnomon"
_STOP_SECONDS = 20
_IPC_RMID = 0


class EmbeddedPostgres(Server):
    """Postgres below `data_dir`: its cluster in `cluster/`, the password in `password` (0600), `postgres.log`.

    A port that is not given is chosen once and kept over restarts. `fsync=False` is for tests: it survives the death of
    Postgres, not of the machine. `settings` are further postgresql.conf settings.
    """

    def __init__(
        self, data_dir: Path, *, port: int | None = None, fsync: bool = True, settings: Mapping[str, str] | None = None
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port or free_port()
        self._fsync = fsync
        self._settings = dict(settings or {})
        self._cluster = self.data_dir / "cluster"
        self._password_file = self.data_dir / "password"
        self._log = self.data_dir / "postgres.log"
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """The URL of the database `gnomon`, password inside."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """The URL of another database of this server."""
        return f"postgresql://{USER}:{quote(self._password_file.read_text().strip())}@{LOOPBACK}:{self.port}/{database}"

    @property
    def pid(self) -> int | None:
        """The postmaster, while it runs."""
        return self._child.pid if self._child and self._child.poll() is None else None

    def start(self) -> None:
        """Make the cluster if there is none, start the server, return when it answers. Nothing when it already runs.

        Raises ConfigurationError when there is no usable Postgres, ServerFailed when it does not come up.
        """
        if self.pid:
            return
        self._let_former_postmaster_end()
        binaries = find_postgres(major=self._cluster_release())
        if self._cluster_release() is None:
            self._make_cluster(binaries)
        self._child = start_child(
            [str(binaries / "postgres"), "-D", str(self._cluster), *self._options()],
            log=self._log,
            env=_plain_environment(),
            as_nobody=_is_root(),
            when_orphaned=signal.SIGINT,  # Postgres's word for a fast shutdown
        )
        wait_until_ready(self._child, self._answers, name="Postgres", log=self._log)
        self._make_database()

    def stop(self) -> None:
        """Fast shutdown: sessions are cut, everything committed is on disk."""
        self._stop(signal.SIGINT)

    def kill(self) -> None:
        """What a power cut leaves: SIGKILL, every server process gone, what a dead postmaster would leave cleared."""
        if self._child is None:
            return
        shared_memory = self._shared_memory_id()
        kill_child(self._child)
        self._child = None
        self._forget_dead_postmaster(shared_memory)

    def restart(self, immediate: bool = False) -> None:
        """Stop and start on the same port. `immediate` skips the checkpoint, so that the start must recover."""
        self._stop(signal.SIGQUIT if immediate else signal.SIGINT)
        self.start()

    def _stop(self, ask: signal.Signals) -> None:
        if self._child is not None:
            stop_child(self._child, ask=ask, grace_seconds=_STOP_SECONDS)
            self._child = None

    def _options(self) -> list[str]:
        settings = {
            "port": str(self.port),
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": "",
            "dynamic_shared_memory_type": "mmap",  # in the cluster's folder: a SIGKILL leaves nothing in /dev/shm
            "logging_collector": "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if not self._fsync:
            settings |= {"fsync": "off", "full_page_writes": "off"}  # commits still reach the kernel: kill() loses none
        return [word for name, value in {**settings, **self._settings}.items() for word in ("-c", f"{name}={value}")]

    def _cluster_release(self) -> int | None:
        try:
            return int((self._cluster / "PG_VERSION").read_text())
        except FileNotFoundError:
            return None

    def _make_cluster(self, binaries: Path) -> None:
        """initdb into a folder beside the final one, so that an interrupted initdb is not taken for a cluster."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        if not self._password_file.exists():
            _write_private(self._password_file, secrets.token_urlsafe(24))
        unfinished = self.data_dir / "cluster.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if _is_root():
            os.chown(unfinished, NOBODY, NOBODY)
        self._run_initdb(binaries, unfinished)
        unfinished.rename(self._cluster)

    def _run_initdb(self, binaries: Path, folder: Path) -> None:
        command = [str(binaries / "initdb"), "-D", str(folder), "-U", USER, "-A", "scram-sha-256"]
        command += ["--pwfile", str(self._password_file), "-E", "UTF8", "--locale=C"]
        if not self._fsync:
            command.append("--no-sync")
        if _is_root():
            _check_may_become_nobody()
            command = as_nobody_command(command)
        done = subprocess.run(command, capture_output=True, text=True, env=_plain_environment(), cwd="/", check=False)
        if done.returncode:
            raise ConfigurationError(f"initdb could not make a Postgres cluster in {folder}: {done.stderr.strip()}")

    def _answers(self) -> bool:
        try:
            self._connect("postgres").close()
        except psycopg2.OperationalError:
            return False
        return True

    def _make_database(self) -> None:
        with contextlib.closing(self._connect("postgres")) as session, session.cursor() as cursor:
            session.autocommit = True
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
            if cursor.fetchone() is None:
                cursor.execute(f'CREATE DATABASE "{DATABASE}"')

    def _connect(self, database: str) -> connection:
        return psycopg2.connect(self.url_of(database), connect_timeout=5)

    def _let_former_postmaster_end(self) -> None:
        """One whose owner was killed a moment ago still shuts down. If it stays, Postgres itself says what is wrong."""
        with contextlib.suppress(OSError, IndexError, ValueError, TimeoutError):
            former = int((self._cluster / "postmaster.pid").read_text().splitlines()[0])
            wait_until_gone([former])

    def _shared_memory_id(self) -> int | None:
        """The System V segment that guards the cluster against a second postmaster: the pid file's line 7, 'key id'."""
        try:
            return int((self._cluster / "postmaster.pid").read_text().splitlines()[6].split()[1])
        except (OSError, IndexError, ValueError):
            return None

    def _forget_dead_postmaster(self, shared_memory: int | None) -> None:
        (self._cluster / "postmaster.pid").unlink(missing_ok=True)
        if shared_memory is not None:
            ctypes.CDLL(None).shmctl(shared_memory, _IPC_RMID, None)


def _is_root() -> bool:
    return os.geteuid() == 0


def _check_may_become_nobody() -> None:
    """Postgres refuses to run as root. Raises ConfigurationError when this root can't become somebody else."""
    way_out = "run as an ordinary user, or use a Postgres of your own (--db-url)"
    if shutil.which("setpriv") is None:
        raise ConfigurationError(f"Postgres does not run as root and setpriv (util-linux) is not here; {way_out}")
    probe = subprocess.run(as_nobody_command(["true"]), capture_output=True, text=True, check=False)
    if probe.returncode:
        reason = probe.stderr.strip()
        raise ConfigurationError(
            f"Postgres does not run as root and this root may not change user ({reason}); {way_out}"
        )


def _plain_environment() -> dict[str, str]:
    """Ours without PG* variables, which would redirect initdb, and with the locale the cluster is made in."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
