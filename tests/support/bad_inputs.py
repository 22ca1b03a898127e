"""The corpus of bad inputs: how its entries are read, sent and judged. What they mean stands at its top."""

import gzip
import json
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CORPUS = Path(__file__).parents[1] / "corpus" / "bad_inputs.yaml"
JSON = {"Content-Type": "application/json"}
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
EXISTING = "existing"
JOB = {"type": "HTTP", "cron_schedule": "@hourly", "http_job": {"url": "https://target.example/"}}
MESSAGE = {"type": "AMQP", "cron_schedule": "@hourly", "amqp_job": {"connection": "amqps://broker.example/"}}

_REPEATED = re.compile(r"«(\d+)×(.*?)»", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What a client is told. `pointers` are those of the errors; no `status`: the connection ended without a word."""

    status: int | None
    kind: str | None = None
    pointers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BadInput:
    """One entry: the bytes of the request, and the refusal they get."""

    name: str
    sent: bytes
    refusal: Refusal


def corpus() -> Iterator[BadInput]:
    """All of it, in its order."""
    for group in yaml.safe_load(CORPUS.read_text()):
        for entry in group["inputs"]:
            known = {**group, **entry}
            yield BadInput(name=f"{group['group']}: {entry['name']}", sent=_request(entry), refusal=_refusal(known))


def answer_to(sent: bytes, port: int) -> bytes:
    """All that the server says to these bytes, after which there is nothing more to come."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        with suppress(OSError):  # it may refuse, and close, before it has been told everything
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            while block := client.recv(2**16):
                received += block
    return received


def refusal_in(answer: bytes) -> Refusal:
    """What the answer says, which is one whole problem and nothing else."""
    if not answer:
        return Refusal(status=None)
    head, _, body = answer.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status = int(status_line.split(" ")[1])
    assert headers["content-type"] == "application/problem+json", answer[:500]
    assert len(body) == int(headers["content-length"]), "more than one answer, or half of one"
    problem = json.loads(body)
    assert problem["status"] == status
    assert problem["request_id"] == headers["x-request-id"]
    assert len(body) < 20_000, "an answer as long as the question"
    prefix, _, kind = problem["type"].rpartition(":")
    assert prefix == "urn:gnomon:problem"
    return Refusal(status=status, kind=kind, pointers=tuple(error["pointer"] for error in problem["errors"]))


def _refusal(known: Mapping[str, Any]) -> Refusal:
    if known.get("closed"):
        return Refusal(status=None)
    expected = known.get("pointers", ())
    return Refusal(status=known["status"], kind=known["type"], pointers=tuple(map(_expanded, expected)))


def _request(entry: Mapping[str, Any]) -> bytes:
    if "raw" in entry:
        return _bytes(entry["raw"])
    body = _body(entry)
    line = entry.get("request", f"PATCH /v1/jobs/name:{EXISTING}" if "patch" in entry else "POST /v1/jobs")
    said = entry.get("headers", {} if body is None else MERGE_PATCH if "patch" in entry else JSON)
    headers = {"Host": "127.0.0.1", **said, **({} if body is None else {"Content-Length": str(len(body))})}
    lines = [f"{line} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return _bytes("\r\n".join(lines)) + (body or b"")


def _body(entry: Mapping[str, Any]) -> bytes | None:
    if "gzip" in entry:
        return gzip.compress(b" " * int(entry["gzip"]))
    if any(part in entry for part in ("job", "http", "amqp")):
        base = MESSAGE if "amqp" in entry else JOB
        job = {name: value for name, value in base.items() if name not in entry.get("without", ())}
        for part in ("http", "amqp"):
            if part in entry:
                job[f"{part}_job"] = {**base[f"{part}_job"], **entry[part]}  # type: ignore[dict-item]
        return json.dumps(_expanded_in({**job, **entry.get("job", {})})).encode()
    text = entry.get("body", entry.get("patch"))
    if text is None:
        return None
    return _expanded(text).encode() if entry.get("utf8") else _bytes(text)


def _bytes(text: str) -> bytes:
    return _expanded(text).encode("latin-1")


def _expanded(text: str) -> str:
    return _REPEATED.sub(_repeated, text)


def _repeated(match: re.Match[str]) -> str:
    count, text = int(match[1]), match[2]
    return "".join(text.replace("#", str(number)) for number in range(count)) if "#" in text else text * count


def _expanded_in(value: Any) -> Any:
    match value:
        case str():
            return _expanded(value)
        case list():
            return [_expanded_in(item) for item in value]
        case dict():
            return {_expanded(name): _expanded_in(item) for name, item in value.items()}
        case _:
            return value
