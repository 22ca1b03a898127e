"""What the examples of the OpenAPI document speak of, put into a database."""

from datetime import datetime, timedelta
from uuid import UUID, uuid4

from gnomon.job.document import read_definition
from gnomon.job.handlers import HandlerSpec
from gnomon.job.model import State
from gnomon.job.ports import NewJob
from gnomon.job.sealing import sealed
from support.keys import SEAL
from support.world import World, record, token

JOB = UUID("3f1c9b0e-5d2a-4c7e-9a41-6b8d2e0f7c55")
FAILED = UUID("0193a6c2-7e10-7b3c-8f4d-2a9b6c1d0e5f")
PENDING = UUID("0193a6c2-9f20-7d11-a2b3-4c5d6e7f8091")
BACKUP = {
    "type": "HTTP",
    "name": "nightly-backup",
    "interval_seconds": 3600,
    "tags": ["backup"],
    "http_job": {"url": "https://example.com/backup", "auth": {"type": "bearer", "token": "secret"}},
}
WAITING = {"type": "HTTP", "name": "report", "interval_seconds": 3600, "http_job": {"url": "https://example.com/"}}
PAYLOAD = {
    "type": "object",
    "properties": {"recipient": {"type": "string"}, "message": {"type": "string"}},
    "required": ["recipient", "message"],
}


def set_scene(world: World) -> None:
    """A database with nothing else: a job with an execution that failed, another with one that is to run, a worker."""
    world.sql(
        "truncate jobs, job_revisions, job_events, executions, attempts, tallies, idempotency_keys, instances cascade"
    )
    world.announce(HandlerSpec(name="email_notification", queue="handlers", schema=PAYLOAD))

    def backup(now: datetime) -> NewJob:
        definition = sealed(read_definition(BACKUP, now=now), job_id=JOB, seal=SEAL)
        return NewJob(id=JOB, definition=definition, next_run=now)

    world.jobs.create(backup)
    world.sql("update jobs set next_run = now() + interval '1 hour'")
    failed = world.service.run_now(str(JOB)).execution
    delivery = uuid4()
    (claimed,) = world.claim([failed.id], delivery=delivery)
    world.executions.start([token(claimed)], delivery=delivery, margin=timedelta(0))
    error = {"error_code": "http_status", "error_message": "the target answered 500", "response_status": 500}
    world.executions.record([record(claimed, State.FAILED, owner=delivery, **error)])
    pending = world.service.run_now(str(world.service.create(WAITING).id)).execution
    world.sql("update job_events set principal = 'anonymous'")
    for given, shown in ((failed.id, FAILED), (pending.id, PENDING)):
        world.sql("update executions set id = :shown where id = :given", given=given, shown=shown)
