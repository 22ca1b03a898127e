"""The passwords and keys of the compose file: random, made once, readable only where they are needed."""

from pathlib import Path

import pytest

from gnomon.cli.sealing import add_pair
from gnomon.cli.secrets import write_secrets
from gnomon.job.api_key import read_key
from gnomon.job.errors import ConfigurationError
from gnomon.sealing.keys import PrivateKey, PublicKey

KEYS = {"admin_key", "metrics_key"}
PASSWORDS = {"postgres_password", "redis_password", "rabbitmq_password", "flower_password"}


@pytest.fixture
def workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers")


@pytest.fixture
def monitoring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("monitoring")


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_passwords_are_long_random_and_all_different(tmp_path: Path, workers: Path, monitoring: Path) -> None:
    assert set(write_secrets(tmp_path, workers, monitoring)) == PASSWORDS | KEYS | {"sealing_public_keys"}
    passwords = {contents(tmp_path)[name] for name in PASSWORDS}
    assert len(passwords) == 4
    assert min(map(len, passwords)) >= 40
    (tmp_path / "other").mkdir()
    write_secrets(tmp_path / "other", workers, monitoring)
    assert passwords.isdisjoint(contents(tmp_path / "other").values())


def test_existing_passwords_are_kept_and_missing_ones_added(tmp_path: Path, workers: Path, monitoring: Path) -> None:
    write_secrets(tmp_path, workers, monitoring)
    before = contents(tmp_path)
    assert write_secrets(tmp_path, workers, monitoring) == []
    assert contents(tmp_path) == before
    (tmp_path / "flower_password").unlink()
    (tmp_path / "redis_url").unlink()
    assert write_secrets(tmp_path, workers, monitoring) == ["flower_password"]
    after = contents(tmp_path)
    assert after["redis_url"] == before["redis_url"]
    assert after["flower_auth"] == f"gnomon:{after['flower_password']}" != before["flower_auth"]


def test_files_that_contain_a_password_contain_the_right_one(tmp_path: Path, workers: Path, monitoring: Path) -> None:
    write_secrets(tmp_path, workers, monitoring)
    files = contents(tmp_path)
    assert files["redis_url"] == f"redis://:{files['redis_password']}@redis:6379/0"
    assert files["valkey.conf"] == f"requirepass {files['redis_password']}\n"
    assert files["rabbitmq_url"] == f"amqp://gnomon:{files['rabbitmq_password']}@rabbitmq:5672//"
    assert f"default_pass = {files['rabbitmq_password']}\n" in files["rabbitmq.conf"]


def test_files_are_readable_by_owner_and_group_only(tmp_path: Path, workers: Path, monitoring: Path) -> None:
    write_secrets(tmp_path, workers, monitoring)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes.pop("sealing_public_keys") == 0o444
    assert set(modes.values()) == {0o440}
    assert {path.name: path.stat().st_mode & 0o777 for path in workers.iterdir()} == {"sealing_private_keys": 0o400}


def test_private_key_is_with_the_workers_and_fits_the_public_one(
    tmp_path: Path, workers: Path, monitoring: Path
) -> None:
    write_secrets(tmp_path, workers, monitoring)
    private = PrivateKey.parse(contents(workers)["sealing_private_keys"].strip())
    assert contents(tmp_path)["sealing_public_keys"] == f"{private.public}\n"
    assert not any("private" in text for text in contents(tmp_path).values())
    (tmp_path / "sealing_public_keys").unlink()
    assert write_secrets(tmp_path, workers, monitoring) == []
    assert contents(tmp_path)["sealing_public_keys"] == f"{private.public}\n"


def test_new_pair_comes_first_and_the_old_one_stays(tmp_path: Path, workers: Path, monitoring: Path) -> None:
    private, public = workers / "sealing_private_keys", tmp_path / "sealing_public_keys"
    old, new = add_pair(private, public), add_pair(private, public)
    assert [PrivateKey.parse(line).public.id for line in private.read_text().split()] == [new, old]
    assert [PublicKey.parse(line).id for line in public.read_text().split()] == [new, old]


def test_folder_that_can_not_be_written_is_named() -> None:
    with pytest.raises(ConfigurationError, match="secrets can't be written to /proc/nowhere"):
        write_secrets(Path("/proc/nowhere"), Path("/proc/nowhere"), Path("/proc/nowhere"))


def test_keys_are_keys_and_that_for_metrics_is_elsewhere(tmp_path: Path, workers: Path, monitoring: Path) -> None:
    write_secrets(tmp_path, workers, monitoring)
    assert contents(monitoring).keys() == {"metrics_key"}
    assert "metrics_key" not in contents(tmp_path)
    texts = [contents(tmp_path)["admin_key"], contents(monitoring)["metrics_key"]]
    assert len({key.id for text in texts if (key := read_key(text))}) == 2
