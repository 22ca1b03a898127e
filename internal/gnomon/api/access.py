"""Who may ask for what. Every route says which role it needs; a route that does not can't be registered.

Who has no key can't tell a route that exists from one that does not: all of it is refused before anything is looked at.
"""

import inspect
import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus
from typing import Any, Literal, TypeVar

from flask import Flask, Request, current_app, has_request_context
from werkzeug.routing import MapAdapter

from gnomon.api.addresses import (
    FORWARDED,
    Network,
    block_of,
    can_be_host,
    client_address,
    is_own_name,
    is_same_origin,
)
from gnomon.api.asked import Asked, asked
from gnomon.api.keyring import Keyring
from gnomon.api.problems import Refused
from gnomon.api.throttle import Throttle
from gnomon.job.api_key import ApiKey, Key, read_key
from gnomon.job.errors import Unavailable
from gnomon.job.principal import ANONYMOUS, Principal, Role

log = logging.getLogger(__name__)

View = TypeVar("View", bound=Callable[..., Any])

NEEDS = "needs"
FAILURES = 10
FAILURES_WITHIN_SECONDS = 60.0
MISSING = "this needs a key, sent as Authorization: Bearer gnm_…; `gnomon keys create` makes one"
MALFORMED = "what was sent as Authorization is no key, or not all of one; it is sent as Authorization: Bearer gnm_…"
UNKNOWN = "nobody has this key"
MAKE_ONE = "; make a key with `gnomon keys create` and send it"


class Open(Enum):
    """For routes that need no key."""

    TO_ALL = "open"


Needed = Role | Literal[Open.TO_ALL]


def needs(needed: Needed) -> Callable[[View], View]:
    """Says which role the view needs, whatever the method."""

    def decorate(view: View) -> View:
        vars(view)[NEEDS] = needed
        return view

    return decorate


class Guarded(Flask):
    """An app all of whose routes say which role they need, however they come to be registered.

    None of them is asynchronous.
    """

    request_class = Asked

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """What finds the route: by path and method, for no host has routes of its own.

        What is no name of a host, and what asks for a web socket, is left to werkzeug to refuse.
        """
        if request is None or "HTTP_UPGRADE" in request.environ or not can_be_host(request.environ.get("HTTP_HOST")):
            return super().create_url_adapter(request)
        path = request.environ["PATH_INFO"].encode("latin-1").decode(errors="replace")
        return MapAdapter(self.url_map, "", "/", "", request.scheme, path, request.method)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """The function itself. Flask would look into each view and each hook, for each request."""
        return func

    def add_url_rule(
        self, rule: str, endpoint: str | None = None, view_func: Any = None, *more: Any, **options: Any
    ) -> None:
        """Raises TypeError for a view that does not say so, and for one that is asynchronous."""
        if view_func is not None and inspect.iscoroutinefunction(inspect.unwrap(view_func)):
            raise TypeError(
                f"the view of {rule} is asynchronous, which nobody here would wait for: make it a plain one"
            )
        if view_func is None or NEEDS not in vars(view_func):
            raise TypeError(f"{rule} does not say which role it needs: decorate its view with gnomon.api.access.needs")
        super().add_url_rule(rule, endpoint, view_func, *more, **options)


