"""A definition as a JSON document: the shape the API speaks and the database keeps, in one place.

The document uses the names of the API. Instants are RFC 3339 texts, durations are seconds. Types are assumed to be
those of the API's schema; every rule about values is checked here or in the values themselves (InvalidJob).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar, assert_never

from gnomon.job.amqp import MASK, Broker, keeps_password, masked, with_password
from gnomon.job.errors import FieldError, InvalidJob
from gnomon.job.handlers import wrong_name
from gnomon.job.model import Definition, Delivery, Misfire, MisfirePolicy, Overlap
from gnomon.job.retry import RetryPolicy
from gnomon.job.schedule import At, Cron, Every, Schedule, Timing, parse_cron
from gnomon.job.target import AmqpTarget, BasicAuth, BearerAuth, HandlerTarget, HttpTarget, Target, type_of

Document = dict[str, Any]
Value = TypeVar("Value")

SCHEDULE_FIELDS = ("cron_schedule", "interval_seconds", "execute_at", "delay_seconds")
TARGET_FIELDS = {"HTTP": "http_job", "AMQP": "amqp_job"}
PAYLOAD = "payload"  # of every other type, which is the name of a handler
KNOWN_TYPES = "HTTP, AMQP, or the name of a handler: GET /handlers lists them"
MIN_TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS = 0.1, 86_400
MAX_PAUSE_SECONDS = 86_400
MAX_DELAY_SECONDS = 10**9
MAX_MISFIRES = 10_000
MAX_TAGS, MAX_TAG = 50, 100
_RETRY_FIELDS = ("max_attempts", "initial_seconds", "multiplier", "max_seconds", "jitter", "strategy")
_MISFIRE_FIELDS = ("policy", "grace_seconds", "limit")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
NAME_RULE = "must be 1 to 200 letters, digits, '.', '_' or '-', and begin with a letter or digit"


class Whole(dict[str, Any]):
    """An object of a patch that replaces what is there, its nulls included, instead of being merged into it."""


def read_definition(document: Mapping[str, Any], *, now: datetime | None = None) -> Definition:
    """The definition that a complete document describes.

    `now` anchors an interval that has neither `anchor_at` nor `starts_at`, and is what `delay_seconds` counts from; a
    document that `write_definition` made needs none.
    Raises InvalidJob with every broken rule it found.
    """
    read: dict[str, Any] = {}
    errors: list[FieldError] = []
    for part, read_part in _PARTS.items():
        try:
            read[part] = read_part(document, now)
        except InvalidJob as error:
            errors.extend(error.errors)
    if errors:
        raise InvalidJob(errors)
    return Definition(**read)


def write_definition(definition: Definition, *, secrets: bool) -> Document:
    """The complete document, every policy with its value. Without `secrets` they read "***".

    With them it is no JSON yet where they are sealed: see stored.py.
    """
    return {
        "type": type_of(definition.target),
        "name": definition.name,
        **_write_timing(definition.timing),
        "tags": list(definition.tags),
        **_write_target(definition.target, secrets),
        "timeout_seconds": plain_seconds(definition.timeout),
        "retry": {
            "max_attempts": definition.retry.max_attempts,
            "initial_seconds": plain_seconds(definition.retry.initial),
            "multiplier": definition.retry.multiplier,
            "max_seconds": plain_seconds(definition.retry.maximum),
            "jitter": definition.retry.jitter,
            "strategy": definition.retry.strategy,
        },
        "misfire": {
            "policy": definition.misfire.policy.value,
            "grace_seconds": plain_seconds(definition.misfire.grace),
            "limit": definition.misfire.limit,
        },
        "overlap": definition.overlap.value,
        "delivery": definition.delivery.value,
    }


def merge_patch(document: Document, patch: Mapping[str, Any]) -> Document:
    """RFC 7396, with rules of ours: another kind of schedule or auth replaces the old one; "***" keeps the secret."""
    merged = _merged(document, patch)
    auth, old_auth = _auth_of(patch), _auth_of(document)
    if auth.get("type", old_auth.get("type")) != old_auth.get("type"):
        merged["http_job"]["auth"] = _merged({}, auth)
    named = [field for field in SCHEDULE_FIELDS if patch.get(field) is not None]
    if named and any(patch[field] != document.get(field) for field in named):
        for field in (*SCHEDULE_FIELDS, "anchor_at", *(() if "cron_schedule" in named else ("timezone",))):
            if field not in patch:
                merged.pop(field, None)
    elif patch.get("starts_at", document.get("starts_at")) != document.get("starts_at"):
        merged.pop("anchor_at", None)  # an interval is anchored at its start, so a new start moves it
    if isinstance(merged.get("http_job"), dict):
        _keep_masked(merged["http_job"], document.get("http_job") or {})
    return _of_one_kind(merged, document, patch)


def complete(document: Mapping[str, Any]) -> Document:
    """What a document says that describes the whole of a job: null is left out, but for the nulls of a payload."""
    payload = document.get(PAYLOAD)
    return _merged({}, {**document, PAYLOAD: Whole(payload)} if isinstance(payload, Mapping) else document)


def replace_document(document: Document, new: Mapping[str, Any]) -> Document:
    """`new` as a whole; of what is stored it keeps the secrets that it masks, and the queue of the same handler."""
    replaced = complete(new)
    if isinstance(replaced.get("http_job"), dict):
        _keep_masked(replaced["http_job"], document.get("http_job") or {})
    if "queue" in document and replaced.get("type") == document.get("type"):
        replaced["queue"] = document["queue"]
    _keep_connection(replaced, document)
    return replaced


def read_timing(document: Mapping[str, Any], *, now: datetime) -> Timing:
    """When the document says, of which nothing else is read. Raises InvalidJob."""
    return _read_timing(document, now)


def parse_instant(text: str, pointer: str) -> datetime:
    """An RFC 3339 instant in UTC. Raises InvalidJob at `pointer`; without an offset it is refused, not guessed."""
    hint = "write it like 2030-01-01T09:00:00Z"
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidJob.at(pointer, f"{text[:40]!r} is not an RFC 3339 instant", hint) from error
    if instant.tzinfo is None:
        raise InvalidJob.at(pointer, f"{text[:40]!r} has no UTC offset", hint)
    if not 2000 <= instant.year <= 2200:
        raise InvalidJob.at(pointer, "must lie between the years 2000 and 2200")
    return instant.astimezone(UTC)


def format_instant(instant: datetime) -> str:
    """RFC 3339 in UTC, with as many digits of a second as are needed."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def plain_seconds(duration: timedelta) -> int | float:
    """Seconds, whole where they are."""
    total = duration.total_seconds()
    return int(total) if total.is_integer() else total


