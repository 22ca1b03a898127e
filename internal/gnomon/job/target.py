"""What a job calls. Each target validates itself; pointers are those of the job as the API shows it."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, assert_never
from urllib.parse import SplitResult, urlsplit

from gnomon.job.address import EgressPolicy, foreseen, wrong_host
from gnomon.job.amqp import HOST, MASK, MAX_URL_LENGTH, Broker, short_string_errors, table_errors
from gnomon.job.errors import FieldError, InvalidJob
from gnomon.job.handlers import wrong_name
from gnomon.job.payload import payload_errors, payload_text
from gnomon.job.secret import Sealed, Secret
from gnomon.job.signing import MAX_SIGNING_SECRETS, signing_secret_fault

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
MAX_BODY_BYTES = 128 * 1024
MAX_HEADERS = 64
MAX_REDIRECTS = 5
MAX_HEADER_BYTES = 8_192
HANDLER_QUEUES = ("handlers", "async")

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
UNSAFE = re.compile(r"[\x00-\x20\x7f-\uffff\U00010000-\U0010ffff\\\"<>^`{|}]")

RESERVED_HEADERS = frozenset(
    ("host", "content-length", "transfer-encoding", "connection", "te", "upgrade", "expect", "idempotency-key")
)
RESERVED_PREFIXES = ("proxy-", "x-scheduler-", "webhook-")
# What these carry is a credential whoever sends them; a job can name further ones.
SECRET_HEADERS = frozenset(
    (
        "api-key",
        "apikey",
        "authorization",
        "cookie",
        "ocp-apim-subscription-key",
        "private-token",
        "x-access-token",
        "x-amz-security-token",
        "x-api-key",
        "x-api-token",
        "x-apikey",
        "x-auth-key",
        "x-auth-token",
        "x-authorization",
        "x-client-secret",
        "x-functions-key",
        "x-github-token",
        "x-gitlab-token",
        "x-goog-api-key",
        "x-session-token",
        "x-shopify-access-token",
        "x-token",
        "x-vault-token",
    )
)


@dataclass(frozen=True, kw_only=True)
class BasicAuth:
    """RFC 7617. The password is a secret: it is sent, never shown."""

    username: str
    password: Secret = field(repr=False)

    def __post_init__(self) -> None:
        if ":" in self.username:
            raise InvalidJob.at("/username", "a user name can't contain ':'")
        _refuse_controls("/username", self.username)
        if isinstance(self.password, str):
            _refuse_controls("/password", self.password)


@dataclass(frozen=True, kw_only=True)
class BearerAuth:
    """RFC 6750. The token is a secret: it is sent, never shown."""

    token: Secret = field(repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.token, Sealed):
            return
        _refuse_controls("/token", self.token)
        if not self.token.isascii() or not self.token:
            raise InvalidJob.at("/token", "must be one or more ASCII characters")


@dataclass(frozen=True, kw_only=True)
class HttpTarget:
    """One HTTP call. `url` is absolute and ASCII; any 2xx is a success unless `valid_response_codes` names others.

    The values of SECRET_HEADERS and of those that `secret_headers` names are secrets. With `signing_secrets` the
    request is signed, once with each. `follow_redirects`: how many redirects are followed one after the other; the
    answer to the last request decides.
    """

    url: str
    method: str = "POST"
    headers: Mapping[str, Secret] = field(default_factory=dict, repr=False)
    body: str | None = None
    valid_response_codes: frozenset[int] = frozenset()
    auth: BasicAuth | BearerAuth | None = field(default=None, repr=False)
    secret_headers: tuple[str, ...] = ()
    signing_secrets: tuple[Secret, ...] = field(default=(), repr=False)
    follow_redirects: int = 0

    kind: Literal["HTTP"] = "HTTP"
    queue: Literal["io"] = "io"

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", normalise_url(self.url))
        errors = [
            *self._method_errors(),
            *self._body_errors(),
            *self._code_errors(),
            *_header_errors(self.headers),
            *self._mask_errors(),
            *self._signing_errors(),
        ]
        if self.auth is not None and any(name.lower() == "authorization" for name in self.headers):
            errors.append(FieldError(pointer="/auth", detail="set either auth or an Authorization header, not both"))
        if not 0 <= self.follow_redirects <= MAX_REDIRECTS:
            detail = f"must lie between 0 and {MAX_REDIRECTS}, not {self.follow_redirects}"
            errors.append(FieldError(pointer="/follow_redirects", detail=detail))
        if errors:
            raise InvalidJob(errors)

    def accepts(self, status: int) -> bool:
        """Whether an answer with this status is a success."""
        return status in self.valid_response_codes if self.valid_response_codes else 200 <= status < 300

    def keeps_secret(self, header: str) -> bool:
        """Whether the value of this header is a secret."""
        name = header.lower()
        named = name in SECRET_HEADERS or name in map(str.lower, self.secret_headers)
        return named or isinstance(self.headers.get(header), Sealed)

    def _mask_errors(self) -> list[FieldError]:
        detail = f'"{MASK}" stands for a stored secret, and none is stored here'
        return [
            FieldError(pointer=_header_pointer(name), detail=detail)
            for name, value in self.headers.items()
            if value == MASK and self.keeps_secret(name)
        ]

    def _signing_errors(self) -> list[FieldError]:
        if len(self.signing_secrets) > MAX_SIGNING_SECRETS:
            detail = f"{len(self.signing_secrets)} secrets; two are enough for changing from one to the next"
            return [FieldError(pointer="/signing_secrets", detail=detail)]
        return [
            FieldError(pointer=f"/signing_secrets/{index}", detail=fault, hint="whsec_ and base64 of 24 to 64 bytes")
            for index, secret in enumerate(self.signing_secrets)
            if isinstance(secret, str) and (fault := signing_secret_fault(secret)) is not None
        ]

    def _method_errors(self) -> list[FieldError]:
        if self.method in METHODS:
            return []
        return [FieldError(pointer="/method", detail=f"must be one of {', '.join(METHODS)}, not {self.method[:20]!r}")]

    def _body_errors(self) -> list[FieldError]:
        if self.body is None:
            return []
        if self.body and self.method in ("GET", "HEAD"):
            return [FieldError(pointer="/body", detail=f"a {self.method} request has no body", hint="use POST")]
        return _text_errors(self.body, limit=MAX_BODY_BYTES)

    def _code_errors(self) -> list[FieldError]:
        return [
            FieldError(pointer="/valid_response_codes", detail=f"{code} is not a final HTTP status (200 to 599)")
            for code in sorted(self.valid_response_codes)
            if not 200 <= code <= 599
        ]


@dataclass(frozen=True, kw_only=True)
class AmqpTarget:
    """One message for an exchange; "" is the default exchange, which routes to the queue that the routing key names.

    `connection` holds a password, or *** for one that is sealed in `password`. `body` is text, or base64 of any bytes
    when `body_encoding` says so. `headers` are what a JSON object can hold and a table of AMQP can carry.
    """

    connection: str = field(repr=False)
    exchange: str = ""
    routing_key: str = ""
    headers: Mapping[str, object] = field(default_factory=dict, compare=False)
    body: str | None = None
    body_encoding: Literal["base64"] | None = None
    content_type: str | None = None
    password: Sealed | None = None

    kind: Literal["AMQP"] = "AMQP"
    queue: Literal["io"] = "io"
    header_text: str = field(init=False, repr=False)  # by which headers are compared, as payloads are

    def __post_init__(self) -> None:
        errors = [
            *self._connection_errors(),
            *short_string_errors("/exchange", self.exchange),
            *short_string_errors("/routing_key", self.routing_key),
            *short_string_errors("/content_type", self.content_type or ""),
            *self._header_errors(),
            *self._body_errors(),
        ]
        if errors:
            raise InvalidJob(errors)
        object.__setattr__(self, "header_text", payload_text(self.headers))

    @property
    def broker(self) -> Broker:
        """Where the message goes, and who sends it."""
        return Broker.parse(self.connection)

    def payload(self) -> bytes:
        """The body as it is sent."""
        text = (self.body or "").encode()
        return base64.b64decode(text, validate=True) if self.body_encoding == "base64" else text

    def _connection_errors(self) -> list[FieldError]:
        try:
            password = self.broker.password
        except InvalidJob as error:
            return list(error.errors)
        if (password == MASK) is (self.password is not None):
            return []
        detail = f'"{MASK}" stands for a stored password, and none is stored here for this user and host'
        return [FieldError(pointer="/connection", detail=detail)]

    def _header_errors(self) -> list[FieldError]:
        if len(self.headers) > MAX_HEADERS:
            detail = f"{len(self.headers)} headers; at most {MAX_HEADERS} are allowed"
            return [FieldError(pointer="/headers", detail=detail)]
        reserved = [
            FieldError(pointer=_header_pointer(name), detail="is set by Gnomon and can't be given")
            for name in self.headers
            if name.lower() == "idempotency-key" or name.lower().startswith("x-scheduler-")
        ]
        return [*reserved, *self._copy_errors(), *table_errors("/headers", self.headers)]

    def _copy_errors(self) -> list[FieldError]:
        """RabbitMQ reads these two and closes the channel over anything else."""
        return [
            FieldError(pointer=_header_pointer(name), detail="must be a list of routing keys")
            for name in ("CC", "BCC")
            if name in self.headers and not _is_list_of_texts(self.headers[name])
        ]

    def _body_errors(self) -> list[FieldError]:
        if self.body_encoding not in (None, "base64"):
            return [FieldError(pointer="/body_encoding", detail=f"must be base64, not {self.body_encoding[:20]!r}")]
        if errors := _text_errors(self.body or "", limit=2 * MAX_BODY_BYTES):
            return errors
        try:
            size = len(self.payload())
        except binascii.Error:
            return [FieldError(pointer="/body", detail="is not base64", hint="RFC 4648, padded, without line breaks")]
        except ValueError:
            return [FieldError(pointer="/body", detail="is not base64: it holds a character that base64 has not")]
        return _size_errors(size, MAX_BODY_BYTES)


@dataclass(frozen=True, kw_only=True)
class HandlerTarget:
    """One call of a Python function that workers have registered under a name; nothing stored is ever imported.

    `payload` is a JSON object, and may hold what nobody else should see. `queue` is that of the workers which have the
    function: `async` for an async one. Don't change the payload: the definition is shared.
    """

    name: str
    payload: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    queue: Literal["handlers", "async"] = "handlers"

    kind: Literal["HANDLER"] = "HANDLER"
    text: str = field(init=False, repr=False)  # by which payloads are compared: Python takes 1 and True for equal

    def __post_init__(self) -> None:
        if (reason := wrong_name(self.name)) is not None:
            raise InvalidJob.at("/type", reason)
        if self.queue not in HANDLER_QUEUES:
            raise InvalidJob.at("/queue", f"must be {' or '.join(HANDLER_QUEUES)}")
        if errors := payload_errors(self.payload):
            raise InvalidJob(error.under("/payload") for error in errors)
        object.__setattr__(self, "text", payload_text(self.payload))


Target = HttpTarget | AmqpTarget | HandlerTarget


def type_of(target: Target) -> str:
    """What a job's `type` says: the kind of its target, or the name of its handler."""
    return target.name if isinstance(target, HandlerTarget) else target.kind


