"""Every setting of every process: what it means, its unit, its default.

One field gives all three spellings: `web.read_timeout` in the file, SCHEDULER_WEB_READ_TIMEOUT in the environment,
`--web-read-timeout` as a flag. A flag wins over the environment, that over the file, that over the default.
"""

import logging
import os
import re
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gnomon.job.address import EgressPolicy, Server, travels_in_clear
from gnomon.job.database_url import address_of, driver_url, servers_of
from gnomon.job.errors import ConfigurationError
from gnomon.job.quotas import Quotas
from gnomon.job.rates import Rate
from gnomon.job.retention import Retention as Kept
from gnomon.settings import sources
from gnomon.settings.kinds import (
    Address,
    Age,
    ApiKeyText,
    BrokerUrl,
    CacheUrl,
    Certificates,
    Count,
    DatabaseUrl,
    Duration,
    Expects,
    Few,
    Format,
    Frequency,
    Hosts,
    Lease,
    Level,
    Limit,
    LookAhead,
    Many,
    Modules,
    Names,
    Networks,
    Ports,
    Proxies,
    QueueType,
    Secret,
    SecretKeys,
    Size,
    Switch,
    Text,
    Threads,
)
from gnomon.settings.sources import Given

_log = logging.getLogger(__name__)


# Other secrets are addresses, of which only the password is masked.
WHOLLY_SECRET = ("password", "public_keys", "private_keys")
_QUEUES = ("io", "handlers", "async")


class Section(BaseModel):
    """A group of settings; values don't change after the start."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Web(Section):
    """The API's web server."""

    api_host: Address = Field(default="127.0.0.1:8000", description="where the API listens")
    read_timeout: Duration = Field(default=timedelta(seconds=5), description="time for a whole request to arrive")
    write_timeout: Duration = Field(default=timedelta(seconds=10), description="time for one send of an answer")
    idle_timeout: Duration = Field(
        default=timedelta(seconds=120), description="how long a kept-alive connection may wait for its next request"
    )
    shutdown_timeout: Duration = Field(
        default=timedelta(seconds=20), description="how long requests under way may take to end when the API is stopped"
    )
    threads: Threads = Field(default=8, description="requests answered at once by one API process")
    trusted_proxies: Proxies = Field(
        default=(), description="proxies that are believed, in X-Forwarded-For, from where a request comes"
    )


class Auth(Section):
    """Who may ask the API."""

    admin_key: ApiKeyText | None = Field(
        default=None,
        description="a key with the role admin that the API adds when it starts; it takes the place of the one before",
    )
    metrics_key: ApiKeyText | None = Field(default=None, description="the same with the role metrics, for Prometheus")
    metrics_public: Switch = Field(default=False, description="answer /metrics to everybody")
    insecure: Switch = Field(
        default=False,
        description="listen beyond loopback although there are no keys: whoever reaches the API may do everything, "
        "until the first key is made",
    )
    names: Hosts = Field(
        default=(),
        description="host names by which the API may be asked while there are no keys, beside localhost and addresses",
    )


class Database(Section):
    """The Postgres database that holds every job and execution."""

    url: DatabaseUrl | None = Field(
        default=None,
        description="the whole address; replaces db.host, db.name and db.user, and db.password if it has one",
    )
    user: Text = Field(default="scheduler", description="user name")
    password: Secret | None = Field(default=None, description="password of db.user")
    host: Text = Field(default="127.0.0.1:5432", description="server, with :port if it is not 5432")
    name: Text = Field(default="scheduler", description="name of the database")
    max_idle_conns: Threads = Field(default=10, description="connections a process keeps open (the pool's size)")
    max_open_conns: Threads = Field(
        default=10, description="connections a process opens at most (pool and overflow); at least db.max_idle_conns"
    )
    disable_tls: Switch = Field(
        default=False,
        description="speak to a database beyond loopback without TLS; otherwise its certificate must be valid and bear "
        "its name (sslmode=verify-full), unless db.url has an sslmode of its own",
    )

    @model_validator(mode="after")
    def _pool_within_limit(self) -> Self:
        if self.max_open_conns < self.max_idle_conns:
            raise ValueError(
                f"db.max_open_conns ({self.max_open_conns}) must not be below db.max_idle_conns ({self.max_idle_conns})"
            )
        return self


