"""The log: one event, one line, on standard error; as a JSON object for machines or as text for people.

Whatever ends up in a message, no control character reaches the terminal or starts a line of its own, and no API key is
written, only its id.
"""

import json
import logging
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import TextIO

from gnomon.job.api_key import masked

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_CHATTY = ("alembic.runtime.plugins",)  # seven lines at each start that tell nothing
_log = logging.getLogger(__name__)


def configure_logging(*, level: str, format: str, role: str, stream: TextIO | None = None) -> None:  # noqa: A002
    """Sends everything of `level` and above to `stream` (standard error). A second call replaces the first.

    `format` is json, text, or auto: text on a terminal. `role` names the process in every line. Uncaught exceptions of
    any thread, and Python's warnings, become events too.
    """
    handler = _Handler(stream or sys.stderr)
    as_text = format == "text" or (format == "auto" and handler.stream.isatty())
    handler.setFormatter(TextFormatter(role) if as_text else JsonFormatter(role))
    root = logging.getLogger()
    for previous in [other for other in root.handlers if isinstance(other, _Handler)]:
        root.removeHandler(previous)
    root.addHandler(handler)
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, to be told from handlers that somebody else added."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in ASCII: every control character is escaped, also those that split lines in viewers."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role
        self._encode = json.JSONEncoder(default=str).encode

    def format(self, record: logging.LogRecord) -> str:
        """`time` is RFC 3339 in UTC; what was passed as `extra` are further fields; an exception is `exception`."""
        return masked(self._encode(self._event(record)))

    def _event(self, record: logging.LogRecord) -> Mapping[str, object]:
        return {
            **_extra(record),
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
            "role": self._role,
            "pid": record.process,
            **_exception(self, record),
        }


class TextFormatter(logging.Formatter):
    """`time LEVEL role[pid] logger: message key=value …`, control characters written as escapes."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """One line; an exception ends it as `exception=…`."""
        fields = "".join(f" {key}={value}" for key, value in (_extra(record) | _exception(self, record)).items())
        origin = f"{_time(record)} {record.levelname:<7} {self._role}[{record.process}] {record.name}"
        return masked(_escaped(f"{origin}: {_message(record)}{fields}"))


def _escaped(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # arguments that don't fit the text: an event is worth more than its form
        return f"{record.msg} {record.args!r}"


def _exception(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, object]:
    if record.exc_info and record.exc_info[0]:
        return {"exception": formatter.formatException(record.exc_info)}
    return {}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
    else:
        _log.critical("uncaught exception: this process ends", exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
        thread = args.thread.name if args.thread else "?"
        exc_info = (args.exc_type, args.exc_value, args.exc_traceback)
        _log.critical("uncaught exception: the thread %s ends", thread, exc_info=exc_info)
