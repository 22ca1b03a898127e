"""Idempotency-Keys of each principal: which resource a request made, written in the transaction of its effect."""

import hashlib
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection, func, select, text
from sqlalchemy.dialects.postgresql import insert

from gnomon.job.ports import Once
from gnomon.storage.postgres.sessions import principal_of
from gnomon.storage.postgres.tables import idempotency_keys
from gnomon.storage.refusals import key_in_flight, key_reused

KEPT = timedelta(hours=24)
# Some of those that are over, with each new one: so there are never many more than a day's.
FORGET = text("""
delete from idempotency_keys where (principal, key) in (
    select principal, key from idempotency_keys where expires_at <= now()
    order by expires_at limit 100 for update skip locked
)
""")


LOCK = text("select pg_try_advisory_xact_lock(hashtextextended('gnomon key ' || :key, 0))")


def take_key(connection: Connection, once: Once) -> None:
    """Until the transaction ends no other takes the key. Raises KeyInFlight where another has."""
    if not connection.execute(LOCK, {"key": f"{principal_of(connection)} {_stored(once)}"}).scalar_one():
        raise key_in_flight(once)


def known_resource(connection: Connection, once: Once) -> UUID | None:
    """The resource that an earlier request with this key made. Raises KeyReused."""
    keys = idempotency_keys.c
    chosen = select(keys.fingerprint, keys.resource_id).where(
        keys.principal == principal_of(connection), keys.key == _stored(once), keys.expires_at > func.now()
    )
    row = connection.execute(chosen).first()
    if row is None:
        return None
    if row.fingerprint != once.fingerprint:
        raise key_reused(once)
    known: UUID = row.resource_id
    return known


def remember(connection: Connection, once: Once, resource_id: UUID) -> None:
    """Raises KeyReused where another request with the key was quicker."""
    connection.execute(FORGET)
    values = {"fingerprint": once.fingerprint, "resource_id": resource_id, "expires_at": func.now() + KEPT}
    new = insert(idempotency_keys).values(principal=principal_of(connection), key=_stored(once), **values)
    expired = idempotency_keys.c.expires_at <= func.now()
    kept = new.on_conflict_do_update(index_elements=["principal", "key"], set_=values, where=expired)
    if connection.execute(kept.returning(idempotency_keys.c.key)).first() is None:  # a twin for another job
        raise key_reused(once)


def _stored(once: Once) -> str:
    """The fingerprint of a request that holds passwords is keyed with the key, so the key is not kept beside it."""
    return hashlib.sha256(once.key.encode()).hexdigest()