def _merged(document: Mapping[str, Any], patch: Mapping[str, Any]) -> Document:
    result = dict(document)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Whole):
            result[key] = dict(value)
        elif isinstance(value, Mapping):
            below = result.get(key)
            result[key] = _merged(below if isinstance(below, Mapping) else {}, value)
        else:
            result[key] = value
    return result


def _of_one_kind(merged: Document, document: Document, patch: Mapping[str, Any]) -> Document:
    """Another type drops the target of the old one, and a masked URL keeps its password."""
    old_type = document.get("type")
    if old_type is not None and merged.get("type") != old_type:
        _drop_target(merged, target_field(old_type), patch)
    _keep_connection(merged, document)
    return merged


def _keep_connection(new: Document, document: Mapping[str, Any]) -> None:
    amqp, stored = new.get("amqp_job"), document.get("amqp_job") or {}
    if isinstance(amqp, dict) and "connection" in amqp and "connection" in stored:
        new["amqp_job"] = dict(amqp)  # where a patch says nothing of it, it is the stored one itself
        _keep_password(new["amqp_job"], stored)


def _keep_password(new: Document, old: Mapping[str, Any]) -> None:
    new.pop("password", None)
    if not keeps_password(new["connection"], old["connection"]):
        return
    if "password" in old:
        new["password"] = old["password"]
    else:  # as it was stored before there was sealing
        new["connection"] = with_password(new["connection"], Broker.parse(old["connection"]).password)


def _drop_target(merged: Document, part: str, patch: Mapping[str, Any]) -> None:
    """What the patch gives is for the new type: between two handlers nothing of the old payload is left in it."""
    merged.pop("queue", None)
    merged.pop(part, None)
    if patch.get(part) is not None:
        merged[part] = _merged({}, {part: patch[part]})[part]


def _auth_of(document: Mapping[str, Any]) -> Mapping[str, Any]:
    return (document.get("http_job") or {}).get("auth") or {}


def _keep_masked(new: Document, old: Mapping[str, Any]) -> None:
    new_auth, old_auth = new.get("auth") or {}, old.get("auth") or {}
    for field in ("password", "token"):
        if new_auth.get(field) == MASK and field in old_auth:
            new_auth[field] = old_auth[field]
    stored = {name.lower(): value for name, value in (old.get("headers") or {}).items()}
    for name, value in (new.get("headers") or {}).items():
        if value == MASK and name.lower() in stored:
            new["headers"][name] = stored[name.lower()]
    kept = iter(old.get("signing_secrets") or ())
    if "signing_secrets" in new:  # the first *** is the first of those that are stored
        new["signing_secrets"] = [next(kept, MASK) if one == MASK else one for one in new["signing_secrets"]]


