"""Secrets of definitions: what is sealed, what it is bound to, how it is kept, moved and rotated."""

import json
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.keys import OPEN, PRIVATE, SEAL

from gnomon.job.document import merge_patch, read_definition, write_definition
from gnomon.job.errors import ConfigurationError, InvalidJob, SecretUnreadable
from gnomon.job.model import Definition
from gnomon.job.sealing import no_open, no_seal, opened, plain_in, sealed, sealed_anew, sealed_to, secrets_of
from gnomon.job.secret import Sealed, revealed
from gnomon.job.stored import read_stored, write_stored
from gnomon.job.target import HttpTarget
from gnomon.sealing.hpke import Opener, Sealer
from gnomon.sealing.keys import PrivateKey, PublicKey

JOB = uuid4()
SIGNING = "whsec_" + "c2lnbmluZ3NlY3JldHNpZ25pbmdzZWNyZXQ="
HTTP = {
    "type": "HTTP",
    "cron_schedule": "@hourly",
    "http_job": {
        "url": "https://example.com/hook",
        "headers": {"X-API-Key": "canary-key", "X-Tenant": "canary-tenant", "X-Plain": "seen"},
        "secret_headers": ["x-tenant"],
        "auth": {"type": "basic", "username": "foo", "password": "canary-password"},
        "signing_secrets": [SIGNING],
    },
}
BEARER = {**HTTP, "http_job": {"url": "https://example.com", "auth": {"type": "bearer", "token": "canary-token"}}}
AMQP = {
    "type": "AMQP",
    "cron_schedule": "@hourly",
    "amqp_job": {"connection": "amqp://me:canary%2Fpass@broker.example/vhost", "routing_key": "q"},
}
EVERY = [HTTP, BEARER, AMQP]


def stored(document: dict[str, object], job_id: UUID = JOB) -> Definition:
    return sealed(read_definition(document), job_id=job_id, seal=SEAL)


@pytest.mark.parametrize("document", EVERY)
def test_what_is_stored_holds_no_secret_and_what_is_opened_is_what_was_given(document: dict[str, object]) -> None:
    definition = read_definition(document)
    kept = json.dumps(write_stored(stored(document)))
    assert "canary" not in kept
    assert SIGNING not in kept
    read = read_stored(json.loads(kept))
    assert plain_in(read) == []
    assert sealed_to(read) == {PRIVATE.public.id}
    assert opened(read, job_id=JOB, unseal=OPEN) == definition


@pytest.mark.parametrize("document", EVERY)
def test_neither_repr_nor_answer_shows_a_secret(document: dict[str, object]) -> None:
    for definition in (read_definition(document), stored(document)):
        assert "canary" not in repr(definition)
        answer = json.dumps(write_definition(definition, secrets=False))
        assert "canary" not in answer
        assert SIGNING not in answer
        assert "***" in answer
        assert "sealed" not in answer


def test_every_kind_of_secret_is_found_where_it_is() -> None:
    pointers = [pointer for document in EVERY for pointer, _ in secrets_of(read_definition(document))]
    assert sorted(pointers) == [
        "/amqp_job/connection",
        "/http_job/auth/password",
        "/http_job/auth/token",
        "/http_job/headers/x-api-key",
        "/http_job/headers/x-tenant",
        "/http_job/signing_secrets",
    ]


def test_definition_whose_secret_is_not_sealed_is_not_stored() -> None:
    with pytest.raises(ValueError, match="/http_job/auth/password is not sealed"):
        write_stored(read_definition(HTTP))


def test_same_secret_is_another_ciphertext_each_time() -> None:
    assert stored(HTTP) != stored(HTTP)


def test_definition_stored_before_there_was_sealing_is_read() -> None:
    definition = read_definition(HTTP)
    assert read_stored(write_definition(definition, secrets=True)) == definition


def test_headers_that_are_named_like_our_own_form_stay_headers() -> None:
    document = {**HTTP, "http_job": {"url": "https://example.com", "headers": {"sealed": "a", "key": "b"}}}
    target = read_stored(write_stored(stored(document))).target
    assert isinstance(target, HttpTarget)
    assert target.headers == {"sealed": "a", "key": "b"}


def moved(*, to: Definition, secret: Sealed) -> Definition:
    """As somebody would who can write to the database."""
    assert isinstance(to.target, HttpTarget)
    assert to.target.auth is not None
    return replace(to, target=replace(to.target, auth=replace(to.target.auth, password=secret)))


