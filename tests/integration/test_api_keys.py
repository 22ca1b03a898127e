"""API keys where they are kept, and the commands that make, list and revoke them."""

import json
import re
import threading
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import insert
from support.cluster import wait_until
from support.world import World

from gnomon.cli.main import gnomon
from gnomon.job.api_key import ApiKey, fits, make_key, read_key, to_store
from gnomon.job.errors import NameTaken, NotFound
from gnomon.job.principal import Role
from gnomon.storage.postgres.tables import api_keys

KEY = re.compile(r"gnm_[0-9a-z]{10}_[0-9A-Za-z]{49}\n")


def add(world: World, name: str, role: Role = Role.READ) -> ApiKey:
    return world.keys.add(to_store(make_key(), name=name, role=role, expires_at=None, created_by="a test"))


@pytest.fixture
def run(database_url: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.chdir(str(tmp_path))
    return lambda *arguments: CliRunner().invoke(gnomon, ["keys", *arguments], env={"SCHEDULER_DB_URL": database_url})


def test_stored_key_is_found_by_its_id_and_never_holds_the_secret(world: World) -> None:
    key = make_key()
    added = world.keys.add(to_store(key, name="one", role=Role.WRITE, expires_at=None, created_by="me"))
    assert world.keys.find(key.id) == added
    assert fits(key, added)
    assert world.keys.find(make_key().id) is None
    (row,) = world.sql("select api_keys::text as row from api_keys")
    assert key.secret not in row.row


def test_expiry_survives_the_database(world: World) -> None:
    key = make_key()
    expires_at = datetime.now(UTC) + timedelta(days=1)
    added = world.keys.add(to_store(key, name="one", role=Role.READ, expires_at=expires_at, created_by="me"))
    assert fits(key, added)
    assert added.state == "active"


def test_name_is_taken_until_its_key_is_revoked(world: World) -> None:
    first = add(world, "deploys")
    with pytest.raises(NameTaken, match="'deploys'"):
        add(world, "deploys")
    world.keys.revoke(first.id, by="me")
    assert add(world, "deploys").state == "active"


def test_revoking_by_name_means_the_key_that_holds_and_a_second_time_changes_nothing(world: World) -> None:
    old = add(world, "deploys")
    world.keys.revoke("deploys", by="me")
    new = add(world, "deploys")
    assert world.keys.revoke("deploys", by="you").id == new.id
    again = world.keys.revoke(old.id, by="somebody else")
    assert (again.id, again.revoked_by) == (old.id, "me")
    with pytest.raises(NotFound):
        world.keys.revoke("nobody", by="me")


def test_revoking_by_id_spares_a_key_whose_name_reads_the_same(world: World) -> None:
    meant = add(world, "one")
    other = add(world, meant.id)
    assert world.keys.revoke(meant.id, by="me").id == meant.id
    assert [key.state for key in world.keys.list() if key.id == other.id] == ["active"]


def test_processes_that_bring_the_same_keys_at_once_add_them_once(world: World) -> None:
    new = [to_store(make_key(), name=f"auth.{n}", role=Role.ADMIN, expires_at=None, created_by="me") for n in range(3)]
    threads = [threading.Thread(target=lambda: [world.keys.ensure(key) for key in new]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key.id for key in world.keys.list() if key.state == "active") == sorted(key.id for key in new)


def test_name_that_another_process_takes_at_the_same_time_is_taken_over(world: World) -> None:
    mine, theirs = (
        to_store(make_key(), name="auth.0", role=Role.ADMIN, expires_at=None, created_by="me") for _ in range(2)
    )
    thread = threading.Thread(target=lambda: world.keys.ensure(mine))
    with world.engine.begin() as connection:
        connection.execute(insert(api_keys).values({**asdict(theirs), "role": theirs.role.value}))
        thread.start()
        wait_until("it waits for the other", lambda: world.one("select count(*) from pg_locks where not granted") > 0)
    thread.join()
    assert {key.id: key.state for key in world.keys.list()} == {mine.id: "active", theirs.id: "revoked"}


def test_create_prints_the_key_once_and_nothing_else_on_stdout(world: World, run: object) -> None:
    result: Result = run("create", "ci", "--role", "write", "--expires", "90d")  # type: ignore[operator]
    assert result.exit_code == 0, result.stderr
    assert KEY.fullmatch(result.stdout)
    key = read_key(result.stdout.strip())
    assert key is not None
    (stored,) = world.keys.list()
    assert fits(key, stored)
    assert (stored.name, stored.role) == ("ci", Role.WRITE)
    assert stored.expires_at is not None
    assert timedelta(days=89) < stored.expires_at - datetime.now(UTC) <= timedelta(days=90)
    assert key.secret not in result.stderr
    assert "not shown again" in result.stderr


def test_list_shows_whose_keys_there_are_and_no_secret(world: World, run: object) -> None:
    key = read_key(run("create", "ci", "--role", "read").stdout.strip())  # type: ignore[operator]
    assert key is not None
    run("create", "old", "--role", "admin")  # type: ignore[operator]
    assert run("revoke", "old").exit_code == 0  # type: ignore[operator]
    world.keys.used(key.id)
    listed = run("list").stdout  # type: ignore[operator]
    rows = {row["name"]: row for row in json.loads(listed)}
    assert {name: row["state"] for name, row in rows.items()} == {"ci": "active", "old": "revoked"}
    assert rows["ci"]["last used"]
    assert rows["old"]["revoked by"]
    assert key.secret not in listed
    assert "digest" not in listed
    table = run("list", "-o", "table").stdout.splitlines()  # type: ignore[operator]
    assert table[0].split()[:4] == ["ID", "NAME", "ROLE", "STATE"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["create", "ci", "--role", "god"], 2, "god"),
        (["create", "ci"], 2, "--role"),
        (["create", "", "--role", "read"], 2, "a name has up to 100"),
        (["create", "a\nb", "--role", "read"], 2, "a name has up to 100"),
        (["create", "new", "--role", "read", "--expires", "soon"], 2, "write 90d"),
        (["create", "new", "--role", "read", "--expires", "2020-01-01T00:00:00Z"], 2, "not in the future"),
        (["create", "taken", "--role", "read"], 5, "another key bears the name 'taken'"),
        (["revoke", "nobody"], 3, "gnomon keys list"),
    ],
)
def test_wrong_use_is_told_by_a_line_and_an_exit_code(
    world: World, run: object, arguments: list[str], code: int, message: str
) -> None:
    add(world, "taken")
    result: Result = run(*arguments)  # type: ignore[operator]
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""
    assert [key.name for key in world.keys.list()] == ["taken"]


def test_commands_say_what_to_do_where_there_are_no_tables(database_url: str, world: World, run: object) -> None:
    world.sql("drop table api_keys")
    world.sql("update alembic_version set version_num = '0001'")
    result: Result = run("list")  # type: ignore[operator]
    assert result.exit_code == 8
    assert "gnomon migrate" in result.stderr