def closed_to(target: Target, policy: EgressPolicy) -> list[str]:
    """Why workers with this policy will refuse the target, as far as that can be told without asking for names."""
    match target:
        case HttpTarget():
            parts = urlsplit(target.url)
            host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
            reason, pointer = foreseen(host, port, policy, protocol="HTTP"), "/http_job/url"
        case AmqpTarget():
            broker = target.broker
            reason, pointer = foreseen(broker.host, broker.port, policy, protocol="AMQP"), "/amqp_job/connection"
        case HandlerTarget():
            return []
        case _:
            assert_never(target)
    return [] if reason is None else [f"{pointer}: with the settings of this process workers refuse it: {reason}"]


@lru_cache(maxsize=1024)  # many jobs share a few
def normalise_url(text: str) -> str:
    """The absolute form of a URL; without a scheme it means https. Raises InvalidJob at /url."""
    if len(text) > MAX_URL_LENGTH:
        raise InvalidJob.at("/url", f"is {len(text)} characters; at most {MAX_URL_LENGTH} are allowed")
    url = text if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) else f"https://{text}"
    if found := UNSAFE.search(url):
        hint = "percent-encode it; write an international host name in its xn-- form"
        raise InvalidJob.at("/url", f"holds the character {found.group()!r}", hint)
    return _checked_parts(url)._replace(fragment="").geturl()


