"""All jobs out as lines of JSON, and in again: in memory there are never more than a few hundred."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from itertools import chain
from typing import Any

from flask import Response, request, stream_with_context
from marshmallow import ValidationError

from gnomon.api.answers import Answer, export_answer
from gnomon.api.context import context
from gnomon.api.definitions import as_written
from gnomon.api.filters import chosen_jobs
from gnomon.api.lines import NDJSON, BrokenOff, TooLong, lines_of
from gnomon.api.problems import Refused
from gnomon.api.routes import Routes, read_object
from gnomon.api.schemas.explain import explain
from gnomon.api.schemas.jobs import READ_ONLY, JobFilters, canonical
from gnomon.api.schemas.transfer import ImportedJob, ImportQuery, ImportResult
from gnomon.api.strict_json import MalformedJson
from gnomon.job.errors import FieldError, GnomonError, InvalidJob, Unavailable
from gnomon.job.imports import STANDING
from gnomon.job.model import Job
from gnomon.job.ports import ImportStep, JobQuery

PAGE = 200
BATCH = 100  # lines in a transaction; jobs that are replaced wait for its end
MAX_LINES = 1_000_000
MAX_TOLD = 100
LINE = ImportedJob()
LINES = {NDJSON: {"schema": {"description": "a JSON object in each line"}}}

routes = Routes("transfer", __name__, description="All jobs out, and in again")


@routes.route("/jobs/export", methods=["GET"])
@routes.arguments(JobFilters, location="query")
@routes.response(200, {"type": "string", "description": "a JSON object in each line"}, content_type=NDJSON)
def export_jobs(query: Mapping[str, Any]) -> Response:
    """Export jobs, one in each line, the newest first.

    Secrets read "***". An answer that does not end as it should is not all of it. Jobs that are created meanwhile are
    left out.
    """
    pages = _pages(chosen_jobs(query))
    first = next(pages)  # so that what can't be had at all is an error, and no answer that breaks off
    return Response(stream_with_context(_written(chain([first], pages))), mimetype=NDJSON)


@routes.route("/jobs/import", methods=["POST"])
@routes.arguments(ImportQuery, location="query")
@routes.doc(requestBody={"required": True, "content": LINES})
@routes.response(200, ImportResult)
def import_jobs(query: Mapping[str, Any]) -> Answer:
    """Import jobs, one from each line, as an export wrote them.

    The job that bears the line's name, or else its id, is replaced by it; otherwise one is created. Sent again, the
    same lines change nothing but secrets. Each hundred lines are one transaction, and a line that is refused is left
    out of it. Where the body breaks off, or the database goes away, what was read before is imported, and the error
    says how much that is. A line has up to 256 KiB, and a body a million lines.
    """
    result = Result(dry_run=query["dry_run"])
    try:
        for batch in _batches():
            result.add(batch)
    except BrokenOff as error:
        status = HTTPStatus.REQUEST_TIMEOUT if error.late else HTTPStatus.BAD_REQUEST
        raise Refused(status, result.told("the body broke off")) from error
    except TooLong as error:
        raise Refused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, result.told("the next line, or the body, is too long")
        ) from error
    except Unavailable as error:
        retry = {"Retry-After": str(error.retry_after_seconds)}
        raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, result.told("the database does not answer now"), retry) from error
    return result.answer()


class Result:
    """What became of the lines so far."""

    def __init__(self, *, dry_run: bool) -> None:
        self._dry_run = dry_run
        self._outcomes: Counter[str] = Counter()
        self._errors: list[Answer] = []
        self._last_line = 0

    def add(self, lines: Sequence[tuple[int, bytes]]) -> None:
        """Carries out a batch of numbered lines. Raises Unavailable."""
        steps: list[tuple[int, ImportStep, Mapping[str, str]]] = []
        refused: list[tuple[int, GnomonError]] = []
        for number, line in lines:
            try:
                steps.append((number, *_step(line)))
            except InvalidJob as error:
                refused.append((number, error))
        done = context().imports.put([step for _, step, _ in steps], dry_run=self._dry_run)
        for (number, _, used), imported in zip(steps, done, strict=True):
            if imported.error is None:
                self._outcomes[imported.outcome] += 1
            else:
                refused.append((number, _told(imported.error, used)))
        self._outcomes["refused"] += len(refused)
        for number, refusal in sorted(refused, key=lambda one: one[0]):
            self._errors += [_broken_line(number, broken) for broken in _field_errors(refusal)]
        self._last_line = lines[-1][0]

    def told(self, what: str) -> str:
        """In an error."""
        done = ", ".join(f"{count} {name}" for name, count in sorted(self._outcomes.items()) if count) or "nothing"
        return f"{what}; done up to line {self._last_line}: {done}. What is sent again changes nothing that is done"

    def answer(self) -> Answer:
        """At the end."""
        counts = {name: self._outcomes[name] for name in ("created", "replaced", "unchanged", "refused")}
        errors = self._errors[:MAX_TOLD]
        return {"dry_run": self._dry_run, "lines": sum(counts.values()), **counts, "errors": errors}


def _pages(query: JobQuery) -> Iterator[Sequence[Job]]:
    while True:
        page = context().service.list(query)
        yield page.items
        if page.cursor is None:
            return
        query = replace(query, cursor=page.cursor)


def _written(pages: Iterator[Sequence[Job]]) -> Iterator[str]:
    for page in pages:
        yield "".join(json.dumps(export_answer(job), ensure_ascii=False) + "\n" for job in page)


def _batches() -> Iterator[Sequence[tuple[int, bytes]]]:
    """The lines that hold something, with their numbers. What came before the body broke off is yielded first."""
    lines, batch = _numbered(), list[tuple[int, bytes]]()
    try:
        for line in lines:
            batch.append(line)
            if len(batch) == BATCH:
                yield batch
                batch = []
    except (BrokenOff, TooLong):
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _numbered() -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(lines_of(request), 1):
        if number > MAX_LINES:
            raise TooLong
        if line.strip():
            yield number, line


def _step(line: bytes) -> tuple[ImportStep, Mapping[str, str]]:
    schema = LINE
    try:
        document = schema.load(read_object(line))
    except MalformedJson as error:
        raise InvalidJob.at("", f"is not valid JSON: {error}") from error
    except ValidationError as error:
        raise InvalidJob(explain(error.messages, schema)) from error
    given, used = canonical(
        {name: value for name, value in document.items() if name in STANDING or name not in READ_ONLY}
    )
    try:
        return context().imports.step(given), used
    except InvalidJob as error:
        raise as_written(error, used) from error


def _told(error: GnomonError, used: Mapping[str, str]) -> GnomonError:
    return as_written(error, used) if isinstance(error, InvalidJob) else error


def _field_errors(error: GnomonError) -> Sequence[FieldError]:
    return error.errors if isinstance(error, InvalidJob) else [FieldError(pointer="", detail=str(error))]


def _broken_line(number: int, error: FieldError) -> Answer:
    hint = {"hint": error.hint} if error.hint else {}
    return {"line": number, "pointer": error.pointer, "detail": error.detail, **hint}