class Queue(Section):
    """The message broker."""

    url: BrokerUrl = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="address of the broker; with TLS (rediss:// or amqps://) where it is beyond loopback",
    )
    disable_tls: Switch = Field(
        default=False,
        description="speak to a broker beyond loopback without TLS: otherwise redis:// and amqp:// are refused there",
    )
    type: QueueType = Field(
        default="classic",
        description="quorum: RabbitMQ replicates the queues; delete those of the other type first",
    )
    task_events: Switch = Field(default=False, description="send the events that Flower shows; costs some throughput")

    @model_validator(mode="after")
    def _secured_beyond_loopback(self) -> Self:
        _require_tls("queue", self.url, self.disable_tls)
        return self

    @model_validator(mode="after")
    def _replicated_by_rabbitmq(self) -> Self:
        if self.type == "quorum" and not self.url.get_secret_value().startswith("amqp"):
            raise ValueError("queue.type is quorum, which only RabbitMQ has: queue.url must be amqp:// or amqps://")
        return self


class Cache(Section):
    """A Redis that spares the database questions; without it everything works."""

    url: CacheUrl | None = Field(
        default=None,
        description="where workers keep job definitions, as Postgres holds them: protect it equally; off where it is "
        "not set",
    )
    disable_tls: Switch = Field(
        default=False, description="speak to a cache beyond loopback without TLS: otherwise redis:// is refused there"
    )

    @model_validator(mode="after")
    def _secured_beyond_loopback(self) -> Self:
        _require_tls("cache", self.url, self.disable_tls)
        return self


class Tls(Section):
    """How Postgres, the broker and the cache prove who they are."""

    ca_file: Certificates | None = Field(
        default=None,
        description="certificates of the authorities that vouch for Postgres, the broker and the cache; where it is not"
        " set, those that the system trusts, and for Postgres those that libpq looks for",
    )


def _require_tls(section: str, url: SecretStr | None, disabled: bool) -> None:
    """Raises ValueError for an address to which passwords would travel in clear, unless that is said to be meant."""
    text = url.get_secret_value() if url else ""
    if travels_in_clear(text) and not disabled:
        raise ValueError(
            f"{section}.url leads to another machine without TLS: write {text.partition(':')[0]}s://, or set"
            f" {section}.disable_tls where the network itself is trusted"
        )


def _generated_id() -> str:
    return f"{socket.gethostname()[:150]}-{os.getpid()}-{secrets.token_hex(3)}"


class Scheduler(Section):
    """Turning moments into executions."""

    id: Text = Field(
        default_factory=_generated_id, description="name of this process in logs and lists; unique among those running"
    )
    interval: Duration = Field(
        default=timedelta(seconds=1),
        description="longest sleep between two looks for due jobs; a nearer moment wakes it earlier",
    )
    ahead: LookAhead = Field(
        default=timedelta(seconds=2),
        description="how long before its moment an execution is created and sent to a worker, which holds it until "
        "then",
    )
    max_concurrent_jobs: Count = Field(default=1000, description="jobs dispatched in one transaction at most")
    max_job_lock_time: Lease = Field(
        default=timedelta(seconds=30),
        description="the lease: how long a worker that falls silent keeps an attempt before another may take it over",
    )