def _checked_parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its words quote what may be a password
        raise InvalidJob.at("/url", "is not a URL", "write it like https://example.com:8443/path") from None
    if parts.scheme not in ("http", "https"):
        raise InvalidJob.at("/url", f"the scheme must be http or https, not {parts.scheme!r}")
    if "@" in parts.netloc:
        raise InvalidJob.at("/url", "must not hold a user name or password", "use auth instead")
    host = re.sub(r":\d*$", "", parts.netloc)
    if not HOST.fullmatch(host) or len(host) > 255:
        raise InvalidJob.at("/url", f"{host[:80]!r} is not a host name or address")
    if reason := wrong_host(host):
        raise InvalidJob.at("/url", f"{host!r} {reason}")
    if port == 0:
        raise InvalidJob.at("/url", "port 0 can't be called")
    if port is None and parts.netloc != host:
        raise InvalidJob.at("/url", "has a colon after the host, but no port", "leave the colon out")
    return parts


def _text_errors(body: str, *, limit: int) -> list[FieldError]:
    if "\x00" in body:
        return [FieldError(pointer="/body", detail="holds a NUL character, which can't be stored")]
    try:
        size = len(body.encode())
    except UnicodeEncodeError:
        return [FieldError(pointer="/body", detail="holds half a surrogate pair, which UTF-8 can't carry")]
    return _size_errors(size, limit)


