"""Which messages are ours. Anybody on the broker can forge one; all it may do is name executions.

Celery's own reading is generous: a message may set timers, limits and follow-up tasks, name any task of the process,
and a body of an unexpected shape ends the worker.
"""

import logging
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from kombu.message import Message

from gnomon.queue.celery.app import TASK_NAME

log = logging.getLogger(__name__)

MAX_IDS = 1_000  # ten times what a message of ours holds
MAX_BYTES = 64 * MAX_IDS  # an id in quotes takes 40
_SHOWN = 200  # characters of a text that monitors show


def refusal(message: Message) -> str | None:
    """Why a message is none of ours; None when it is, and then only the headers that Celery needs are left on it."""
    headers = message.headers
    if not isinstance(headers, dict) or headers.get("task") != TASK_NAME:
        name = headers.get("task") if isinstance(headers, dict) else None
        return f"it is for the task {name!r:.100}"
    if not isinstance(headers.get("id"), str) or len(headers["id"]) > _SHOWN:
        return "its id is no short text"
    if message.content_type != "application/json" or message.content_encoding != "utf-8":
        return f"its content is {message.content_type!r:.100}, {message.content_encoding!r:.100}"
    if fault := _fault_of_body(message):
        return fault
    message.headers = _needed(headers)
    return None


def read_ids(texts: list[Any]) -> list[UUID]:
    """The ids of a message, each once, in order. What is no id is left out, with one line in the log."""
    read, strange = [], []
    for text in texts:
        try:
            read.append(UUID(text))
        except (ValueError, AttributeError, TypeError):
            strange.append(text)
    if strange:
        log.warning("%s ids of a message name no execution, such as %.100r: left out", len(strange), strange[0])
    return list(dict.fromkeys(read))


def _fault_of_body(message: Message) -> str | None:
    if not isinstance(message.body, str | bytes) or len(message.body) > MAX_BYTES:
        return f"its body is no text of at most {MAX_BYTES} bytes"
    try:
        payload = message.payload
    except Exception as error:  # whatever a decoder meets
        return f"its body is no JSON ({type(error).__name__})"
    match payload:
        case [[], {"ids": list(ids), **others}, dict(embedded)] if not others and not any(embedded.values()):
            return None if len(ids) <= MAX_IDS else f"it names {len(ids)} ids, {MAX_IDS} are allowed"
    return "its body is not of the form [[], {'ids': […]}, {}]"


def _needed(headers: Mapping[str, Any]) -> dict[str, Any]:
    """No ETA, no expiry, no limits, no stamps: what is not named here has no effect."""
    texts = {name: str(headers.get(name) or "")[:_SHOWN] for name in ("argsrepr", "kwargsrepr", "origin")}
    return {"lang": "py", "task": TASK_NAME, "id": headers["id"], "root_id": headers["id"], **texts}