def target_field(kind: str) -> str:
    """Where a job of this type says what it calls."""
    return TARGET_FIELDS.get(kind, PAYLOAD)


def _read_target(document: Mapping[str, Any], _now: datetime | None) -> Target:
    kind = _read_type(document.get("type"))
    wanted = target_field(kind)
    for other in (*TARGET_FIELDS.values(), PAYLOAD):
        if other != wanted and document.get(other) is not None:
            raise InvalidJob.at(f"/{other}", f"does not belong to a job of type {kind}", f"give {wanted}")
    if wanted == PAYLOAD:
        return HandlerTarget(name=kind, payload=document.get(PAYLOAD) or {}, queue=document.get("queue", "handlers"))
    part = document.get(wanted)
    if part is None:
        raise InvalidJob.at(f"/{wanted}", f"is missing: it says what an {kind} job calls")
    try:
        return _read_http(part) if kind == "HTTP" else _read_amqp(part)
    except InvalidJob as error:
        raise error.under(f"/{wanted}") from error


def _read_type(kind: object) -> str:
    if not isinstance(kind, str):
        raise InvalidJob.at("/type", "is missing: it says what is called", KNOWN_TYPES)
    if kind not in TARGET_FIELDS and (reason := wrong_name(kind)) is not None:
        written = f"write it {kind.upper()}" if kind.upper() in TARGET_FIELDS else KNOWN_TYPES
        raise InvalidJob.at("/type", reason, written)
    return kind


def _read_http(http: Mapping[str, Any]) -> HttpTarget:
    if "url" not in http:
        raise InvalidJob.at("/url", "is missing: it says what an HTTP job calls")
    _check_secret_headers(http.get("secret_headers") or (), http.get("headers") or {})
    return HttpTarget(
        url=http["url"],
        method=http.get("method", "POST").upper(),
        headers=http.get("headers") or {},
        body=http.get("body"),
        valid_response_codes=frozenset(http.get("valid_response_codes") or ()),
        auth=_read_auth(http.get("auth")),
        secret_headers=tuple(http.get("secret_headers") or ()),
        signing_secrets=tuple(http.get("signing_secrets") or ()),
        follow_redirects=http.get("follow_redirects") or 0,
    )


def _check_secret_headers(names: Sequence[str], headers: Mapping[str, object]) -> None:
    """One that is not given may be misspelt, and the one that was meant would be shown."""
    given = {name.lower() for name in headers}
    for index, name in enumerate(names):
        if name.lower() not in given:
            raise InvalidJob.at(f"/secret_headers/{index}", f"no header is named {name[:80]!r}")


def _read_amqp(amqp: Mapping[str, Any]) -> AmqpTarget:
    if "connection" not in amqp:
        raise InvalidJob.at("/connection", "is missing: it says which broker an AMQP job calls")
    return AmqpTarget(
        connection=amqp["connection"],
        exchange=amqp.get("exchange") or "",
        routing_key=amqp.get("routing_key") or "",
        headers=amqp.get("headers") or {},
        body=amqp.get("body"),
        body_encoding=amqp.get("body_encoding"),
        content_type=amqp.get("content_type"),
        password=amqp.get("password"),
    )


def _read_auth(auth: Mapping[str, Any] | None) -> BasicAuth | BearerAuth | None:
    kind = (auth or {"type": "none"}).get("type", "none")
    fields = {key: value for key, value in (auth or {}).items() if key != "type"}
    wanted = {"none": set(), "basic": {"username", "password"}, "bearer": {"token"}}.get(kind)
    if wanted is None:
        raise InvalidJob.at("/auth/type", f"must be none, basic or bearer, not {kind!r}")
    if missing := sorted(wanted - set(fields)):
        raise InvalidJob.at(f"/auth/{missing[0]}", f"is missing for auth of type {kind}")
    if extra := sorted(set(fields) - wanted):
        raise InvalidJob.at(f"/auth/{extra[0]}", f"does not belong to auth of type {kind}")
    if MASK in (fields.get("password"), fields.get("token")):
        raise InvalidJob.at("/auth", f'"{MASK}" stands for a stored secret, and none is stored here')
    try:
        if kind == "basic":
            return BasicAuth(**fields)
        return BearerAuth(**fields) if kind == "bearer" else None
    except InvalidJob as error:
        raise error.under("/auth") from error


