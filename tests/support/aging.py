"""A database whose time passes as a test wants: everything in it becomes older, and the clock stays what it is."""

import json
from datetime import datetime, timedelta
from uuid import UUID

from support.world import World

_INSTANTS = {
    "jobs": "next_run anchor_at execute_at starts_at ends_at created_at updated_at paused_until held_until deleted_at",
    "job_events": "at owed_from owed_until",
    "executions": "scheduled_at available_at next_publish_at lease_expires_at cancel_requested_at effect_started_at "
    "created_at published_at claimed_at first_started_at finished_at skipped_until",
    "attempts": "claimed_at finished_at",
    "instances": "started_at heartbeat_at left_at",
    "announced": "since last_seen_at",
    "prunings": "until",
}
_IN_DEFINITIONS = ("anchor_at", "execute_at", "starts_at", "ends_at")
_RANDOM_BITS = 80


def let_pass(world: World, time: timedelta) -> None:
    """All that is stored happened, or was meant to happen, so much earlier."""
    for table, columns in _INSTANTS.items():
        older = ", ".join(f"{column} = {column} - :time" for column in columns.split())
        world.sql(f"update {table} set {older}", time=time)
    for row in world.sql("select job_id, revision, definition from job_revisions"):
        aged = {
            key: _earlier(value, time) if key in _IN_DEFINITIONS else value for key, value in row.definition.items()
        }
        world.sql(
            "update job_revisions set definition = cast(:aged as jsonb) where job_id = :job and revision = :revision",
            aged=json.dumps(aged),
            job=row.job_id,
            revision=row.revision,
        )
    _age_ids(world, time)


def _age_ids(world: World, time: timedelta) -> None:
    """Ids begin with their moment: an old one must not stand in the way of a new one of the same clock time."""
    world.sql("delete from attempts")
    millis = time // timedelta(milliseconds=1)
    for (old,) in world.sql("select id from executions order by id"):
        aged = UUID(int=old.int - (millis << _RANDOM_BITS))
        world.sql("update executions set id = :aged where id = :old", aged=aged, old=old)


def _earlier(text: str, time: timedelta) -> str:
    return (datetime.fromisoformat(text) - time).isoformat()
