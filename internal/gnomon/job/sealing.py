"""Sealing the secrets of a definition before it is stored, and opening them where it is used.

What is sealed is bound to the job, the field, and whom the target shows it to: the origin of a URL, the user at a
broker's host. So a new revision can copy the ciphertext, and one that was moved to another job or field, or whose URL
was changed by whoever can write to the database, is refused.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, assert_never
from urllib.parse import urlsplit
from uuid import UUID

from gnomon.job.amqp import MASK, masked, with_password
from gnomon.job.errors import InvalidJob, SecretUnreadable
from gnomon.job.model import Definition
from gnomon.job.secret import Sealed, Secret
from gnomon.job.target import AmqpTarget, BasicAuth, BearerAuth, HandlerTarget, HttpTarget, Target

Seal = Callable[[str, bytes], Sealed]
Open = Callable[[Sealed, bytes], str]
Change = Callable[[str, Secret], Secret]  # of the secret at a JSON pointer

PASSWORD = "/http_job/auth/password"  # noqa: S105 - where it is
TOKEN = "/http_job/auth/token"  # noqa: S105
HEADER = "/http_job/headers/"
SIGNING = "/http_job/signing_secrets"
CONNECTION = "/amqp_job/connection"


def no_seal(_text: str, _binding: bytes) -> Sealed:
    """Of a process that has no key to seal with. Raises InvalidJob."""
    raise InvalidJob.at(
        "",
        "credentials can't be stored: this API has no key to seal them with",
        "whoever runs it sets secrets-public-keys; `gnomon sealing generate` makes a pair of keys",
    )


def no_open(secret: Sealed, _binding: bytes) -> str:
    """Of a process that has no key to open anything with. Raises SecretUnreadable."""
    raise SecretUnreadable.without_key(secret.key)


def sealed(definition: Definition, *, job_id: UUID, seal: Seal, before: Definition | None = None) -> Definition:
    """The definition as it may be stored. Sealed secrets are kept, if `before` has them for the same use.

    Raises InvalidJob for one that was given for another use, and what `seal` raises, at the field.
    """
    known = set() if before is None else {(secret, _binding(job_id, before, at)) for at, secret in secrets_of(before)}

    def change(pointer: str, secret: Secret) -> Secret:
        binding = _binding(job_id, definition, pointer)
        if isinstance(secret, str):
            try:
                return seal(secret, binding)
            except InvalidJob as error:
                raise error.under(pointer) from error
        if (secret, binding) in known:
            return secret
        raise InvalidJob.at(
            pointer,
            "the stored secret was given for another address, and does not follow to this one",
            "give the secret again, together with the new address",
        )

    return _with_secrets(definition, change)


def opened(definition: Definition, *, job_id: UUID, unseal: Open) -> Definition:
    """The definition as an executor takes it. Raises SecretUnreadable, which names the field."""

    def change(pointer: str, secret: Secret) -> Secret:
        return _open(secret, pointer, _binding(job_id, definition, pointer), unseal)

    return _with_secrets(definition, change) if sealed_to(definition) else definition


def sealed_anew(definition: Definition, *, job_id: UUID, unseal: Open, seal: Seal, key: str) -> Definition:
    """The definition with all that is not sealed to `key` sealed by `seal`. Raises SecretUnreadable."""

    def change(pointer: str, secret: Secret) -> Secret:
        if isinstance(secret, Sealed) and secret.key == key:
            return secret
        binding = _binding(job_id, definition, pointer)
        return seal(_open(secret, pointer, binding, unseal), binding)

    return _with_secrets(definition, change)


def secrets_of(definition: Definition) -> list[tuple[str, Secret]]:
    """Each secret and the JSON pointer to the field that holds it."""
    found: list[tuple[str, Secret]] = []

    def note(pointer: str, secret: Secret) -> Secret:
        found.append((pointer, secret))
        return secret

    _changed(definition.target, note)
    return found


def sealed_to(definition: Definition) -> set[str]:
    """The keys that are needed to open it."""
    return {secret.key for _, secret in secrets_of(definition) if isinstance(secret, Sealed)}


def plain_in(definition: Definition) -> list[str]:
    """The pointers of the secrets that are not sealed."""
    return [pointer for pointer, secret in secrets_of(definition) if isinstance(secret, str)]


def _open(secret: Secret, pointer: str, binding: bytes, unseal: Open) -> str:
    if isinstance(secret, str):
        return secret
    try:
        return unseal(secret, binding)
    except SecretUnreadable as error:
        raise error.at(pointer) from error


def _with_secrets(definition: Definition, change: Change) -> Definition:
    target = _changed(definition.target, change)
    return definition if target is definition.target else replace(definition, target=target)


def _changed(target: Target, change: Change) -> Target:
    match target:
        case HttpTarget():
            changed: Mapping[str, Any] = {
                "auth": _changed_auth(target.auth, change),
                "headers": {
                    name: change(HEADER + name.lower(), value) if target.keeps_secret(name) else value
                    for name, value in target.headers.items()
                },
                "signing_secrets": tuple(map(partial(change, SIGNING), target.signing_secrets)),
            }
            same = all(getattr(target, name) == value for name, value in changed.items())
            return target if same else replace(target, **changed)  # which checks all of it again
        case AmqpTarget():
            return _changed_amqp(target, change)
        case HandlerTarget():
            return target
        case _:
            assert_never(target)


def _changed_auth(auth: BasicAuth | BearerAuth | None, change: Change) -> BasicAuth | BearerAuth | None:
    match auth:
        case BasicAuth(password=password):
            return replace(auth, password=change(PASSWORD, password))
        case BearerAuth(token=token):
            return replace(auth, token=change(TOKEN, token))
        case None:
            return None
        case _:
            assert_never(auth)


def _changed_amqp(target: AmqpTarget, change: Change) -> AmqpTarget:
    if target.password is None and MASK not in masked(target.connection):
        return target
    secret = change(CONNECTION, target.broker.password if target.password is None else target.password)
    if isinstance(secret, Sealed):
        return replace(target, connection=masked(target.connection), password=secret)
    return replace(target, connection=with_password(target.connection, secret), password=None)


def _binding(job_id: UUID, definition: Definition, pointer: str) -> bytes:
    return json.dumps(["gnomon secret", 1, str(job_id), pointer, *_audience(definition.target)]).encode()


def _audience(target: Target) -> tuple[str, ...]:
    """Whom the target's secrets are shown to."""
    match target:
        case HttpTarget(url=url):
            parts = urlsplit(url)
            return parts.scheme, parts.hostname or "", str(parts.port or (443 if parts.scheme == "https" else 80))
        case AmqpTarget():
            return "amqp", target.broker.user, target.broker.host
        case HandlerTarget(name=name):
            return "handler", name
        case _:
            assert_never(target)