def _read_timing(document: Mapping[str, Any], now: datetime | None) -> Timing:
    starts_at = _optional_instant(document, "starts_at")
    return Timing(
        schedule=_read_schedule(document, now, starts_at),
        starts_at=starts_at,
        ends_at=_optional_instant(document, "ends_at"),
        spread_seconds=document.get("spread_seconds") or 0,
    )


def _read_schedule(document: Mapping[str, Any], now: datetime | None, starts_at: datetime | None) -> Schedule:
    given = [field for field in SCHEDULE_FIELDS if document.get(field) is not None]
    if len(given) != 1:
        known = ", ".join(SCHEDULE_FIELDS)
        detail = f"{' and '.join(given)} exclude each other" if given else f"no schedule: give one of {known}"
        raise InvalidJob.at(f"/{given[1]}" if given else "/cron_schedule", detail, "a job has exactly one schedule")
    value = document[given[0]]
    if given[0] == "execute_at":
        _refuse_timezone(document)
        return At(parse_instant(value, "/execute_at"))
    anchor_at = _optional_instant(document, "anchor_at") or starts_at or now
    if given[0] == "cron_schedule":
        timezone = document.get("timezone") or "UTC"
        if anchor_at is None:  # a document of ours: its intervals are spelled out, so this is no @every
            return Cron(value, timezone)
        return parse_cron(value, timezone=timezone, anchor_at=anchor_at)
    _refuse_timezone(document)
    if anchor_at is None:
        raise InvalidJob.at("/anchor_at", "is missing, and there is no clock to take it from")
    if given[0] == "interval_seconds":
        return Every(value, anchor_at)
    return At((now or anchor_at) + timedelta(seconds=_bounded(value, 0, MAX_DELAY_SECONDS, "/delay_seconds")))


def _refuse_timezone(document: Mapping[str, Any]) -> None:
    if document.get("timezone") not in (None, "UTC"):
        raise InvalidJob.at("/timezone", "only a cron_schedule has a time zone", "leave it out")


def _write_timing(timing: Timing) -> Document:
    document: Document = {"timezone": "UTC"}
    match timing.schedule:
        case Cron(expression=expression, timezone=timezone):
            document |= {"cron_schedule": expression, "timezone": timezone}
        case Every(seconds=seconds, anchor_at=anchor_at):
            document |= {"interval_seconds": seconds, "anchor_at": format_instant(anchor_at)}
        case At(at=at):
            document |= {"execute_at": format_instant(at)}
    for field, instant in (("starts_at", timing.starts_at), ("ends_at", timing.ends_at)):
        if instant is not None:
            document[field] = format_instant(instant)
    return document | {"spread_seconds": timing.spread_seconds}


def _write_target(target: Target, secrets: bool) -> Document:
    match target:
        case HttpTarget():
            return {"http_job": _write_http(target, secrets)}
        case AmqpTarget():
            return {"amqp_job": _write_amqp(target, secrets)}
        case HandlerTarget():
            return {PAYLOAD: dict(target.payload), "queue": target.queue}
        case _:
            assert_never(target)


def _write_amqp(target: AmqpTarget, secrets: bool) -> Document:
    document: Document = {
        "connection": target.connection if secrets else masked(target.connection),
        "exchange": target.exchange,
        "routing_key": target.routing_key,
        "headers": dict(target.headers),
        "body": target.body,
        "body_encoding": target.body_encoding,
        "content_type": target.content_type,
    }
    return {**document, "password": target.password} if secrets and target.password is not None else document


def _write_http(target: HttpTarget, secrets: bool) -> Document:
    return {
        "url": target.url,
        "method": target.method,
        "headers": {
            name: MASK if target.keeps_secret(name) and not secrets else value for name, value in target.headers.items()
        },
        "body": target.body,
        "valid_response_codes": sorted(target.valid_response_codes),
        "auth": _write_auth(target.auth, secrets),
        "secret_headers": list(target.secret_headers),
        "signing_secrets": list(target.signing_secrets) if secrets else [MASK] * len(target.signing_secrets),
        "follow_redirects": target.follow_redirects,
    }


def _write_auth(auth: BasicAuth | BearerAuth | None, secrets: bool) -> Document:
    match auth:
        case BasicAuth(username=username, password=password):
            return {"type": "basic", "username": username, "password": password if secrets else MASK}
        case BearerAuth(token=token):
            return {"type": "bearer", "token": token if secrets else MASK}
        case None:
            return {"type": "none"}