def _size_errors(size: int, limit: int) -> list[FieldError]:
    return [FieldError(pointer="/body", detail=f"is {size} bytes; at most {limit} are allowed")] if size > limit else []


def _header_pointer(name: str) -> str:
    return "/headers/" + name.replace("~", "~0").replace("/", "~1")


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _header_errors(headers: Mapping[str, Secret]) -> list[FieldError]:
    if len(headers) > MAX_HEADERS:
        return [FieldError(pointer="/headers", detail=f"{len(headers)} headers; at most {MAX_HEADERS} are allowed")]
    return [error for name, value in headers.items() for error in _one_header_errors(name, value)]


def _one_header_errors(name: str, value: Secret) -> list[FieldError]:
    pointer = _header_pointer(name)
    if not TOKEN.fullmatch(name):
        return [FieldError(pointer=pointer, detail="is not a header name (RFC 9110 token)")]
    if name.lower() in RESERVED_HEADERS or name.lower().startswith(RESERVED_PREFIXES):
        return [FieldError(pointer=pointer, detail="is set by Gnomon and can't be given")]
    if isinstance(value, Sealed):
        return []
    if any((ord(char) < 32 and char != "\t") or ord(char) == 127 for char in value) or not _latin(value):
        return [FieldError(pointer=pointer, detail="the value holds control or non-Latin-1 characters")]
    if len(name) + len(value) > MAX_HEADER_BYTES:
        return [FieldError(pointer=pointer, detail=f"is longer than {MAX_HEADER_BYTES} bytes")]
    return []


def _latin(value: str) -> bool:
    return all(ord(char) < 256 for char in value)


def _refuse_controls(pointer: str, text: str) -> None:
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) <= 0xDFFF for char in text):
        raise InvalidJob.at(pointer, "holds control characters")
