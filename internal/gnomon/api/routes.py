"""flask-smorest's blueprint for what it documents. Strict bodies and queries, answers and types are ours."""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import wraps
from http import HTTPStatus
from itertools import islice
from json import JSONEncoder
from typing import Any, ParamSpec, TypeVar, cast
from urllib.parse import unquote_to_bytes

import flask_smorest
from flask import Request, Response
from flask.json.provider import DefaultJSONProvider
from flask_smorest.utils import resolve_schema_instance, unpack_tuple_response
from gunicorn.http.errors import ParseException
from marshmallow import Schema, ValidationError
from werkzeug.datastructures import Headers
from werkzeug.routing import BaseConverter

from gnomon.api.access import Needed, Open, needs
from gnomon.api.asked import asked
from gnomon.api.openapi import OPEN, OWN
from gnomon.api.problems import DETAILS, Refused
from gnomon.api.schemas.explain import MAX_ERRORS, explain
from gnomon.api.schemas.fields import UNKNOWN, Input
from gnomon.api.schemas.jobs import doubled_aliases
from gnomon.api.schemas.problems import Problem
from gnomon.api.strict_json import MalformedJson, escape, parse, unfit
from gnomon.job.errors import FieldError, InvalidJob
from gnomon.job.principal import Role

View = TypeVar("View", bound=Callable[..., Any])
Params = ParamSpec("Params")
Result = TypeVar("Result")

READS_QUERY = "reads_query"
DOCUMENTED = "_apidoc"  # where flask-smorest looks for it
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
ACCEPTED = {"POST": (JSON,), "PUT": (JSON,), "PATCH": (MERGE_PATCH, JSON)}
ENCODER = JSONEncoder(default=DefaultJSONProvider.default, separators=(",", ":"))


class JsonAnswer(Response):
    """A JSON document as an answer that has a body."""

    def __init__(self, document: Any, status: int, headers: Iterable[tuple[str, str]] = ()) -> None:
        body = f"{ENCODER.encode(document)}\n".encode()
        about = Headers()
        about.add("Content-Type", JSON)
        about.add("Content-Length", str(len(body)))
        for name, value in headers:
            about.add(name, value)
        super().__init__([body], status, about)

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        """Without what werkzeug looks for in a copy of the headers, and knows to be there or not to be."""
        start_response(self.status, self.headers.to_wsgi_list())
        return () if environ["REQUEST_METHOD"] == "HEAD" else cast(list[bytes], self.response)


class IdConverter(BaseConverter):
    """What names a resource in a path, and none of the verbs beside it, which would be found with other methods."""

    regex = r"(?!(?:bulk|export|import|retry)$)[^/]+"
    part_isolating = True


class Routes(flask_smorest.Blueprint):  # type: ignore[misc]
    """A blueprint whose decorators keep the types of what they decorate."""

    def route(self, rule: str, *, role: Needed | None = None, **options: Any) -> Callable[[View], View]:
        """Serves the view at the rule to whoever has the role: read for GET, else write.

        It is documented as the operation of the view's name. One that reads no query is asked without.
        """
        needed = role or (Role.READ if set(options.get("methods", ["GET"])) == {"GET"} else Role.WRITE)
        taken = options.pop("parameters", ())
        in_path = [parameter for parameter in taken if parameter["in"] == "path"]
        register: Callable[[View], View] = super().route(rule, parameters=in_path, **options)
        # those of the path would be documented for its other methods too
        marks = {OWN: [parameter for parameter in taken if parameter["in"] != "path"], OPEN: needed is Open.TO_ALL}

        def serve(view: View) -> View:
            served = view if hasattr(view, READS_QUERY) else _without_query(view)
            return register(self.doc(operationId=view.__name__, **marks)(needs(needed)(served)))

        return serve

    def arguments(
        self, schema: type[Input], **options: Any
    ) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
        """Hands the body (or the query, with location="query") to the view as its first argument."""
        taken = schema()
        document = super().arguments(taken, **options)
        of_query = options.get("location") == "query"
        read = _query_reader(taken) if of_query else _body_reader(taken)

        def decorate(view: Callable[..., Result]) -> Callable[..., Result]:
            @wraps(view)
            def ask(*positional: Any, **named: Any) -> Result:
                return view(*positional, _loaded(taken, read()), **named)

            if of_query:
                setattr(ask, READS_QUERY, True)  # functools.wraps hands it on to what is wrapped around it
            return _documented(ask, document)

        return decorate

    def response(
        self, status: int, schema: Any = None, **options: Any
    ) -> Callable[[Callable[Params, Any]], Callable[Params, Response]]:
        """Writes what the view returns in the shape of the schema."""
        written = resolve_schema_instance(schema)
        document = super().response(status, written, **options)

        def decorate(view: Callable[Params, Any]) -> Callable[Params, Response]:
            @wraps(view)
            def answer(*positional: Params.args, **named: Params.kwargs) -> Response:
                return _answer(view(*positional, **named), status, written)

            return _documented(answer, document)

        return decorate

    def alt_response(self, status: int, schema: Any, *, description: str) -> Callable[[View], View]:
        """Documents another answer, which the view writes itself."""
        document = super().alt_response(status, schema=schema, description=description)
        return lambda view: _documented(view, document)

    @staticmethod
    def doc(**attributes: Any) -> Callable[[View], View]:
        """Adds to what is documented."""
        document = flask_smorest.Blueprint.doc(**attributes)
        return lambda view: _documented(view, document)