def _read_retry(document: Mapping[str, Any], _now: datetime | None) -> RetryPolicy:
    retry = document.get("retry")
    return _retry(*map(retry.get, _RETRY_FIELDS)) if retry else _retry()


@lru_cache(maxsize=256, typed=True)  # most jobs share a few policies
def _retry(
    max_attempts: int | None = None,
    initial_seconds: float | None = None,
    multiplier: float | None = None,
    max_seconds: float | None = None,
    jitter: float | None = None,
    strategy: str | None = None,
) -> RetryPolicy:
    known: dict[str, Any] = {
        "max_attempts": max_attempts,
        "initial": _pause(initial_seconds, "/retry/initial_seconds"),
        "multiplier": multiplier,
        "maximum": _pause(max_seconds, "/retry/max_seconds"),
        "jitter": jitter,
        "strategy": strategy,
    }
    return RetryPolicy(**{key: value for key, value in known.items() if value is not None})


def _read_misfire(document: Mapping[str, Any], _now: datetime | None) -> Misfire:
    misfire = document.get("misfire")
    return _misfire(*map(misfire.get, _MISFIRE_FIELDS)) if misfire else _misfire()


@lru_cache(maxsize=256, typed=True)
def _misfire(policy: str | None = None, grace_seconds: float | None = None, limit: int | None = None) -> Misfire:
    default = Misfire()
    grace = _pause(grace_seconds, "/misfire/grace_seconds")
    return Misfire(
        policy=default.policy if policy is None else _choice(MisfirePolicy, policy, "/misfire/policy"),
        grace=default.grace if grace is None else grace,
        limit=default.limit if limit is None else int(_bounded(limit, 1, MAX_MISFIRES, "/misfire/limit")),
    )


def _pause(seconds: float | None, pointer: str) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=_bounded(seconds, 0, MAX_PAUSE_SECONDS, pointer))


def _optional_instant(document: Mapping[str, Any], field: str) -> datetime | None:
    value = document.get(field)
    return None if value is None else parse_instant(value, f"/{field}")


def _bounded(value: float, low: float, high: float, pointer: str) -> float:
    if not low <= value <= high:
        raise InvalidJob.at(pointer, f"must lie between {low} and {high}, not {value}")
    return value


def _choice(kind: Callable[[str], Value], value: str, pointer: str) -> Value:
    try:
        return kind(value)
    except ValueError as error:
        known = ", ".join(str(member) for member in kind)  # type: ignore[attr-defined]
        raise InvalidJob.at(pointer, f"must be one of {known}, not {str(value)[:40]!r}") from error


def _read_name(document: Mapping[str, Any], _now: datetime | None) -> str | None:
    name: str | None = document.get("name")
    if name is None or NAME.fullmatch(name):
        return name
    raise InvalidJob.at("/name", NAME_RULE)


def _read_tags(document: Mapping[str, Any], _now: datetime | None) -> tuple[str, ...]:
    tags = document.get("tags") or ()
    if len(tags) > MAX_TAGS:
        raise InvalidJob.at("/tags", f"{len(tags)} tags; at most {MAX_TAGS} are allowed")
    for index, tag in enumerate(tags):
        if not 1 <= len(tag) <= MAX_TAG or any(ord(char) < 32 or 0xD800 <= ord(char) <= 0xDFFF for char in tag):
            raise InvalidJob.at(f"/tags/{index}", f"must be 1 to {MAX_TAG} characters without control characters")
    return tuple(dict.fromkeys(tags))


def _read_timeout(document: Mapping[str, Any], _now: datetime | None) -> timedelta:
    seconds = document.get("timeout_seconds", 30)
    return timedelta(seconds=_bounded(seconds, MIN_TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS, "/timeout_seconds"))


def _read_overlap(document: Mapping[str, Any], _now: datetime | None) -> Overlap:
    return _choice(Overlap, document.get("overlap", Overlap.SKIP), "/overlap")


def _read_delivery(document: Mapping[str, Any], _now: datetime | None) -> Delivery:
    return _choice(Delivery, document.get("delivery", Delivery.AT_LEAST_ONCE), "/delivery")


# Each part of a definition, and what reads it from the document at a moment.
_PARTS: Mapping[str, Callable[[Mapping[str, Any], datetime | None], object]] = {
    "target": _read_target,
    "timing": _read_timing,
    "retry": _read_retry,
    "misfire": _read_misfire,
    "name": _read_name,
    "tags": _read_tags,
    "timeout": _read_timeout,
    "overlap": _read_overlap,
    "delivery": _read_delivery,
}
