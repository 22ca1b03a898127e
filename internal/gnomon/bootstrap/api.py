"""The API process: serves jobs and their history over REST."""

import logging
from contextlib import ExitStack
from ipaddress import ip_network

from flask import Flask
from sqlalchemy import Engine

from gnomon import __version__
from gnomon.api.access import Access, acting
from gnomon.api.addresses import is_loopback
from gnomon.api.app import create_app
from gnomon.api.keyring import Keyring
from gnomon.api.rate_limits import RateLimiter
from gnomon.api.server import serve
from gnomon.bootstrap.database import open_engine
from gnomon.bootstrap.instances import identity_of
from gnomon.bootstrap.keys import keys_of_settings, open_keys
from gnomon.bootstrap.logs import start_logging
from gnomon.bootstrap.sealing import seal_with
from gnomon.job.creations import Creations
from gnomon.job.errors import ConfigurationError, Unavailable
from gnomon.job.imports import Imports
from gnomon.job.instance import Role
from gnomon.job.repeats import Repeats
from gnomon.job.service import JobService
from gnomon.process.heartbeat import Heartbeat
from gnomon.settings import Settings
from gnomon.storage.postgres.api_keys import PostgresKeyStore
from gnomon.storage.postgres.creations import PostgresCreationStore
from gnomon.storage.postgres.history import PostgresHistoryStore
from gnomon.storage.postgres.imports import PostgresImportStore
from gnomon.storage.postgres.instances import PostgresCatalog, PostgresInstanceStore
from gnomon.storage.postgres.jobs import PostgresJobStore
from gnomon.storage.postgres.migrate import require_latest
from gnomon.storage.postgres.overview import PostgresOverviewStore
from gnomon.storage.postgres.quotas import limited_by
from gnomon.storage.postgres.repeats import PostgresRepeatStore
from gnomon.storage.postgres.runs import PostgresRunStore
from gnomon.storage.postgres.sessions import acting_for
from gnomon.storage.postgres.trail import PostgresTrailStore

log = logging.getLogger(__name__)


def run(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT; ends with SystemExit.

    While the database is away requests are answered 503, from the start on.
    """
    start_logging(settings, role="api")
    open_engine(settings)  # a wrong address ends the start
    seal_with(settings)
    _refuse_to_be_open(settings)
    settings.egress.policy()  # and so does a network that is not one
    host, port = _listens_at(settings)
    ends = ExitStack()
    log.info("api listens on http://%s", settings.web.api_host)
    serve(
        lambda: _make_app(settings, ends),
        on_end=ends.close,
        host=host,
        port=port,
        threads=settings.web.threads,
        read_timeout=settings.web.read_timeout,
        write_timeout=settings.web.write_timeout,
        idle_timeout=settings.web.idle_timeout,
        shutdown_timeout=settings.web.shutdown_timeout,
    )
    return 0


def _make_app(settings: Settings, ends: ExitStack) -> Flask:
    engine = acting_for(open_engine(settings, check_first=True), acting)
    engine = limited_by(engine, settings.limits.quotas())
    instances = PostgresInstanceStore(engine)
    heartbeat = Heartbeat(instances, identity_of(settings, Role.API), ready=lambda: require_latest(engine))
    heartbeat.start()
    ends.callback(heartbeat.stop)
    history = PostgresHistoryStore(engine)
    service = JobService(
        jobs=PostgresJobStore(engine),
        runs=PostgresRunStore(engine),
        history=history,
        catalog=PostgresCatalog(engine),
        seal=seal_with(settings),
        quotas=settings.limits.quotas(),
        egress=settings.egress.policy(),
    )
    return create_app(
        service=service,
        creations=Creations(service, PostgresCreationStore(engine)),
        imports=Imports(service, PostgresImportStore(engine)),
        repeats=Repeats(PostgresRepeatStore(engine)),
        overview=PostgresOverviewStore(engine),
        history=history,
        instances=instances,
        catalog=PostgresCatalog(engine),
        trail=PostgresTrailStore(engine),
        access=_access(settings, engine),
        ready=lambda: require_latest(engine),
        version=__version__,
        limiter=_limiter(settings, ends),
    )


def _access(settings: Settings, engine: Engine) -> Access:
    host, _ = _listens_at(settings)
    return Access(
        keyring=Keyring(PostgresKeyStore(engine), brought=keys_of_settings(settings)),
        open_without_keys=is_loopback(host) or settings.auth.insecure,
        names=settings.auth.names,
        metrics_public=settings.auth.metrics_public,
        trusted_proxies=[ip_network(proxy) for proxy in settings.web.trusted_proxies],
    )


def _refuse_to_be_open(settings: Settings) -> None:
    """Raises ConfigurationError where nobody has a key and others than this machine could ask.

    Where the database does not say whether somebody has one, nobody is let in until it does.
    """
    host, _ = _listens_at(settings)
    if is_loopback(host) or settings.auth.admin_key is not None:
        return
    if settings.auth.insecure:
        log.warning("auth.insecure: as long as there are no keys, whoever reaches %s may do everything", host)
        return
    try:
        with open_keys(settings) as store:
            held = any(key.state == "active" for key in store.list())
    except Unavailable as error:
        log.info("nobody is let in before the database says who has a key: %s", error)
        return
    if not held:
        raise ConfigurationError(
            f"web.api_host {settings.web.api_host} is beyond loopback, and nobody has a key: make one with "
            "`gnomon keys create NAME --role admin`, set auth.admin_key, or say --auth-insecure"
        )


def _listens_at(settings: Settings) -> tuple[str, int]:
    host, _, port = settings.web.api_host.rpartition(":")
    return host.strip("[]"), int(port)


def _limiter(settings: Settings, ends: ExitStack) -> RateLimiter | None:
    rate, url = settings.limits.rate(), settings.limits_url()
    if rate is None:
        return None
    if url is None:
        return RateLimiter(rate)
    from gnomon.storage.redis.rates import RedisBuckets  # its driver is needed only here

    buckets = RedisBuckets(url, ca_file=settings.tls.ca_file)
    ends.callback(buckets.close)
    return RateLimiter(rate, shared=buckets)
