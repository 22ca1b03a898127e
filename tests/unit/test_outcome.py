"""Outcomes hold only what the database and the logs can hold."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.job.outcome import Failed, Sent, Succeeded, clean_text


@pytest.mark.parametrize(
    ("value", "limit", "clean"),
    [
        ("plain", 10, "plain"),
        ("12345", 5, "12345"),  # exactly the limit: nothing is cut
        ("123456", 5, "1234…"),  # 4 characters and the ellipsis make 5
        (b"gr\xc3\xbc\xc3\x9fe", 10, "grüße"),
        (b"\xff\xfe", 10, "\ufffd\ufffd"),
        (b"\xc3\xbc" * 6, 5, "üüüü…"),  # the limit counts characters, not bytes
        ("\U0001f600".encode() * 5, 5, "\U0001f600" * 5),  # 20 bytes, 5 characters
        ("a\x00b", 10, "a\ufffdb"),
        ("a\ud800b", 10, "a\ufffdb"),
        ("line\nand\ttab", 20, "line\nand\ttab"),
        ("dos\r\nline", 20, "dos\nline"),
        ("\r\n" * 6, 5, "\n\n\n\n…"),
        ("\r\n" * 5, 5, "\n" * 5),
        ("\x1b[31mred\x07\x7f\x9b", 20, "\ufffd[31mred\ufffd\ufffd\ufffd"),
        ("forged\rline", 20, "forged\ufffdline"),
        ("", 5, ""),
        ("ab", 1, "…"),
    ],
)
def test_text_is_cleaned_and_capped(value: str | bytes, limit: int, clean: str) -> None:
    assert clean_text(value, limit) == clean


@settings(deadline=None)
@given(st.binary(max_size=300) | st.text(st.characters(), max_size=200), st.integers(1, 100))
def test_clean_text_is_short_encodable_and_stays_as_it_is_when_cleaned_again(value: str | bytes, limit: int) -> None:
    text = clean_text(value, limit)
    assert len(text) <= limit
    assert "\x00" not in text.encode("utf-8").decode("utf-8")
    assert all(character in "\n\t" or character.isprintable() or ord(character) > 0x9F for character in text)
    assert clean_text(text, limit) == text


def test_failure_cleans_and_caps_its_texts() -> None:
    failure = Failed(
        code="status",
        message="m\x00" * 1000,
        sent=Sent.ANSWERED,
        permanent=True,
        response_status=404,
        response_excerpt="e" * 5000,
        retry_after=timedelta(seconds=3),
    )
    assert len(failure.message) == 500
    assert "\x00" not in failure.message
    assert failure.response_excerpt is not None
    assert len(failure.response_excerpt) == 4096


def test_success_cleans_its_excerpt_and_may_have_none() -> None:
    assert Succeeded(200, "ok\x00").response_excerpt == "ok\ufffd"
    assert Succeeded(204, None) == Succeeded(response_status=204)
