"""All stores over one real database, and short ways to set a scene in it."""

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Row, text

from gnomon.api.access import acting
from gnomon.job.creations import Creations
from gnomon.job.handlers import HandlerSpec
from gnomon.job.imports import Imports
from gnomon.job.instance import Identity, Role
from gnomon.job.model import Execution, Job, State
from gnomon.job.ports import (
    Claimed,
    DispatchStore,
    ExecutionQuery,
    ExecutionStore,
    HistoryStore,
    Record,
    Token,
)
from gnomon.job.repeats import Repeats
from gnomon.job.service import JobService
from gnomon.scheduler.dispatch import plan_batch
from gnomon.storage.postgres.api_keys import PostgresKeyStore
from gnomon.storage.postgres.creations import PostgresCreationStore
from gnomon.storage.postgres.dispatch import PostgresDispatchStore
from gnomon.storage.postgres.engine import create_engine
from gnomon.storage.postgres.executions import PostgresExecutionStore
from gnomon.storage.postgres.history import PostgresHistoryStore
from gnomon.storage.postgres.housekeeping import PostgresHousekeepingStore
from gnomon.storage.postgres.imports import PostgresImportStore
from gnomon.storage.postgres.instances import PostgresCatalog, PostgresInstanceStore
from gnomon.storage.postgres.jobs import PostgresJobStore
from gnomon.storage.postgres.overview import PostgresOverviewStore
from gnomon.storage.postgres.repeats import PostgresRepeatStore
from gnomon.storage.postgres.runs import PostgresRunStore
from gnomon.storage.postgres.sessions import acting_for
from gnomon.storage.postgres.trail import PostgresTrailStore
from support.keys import OPEN, SEAL

LEASE = timedelta(seconds=30)
HTTP_JOB = {"url": "http://127.0.0.1:9/hook", "method": "POST", "body": "{}"}


class Scene:
    """The ports of one store, and short ways to use them."""

    service: JobService
    dispatch: DispatchStore
    executions: ExecutionStore
    history: HistoryStore

    def worker(self, name: str) -> ExecutionStore:
        raise NotImplementedError

    def create(self, **document: Any) -> Job:
        given = {"type": "HTTP", "http_job": HTTP_JOB, **document}
        if not {"cron_schedule", "execute_at", "delay_seconds"} & given.keys():
            given.setdefault("interval_seconds", 3600)
        return self.service.create(given)

    def dispatched(self, *, limit: int = 1000) -> list[UUID]:
        """One dispatch; the ids it published."""
        done = self.dispatch.dispatch(plan_batch, limit=limit)
        return [execution_id for ids in done.published.values() for execution_id in ids]

    def claim(
        self, ids: Iterable[UUID], *, lease: timedelta = LEASE, delivery: UUID | None = None
    ) -> Sequence[Claimed]:
        return self.executions.claim(list(ids), delivery=delivery or uuid4(), lease=lease)

    def history_of(self, job: Job) -> list[Execution]:
        return list(self.history.list(job.id, ExecutionQuery(limit=500)).items)

    def states_of(self, job: Job) -> list[str]:
        """Oldest first."""
        return [execution.state.value for execution in reversed(self.history_of(job))]


class World(Scene):
    """One database seen through every store."""

    def __init__(self, database_url: str) -> None:
        self.engine = acting_for(create_engine(database_url, pool_size=5, max_open=20), acting)
        self.by_index = create_engine(database_url, pool_size=5, max_open=20, by_index=True)
        self.jobs = PostgresJobStore(self.engine)
        self.history = PostgresHistoryStore(self.engine)
        self.runs = PostgresRunStore(self.engine)
        self.instances = PostgresInstanceStore(self.by_index)
        self.housekeeping = PostgresHousekeepingStore(self.by_index)
        self.catalog = PostgresCatalog(self.engine)
        self.trail = PostgresTrailStore(self.engine)
        self.keys = PostgresKeyStore(self.engine)
        self.service = JobService(jobs=self.jobs, runs=self.runs, history=self.history, catalog=self.catalog, seal=SEAL)
        self.creations = Creations(self.service, PostgresCreationStore(self.engine))
        self.imports = Imports(self.service, PostgresImportStore(self.engine))
        self.overview = PostgresOverviewStore(self.engine)
        self.repeats = Repeats(PostgresRepeatStore(self.engine))
        self.dispatch = self.scheduler()
        self.executions = self.worker("worker-1")

    def worker(self, name: str) -> PostgresExecutionStore:
        return PostgresExecutionStore(self.by_index, instance=uuid4(), worker=name, keys=OPEN.keys)

    def scheduler(
        self, *, names: Callable[[], Collection[str]] | None = None, ahead: timedelta = timedelta(0)
    ) -> PostgresDispatchStore:
        return PostgresDispatchStore(self.by_index, instance=uuid4(), names=names, ahead=ahead)

    def announce(self, *handlers: HandlerSpec, retry_strategies: Sequence[str] = ()) -> Identity:
        """A worker that has these, and has just said so."""
        worker = Identity(id=uuid4(), name="handlers-1", role=Role.WORKER, host="here", pid=1, version="1")
        self.instances.beat(worker, handlers=handlers, retry_strategies=retry_strategies)
        return worker

    def close(self) -> None:
        self.engine.dispose()
        self.by_index.dispose()

    def make_due(self, *jobs: Job, ago: float = 0.0) -> datetime:
        """Moves the moments of interval jobs so that one fell due `ago` seconds ago, the next an interval later."""
        rows = self.sql(
            "update jobs set next_run = now() - make_interval(secs => :ago), "
            "anchor_at = now() - make_interval(secs => :ago + 100 * interval_seconds) "
            "where id = any(cast(:ids as uuid[])) returning next_run",
            ago=ago,
            ids="{" + ",".join(str(job.id) for job in jobs) + "}",
        )
        self.sql(
            "update job_revisions r set definition = jsonb_set(definition, '{anchor_at}', "
            """to_jsonb(to_char(j.anchor_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))) """
            "from jobs j where j.id = r.job_id and j.anchor_at is not null"
        )
        moment: datetime = rows[0].next_run
        return moment

    def due(self, **document: Any) -> Job:
        """A job that is due now."""
        job = self.create(**document)
        self.make_due(job)
        return job

    def sql(self, statement: str, **parameters: Any) -> list[Row[Any]]:
        with self.engine.begin() as connection:
            connection.execute(text("set local statement_timeout = 0"))
            result = connection.execute(text(statement), parameters)
            return list(result.all()) if result.returns_rows else []

    def one(self, statement: str, **parameters: Any) -> Any:
        return self.sql(statement, **parameters)[0][0]


def token(claimed: Claimed) -> Token:
    return Token(id=claimed.id, attempt=claimed.attempt)


def record(claimed: Claimed, state: State = State.SUCCEEDED, *, owner: UUID | None = None, **more: Any) -> Record:
    return Record(
        token=token(claimed),
        owner=owner or uuid4(),
        state=state,
        duration=timedelta(milliseconds=20),
        failed=state in (State.PENDING, State.FAILED, State.UNKNOWN),
        **more,
    )
