"""The log: one event is one line, whatever is in it."""

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from uuid import UUID

import pytest

from gnomon.monitoring.logs import JsonFormatter, configure_logging

HOSTILE = 'a\nb\r\x1b[31mred\x00\x7f\x85\u2028\u202e"\ud800'


@pytest.fixture(autouse=True)
def _undo() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, hooks = root.handlers[:], root.level, (sys.excepthook, threading.excepthook)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook, threading.excepthook = hooks
    logging.captureWarnings(False)


def configured(style: str, level: str = "INFO") -> io.StringIO:
    stream = io.StringIO()
    configure_logging(level=level, format=style, role="worker", stream=stream)
    return stream


def test_json_event_bears_time_in_utc_level_role_and_extra_fields() -> None:
    stream = configured("json")
    job = UUID(int=7)
    logging.getLogger("gnomon.worker").info("claimed %d", 3, extra={"job_id": job, "role": "forged"})
    event = json.loads(stream.getvalue())
    assert event.pop("time").endswith("Z")
    assert isinstance(event.pop("pid"), int)
    assert event == {
        "level": "INFO",
        "logger": "gnomon.worker",
        "message": "claimed 3",
        "role": "worker",
        "job_id": str(job),
    }


@pytest.mark.parametrize("style", ["json", "text"])
def test_event_is_one_line_of_printable_characters_whatever_it_says(style: str) -> None:
    stream = configured(style)
    try:
        int(HOSTILE)
    except ValueError:
        logging.getLogger("gnomon").exception("failed: %s", HOSTILE, extra={"execution_id": HOSTILE})
    line = stream.getvalue()
    assert line.endswith("\n")
    assert line[:-1].isprintable()


def test_json_gives_hostile_text_back_unchanged() -> None:
    stream = configured("json")
    logging.getLogger("gnomon").warning("%s", HOSTILE)
    assert json.loads(stream.getvalue())["message"] == HOSTILE


def test_exception_is_a_field() -> None:
    stream = configured("json")
    try:
        int("why")
    except ValueError:
        logging.getLogger("gnomon").exception("failed")
    assert json.loads(stream.getvalue())["exception"].endswith("'why'")


def test_text_shows_fields_behind_the_message() -> None:
    stream = configured("text")
    logging.getLogger("gnomon").warning("late", extra={"job_id": "j1"})
    assert stream.getvalue().endswith("] gnomon: late job_id=j1\n")


def test_auto_is_json_where_there_is_no_terminal() -> None:
    stream = configured("auto")
    logging.getLogger("gnomon").warning("late")
    assert json.loads(stream.getvalue())["message"] == "late"


def test_lower_levels_are_left_out() -> None:
    stream = configured("json", level="WARNING")
    logging.getLogger("gnomon").info("nobody asked")
    assert stream.getvalue() == ""


def test_second_configuration_replaces_the_first() -> None:
    first, second = configured("json"), configured("json")
    logging.getLogger("gnomon").warning("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("\n") == 1


def test_arguments_that_do_not_fit_their_text_lose_no_event() -> None:
    record = logging.LogRecord("gnomon", logging.WARNING, __file__, 1, "%d of %d", ("x",), None)
    assert json.loads(JsonFormatter("worker").format(record))["message"] == "%d of %d ('x',)"


def test_exception_that_ends_a_thread_is_an_event() -> None:
    stream = configured("json")
    thread = threading.Thread(target=lambda: [][0], name="renewal")
    thread.start()
    thread.join()
    event = json.loads(stream.getvalue())
    assert event["message"] == "uncaught exception: the thread renewal ends"
    assert "IndexError" in event["exception"]