class Worker(Section):
    """Carrying executions out."""

    concurrency: Count = Field(default=512, description="executions in flight at once in one worker process")
    concurrency_per_host: Count | None = Field(
        default=None,
        description="of these, how many may be for one host, or one async handler; where it is not set a quarter of "
        "worker.concurrency, and more, while an eighth is free, for one that ends its calls within 5 s",
    )
    threads: Threads = Field(default=8, description="messages admitted at once by one worker process")
    queues: Names = Field(
        default=("io",),
        description="the queues this worker takes messages from: io (HTTP and AMQP), handlers (Python functions) or"
        " async (async ones); a worker serves one of these",
    )
    handlers: Modules = Field(
        default=(), description="the Python modules that declare handlers and retry strategies; needed by the others"
    )
    processes: Threads = Field(
        default=4, description="child processes of a worker of the queue handlers; each runs one handler at a time"
    )
    process_calls: Count = Field(default=1000, description="handlers run by a child process before it is replaced")
    process_memory: Size = Field(
        default="2GiB", description="memory that a child process may have; a handler that needs more fails"
    )
    shutdown_timeout: Duration = Field(
        default=timedelta(seconds=20),
        description="how long executions in flight may take to end when the worker is stopped",
    )

    @property
    def per_host(self) -> int:
        """What any host may have."""
        return self.concurrency_per_host or max(1, self.concurrency // 4)

    @property
    def most_per_host(self) -> int:
        """What all may have before one that is quick gets no more than the others: an eighth is left to these."""
        return self.concurrency_per_host or max(1, self.concurrency - max(1, self.concurrency // 8))

    @model_validator(mode="after")
    def _one_kind_of_queue(self) -> Self:
        served = [name for name in self.queues if name in _QUEUES]
        if len(set(served)) > 1:
            raise ValueError(
                f"worker.queues ({', '.join(served)}): a worker serves one of {', '.join(_QUEUES)}, so that a handler"
                " which holds its worker up holds up nothing else; start one worker for each"
            )
        if not self.handlers and {"handlers", "async"} & set(served):
            raise ValueError(
                f"worker.queues ({', '.join(served)}) needs worker.handlers: the modules that declare the handlers"
            )
        return self


class Limits(Section):
    """How much callers of the API may ask for, and what jobs may be."""

    requests: Frequency = Field(
        default=100, description="requests that each caller of the API may make a second, averaged; 0 for any number"
    )
    burst: Many = Field(default=1000, description="requests that each caller may make at once, after a pause")
    url: CacheUrl | None = Field(
        default=None,
        description="a Redis where API processes count requests together; where it is not set or away, each counts by "
        "itself",
    )
    disable_tls: Switch = Field(
        default=False,
        description="speak to that Redis beyond loopback without TLS: otherwise redis:// is refused there",
    )
    min_interval: Duration = Field(
        default=timedelta(seconds=1), description="the least time between two moments of a job's schedule"
    )

    jobs: Limit = Field(default=0, description="jobs that there may be in all; 0 for any number")
    jobs_per_key: Limit = Field(default=0, description="jobs that one key may have created; 0 for any number")
    backlog: Limit = Field(
        default=10_000,
        description="executions of one job that may wait because they were asked for: backfills, and runs that wait "
        "their turn; 0 for any number",
    )

    @model_validator(mode="after")
    def _secured_beyond_loopback(self) -> Self:
        _require_tls("limits", self.url, self.disable_tls)
        return self

    def rate(self) -> Rate | None:
        """None for no limit."""
        return Rate(per_second=self.requests, burst=self.burst) if self.requests else None

    def quotas(self) -> Quotas:
        """As the service takes them."""
        return Quotas(
            min_interval=self.min_interval,
            jobs=self.jobs,
            jobs_per_key=self.jobs_per_key,
            backlog=self.backlog,
        )


class Retention(Section):
    """How much of the past is kept. What is not finished stays in any case."""

    succeeded: Age = Field(
        default=Kept.succeeded, description="how long executions are kept that ended SUCCEEDED or SKIPPED"
    )
    failed: Age = Field(
        default=Kept.failed, description="how long executions are kept that ended FAILED, UNKNOWN or CANCELLED"
    )
    per_job: Many = Field(
        default=Kept.per_job, description="executions that a job keeps at most of each of these two kinds, the newest"
    )
    newest: Few = Field(
        default=Kept.newest, description="executions of a job that are kept whatever their age, the newest"
    )
    trail: Age = Field(default=Kept.trail, description="how long the audit trail says what was done to jobs")

    def policy(self) -> Kept:
        """As the scheduler takes it."""
        return Kept(**self.model_dump())


class Egress(Section):
    """What jobs may call."""

    allow: Networks = Field(
        default=(), description="private networks and hosts that jobs may call; public addresses are always allowed"
    )
    ca_file: Certificates | None = Field(
        default=None,
        description="certificates of the authorities that vouch for targets, in place of those that the system trusts",
    )
    allow_ports: Ports = Field(
        default=(),
        description="ports of other protocols (22, 25, 5432, 6379 and the like) that jobs may call all the same",
    )
    allow_own_broker: Switch = Field(
        default=False,
        description="let AMQP jobs publish to the broker of queue.url, where one RabbitMQ serves everything; what they"
        " can do there is up to the rights of the user that a job names",
    )

    def policy(self) -> EgressPolicy:
        """As workers keep to it. Raises ConfigurationError."""
        return EgressPolicy.parse(self.allow, ports=self.allow_ports)


class Secrets(Section):
    """Credentials in jobs: the API seals them, workers of the queue io open them."""

    public_keys: SecretKeys | None = Field(
        default=None,
        description="for the API: the first of them is what credentials of jobs are sealed to; without one, jobs that "
        "have credentials are refused",
    )
    private_keys: SecretKeys | None = Field(
        default=None,
        description="for workers of the queue io and nobody else: they open what was sealed to any of these",
    )


class Log(Section):
    """The log on standard error."""

    level: Level = Field(default="INFO", description="the least severity that is written")
    format: Format = Field(
        default="auto", description="json: one object a line; text: for people; auto: text on a terminal"
    )


class Settings(BaseSettings):
    """All settings. Made by `load_settings`; `repr` shows no secret."""

    # The prefix keeps a variable such as WEB, which is not ours, out of settings that are made by hand.
    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix=sources.PREFIX)

    web: Web = Web()
    auth: Auth = Auth()
    db: Database = Database()
    queue: Queue = Queue()
    cache: Cache = Cache()
    tls: Tls = Tls()
    scheduler: Scheduler = Field(default_factory=lambda: Scheduler())
    worker: Worker = Worker()
    limits: Limits = Limits()
    retention: Retention = Retention()
    egress: Egress = Egress()
    secrets: Secrets = Secrets()
    log: Log = Log()

    _origins: Mapping[str, str] = PrivateAttr(default_factory=dict)

    def database_url(self) -> str:
        """The address as SQLAlchemy takes it (`postgresql+psycopg2://…`), password and sslmode included."""
        db = self.db
        password = db.password.get_secret_value() if db.password else None
        url = db.url.get_secret_value() if db.url else address_of(host=db.host, user=db.user, name=db.name)
        return driver_url(url, password=password, disable_tls=db.disable_tls, authorities=self.tls.ca_file)

    def queue_url(self) -> str:
        """The broker's address, password included."""
        return self.queue.url.get_secret_value()

    def cache_url(self) -> str | None:
        """The cache's address, password included; None where there is none."""
        return None if self.cache.url is None else self.cache.url.get_secret_value()

    def public_keys(self) -> tuple[str, ...]:
        """The keys to seal with, in the order given."""
        return _words(self.secrets.public_keys)

    def private_keys(self) -> tuple[str, ...]:
        """The keys to open with, in the order given."""
        return _words(self.secrets.private_keys)

    def limits_url(self) -> str | None:
        """Where API processes count requests together, password included; None where there is no such place."""
        return None if self.limits.url is None else self.limits.url.get_secret_value()

    def own_servers(self) -> list[Server]:
        """The servers that Gnomon itself depends on, as their addresses name them; none behind a Unix socket."""
        addresses = [
            ("database", self.database_url()),
            *(("broker", url) for url in self.queue_url().split(";")),
            ("cache", self.cache_url()),
            ("rate limiter", self.limits_url()),
        ]
        return [Server(name, *place) for name, url in addresses if url for place in servers_of(url)]

    def origin_of(self, name: str) -> str:
        """The flag, variable or file that gave this setting its value, or `default`."""
        return self._origins.get(name, "default")


def _words(given: SecretStr | None) -> tuple[str, ...]:
    return () if given is None else tuple(given.get_secret_value().replace(",", " ").split())


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting as it is declared. `default` is a value, or None."""

    name: str
    expects: str
    meaning: str
    default: object
    is_switch: bool
    is_secret: bool

    @property
    def flag(self) -> str:
        return sources.flag_of(self.name)

    @property
    def variable(self) -> str:
        return sources.variable_of(self.name)


def declared() -> Sequence[Setting]:
    """All settings in the order of the file."""
    return [
        _setting(f"{section}.{key}", field)
        for section, model in _sections().items()
        for key, field in model.model_fields.items()
    ]


def _sections() -> dict[str, type[Section]]:
    annotations = {section: field.annotation for section, field in Settings.model_fields.items()}
    return {
        name: model for name, model in annotations.items() if isinstance(model, type) and issubclass(model, Section)
    }


def _setting(name: str, field: FieldInfo) -> Setting:
    expects = next(item.text for item in _metadata(field) if isinstance(item, Expects))
    return Setting(
        name=name,
        expects=expects,
        meaning=field.description or "",
        default="generated" if field.default is PydanticUndefined else field.default,
        is_switch=field.annotation is bool,
        is_secret="SecretStr" in str(field.annotation),
    )


def _metadata(field: FieldInfo) -> Iterator[object]:
    yield from field.metadata
    for option in getattr(field.annotation, "__args__", ()):  # what stands before "| None"
        yield from getattr(option, "__metadata__", ())


class _GivenSource(PydanticBaseSettingsSource):
    """One place that values came from, as pydantic-settings merges them."""

    def __init__(self, given: Mapping[str, Given]) -> None:
        super().__init__(Settings)
        self._given = given

    def get_field_value(
        self,
        field: FieldInfo,  # noqa: ARG002 - the signature is pydantic's
        field_name: str,
    ) -> tuple[dict[str, object], str, bool]:
        """The section `field_name`."""
        prefix = f"{field_name}."
        section = {
            name.removeprefix(prefix): item.value for name, item in self._given.items() if name.startswith(prefix)
        }
        return section, field_name, False

    def __call__(self) -> dict[str, object]:
        sections = {name: self.get_field_value(field, name)[0] for name, field in Settings.model_fields.items()}
        return {name: section for name, section in sections.items() if section}


def load_settings(flags: Mapping[str, object], environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from `flags` (None means not given; `config` names the file), the environment, the file, the defaults.

    Raises ConfigurationError naming the setting, where it was written and what is expected; no secret is ever quoted.
    Logs a warning for each unknown SCHEDULER_* variable.
    """
    environment = os.environ if environment is None else environment
    names = {setting.name for setting in declared()}
    by_flag = sources.read_flags(flags, names)
    by_variable, warnings = sources.read_environment(environment, names, secrets=_secret_names())
    path = sources.find_file(flags, environment)
    by_file = sources.read_file(path, names) if path else {}
    for warning in warnings:
        _log.warning(warning)
    return _build([by_flag, by_variable, by_file])


def _build(places: Sequence[Mapping[str, Given]]) -> Settings:
    given: dict[str, Given] = {}
    for place in reversed(places):
        given |= place
    try:
        settings = Settings(_build_sources=(tuple(map(_GivenSource, places)), {}))  # type: ignore[call-arg]
    except ValidationError as error:
        raise ConfigurationError(
            "; ".join(dict.fromkeys(_explain_error(item, given) for item in error.errors()))
        ) from None
    settings._origins = {name: item.origin for name, item in given.items()}
    return settings


def _explain_error(error: ErrorDetails, given: Mapping[str, Given]) -> str:
    name = ".".join(str(part) for part in error["loc"][:2])
    setting = next((setting for setting in declared() if setting.name == name), None)
    if setting is None:  # a rule about several settings of a section says which in its own words
        return error["msg"].removeprefix("Value error, ")
    item = given[name]
    value = "the value" if setting.is_secret else repr(item.value)
    return f"{name}: {value} from {item.origin} is not valid: expected {setting.expects}"


def _secret_names() -> set[str]:
    return {setting.name for setting in declared() if setting.is_secret}


@dataclass(frozen=True, kw_only=True)
class Explained:
    """One setting with its value in force. Secrets, and passwords inside addresses, are masked."""

    name: str
    flag: str
    env: str
    value: str
    source: str
    expects: str
    meaning: str
    default: str


def explain(settings: Settings) -> list[Explained]:
    """Every setting, its value, and where that came from."""
    return [_explain(settings, setting) for setting in declared()]


def _explain(settings: Settings, setting: Setting) -> Explained:
    section, key = setting.name.split(".")
    value = getattr(getattr(settings, section), key)
    return Explained(
        name=setting.name,
        flag=setting.flag,
        env=setting.variable,
        value="***" if key in WHOLLY_SECRET and value else shown(value),
        source=settings.origin_of(setting.name),
        expects=setting.expects,
        meaning=setting.meaning,
        default=shown(setting.default),
    )


def shown(value: object) -> str:
    """A value as it would be written in a file; secrets masked."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case timedelta():
            return sources.format_duration(value)
        case SecretStr():
            text = value.get_secret_value()
            return _masked(text) if "://" in text else "***"
        case tuple():
            return ", ".join(str(item) for item in value)
        case _:
            return str(value)


def _masked(url: str) -> str:
    """An address without the passwords inside it."""
    without_userinfo = re.sub(r"(://[^:@/]*):.*@", r"\1:***@", url, flags=re.DOTALL)
    return re.sub(r"(password=)[^&]*", r"\1***", without_userinfo, flags=re.IGNORECASE)
