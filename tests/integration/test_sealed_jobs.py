"""Credentials of jobs on the way from the database to a target, and when their keys change while everything runs."""

import json
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner
from servers.target import Target
from support.api import created, make_client, only_error
from support.cluster import cluster, wait_until
from support.executing import ended, running
from support.keys import FOR_WORKER, OPEN, PRIVATE
from support.world import World

from gnomon.bootstrap.sealing import Rotation, rotate
from gnomon.cli.main import gnomon
from gnomon.cli.sealing import add_pair
from gnomon.embedded.ports import free_port
from gnomon.job.model import Job, State
from gnomon.job.sealing import no_open, opened, sealed_to, secrets_of
from gnomon.job.secret import Sealed
from gnomon.job.service import JobService
from gnomon.sealing.hpke import Opener
from gnomon.sealing.keys import PrivateKey
from gnomon.settings import load_settings
from gnomon.storage.postgres.rows import read_stored_definition

ONCE = {"max_attempts": 1}
SHORT = {"max_attempts": 2, "initial_seconds": 0, "max_seconds": 0}
AUTH = {"type": "bearer", "token": "t0ken"}


def calling(world: World, url: str, **http: Any) -> Job:
    return world.create(interval_seconds=3600, retry=ONCE, http_job={"url": url, "auth": AUTH, **http})


def tamper(world: World, job: Job, path: str, value: object) -> None:
    """As somebody would who can write to the database."""
    statement = "update job_revisions set definition = jsonb_set(definition, cast(:path as text[]), cast(:v as jsonb))"
    world.sql(f"{statement} where job_id = :id", id=job.id, path=f"{{{path}}}", v=json.dumps(value))


def stored(world: World, job: Job, path: str) -> Any:
    return world.one(
        "select definition #> cast(:path as text[]) from job_revisions where job_id = :id order by revision desc",
        id=job.id,
        path=f"{{{path}}}",
    )


def test_sealed_credentials_reach_the_target_as_they_were_given(world: World, target: Target) -> None:
    headers = {"X-Api-Key": "k3y", "Cookie": "a=b", "X-Mine": "m1ne"}
    job = calling(world, target.url(), headers=headers, secret_headers=["X-Mine"])
    with running(world) as runner:
        assert ended(world, runner, job).state is State.SUCCEEDED
    (request,) = target.requests
    assert request.header("Authorization") == "Bearer t0ken"
    assert [request.header(name) for name in headers] == [*headers.values()]


def test_edit_of_something_else_keeps_the_password_of_a_broker(world: World) -> None:
    amqp = {"connection": "amqp://u:pass@broker.example/v", "routing_key": "q"}
    job = world.create(type="AMQP", http_job=None, amqp_job=amqp)
    before = stored(world, job, "amqp_job")
    for number, patch in enumerate(({"tags": ["x"]}, {"interval_seconds": 60}, {"amqp_job": {"routing_key": "q"}}), 1):
        changed = world.service.update(str(job.id), patch)
        assert changed.revision == min(number + 1, 3)
        assert stored(world, job, "amqp_job") == before


Move = Callable[[World, Job, Job], None]


def swap_between_jobs(world: World, job: Job, other: Job) -> None:
    tamper(world, job, "http_job,auth,token", stored(world, other, "http_job,auth,token"))


def swap_between_fields(world: World, job: Job, _other: Job) -> None:
    tamper(world, job, "http_job,auth,token", stored(world, job, "http_job,headers,X-Api-Key"))


def swap_address(world: World, job: Job, _other: Job) -> None:
    tamper(world, job, "http_job,url", stored(world, job, "http_job,url").replace("127.0.0.1", "127.0.0.2"))


def break_box(world: World, job: Job, _other: Job) -> None:
    tamper(world, job, "http_job,auth,token,sealed", "AAAA")


@pytest.mark.parametrize("move", [swap_between_jobs, swap_between_fields, swap_address, break_box])
def test_execution_with_a_moved_secret_fails_at_once_and_sends_nothing(
    world: World, target: Target, move: Move
) -> None:
    job, other = (calling(world, target.url(), headers={"X-Api-Key": "k3y"}) for _ in range(2))
    move(world, job, other)
    with running(world) as runner:
        execution = ended(world, runner, job)
    assert (execution.state, execution.error_code) == (State.FAILED, "secret_unreadable")
    assert execution.error_message is not None
    assert "/http_job/" in execution.error_message
    assert "set it again" in execution.error_message
    assert target.requests == ()


