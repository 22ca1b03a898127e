"""The API process: serves jobs and their history over REST."""

import logging
from contextlib import ExitStack

from flask import Flask

from gnomon import __version__
from gnomon.api.app import create_app
from gnomon.api.server import serve
from gnomon.bootstrap.database import open_engine
from gnomon.bootstrap.instances import identity_of
from gnomon.bootstrap.logs import start_logging
from gnomon.bootstrap.sealing import seal_with
from gnomon.job.instance import Role
from gnomon.job.repeats import Repeats
from gnomon.job.service import JobService
from gnomon.process.heartbeat import Heartbeat
from gnomon.settings import Settings
from gnomon.storage.postgres.history import PostgresHistoryStore
from gnomon.storage.postgres.instances import PostgresCatalog, PostgresInstanceStore
from gnomon.storage.postgres.jobs import PostgresJobStore
from gnomon.storage.postgres.migrate import require_latest
from gnomon.storage.postgres.repeats import PostgresRepeatStore
from gnomon.storage.postgres.runs import PostgresRunStore

log = logging.getLogger(__name__)


def run(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT; ends with SystemExit.

    While the database is away requests are answered 503, from the start on.
    """
    start_logging(settings, role="api")
    open_engine(settings)  # a wrong address ends the start
    seal_with(settings)
    host, _, port = settings.web.api_host.rpartition(":")
    ends = ExitStack()
    log.info("api listens on http://%s", settings.web.api_host)
    serve(
        lambda: _make_app(settings, ends),
        on_end=ends.close,
        host=host.strip("[]"),
        port=int(port),
        threads=settings.web.threads,
        read_timeout=settings.web.read_timeout,
        write_timeout=settings.web.write_timeout,
        idle_timeout=settings.web.idle_timeout,
        shutdown_timeout=settings.web.shutdown_timeout,
    )
    return 0


def _make_app(settings: Settings, ends: ExitStack) -> Flask:
    engine = open_engine(settings, check_first=True)
    instances = PostgresInstanceStore(engine)
    heartbeat = Heartbeat(instances, identity_of(settings, Role.API), ready=lambda: require_latest(engine))
    heartbeat.start()
    ends.callback(heartbeat.stop)
    history = PostgresHistoryStore(engine)
    return create_app(
        service=JobService(
            jobs=PostgresJobStore(engine),
            runs=PostgresRunStore(engine),
            history=history,
            catalog=PostgresCatalog(engine),
            seal=seal_with(settings),
        ),
        repeats=Repeats(PostgresRepeatStore(engine)),
        history=history,
        instances=instances,
        catalog=PostgresCatalog(engine),
        ready=lambda: require_latest(engine),
        version=__version__,
    )