class Document(flask_smorest.Api):  # type: ignore[misc]
    """The OpenAPI document as far as routes tell it. Errors are problems.py's, and openapi.py says which."""

    DEFAULT_ERROR_RESPONSE_NAME = None

    def _register_error_handlers(self) -> None:
        """None: see problems.py."""

    def _register_pagination_header(self) -> None:
        """None: pages are linked."""

    def _register_responses(self) -> None:
        """The schema of all errors, and the one that flask-smorest refers to."""
        self.spec.components.schema("Problem", schema=Problem)
        self.spec.components.response(HTTPStatus(422).name, {}, lazy=True)


def _documented(view: View, decorate: Callable[[View], View]) -> View:
    """What a decorator of flask-smorest writes beside a view, without the calls that it puts around it."""
    vars(view)[DOCUMENTED] = vars(decorate(view))[DOCUMENTED]
    return view


def _answer(returned: Any, status: int, schema: Schema | None) -> Response:
    body, other_status, headers = unpack_tuple_response(returned)
    if isinstance(body, Response):
        return body
    return JsonAnswer(schema.dump(body) if schema else body, other_status or status, (headers or {}).items())


def _loaded(schema: Input, given: Mapping[str, Any]) -> Any:
    """Raises what marshmallow finds as InvalidJob."""
    try:
        return schema.load(given)
    except ValidationError as error:
        raise InvalidJob(explain(error.messages, schema)) from error


def _body_reader(schema: Input) -> Callable[[], Mapping[str, Any]]:
    """The body, an object that can be stored. Raises Refused and InvalidJob."""
    if schema.body_is_optional:
        return lambda: read_body(asked()) if _has_body(asked()) else {}
    return lambda: read_body(asked())


def _query_reader(schema: Input) -> Callable[[], Mapping[str, Any]]:
    """The query, each parameter given once but those that are lists. Raises InvalidJob."""
    repeatable = {name for name, field in schema.fields.items() if hasattr(field, "inner")}
    return lambda: _read_query(asked(), repeatable)


def _without_query(view: View) -> View:
    @wraps(view)
    def ask(*positional: Any, **named: Any) -> Any:
        unknown = [
            FieldError(pointer=f"/{escape(name)}", detail=UNKNOWN, hint="nothing can be asked for here: leave it out")
            for name in _read_query(asked(), ())
        ]
        if unknown:
            raise InvalidJob(unknown[:MAX_ERRORS])
        return view(*positional, **named)

    return cast(View, ask)


def read_body(request: Request) -> Mapping[str, Any]:
    """The JSON object in the body. Raises Refused (400, 413, 415) and InvalidJob."""
    _check_type(request)
    try:
        return read_object(_whole_body(request))
    except MalformedJson as error:
        raise Refused(HTTPStatus.BAD_REQUEST, f"the body is not valid JSON: {error}") from error


def read_object(text: bytes) -> Mapping[str, Any]:
    """A JSON object that can be stored. Raises MalformedJson and InvalidJob."""
    value = parse(text)
    if errors := [*islice(unfit(text, value), MAX_ERRORS)]:
        raise InvalidJob(errors)
    if not isinstance(value, dict):
        raise InvalidJob.at("", "must be a JSON object")
    if errors := doubled_aliases(value):
        raise InvalidJob(errors)
    return value


def _has_body(request: Request) -> bool:
    return bool(request.content_length) or "Transfer-Encoding" in request.headers


def _check_type(request: Request) -> None:
    accepted = ACCEPTED[request.method]
    if request.environ.get("CONTENT_TYPE") in accepted and "HTTP_CONTENT_ENCODING" not in request.environ:
        return  # as nearly all are written
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    if request.mimetype in accepted and charset in ("utf-8", "utf8") and not request.content_encoding:
        return
    header = {"PATCH": "Accept-Patch", "POST": "Accept-Post"}.get(request.method, "Accept")
    names = " or ".join(accepted)
    raise Refused(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"the body must be JSON in UTF-8, uncompressed, sent as Content-Type: {names}",
        {header: ", ".join(accepted)},
    )


def _whole_body(request: Request) -> bytes:
    """werkzeug cuts a chunked body at the limit, and takes one that broke off for a short one."""
    try:
        body = request.get_data()
    except ParseException as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "the chunks of the body are malformed") from error
    limit = request.max_content_length
    if request.content_length is None and limit is not None and len(body) >= limit:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, DETAILS[413])
    if len(body) < (request.content_length or 0):
        raise Refused(HTTPStatus.BAD_REQUEST, "the body broke off")
    return body


def _read_query(request: Request, repeatable: Collection[str]) -> dict[str, Any]:
    if not request.query_string:
        return {}
    try:
        unquote_to_bytes(request.query_string).decode()
    except UnicodeDecodeError:
        raise InvalidJob.at("", "the query is not UTF-8 when percent-decoded") from None
    query: dict[str, Any] = {}
    errors: list[FieldError] = []
    for name, values in request.args.lists():
        if len(values) > 1 and name not in repeatable:
            errors.append(FieldError(pointer=f"/{escape(name)}", detail=f"is given {len(values)} times"))
        if any("\x00" in text for text in (name, *values)):
            errors.append(FieldError(pointer="", detail="the query holds a NUL character"))
        query[name] = values if name in repeatable else values[0]
    if errors:
        raise InvalidJob(errors[:MAX_ERRORS])
    return query