def secret_at(pointer: str, definition: Definition) -> Sealed:
    secret = dict(secrets_of(definition))[pointer]
    assert isinstance(secret, Sealed)
    return secret


def test_ciphertext_of_another_job_field_or_origin_is_refused() -> None:
    mine, key = stored(HTTP), "/http_job/headers/x-api-key"
    assert isinstance(mine.target, HttpTarget)
    elsewhere = replace(mine, target=replace(mine.target, url="https://attacker.example/hook"))
    other_job = moved(to=mine, secret=secret_at("/http_job/auth/password", stored(HTTP, uuid4())))
    for tampered in (elsewhere, other_job, moved(to=mine, secret=secret_at(key, mine))):
        with pytest.raises(SecretUnreadable, match="/http_job/auth/password can't be opened") as caught:
            opened(tampered, job_id=JOB, unseal=OPEN)
        assert caught.value.permanent
    with pytest.raises(SecretUnreadable):
        opened(mine, job_id=uuid4(), unseal=OPEN)


@pytest.mark.parametrize("connection", ["amqp://me:***@other.example/vhost", "amqp://other:***@broker.example/vhost"])
def test_password_of_a_broker_is_bound_to_user_and_host(connection: str) -> None:
    kept = stored(AMQP)
    tampered = replace(kept, target=replace(kept.target, connection=connection))  # type: ignore[call-arg]
    with pytest.raises(SecretUnreadable, match="/amqp_job/connection"):
        opened(tampered, job_id=JOB, unseal=OPEN)


@pytest.mark.parametrize("box", ["", "not base64!", "AAAA", "é", "A" * 200])
def test_garbage_is_refused(box: str) -> None:
    with pytest.raises(SecretUnreadable) as caught:
        OPEN(Sealed(key=PRIVATE.public.id, box=box), b"")
    assert caught.value.permanent


def test_unknown_key_is_named_and_may_be_known_elsewhere() -> None:
    other = PrivateKey.generate()
    with pytest.raises(SecretUnreadable, match=f"key {other.public.id}, whose private half is not in") as caught:
        OPEN(Sealer(other.public)("text", b""), b"")
    assert not caught.value.permanent
    with pytest.raises(SecretUnreadable, match="secrets-private-keys"):
        no_open(SEAL("text", b""), b"")


def test_process_without_a_key_refuses_what_it_can_not_seal_and_says_what_to_set() -> None:
    with pytest.raises(InvalidJob, match="/http_job/auth/password: credentials can't be stored") as caught:
        sealed(read_definition(HTTP), job_id=JOB, seal=no_seal)
    assert "secrets-public-keys" in str(caught.value.errors[0].hint)
    bare = {**HTTP, "http_job": {"url": "https://example.com"}}
    assert sealed(read_definition(bare), job_id=JOB, seal=no_seal) == read_definition(bare)


def changed(definition: Definition, patch: dict[str, object]) -> Definition:
    """As JobService.update does."""
    patched = read_definition(merge_patch(write_definition(definition, secrets=True), patch))
    return sealed(patched, job_id=JOB, seal=SEAL, before=definition)


def test_change_copies_the_ciphertext_of_what_it_leaves_alone() -> None:
    before = stored(HTTP)
    for patch in (
        {"name": "other"},
        {"http_job": {"auth": {"password": "***"}, "headers": {"X-Api-Key": "***"}, "signing_secrets": ["***"]}},
        {"http_job": {"url": "https://example.com/other?path"}},
        {"http_job": {"secret_headers": None}},
    ):
        after = changed(before, patch)  # type: ignore[arg-type]
        assert {secret for _, secret in secrets_of(after)} == {secret for _, secret in secrets_of(before)}
        opened(after, job_id=JOB, unseal=OPEN)


def test_secret_does_not_follow_to_another_origin() -> None:
    for url in ("https://attacker.example/", "http://example.com/hook", "https://example.com:8443/"):
        with pytest.raises(InvalidJob, match="given for another address"):
            changed(stored(HTTP), {"http_job": {"url": url}})
    secrets = {"auth": {"password": "new"}, "headers": {"X-API-Key": "new", "X-Tenant": "new"}}
    moved_on = changed(
        stored(HTTP), {"http_job": {"url": "https://other.example", **secrets, "signing_secrets": [SIGNING]}}
    )
    assert dict(secrets_of(opened(moved_on, job_id=JOB, unseal=OPEN)))["/http_job/auth/password"] == "new"


