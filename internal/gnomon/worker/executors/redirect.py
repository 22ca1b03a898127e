"""Where a redirect leads, and what of the request goes along (RFC 9110, 15.4). Pure."""

import re
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urljoin, urlsplit

from gnomon.job.amqp import MAX_URL_LENGTH
from gnomon.job.errors import InvalidJob
from gnomon.job.target import UNSAFE, HttpTarget

REDIRECTS = frozenset((301, 302, 303, 307, 308))
DEFAULT_PORTS = {"http": 80, "https": 443}

# What may leave for another origin. What all others are for we do not know: X-Api-Key is as much a secret as
# Authorization.
HARMLESS_HEADERS = frozenset(
    ("accept", "accept-charset", "accept-encoding", "accept-language", "cache-control", "content-type", "user-agent")
)
OF_CONTENT = ("content-", "digest", "repr-digest", "want-")

# RFC 3986 and browsers read these differently: http:/path, http:path, ///host.
AMBIGUOUS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?!//)|([A-Za-z][A-Za-z0-9+.-]*:)?//(/|$)")

Origin = tuple[str, str, int]


class NotFollowed(Exception):
    """The redirect is none that a worker follows; the text says why, and quotes nothing of it."""


def followed(target: HttpTarget, status: int, locations: Sequence[str]) -> HttpTarget:
    """The request that a redirect asks for. `locations` are the values of its Location headers. Raises NotFollowed.

    To another origin go no credentials, no header that may be one, and no body; never back either, once they were left
    behind. Nothing goes from https to http.
    """
    url = _destination(target.url, locations)
    before, after = _origin(target.url), _origin(url)
    if before[0] == "https" and after[0] == "http":
        raise NotFollowed("it leads from https to http")
    try:
        following = _rewritten(target, status, url)
    except InvalidJob as error:
        raise NotFollowed(f"its URL {error.errors[0].detail}") from error
    if after == before or _is_upgrade(before, after):
        return following
    if following.body:
        raise NotFollowed("it would take the body to another origin")
    return _as_stranger(following)


def _destination(base: str, locations: Sequence[str]) -> str:
    """The absolute URL; its host and port are judged by the rules for any job's URL, when a target is made of it."""
    if len(set(locations)) != 1:
        raise NotFollowed("it names several places")
    (location,) = set(locations)
    if len(location) > MAX_URL_LENGTH or UNSAFE.search(location):
        raise NotFollowed("its URL is too long or holds characters that a URL can't hold")
    if AMBIGUOUS.match(location):
        raise NotFollowed("its URL can be read in several ways, or is neither http nor https")
    try:
        url = urljoin(base, location)
        scheme = urlsplit(url).scheme
    except ValueError as error:
        raise NotFollowed("its URL is none") from error
    if scheme not in DEFAULT_PORTS:
        raise NotFollowed("its URL is neither http nor https")
    return url


def _rewritten(target: HttpTarget, status: int, url: str) -> HttpTarget:
    """303 asks for another document; 301 and 302 are taken so for a POST, as everybody does."""
    becomes_get = (status == 303 and target.method != "HEAD") or (status in (301, 302) and target.method == "POST")
    if not becomes_get:
        return replace(target, url=url)
    headers = {name: value for name, value in target.headers.items() if not name.lower().startswith(OF_CONTENT)}
    secret = tuple(name for name in target.secret_headers if not name.lower().startswith(OF_CONTENT))
    return replace(target, url=url, method="GET", body=None, headers=headers, secret_headers=secret)


def _as_stranger(target: HttpTarget) -> HttpTarget:
    headers = {
        name: value
        for name, value in target.headers.items()
        if name.lower() in HARMLESS_HEADERS and not target.keeps_secret(name)
    }
    return replace(target, headers=headers, secret_headers=(), auth=None, signing_secrets=())


def _origin(url: str) -> Origin:
    """RFC 6454. Raises NotFollowed for a port that is none."""
    parts = urlsplit(url)
    try:
        port = parts.port or DEFAULT_PORTS[parts.scheme]
    except ValueError as error:
        raise NotFollowed("its URL has a port that is none") from error
    return parts.scheme, parts.hostname or "", port


def _is_upgrade(before: Origin, after: Origin) -> bool:
    """The same host, now over https, both at the usual port."""
    return (before[0], before[2], after[0], after[2]) == ("http", 80, "https", 443) and before[1] == after[1]
