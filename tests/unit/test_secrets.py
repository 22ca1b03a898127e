"""The passwords of the compose file: random, made once, readable only where they are needed."""

from pathlib import Path

import pytest

from gnomon.cli.secrets import write_secrets
from gnomon.job.errors import ConfigurationError

PASSWORDS = {"postgres_password", "redis_password", "rabbitmq_password", "flower_password"}


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_passwords_are_long_random_and_all_different(tmp_path: Path) -> None:
    assert set(write_secrets(tmp_path)) == PASSWORDS
    passwords = {contents(tmp_path)[name] for name in PASSWORDS}
    assert len(passwords) == 4
    assert min(map(len, passwords)) >= 40
    (tmp_path / "other").mkdir()
    write_secrets(tmp_path / "other")
    assert passwords.isdisjoint(contents(tmp_path / "other").values())


def test_existing_passwords_are_kept_and_missing_ones_added(tmp_path: Path) -> None:
    write_secrets(tmp_path)
    before = contents(tmp_path)
    assert write_secrets(tmp_path) == []
    assert contents(tmp_path) == before
    (tmp_path / "flower_password").unlink()
    (tmp_path / "redis_url").unlink()
    assert write_secrets(tmp_path) == ["flower_password"]
    after = contents(tmp_path)
    assert after["redis_url"] == before["redis_url"]
    assert after["flower_auth"] == f"gnomon:{after['flower_password']}" != before["flower_auth"]


def test_files_that_contain_a_password_contain_the_right_one(tmp_path: Path) -> None:
    write_secrets(tmp_path)
    files = contents(tmp_path)
    assert files["redis_url"] == f"redis://:{files['redis_password']}@redis:6379/0"
    assert files["valkey.conf"] == f"requirepass {files['redis_password']}\n"
    assert files["rabbitmq_url"] == f"amqp://gnomon:{files['rabbitmq_password']}@rabbitmq:5672//"
    assert f"default_pass = {files['rabbitmq_password']}\n" in files["rabbitmq.conf"]


def test_files_are_readable_by_owner_and_group_only(tmp_path: Path) -> None:
    write_secrets(tmp_path)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o440}


def test_folder_that_can_not_be_written_is_named() -> None:
    with pytest.raises(ConfigurationError, match="secrets can't be written to /proc/nowhere"):
        write_secrets(Path("/proc/nowhere"))