def test_broker_password_is_kept_for_the_same_user_and_host_only() -> None:
    before = stored(AMQP)
    kept = changed(before, {"amqp_job": {"connection": "amqps://me:***@broker.example:5671/other"}})
    assert secrets_of(kept) == secrets_of(before)
    with pytest.raises(InvalidJob, match="none is stored here for this user and host"):
        changed(before, {"amqp_job": {"connection": "amqp://me:***@attacker.example/vhost"}})
    new = changed(before, {"amqp_job": {"connection": "amqp://me:new@attacker.example/vhost"}})
    assert dict(secrets_of(opened(new, job_id=JOB, unseal=OPEN)))["/amqp_job/connection"] == "new"


def test_second_signing_secret_joins_the_first_and_then_replaces_it() -> None:
    new = "whsec_" + "bmV3c2lnbmluZ3NlY3JldG5ld3NpZ25pbmc="
    both = changed(stored(HTTP), {"http_job": {"signing_secrets": [new, "***"]}})
    target = opened(both, job_id=JOB, unseal=OPEN).target
    assert isinstance(target, HttpTarget)
    assert target.signing_secrets == (new, SIGNING)
    alone = opened(changed(both, {"http_job": {"signing_secrets": ["***"]}}), job_id=JOB, unseal=OPEN).target
    assert isinstance(alone, HttpTarget)
    assert alone.signing_secrets == (new,)


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ({"headers": {"Cookie": "***"}}, "/http_job/headers/Cookie"),
        ({"auth": {"type": "bearer", "token": "***"}}, "/http_job/auth"),
        ({"signing_secrets": ["***"]}, "/http_job/signing_secrets/0: does not begin with whsec_"),
        ({"signing_secrets": ["whsec_no base64"]}, "/http_job/signing_secrets/0: is not base64"),
        ({"signing_secrets": ["whsec_c2hvcnQ="]}, "/http_job/signing_secrets/0: is 5 bytes long"),
        ({"signing_secrets": [SIGNING] * 3}, "/http_job/signing_secrets: 3 secrets"),
        ({"secret_headers": ["X-Tenat"], "headers": {"X-Tenant": "1"}}, "/http_job/secret_headers/0: no header"),
    ],
)
def test_secret_that_is_none_is_refused(part: dict[str, object], fault: str) -> None:
    with pytest.raises(InvalidJob, match=fault):
        read_definition({**HTTP, "http_job": {"url": "https://example.com", **part}})


@pytest.mark.parametrize("document", EVERY)
def test_old_keys_open_and_sealing_anew_moves_to_the_new_one(document: dict[str, object]) -> None:
    new = PrivateKey.generate()
    both = Opener([new, PRIVATE])
    old = stored(document)
    assert opened(old, job_id=JOB, unseal=both) == read_definition(document)
    key = new.public.id
    moved_on = sealed_anew(old, job_id=JOB, unseal=both, seal=Sealer(new.public), key=key)
    assert sealed_to(moved_on) == {key}
    assert opened(moved_on, job_id=JOB, unseal=Opener([new])) == read_definition(document)
    assert sealed_anew(moved_on, job_id=JOB, unseal=no_open, seal=no_seal, key=key) == moved_on


def test_sealed_secret_is_not_sent_by_mistake() -> None:
    with pytest.raises(TypeError, match="sealed"):
        revealed(SEAL("text", b""))
    assert str(SEAL("text", b"")) == "***"


def test_keys_are_words_that_tell_public_from_private() -> None:
    text = PRIVATE.reveal()
    assert PrivateKey.parse(text).public == PRIVATE.public or str(PrivateKey.parse(text).public) == str(PRIVATE.public)
    assert str(PublicKey.parse(str(PRIVATE.public))) == str(PRIVATE.public)
    assert PRIVATE.reveal().split("-")[-1] not in repr(PRIVATE)
    with pytest.raises(ConfigurationError, match="holds a private key") as caught:
        PublicKey.parse(text)
    assert text[30:] not in str(caught.value)
    for wrong in ("", "nonsense", text[:-3], str(PRIVATE.public)):
        with pytest.raises(ConfigurationError, match="secrets-private-keys"):
            PrivateKey.parse(wrong)


@given(st.text(min_size=1).filter(lambda text: text != "***"), st.binary(max_size=50), st.binary(max_size=50))
def test_any_text_is_opened_with_its_binding_and_no_other(text: str, binding: bytes, other: bytes) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert OPEN(SEAL(text, binding), binding) == text
    if binding != other:
        with pytest.raises(SecretUnreadable):
            OPEN(SEAL(text, binding), other)
