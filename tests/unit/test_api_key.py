"""API keys: what they look like, and what is kept of them."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from gnomon.job.api_key import ApiKey, Key, fits, make_key, masked, read_key, to_store
from gnomon.job.principal import Role

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def stored(key: Key, *, role: Role = Role.READ, expires_at: datetime | None = None) -> ApiKey:
    new = to_store(key, name="one", role=role, expires_at=expires_at, created_by="me")
    return ApiKey(**vars(new), created_at=NOW, revoked_at=None, revoked_by=None, last_used_at=None, expired=False)


def test_key_is_recognised_by_its_form_and_reads_back() -> None:
    key = make_key()
    assert re.fullmatch("gnm_[0-9a-z]{10}_[0-9A-Za-z]{49}", key.text)
    assert read_key(key.text) == key


def test_keys_differ_in_id_and_secret() -> None:
    keys = [make_key() for _ in range(200)]
    assert len({key.id for key in keys}) == len({key.secret for key in keys}) == 200


@pytest.mark.parametrize("place", [4, 12, 15, 30, 57, 58, 63])
def test_key_with_one_wrong_character_is_none(place: int) -> None:
    text = make_key().text
    other = "0" if text[place] != "0" else "1"
    assert read_key(text[:place] + other + text[place + 1 :]) is None


@pytest.mark.parametrize(
    "mangle", [str.upper, str.strip, lambda text: text[:-1], lambda text: f"{text}x", lambda _: ""]
)
def test_key_that_is_cut_or_lengthened_is_none(mangle: object) -> None:
    text = make_key().text
    mangled = mangle(text)  # type: ignore[operator]
    assert (read_key(mangled) is None) is (mangled != text)


def test_only_the_key_itself_fits_what_was_stored() -> None:
    key = make_key()
    assert fits(key, stored(key))
    assert not fits(Key(key.id, make_key().secret), stored(key))


def test_row_whose_role_or_expiry_was_altered_fits_no_key() -> None:
    key = make_key()
    row = stored(key, expires_at=NOW)
    assert fits(key, row)
    assert not fits(key, replace(row, role=Role.ADMIN))
    assert not fits(key, replace(row, expires_at=NOW + timedelta(days=1)))
    assert not fits(key, replace(row, expires_at=None))


def test_expiry_is_at_a_whole_second_so_that_it_fits_after_the_database() -> None:
    key = make_key()
    row = stored(key, expires_at=NOW + timedelta(microseconds=123_456))
    assert row.expires_at == NOW
    assert fits(key, row)


def test_comparison_is_the_one_that_takes_the_same_time_whatever_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("gnomon.job.api_key.hmac.compare_digest", compare)
    key = make_key()
    assert fits(key, stored(key))
    assert not fits(make_key(), stored(key))
    assert [len(one) == len(other) == 64 for one, other in compared] == [True, True]


def test_secret_is_not_in_what_python_shows_of_a_key() -> None:
    key = make_key()
    shown = f"{key!r} {key} {stored(key)!r} {[key]}"
    assert key.secret not in shown
    assert stored(key).digest not in shown


def test_secret_is_left_out_of_texts_that_hold_a_key_or_a_part_of_one() -> None:
    key = make_key()
    assert masked(f"got {key.text}, twice {key.text}") == f"got gnm_{key.id}_***, twice gnm_{key.id}_***"
    assert masked(f"GET /jobs/{key.text[:30]}") == f"GET /jobs/gnm_{key.id}_***"
    assert masked("gnm_ is not one") == "gnm_ is not one"


def test_each_role_includes_those_before_it() -> None:
    included = {role: [other.value for other in Role if role.includes(other)] for role in Role}
    assert included == {
        Role.METRICS: ["metrics"],
        Role.READ: ["metrics", "read"],
        Role.WRITE: ["metrics", "read", "write"],
        Role.ADMIN: ["metrics", "read", "write", "admin"],
    }