@dataclass(frozen=True, kw_only=True)
class Access:
    """Whom the API lets in.

    `open_without_keys`: while there never was a key, everybody is an anonymous admin who asks from this machine, or by
    one of `names`. `trusted_proxies` are believed when they say for whom they ask.
    """

    keyring: Keyring
    open_without_keys: bool
    names: Sequence[str] = ()
    metrics_public: bool = False
    trusted_proxies: Sequence[Network] = ()
    failures: Throttle = field(default_factory=lambda: Throttle(FAILURES, FAILURES_WITHIN_SECONDS))
    _said: threading.Event = field(default_factory=threading.Event, init=False)

    def install(self, app: Flask) -> None:
        """Asks everybody, before each request to this app."""
        app.before_request(self._admit)

    def _address_of(self, request: Request) -> str:
        """The client's."""
        passed_on_for = request.environ.get("HTTP_X_FORWARDED_FOR", "")
        return client_address(request.remote_addr or "", passed_on_for, self.trusted_proxies)

    def _admit(self) -> None:
        request = asked()
        request.address = self._address_of(request)
        needed = needed_by(request)
        if needed is Open.TO_ALL or (needed is Role.METRICS and self.metrics_public):
            return
        request.principal = asking = self._principal(request, needed)
        if not asking.role.includes(needed):
            raise Refused(
                HTTPStatus.FORBIDDEN,
                f"this needs a key with the role {needed}; that of {asking.name!r} has the role {asking.role}",
            )

    def _principal(self, request: Asked, needed: Role) -> Principal:
        if not self._any_made(needed):
            return self._anonymous(request)
        text = _bearer(request)
        if text is None:
            raise _unauthorized(MISSING)
        key = read_key(text)
        request.tried = "" if key is None else key.id
        self._check_failures(request, key)
        stored = None if key is None else self._find(key, needed)
        if stored is not None and stored.state == "active":
            return stored.principal
        self._count_failure(request, key)
        detail = MALFORMED if key is None else UNKNOWN if stored is None else f"this key is {stored.state}"
        raise _unauthorized(detail, invalid=True)

    def _any_made(self, needed: Role) -> bool:
        """Metrics are answered also while the database is away, as it was before: they tell that it is."""
        try:
            return self.keyring.any_made()
        except Unavailable:
            if needed is Role.METRICS and self.keyring.none_made_last_time:
                return False
            raise

    def _find(self, key: Key, needed: Role) -> ApiKey | None:
        try:
            return self.keyring.find(key)
        except Unavailable:
            if needed is Role.METRICS and (known := self.keyring.remembered(key)) is not None:
                return known
            raise

    def _anonymous(self, request: Request) -> Principal:
        """Everybody on this machine, but no page that a browser on it has opened."""
        if not self.open_without_keys:
            self._say_that_nobody_is_let_in()
            raise _unauthorized(MISSING)
        if any(name in request.environ for name in FORWARDED):
            raise Refused(HTTPStatus.FORBIDDEN, "a proxy passed this on, and without keys it is not" + MAKE_ONE)
        if not is_own_name(request.host, self.names):
            raise Refused(HTTPStatus.FORBIDDEN, "this was sent to a name that is not this machine's own" + MAKE_ONE)
        origin = request.environ.get("HTTP_ORIGIN")
        if origin is not None and not is_same_origin(origin, request.host):
            raise Refused(HTTPStatus.FORBIDDEN, "this was sent by a page of another origin" + MAKE_ONE)
        return ANONYMOUS

    def _say_that_nobody_is_let_in(self) -> None:
        if not self._said.is_set():
            self._said.set()
            log.error(
                "there are no keys and this API is not for this machine only: nobody is let in; see `gnomon keys`"
            )

    def _check_failures(self, request: Asked, key: Key | None) -> None:
        """Whoever failed too often from here is not looked up any more; keys that hold are known already."""
        wait = self.failures.wait(block_of(request.address))
        if wait and (key is None or self.keyring.remembered(key) is None):
            raise _too_many(wait)

    def _count_failure(self, request: Asked, key: Key | None) -> None:
        """By address, and by the key's id: the right key itself is let in however often others guess."""
        self.failures.failed(block_of(request.address))
        if key is not None:
            wait = self.failures.wait(key.id)
            self.failures.failed(key.id)
            if wait:
                raise _too_many(wait)


def principal() -> Principal | None:
    """Who sent the present request; None where nobody was asked."""
    return asked().principal if has_request_context() else None


def acting() -> str:
    """The id of whoever sent the present request; empty outside of one."""
    asking = principal()
    return "" if asking is None else asking.id


def needed_by(request: Request) -> Needed:
    """What no route serves is nobody's business who may not read; and nobody needs more to be told the methods."""
    if request.url_rule is None or request.routing_exception is not None:
        return Role.READ
    needed: Needed = vars(current_app.view_functions[request.url_rule.endpoint])[NEEDS]
    asks_for_methods = request.method == "OPTIONS" and isinstance(needed, Role) and needed.includes(Role.READ)
    return Role.READ if asks_for_methods else needed


def _bearer(request: Request) -> str | None:
    scheme, _, text = request.environ.get("HTTP_AUTHORIZATION", "").strip().partition(" ")
    if not scheme:
        return None
    return text.strip() if scheme.lower() == "bearer" else ""


def _unauthorized(detail: str, *, invalid: bool = False) -> Refused:
    challenge = 'Bearer error="invalid_token"' if invalid else "Bearer"
    return Refused(HTTPStatus.UNAUTHORIZED, detail, {"WWW-Authenticate": challenge})


def _too_many(seconds: float) -> Refused:
    return Refused(
        HTTPStatus.TOO_MANY_REQUESTS,
        "too many requests with keys that nobody has",
        {"Retry-After": str(max(1, math.ceil(seconds)))},
    )