def test_worker_without_the_key_fails_an_attempt_and_another_one_can_make_the_next(
    world: World, target: Target
) -> None:
    job = world.create(interval_seconds=3600, retry=SHORT, http_job={"url": target.url(), "auth": AUTH})
    world.make_due(job)
    ids = world.dispatched()

    def is_pending() -> bool:
        (execution,) = world.history_of(job)
        return (execution.state, execution.attempt) == (State.PENDING, 1)

    with running(world, unseal=no_open) as poor:
        poor.admit(ids)
        wait_until("the first attempt has failed", is_pending)
    with running(world) as rich:
        rich.admit(ids)
        wait_until("the second succeeds", lambda: world.history_of(job)[0].state is State.SUCCEEDED)
    (execution,) = world.history_of(job)
    assert execution.attempts[0].error_code == "secret_unreadable"
    assert "secrets-private-keys" in (execution.attempts[0].error_message or "")


def test_job_stored_in_clear_runs_and_is_sealed_when_it_is_edited(world: World, target: Target) -> None:
    job = calling(world, target.url())
    tamper(world, job, "http_job,auth,token", "old")
    with running(world) as runner:
        assert ended(world, runner, job).state is State.SUCCEEDED
    (request,) = target.requests
    assert request.header("Authorization") == "Bearer old"
    world.service.update(str(job.id), {"tags": ["edited"]})
    definition = world.service.get(str(job.id)).definition
    assert definition is not None
    assert sealed_to(definition) == {PRIVATE.public.id}
    assert dict(secrets_of(opened(definition, job_id=job.id, unseal=OPEN))) == {"/http_job/auth/token": "old"}


def test_api_without_a_key_refuses_credentials_and_takes_jobs_that_have_none(world: World) -> None:
    world.service = JobService(jobs=world.jobs, runs=world.runs, history=world.history, catalog=world.catalog)
    client = make_client(world)
    http = {"url": "https://example.com", "auth": AUTH}
    error = only_error(client.post("/v1/jobs", json={"type": "HTTP", "cron_schedule": "@hourly", "http": http}))
    assert error["pointer"] == "/http/auth/token"
    assert "secrets-public-keys" in error["hint"]
    job = created(client)
    assert only_error(client.patch(f"/v1/jobs/{job['id']}", json={"http_job": {"auth": AUTH}}))["pointer"]
    assert "t0ken" not in str(world.sql("select * from job_revisions"))


def rotated(database_url: str, *keys: PrivateKey) -> Rotation:
    settings = load_settings(
        {},
        {
            "SCHEDULER_DB_URL": database_url,
            "SCHEDULER_SECRETS_PRIVATE_KEYS": "\n".join(key.reveal() for key in keys),
        },
    )
    return rotate(settings, lambda _: None)


def keys_in(world: World) -> set[str]:
    """The keys that all revisions are sealed to."""
    found: set[str] = set()
    for (document,) in world.sql("select definition from job_revisions"):
        definition = read_stored_definition(document)
        for _, secret in secrets_of(definition):  # type: ignore[arg-type]
            found.add(secret.key if isinstance(secret, Sealed) else "in clear")
    return found


def test_rotation_seals_every_revision_of_every_job_and_can_be_run_again(world: World, database_url: str) -> None:
    job = calling(world, "https://example.com", headers={"Cookie": "c"}, signing_secrets=["whsec_" + "a2V5" * 8])
    world.service.update(str(job.id), {"timeout_seconds": 7})
    world.create(type="AMQP", http_job=None, amqp_job={"connection": "amqp://u:pass@broker/v", "routing_key": "q"})
    in_clear, gone = calling(world, "https://a.example"), calling(world, "https://b.example")
    tamper(world, in_clear, "http_job,auth,token", "old")
    world.service.delete(str(gone.id))
    world.create()
    new = PrivateKey.generate()
    first = rotated(database_url, new, PRIVATE)
    assert (first.changed, first.failures, first.late) == (5, [], False)
    assert (first.key, first.old) == (new.public.id, [PRIVATE.public.id])
    assert keys_in(world) == {new.public.id}
    assert rotated(database_url, new, PRIVATE).changed == 0
    copies = world.sql(
        "select definition #> '{http_job,auth}' as auth from job_revisions where job_id = :id", id=job.id
    )
    assert copies[0].auth == copies[1].auth
    definition = world.service.get(str(job.id)).definition
    assert definition is not None
    assert dict(secrets_of(opened(definition, job_id=job.id, unseal=Opener([new])))) == {
        "/http_job/auth/token": "t0ken",
        "/http_job/headers/cookie": "c",
        "/http_job/signing_secrets": "whsec_" + "a2V5" * 8,
    }


def test_rotation_names_what_it_can_not_seal_and_lets_no_key_go(world: World, database_url: str) -> None:
    job, other = calling(world, "https://a.example"), calling(world, "https://a.example")
    tamper(world, job, "http_job,auth,token", stored(world, other, "http_job,auth,token"))
    new = PrivateKey.generate()
    settings = {"SCHEDULER_SECRETS_PRIVATE_KEYS": f"{new.reveal()},{PRIVATE.reveal()}"}
    done = CliRunner().invoke(gnomon, ["sealing", "rotate"], env={"SCHEDULER_DB_URL": database_url, **settings})
    assert done.exit_code == 1
    assert f"not sealed anew: job {job.id}, revision 1: the secret at /http_job/auth/token" in done.output
    assert "no longer needed" not in done.output
    assert "t0ken" not in done.output


