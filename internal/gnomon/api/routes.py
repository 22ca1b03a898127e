"""flask-smorest's blueprint with what we do differently: strict bodies and queries, and types."""

from collections.abc import Callable, Collection, Mapping
from functools import wraps
from http import HTTPStatus
from itertools import islice
from typing import Any, NoReturn, ParamSpec, TypeVar, cast
from urllib.parse import unquote_to_bytes

import flask_smorest
from flask import Request, request
from gunicorn.http.errors import ParseException
from webargs.flaskparser import FlaskParser
from werkzeug.routing import BaseConverter

from gnomon.api.access import Needed, Open, needs
from gnomon.api.openapi import OPEN, OWN
from gnomon.api.problems import DETAILS, Refused
from gnomon.api.schemas.explain import MAX_ERRORS, explain
from gnomon.api.schemas.fields import UNKNOWN
from gnomon.api.schemas.jobs import doubled_aliases
from gnomon.api.schemas.problems import Problem
from gnomon.api.strict_json import MalformedJson, escape, parse, unfit_values
from gnomon.job.errors import FieldError, InvalidJob
from gnomon.job.principal import Role

View = TypeVar("View", bound=Callable[..., Any])
Params = ParamSpec("Params")
Result = TypeVar("Result")

READS_QUERY = "reads_query"
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
AS_THE_SCHEMAS_SAY: dict[str, str | None] = {"json": None, "query": None}
ACCEPTED = {"POST": (JSON,), "PUT": (JSON,), "PATCH": (MERGE_PATCH, JSON)}


class StrictParser(FlaskParser):
    """webargs takes a body of another type for no body, and knows nothing of duplicate keys and parameters."""

    DEFAULT_UNKNOWN_BY_LOCATION = AS_THE_SCHEMAS_SAY

    def load_json(self, req: Request, schema: Any) -> Any:
        """The body, an object that can be stored. Raises Refused and InvalidJob."""
        if schema.body_is_optional and not _has_body(req):
            return {}
        return read_body(req)

    def load_querystring(self, req: Request, schema: Any) -> Any:
        """The query, each parameter given once but those that are lists."""
        return _read_query(req, {name for name, field in schema.fields.items() if hasattr(field, "inner")})

    def handle_error(self, error: Any, req: Request, schema: Any, **_: Any) -> NoReturn:  # noqa: ARG002
        """Raises what marshmallow found as InvalidJob, beside doubled names."""
        (messages,) = error.messages.values()  # under the name of the location
        raise InvalidJob(explain(messages, schema)) from error


class IdConverter(BaseConverter):
    """What names a resource in a path, and none of the verbs beside it, which would be found with other methods."""

    regex = r"(?!(?:bulk|export|import|retry)$)[^/]+"
    part_isolating = True


class Routes(flask_smorest.Blueprint):  # type: ignore[misc]
    """A blueprint whose decorators keep the types of what they decorate."""

    ARGUMENTS_PARSER = StrictParser()

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
            asked = view if hasattr(view, READS_QUERY) else _without_query(view)
            return register(self.doc(operationId=view.__name__, **marks)(needs(needed)(asked)))

        return serve

    def arguments(self, schema: Any, **options: Any) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
        """Hands the body (or the query, with location="query") to the view as its first argument."""
        # an instance: webargs makes one of a class for each request, which takes longer than all the rest
        decorate: Callable[[Callable[..., Result]], Callable[..., Result]] = super().arguments(schema(), **options)
        if options.get("location") != "query":
            return decorate

        def mark(view: Callable[..., Result]) -> Callable[..., Result]:
            decorated = decorate(view)
            setattr(decorated, READS_QUERY, True)  # functools.wraps hands it on to what is wrapped around it
            return decorated

        return mark

    def response(
        self, status: int, schema: Any = None, **options: Any
    ) -> Callable[[Callable[Params, Any]], Callable[Params, Any]]:
        """Writes what the view returns in the shape of the schema."""
        decorate: Callable[[Callable[Params, Any]], Callable[Params, Any]] = super().response(status, schema, **options)
        return decorate

    def alt_response(self, status: int, schema: Any, *, description: str) -> Callable[[View], View]:
        """Documents another answer, which the view writes itself."""
        decorate: Callable[[View], View] = super().alt_response(status, schema=schema, description=description)
        return decorate

    @staticmethod
    def doc(**attributes: Any) -> Callable[[View], View]:
        """Adds to what is documented."""
        decorate: Callable[[View], View] = flask_smorest.Blueprint.doc(**attributes)
        return decorate


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


def _without_query(view: View) -> View:
    @wraps(view)
    def ask(*positional: Any, **named: Any) -> Any:
        unknown = [
            FieldError(pointer=f"/{escape(name)}", detail=UNKNOWN, hint="nothing can be asked for here: leave it out")
            for name in _read_query(request, ())
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
    if errors := [*islice(unfit_values(value), MAX_ERRORS)]:
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
