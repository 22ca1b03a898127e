"""InstanceStore and Catalog on Postgres: who takes part, and what they can run."""

import json
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, Row, TextClause, text

from gnomon.job.handlers import HandlerInfo, HandlerSpec
from gnomon.job.instance import ALIVE_WITHIN, Identity, Instance, Role
from gnomon.storage.postgres.engine import autocommit, translated

LIVING = "left_at is null and heartbeat_at > now() - make_interval(secs => :alive)"

# Names are announced with each heartbeat, but written only where that says something new, and now and then to show that
# they are still there. That is left to the process whose schema holds, unless it has fallen silent.
BEAT: TextClause = text("""
with given as materialized (
    select kind, name, queue, schema
    from json_to_recordset(cast(:announced as json)) as g (kind text, name text, queue text, schema jsonb)
), present as (
    insert into instances as i (id, name, role, host, pid, version, queues, handlers, retry_strategies)
    select :id, :name, :role, :host, :pid, :version, cast(:queues as text[]),
        array(select name from given where kind = 'handler' order by name),
        array(select name from given where kind = 'retry_strategy' order by name)
    on conflict (id) do update set heartbeat_at = now(), left_at = null, queues = excluded.queues,
        handlers = excluded.handlers, retry_strategies = excluded.retry_strategies
    returning started_at
)
insert into announced as a (kind, name, queue, schema, since, last_seen_at)
select g.kind, g.name, g.queue, g.schema, p.started_at, now()
from given g cross join present p left join announced known on known.kind = g.kind and known.name = g.name
where known.name is null or known.since < p.started_at or known.last_seen_at < now() - interval '60 seconds'
    or known.since = p.started_at and (
        known.last_seen_at < now() - interval '30 seconds'
        or (known.queue, known.schema) is distinct from (g.queue, g.schema)
    )
order by g.kind, g.name
on conflict (kind, name) do update set
    queue = excluded.queue, schema = excluded.schema, since = excluded.since, last_seen_at = excluded.last_seen_at
""")

LEAVE: TextClause = text("update instances set left_at = now() where id = :id")

LEADER: TextClause = text(f"""
select id from instances where role = 'scheduler' and {LIVING} order by started_at, id limit 1
""")

LIST: TextClause = text(f"""
select id, name, role, host, pid, version, queues, started_at, heartbeat_at, left_at, {LIVING} as alive,
    id is not distinct from ({LEADER.text}) as leader
from instances order by role, started_at, id
""")

# Processes that are gone say more exactly when a name was last seen, until they are forgotten.
ANNOUNCED: TextClause = text(f"""
select a.name, a.queue, a.schema, greatest(a.last_seen_at, max(i.heartbeat_at)) as last_seen_at,
    coalesce(bool_or({LIVING}), false) as alive
from announced a left join instances i on a.name = any(i.handlers)
where a.kind = 'handler' and (cast(:name as text) is null or a.name = :name)
group by a.kind, a.name order by a.name
""")

RETRY_STRATEGIES: TextClause = text("select name from announced where kind = 'retry_strategy' order by name")


class PostgresInstanceStore:
    """InstanceStore on Postgres."""

    def __init__(self, engine: Engine) -> None:
        self._engine = autocommit(engine)

    def beat(
        self, identity: Identity, *, handlers: Sequence[HandlerSpec] = (), retry_strategies: Sequence[str] = ()
    ) -> None:
        """One upsert of the process, and of what it says for the first time."""
        parameters = {
            "id": identity.id,
            "name": identity.name,
            "role": identity.role.value,
            "host": identity.host,
            "pid": identity.pid,
            "version": identity.version,
            "queues": list(identity.queues),
            "announced": json.dumps([*_handler_rows(handlers), *_strategy_rows(retry_strategies)]),
        }
        with translated(), self._engine.connect() as connection:
            connection.execute(BEAT, parameters)

    def leave(self, instance_id: UUID) -> None:
        """Its row stays until it is forgotten."""
        with translated(), self._engine.connect() as connection:
            connection.execute(LEAVE, {"id": instance_id})

    def list(self) -> Sequence[Instance]:
        """With the leader marked."""
        with translated(), self._engine.connect() as connection:
            return [_read_instance(row) for row in connection.execute(LIST, _alive())]

    def leader(self) -> UUID | None:
        """The database's clock decides who lives."""
        with translated(), self._engine.connect() as connection:
            return connection.execute(LEADER, _alive()).scalar_one_or_none()


class PostgresCatalog:
    """Catalog on Postgres."""

    def __init__(self, engine: Engine) -> None:
        self._engine = autocommit(engine)

    def handler(self, name: str) -> HandlerInfo | None:
        """One that is `alive` may be gone by the next moment."""
        found = [] if "\x00" in name else self._announced(name)  # which no text in the database can hold
        return found[0] if found else None

    def handlers(self) -> Sequence[HandlerInfo]:
        """Those of processes that are gone as well."""
        return self._announced(None)

    def retry_strategies(self) -> Sequence[str]:
        """Those of processes that are gone as well."""
        with translated(), self._engine.connect() as connection:
            return list(connection.execute(RETRY_STRATEGIES).scalars())

    def _announced(self, name: str | None) -> Sequence[HandlerInfo]:
        with translated(), self._engine.connect() as connection:
            rows = connection.execute(ANNOUNCED, {"name": name, **_alive()}).mappings()
            return [HandlerInfo(**row) for row in rows]


def _alive() -> dict[str, float]:
    return {"alive": ALIVE_WITHIN.total_seconds()}


def _handler_rows(handlers: Iterable[HandlerSpec]) -> Iterable[dict[str, Any]]:
    for handler in handlers:
        yield {"kind": "handler", "name": handler.name, "queue": handler.queue, "schema": handler.schema}


def _strategy_rows(names: Iterable[str]) -> Iterable[dict[str, Any]]:
    for name in names:
        yield {"kind": "retry_strategy", "name": name}


def _read_instance(row: Row[Any]) -> Instance:
    return Instance(**{**row._asdict(), "role": Role(row.role), "queues": tuple(row.queues)})
