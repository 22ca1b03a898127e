"""The servers that `gnomon up` and these tests start: they keep data, leave nothing behind, die with their owner."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest
import redis

from gnomon.embedded.ports import port_is_free
from gnomon.embedded.postgres import EmbeddedPostgres
from gnomon.embedded.processes import family_of, is_running, wait_until_gone
from gnomon.embedded.valkey import EmbeddedValkey
from gnomon.job.errors import ConfigurationError

SHARED_MEMORY = Path("/proc/sysvipc/shm")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its owner died")

OWNER = """
import sys
from pathlib import Path
from gnomon.embedded.postgres import EmbeddedPostgres
from gnomon.embedded.valkey import EmbeddedValkey
folder = Path(sys.argv[1])
postgres, valkey = EmbeddedPostgres(folder / "postgres", fsync=False), EmbeddedValkey(folder / "valkey")
postgres.start()
valkey.start()
print(postgres.pid, valkey.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A Postgres of the test's own."""
    with EmbeddedPostgres(tmp_path / "postgres", fsync=False) as running:
        yield running


def ask(url: str, statement: str) -> list[tuple[object, ...]]:
    with contextlib.closing(psycopg2.connect(url)) as session, session.cursor() as cursor:
        session.autocommit = True
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def stop(server: EmbeddedPostgres) -> None:
    server.stop()


def kill(server: EmbeddedPostgres) -> None:
    server.kill()


def restart_at_once(server: EmbeddedPostgres) -> None:
    server.restart(immediate=True)


@pytest.mark.parametrize("end", [stop, kill, restart_at_once])
def test_postgres_keeps_what_was_committed(server: EmbeddedPostgres, end: Callable[[EmbeddedPostgres], None]) -> None:
    ask(server.url, "CREATE TABLE kept AS SELECT 7 AS value")
    url = server.url
    end(server)
    server.start()
    assert server.url == url
    assert ask(server.url, "SELECT value FROM kept") == [(7,)]


@pytest.mark.parametrize("end", [stop, kill])
def test_postgres_leaves_nothing_outside_its_folder(
    server: EmbeddedPostgres, end: Callable[[EmbeddedPostgres], None]
) -> None:
    assert server.pid
    family = [server.pid, *family_of(server.pid)]
    assert len(family) > 3
    end(server)
    assert not [pid for pid in family if is_running(pid)]
    assert port_is_free(server.port)
    assert not shared_memory_made_by(family)
    assert not list(Path("/tmp").glob(f".s.PGSQL.{server.port}*"))


def shared_memory_made_by(pids: list[int]) -> list[str]:
    if not SHARED_MEMORY.exists():
        return []
    rows = SHARED_MEMORY.read_text().splitlines()
    creator = rows[0].split().index("cpid")
    return [row for row in rows[1:] if int(row.split()[creator]) in pids]


def test_postgres_is_utf8_and_only_on_loopback(server: EmbeddedPostgres) -> None:
    assert ask(server.url, "SHOW server_encoding") == [("UTF8",)]
    assert ask(server.url, "SHOW listen_addresses") == [("127.0.0.1",)]
    assert ask(server.url, "SHOW unix_socket_directories") == [("",)]


def test_postgres_asks_for_its_password(server: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(f"postgresql://gnomon:guess@127.0.0.1:{server.port}/gnomon")
    assert stat.S_IMODE((server.data_dir / "password").stat().st_mode) == 0o600


def test_started_twice_is_one_server(server: EmbeddedPostgres) -> None:
    pid = server.pid
    server.start()
    assert server.pid == pid


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_postgres_runs_for_root_below_a_folder_only_root_may_enter(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    with EmbeddedPostgres(home / "data", fsync=False) as server:
        assert ask(server.url, "SELECT 1") == [(1,)]
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0


def test_wrong_folder_of_postgres_names_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GNOMON_PG_BIN", str(tmp_path))
    with pytest.raises(ConfigurationError, match="GNOMON_PG_BIN"):
        EmbeddedPostgres(tmp_path / "data").start()


def test_cluster_of_a_release_that_is_not_here_says_which(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "PG_VERSION").write_text("9\n")
    with pytest.raises(ConfigurationError, match="PostgreSQL 9 was not found"):
        EmbeddedPostgres(tmp_path).start()


def test_interrupted_initdb_is_done_again(tmp_path: Path) -> None:
    (tmp_path / "cluster.unfinished").mkdir()
    (tmp_path / "cluster.unfinished" / "PG_VERSION").write_text("")
    with EmbeddedPostgres(tmp_path, fsync=False) as server:
        assert ask(server.url, "SELECT 1") == [(1,)]


@pytest.mark.parametrize("persist", [True, False])
def test_valkey_keeps_keys_only_when_told_to(tmp_path: Path, persist: bool) -> None:
    with EmbeddedValkey(tmp_path / "valkey", persist=persist) as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("kept", "7")
        server.restart()
        with redis.Redis.from_url(server.url) as client:
            assert client.get("kept") == (b"7" if persist else None)


def test_valkey_asks_for_its_password_and_hides_it_from_the_process_list() -> None:
    with EmbeddedValkey(None) as server:
        with redis.Redis(host="127.0.0.1", port=server.port) as client, pytest.raises(redis.AuthenticationError):
            client.ping()
        password = server.url.split(":")[2].split("@")[0]
        assert password.encode() not in Path(f"/proc/{server.pid}/cmdline").read_bytes()


def test_valkey_answers_again_after_a_kill_and_leaves_nothing() -> None:
    server = EmbeddedValkey(None)
    server.start()
    server.kill()
    server.start()
    with redis.Redis.from_url(server.url) as client:
        folder = Path(client.config_get("dir")["dir"])
    pid = server.pid
    assert pid
    server.stop()
    assert not is_running(pid)
    assert not folder.exists()
    assert port_is_free(server.port)


def test_wrong_valkey_names_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GNOMON_VALKEY_BIN", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="GNOMON_VALKEY_BIN"):
        EmbeddedValkey(tmp_path / "data").start()


@needs_linux
def test_servers_die_with_an_owner_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout
        servers = [int(pid) for pid in owner.stdout.readline().split()]
        families = [pid for server in servers for pid in (server, *family_of(server))]
        owner.send_signal(signal.SIGKILL)
        wait_until_gone(families)
    with EmbeddedPostgres(tmp_path / "postgres", fsync=False) as server:
        assert ask(server.url, "SELECT 1") == [(1,)]
