import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon.api.strict_json import MAX_DEPTH, MAX_INTEGER, MalformedJson, parse, unfit

STORABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    lambda below: st.lists(below) | st.dictionaries(st.text('ab~/[{\\"é', max_size=5), below),
    max_leaves=20,
)


@given(STORABLE)
def test_what_can_be_stored_is_read_as_it_was_written(value: Any) -> None:
    body = json.dumps(value).encode()
    assert parse(body) == value
    assert not [*unfit(body, value)]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "Expecting value at line 1, column 1"),
        (b'{"a": 1,\n "b": }', "Expecting value at line 2, column 7"),
        (b'{"a": 1} x', "Extra data at line 1, column 10"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' appears twice in one object"),
        (b'{"a": "\xff"}', "byte 8 is not UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "Unexpected UTF-8 BOM"),
        (b"[" * 100_000, "nested deeper than 32 levels"),
        (b'{"a":' * 33 + b"1" + b"}" * 33, "nested deeper than 32 levels"),
        (b'{"a": 01}', "line 1, column 8"),
        (b"{'a': 1}", "line 1, column 2"),
    ],
)
def test_what_is_not_json_is_refused_with_the_place(body: bytes, reason: str) -> None:
    with pytest.raises(MalformedJson) as refused:
        parse(body)
    assert reason in str(refused.value)


def test_brackets_in_strings_do_not_count_as_depth() -> None:
    assert parse(b'["' + b"[{" * 1000 + rb"\"[" + b'"]') == ["[{" * 1000 + '"[']
    assert parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)


@pytest.mark.parametrize(
    ("body", "pointer", "reason"),
    [
        (rb'{"a": {"b": ["x", "\u0000"]}}', "/a/b/1", "NUL"),
        (rb'{"a": {"\u0000": 1}}', "/a/\x00", "NUL"),
        (rb'{"a": "\ud800"}', "/a", "surrogate"),
        (rb'{"a": {"b/c~\udfff": 1}}', "/a/b~1c~0\ufffd", "surrogate"),
        (b'{"a": ' + b"9" * 5000 + b"}", "/a", "must lie between"),
        (b'{"a": [-9007199254740992]}', "/a/0", "must lie between"),
        (b'{"a": 1e999}', "/a", "larger than any number"),
    ],
)
def test_what_no_store_can_hold_is_found_with_its_pointer(body: bytes, pointer: str, reason: str) -> None:
    (error,) = unfit(body, parse(body))
    assert error.pointer == pointer
    assert reason in error.detail


def test_a_whole_surrogate_pair_is_one_character() -> None:
    body = rb'"\ud83d\ude00"'
    assert parse(body) == "\U0001f600"
    assert not [*unfit(body, parse(body))]
