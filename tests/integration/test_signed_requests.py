"""Signed requests, as the reference library of Standard Webhooks verifies them."""

import base64
import secrets
from typing import Any

import pytest
from servers.target import Request, Target, answer, sequence
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from support.executing import ended, running
from support.world import World

from gnomon.job.model import State


def new_secret(size: int = 32) -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(size)).decode()


def verified(secret: str, request: Request) -> bool:
    try:
        Webhook(secret).verify(request.body, dict(request.headers), json_parse=False)
    except WebhookVerificationError:
        return False
    return True


@pytest.mark.parametrize("size", [24, 32, 64])
@pytest.mark.parametrize(
    ("method", "body"), [("POST", '{"a": "é\\u2028"}'), ("POST", None), ("GET", None), ("PUT", "a.b\r\n\x01")]
)
def test_reference_library_takes_the_signature(
    world: World, target: Target, size: int, method: str, body: str | None
) -> None:
    secret = new_secret(size)
    http = {"url": target.url("/hook"), "method": method, "body": body, "signing_secrets": [secret]}
    job = world.create(interval_seconds=3600, http_job=http)
    with running(world) as runner:
        execution = ended(world, runner, job)
    assert execution.state is State.SUCCEEDED
    (request,) = target.requests
    assert verified(secret, request)
    assert not verified(new_secret(), request)
    assert request.header("webhook-id") == str(execution.id) == request.key
    assert abs(int(request.header("webhook-timestamp") or 0) - request.arrived_at.timestamp()) < 120


def test_both_secrets_verify_during_a_change(world: World, target: Target) -> None:
    old, new = new_secret(), new_secret()
    job = world.create(interval_seconds=3600, http_job={"url": target.url(), "signing_secrets": [old]})
    world.service.update(str(job.id), {"http_job": {"signing_secrets": [new, "***"]}})
    with running(world) as runner:
        ended(world, runner, job)
    (request,) = target.requests
    assert [verified(secret, request) for secret in (old, new, new_secret())] == [True, True, False]


def test_retry_keeps_the_id_and_is_signed_at_its_own_time(
    world: World, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.on("/", sequence(answer(503), answer(200)))
    secret = new_secret()
    job = world.create(
        interval_seconds=3600,
        retry={"max_attempts": 2, "initial_seconds": 0, "max_seconds": 0},
        http_job={"url": target.url("/"), "signing_secrets": [secret]},
    )
    clock = iter([1_700_000_000.0, 1_700_000_060.0])
    monkeypatch.setattr("gnomon.worker.executors.http_request.time", Clock(clock))
    with running(world) as runner:
        assert ended(world, runner, job).state is State.SUCCEEDED
    first, second = target.requests
    assert first.header("webhook-id") == second.header("webhook-id")
    assert [one.header("webhook-timestamp") for one in (first, second)] == ["1700000000", "1700000060"]
    assert first.header("webhook-signature") != second.header("webhook-signature")


class Clock:
    """The module `time` with a wall clock of ours."""

    def __init__(self, moments: Any) -> None:
        self._moments = moments

    def time(self) -> float:
        return float(next(self._moments))

    def __getattr__(self, name: str) -> Any:
        import time

        return getattr(time, name)


def test_request_without_secrets_is_not_signed(world: World, target: Target) -> None:
    job = world.create(interval_seconds=3600, http_job={"url": target.url()})
    with running(world) as runner:
        ended(world, runner, job)
    (request,) = target.requests
    assert not [name for name, _ in request.headers if name.lower().startswith("webhook")]