def test_rotation_needs_a_private_key(database_url: str) -> None:
    done = CliRunner().invoke(gnomon, ["sealing", "rotate"], env={"SCHEDULER_DB_URL": database_url})
    assert done.exit_code == 2
    assert "secrets-private-keys is not set" in done.output


def test_jobs_that_are_edited_during_a_rotation_end_up_sealed_to_the_new_key(
    world: World, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [calling(world, "https://example.com") for _ in range(20)]
    new = PrivateKey.generate()
    stop = threading.Event()

    def edit() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            world.service.update(str(jobs[number % 20].id), {"timeout_seconds": 1 + number % 1_000})

    monkeypatch.setattr("gnomon.bootstrap.sealing.JOBS_AT_ONCE", 3)
    editor = threading.Thread(target=edit)
    editor.start()
    try:
        done = rotated(database_url, new, PRIVATE)
    finally:
        stop.set()
        editor.join()
    assert not done.failures
    assert not done.late
    assert keys_in(world) == {new.public.id}


class Installation:
    """An API, a scheduler and workers whose keys are in two files."""

    def __init__(self, folder: Path) -> None:
        self.private, self.public = folder / "private", folder / "public"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.api_settings = {
            "SCHEDULER_SECRETS_PUBLIC_KEYS": "",
            "SCHEDULER_SECRETS_PUBLIC_KEYS_FILE": str(self.public),
            "SCHEDULER_WEB_API_HOST": f"127.0.0.1:{self.port}",
        }
        self.worker_settings = {
            **dict.fromkeys(FOR_WORKER, ""),
            "SCHEDULER_SECRETS_PRIVATE_KEYS_FILE": str(self.private),
        }

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/health/ready", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    def create(self, url: str, **http: Any) -> Mapping[str, Any]:
        body = {"type": "HTTP", "interval_seconds": 1, "overlap": "allow", "http_job": {"url": url, **http}}
        response = requests.post(f"{self.url}/v1/jobs", json=body, timeout=20)
        assert response.status_code == 201, response.text
        job: Mapping[str, Any] = response.json()
        return job


def test_keys_change_while_jobs_run_and_no_call_is_lost_or_without_its_credentials(
    database_url: str, redis_url: str, target: Target, tmp_path: Path
) -> None:
    """The steps of docs/operations.md."""
    here = Installation(tmp_path)
    add_pair(here.private, here.public)
    settings = {"SCHEDULER_CACHE_URL": redis_url}
    with cluster(database_url=database_url, queue_url=redis_url, folder=tmp_path, **settings) as started:
        start = partial(started.start, **here.worker_settings)
        worker, api = start("worker"), started.start("api", **here.api_settings)
        started.start("scheduler").wait_ready()
        worker.wait_ready()
        wait_until("the API is ready", here.answers)
        job = here.create(target.url("/old"), auth=AUTH)
        wait_until("it is called", lambda: calls(target, "/old") >= 2)
        runner = CliRunner()
        assert runner.invoke(gnomon, ["sealing", "generate", str(here.private), str(here.public)]).exit_code == 0
        follower = start("worker")
        follower.wait_ready()
        worker.stop()
        api.stop()
        started.start("api", **here.api_settings)
        wait_until("the API is ready again", here.answers)
        young = here.create(target.url("/new"), auth=AUTH)
        keys = {"SCHEDULER_SECRETS_PRIVATE_KEYS_FILE": str(here.private), "SCHEDULER_DB_URL": database_url}
        done = runner.invoke(gnomon, ["sealing", "rotate"], env=keys)
        assert done.exit_code == 0, done.output
        assert "1 revisions were sealed anew" in done.output
        assert "no longer needed by what is stored" in done.output
        here.private.chmod(0o600)
        here.private.write_text(here.private.read_text().splitlines()[0] + "\n")
        last = start("worker")
        last.wait_ready()
        follower.stop()
        before = {path: calls(target, path) for path in ("/old", "/new")}
        for path, count in before.items():
            wait_until(f"{path} is called by the last worker", lambda: calls(target, path) >= count + 2)  # noqa: B023
        for one in (job, young):
            history = requests.get(f"{here.url}/v1/jobs/{one['id']}/executions", timeout=20).json()
            assert {execution["error_code"] for execution in history} == {None}
    assert {request.header("Authorization") for request in target.requests} == {"Bearer t0ken"}


def calls(target: Target, path: str) -> int:
    return sum(request.path == path for request in target.requests)
