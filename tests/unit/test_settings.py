"""Settings: who wins, how values read, what is said about wrong ones, and that no secret is ever shown."""

import logging
from datetime import timedelta
from pathlib import Path

import certifi
import pytest

from gnomon.job.api_key import make_key
from gnomon.job.database_url import driver_url, servers_of
from gnomon.job.errors import ConfigurationError
from gnomon.settings import Explained, Setting, Settings, declared, explain, load_settings
from gnomon.settings.kinds import parse_size
from gnomon.settings.sources import format_duration, parse_duration

SECRET = "s3cret-canary"
KEY = make_key()


def explained(settings: Settings, name: str) -> Explained:
    return next(item for item in explain(settings) if item.name == name)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default configuration file, not written yet, of an empty working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    return Path("config/config.yaml")


def test_flag_wins_over_environment_over_file_over_default(file: Path) -> None:
    file.write_text("web: {read_timeout: 1s, write_timeout: 2s, idle_timeout: 3s}")
    environment = {"SCHEDULER_WEB_READ_TIMEOUT": "11s", "SCHEDULER_WEB_WRITE_TIMEOUT": "12s"}
    settings = load_settings({"web_read_timeout": "21s", "web_threads": None}, environment)
    names = ("web.read_timeout", "web.write_timeout", "web.idle_timeout", "web.shutdown_timeout", "web.threads")
    assert [(item.value, item.source) for item in (explained(settings, name) for name in names)] == [
        ("21s", "--web-read-timeout"),
        ("12s", "SCHEDULER_WEB_WRITE_TIMEOUT"),
        ("3s", "config/config.yaml"),
        ("20s", "default"),
        ("8", "default"),
    ]
    assert settings.web.read_timeout == timedelta(seconds=21)


@pytest.mark.parametrize("setting", declared(), ids=lambda setting: setting.name)
def test_every_setting_reads_its_default_from_file_environment_and_flag(file: Path, setting: Setting) -> None:
    section, key = setting.name.split(".")
    examples = {
        "db.url": "postgresql://db.example/x",
        "cache.url": "rediss://x",
        "tls.ca_file": certifi.where(),
        "egress.ca_file": certifi.where(),
        "limits.url": "rediss://x",
        "worker.concurrency_per_host": "32",
        "worker.handlers": "reports.daily, mails",
        "auth.admin_key": KEY.text,
        "auth.metrics_key": KEY.text,
        "auth.names": "gnomon.internal, gnomon",
        "egress.allow_ports": "25, 6379",
    }
    default = explained(load_settings({}, {}), setting.name).default or examples.get(setting.name, "10.0.0.0/8")
    file.write_text(f"{section}:\n  {key}: {default}\n")
    by_file = load_settings({}, {})
    file.unlink()
    by_variable = load_settings({}, {setting.variable: default})
    by_flag = load_settings({setting.flag: default}, {})
    values = {getattr(getattr(settings, section), key) for settings in (by_file, by_variable, by_flag)}
    assert len(values) == 1
    sources = [explained(settings, setting.name).source for settings in (by_file, by_variable, by_flag)]
    assert sources == ["config/config.yaml", setting.variable, setting.flag]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10), ("1m", 60), ("500ms", 0.5), ("1h30m", 5400), ("2d", 172800), ("1.5", 1.5), ("30", 30), (" 5s ", 5)],
)
def test_durations_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)
    assert parse_duration(format_duration(timedelta(seconds=seconds))) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "s", "10x", "10 s", "1m-5s", "nan", "-", "1s1", "5s5s5"])
def test_other_texts_are_no_durations(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whoever reads a setting words the message
        parse_duration(text)


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        ("web_read_timeout", "5 parsecs", "a duration above 0"),
        ("web_read_timeout", "0", "a duration above 0"),
        ("web_read_timeout", "1e300", "a duration above 0"),
        ("web_api_host", "localhost", "host:port"),
        ("web_api_host", "localhost:99999", "host:port"),
        ("web_threads", "many", "a whole number from 1 to 1024"),
        ("scheduler_max_job_lock_time", "10ms", "a duration from 1s to 1h"),
        ("worker_queues", "", "names of letters"),
        ("egress_allow", "10.0.0.1/8", "networks such as 10.0.0.0/8"),
        ("web_trusted_proxies", "proxy.example", "addresses and networks"),
        ("auth_names", "http://gnomon.example", "host names"),
        ("log_level", "LOUD", "DEBUG, INFO, WARNING or ERROR"),
        ("db_disable_tls", "perhaps", "true or false"),
    ],
)
def test_wrong_value_is_named_with_its_place_and_what_is_expected(flag: str, value: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings({flag: value}, {})
    assert f"{value!r} from --{flag.replace('_', '-')} is not valid: expected {expected}" in str(caught.value)


def test_wrong_value_of_a_variable_or_a_file_is_named_with_that_place(file: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"web.threads: 'x' from SCHEDULER_WEB_THREADS is not valid"):
        load_settings({}, {"SCHEDULER_WEB_THREADS": "x"})
    file.write_text("web: {threads: x}")
    with pytest.raises(ConfigurationError, match=r"web.threads: 'x' from config/config.yaml is not valid"):
        load_settings({}, {})


def test_empty_variable_counts_as_not_set() -> None:
    assert load_settings({}, {"SCHEDULER_WEB_THREADS": ""}).web.threads == 8


def test_pool_larger_than_its_limit_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"db.max_open_conns \(3\) must not be below db.max_idle_conns \(10\)"):
        load_settings({"db_max_open_conns": "3"}, {})


def test_unknown_variable_warns_with_a_suggestion(caplog: pytest.LogCaptureFixture) -> None:
    load_settings({}, {"SCHEDULER_WEB_REED_TIMEOUT": "1s", "OTHER": "x"})
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "SCHEDULER_WEB_REED_TIMEOUT is not a setting and is ignored; did you mean SCHEDULER_WEB_READ_TIMEOUT?"
    ]


def test_unknown_key_in_the_file_is_an_error_with_a_suggestion(file: Path) -> None:
    file.write_text("web: {reed_timeout: 1s}")
    with pytest.raises(ConfigurationError, match=r"yaml: web.reed_timeout is not a setting; did you mean web.read"):
        load_settings({}, {})


def test_unknown_flag_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(ConfigurationError, match="--web-reed-timeout is not a setting; did you mean --web-read"):
        load_settings({"web_reed_timeout": "1s"}, {})


@pytest.mark.parametrize("text", ["[1, 2]", "web: 5", "just words"])
def test_file_without_sections_is_refused(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigurationError, match="should hold sections"):
        load_settings({}, {})


@pytest.mark.parametrize("text", ["", "web:", "web: {threads: }", "# nothing\n"])
def test_empty_sections_and_values_mean_the_default(file: Path, text: str) -> None:
    file.write_text(text)
    assert load_settings({}, {}).web.threads == 8


def test_broken_file_is_named_with_the_line_but_not_quoted(file: Path) -> None:
    file.write_text(f"db:\n  password: '{SECRET}\n")
    with pytest.raises(ConfigurationError, match=r"config.yaml is not valid YAML near line \d") as caught:
        load_settings({}, {})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("origin", ["--config", "SCHEDULER_CONFIG"])
def test_missing_file_is_an_error_only_when_it_was_named(file: Path, origin: str) -> None:
    load_settings({}, {})
    flags, environment = ({"config": "no.yaml"}, {}) if origin == "--config" else ({}, {"SCHEDULER_CONFIG": "no.yaml"})
    with pytest.raises(ConfigurationError, match=f"no.yaml named by {origin} does not exist"):
        load_settings(flags, environment)


def test_named_file_is_read_instead_of_the_default_one(file: Path) -> None:
    file.write_text("web: {threads: 3}")
    Path("other.yaml").write_text("worker: {threads: 4}")
    settings = load_settings({"config": "other.yaml"}, {})
    assert (settings.web.threads, settings.worker.threads) == (8, 4)


def test_secret_is_read_from_the_file_a_variable_names(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{SECRET}\n")
    settings = load_settings({}, {"SCHEDULER_DB_PASSWORD_FILE": str(tmp_path / "password")})
    assert settings.db.password is not None
    assert settings.db.password.get_secret_value() == SECRET
    assert explained(settings, "db.password").source == "SCHEDULER_DB_PASSWORD_FILE"


def test_unreadable_secret_file_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"queue.url: SCHEDULER_QUEUE_URL_FILE names /nowhere, .* No such"):
        load_settings({}, {"SCHEDULER_QUEUE_URL_FILE": "/nowhere"})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SCHEDULER_DB_PASSWORD", "SCHEDULER_DB_PASSWORD_FILE"),
        ("SCHEDULER_SCHEDULER_INTERVAL", "SCHEDULER_INTERVAL"),
    ],
)
def test_one_setting_written_twice_is_an_error(one: str, other: str) -> None:
    with pytest.raises(ConfigurationError, match=f"is set twice, by {min(one, other)} and {max(one, other)}"):
        load_settings({}, {one: "1", other: "1"})


def test_short_names_of_the_scheduler_section_are_read() -> None:
    assert load_settings({}, {"SCHEDULER_ID": "north"}).scheduler.id == "north"


def test_generated_ids_differ_and_name_the_process() -> None:
    ids = {load_settings({}, {}).scheduler.id for _ in range(20)}
    assert len(ids) == 20


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{SECRET}@db.example/x",
        f"postgresql://u:p@{SECRET}/{SECRET}@db.example/x",
        f"postgresql://db.example/x?user=u&password={SECRET}&sslmode=require",
    ],
)
def test_no_secret_is_shown(url: str) -> None:
    settings = load_settings(
        {"db_url": url, "queue_url": f"amqps://u:{SECRET}@mq/v", "db_password": f"a://{SECRET}"}, {}
    )
    shown = repr(settings) + str(settings) + repr(explain(settings))
    assert SECRET not in shown
    assert explained(settings, "queue.url").value == "amqps://u:***@mq/v"
    assert explained(settings, "db.password").value == "***"


@pytest.mark.parametrize("name", ["db_url", "queue_url"])
def test_wrong_secret_is_not_quoted(name: str) -> None:
    with pytest.raises(ConfigurationError, match="the value from --") as caught:
        load_settings({name: f"mysql://u:{SECRET}@h/x"}, {})
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_settings_do_not_change() -> None:
    settings = load_settings({}, {})
    with pytest.raises(ValueError, match="frozen"):
        settings.web.threads = 9  # type: ignore[misc]


def test_settings_made_by_hand_ignore_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB", '{"threads": 3}')
    assert Settings().web.threads == 8


@pytest.mark.parametrize(
    ("url", "disable_tls", "expected"),
    [
        ("postgresql://u@db/x", False, "postgresql+psycopg2://u:p%40w@db/x?sslmode=verify-full"),
        ("postgres://u@db/x", True, "postgresql+psycopg2://u:p%40w@db/x?sslmode=disable"),
        ("postgresql+psycopg2://u:own@db/x", True, "postgresql+psycopg2://u:own@db/x?sslmode=disable"),
        ("postgresql://u@db/x?sslmode=require&a=b", False, "postgresql+psycopg2://u:p%40w@db/x?sslmode=require&a=b"),
        ("postgresql://u@db/x?a=b", False, "postgresql+psycopg2://u:p%40w@db/x?a=b&sslmode=verify-full"),
        ("postgresql://u@127.0.0.1:5432/x", False, "postgresql+psycopg2://u:p%40w@127.0.0.1:5432/x"),
        ("postgresql://u@[::1]:5432/x", False, "postgresql+psycopg2://u:p%40w@[::1]:5432/x"),
        ("postgresql://u@localhost/x", False, "postgresql+psycopg2://u:p%40w@localhost/x"),
        ("postgresql://u@localhost,db/x", False, "postgresql+psycopg2://u:p%40w@localhost,db/x?sslmode=verify-full"),
        ("postgresql://u@/x?host=/run/pg", False, "postgresql+psycopg2://u:p%40w@/x?host=/run/pg"),
        ("postgresql://u@/x?host=db", False, "postgresql+psycopg2://u:p%40w@/x?host=db&sslmode=verify-full"),
    ],
)
def test_database_beyond_loopback_is_asked_for_its_certificate(url: str, disable_tls: bool, expected: str) -> None:
    assert driver_url(url, password="p@w", disable_tls=disable_tls) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, "postgresql+psycopg2://scheduler@127.0.0.1:5432/scheduler"),
        (
            {"db_host": "db:6432", "db_user": "a b", "db_password": "x/y", "db_name": "jobs"},
            "postgresql+psycopg2://a%20b:x%2Fy@db:6432/jobs?sslmode=verify-full",
        ),
        ({"db_host": "/run/postgresql"}, "postgresql+psycopg2://scheduler@/scheduler?host=/run/postgresql"),
        ({"db_url": "postgresql://me@localhost/mine", "db_host": "db"}, "postgresql+psycopg2://me@localhost/mine"),
    ],
)
def test_database_url_is_made_of_its_parts_unless_given_whole(flags: dict[str, str], expected: str) -> None:
    assert load_settings(flags, {}).database_url() == expected


@pytest.mark.parametrize(
    ("text", "size"), [("0", None), ("512MiB", 512 * 2**20), ("2GiB", 2**31), ("5000", 5000), ("1KiB", 1024)]
)
def test_sizes_read_in_powers_of_1024(text: str, size: int | None) -> None:
    settings = load_settings({}, {"SCHEDULER_WORKER_PROCESS_MEMORY": text})
    assert parse_size(settings.worker.process_memory) == size


@pytest.mark.parametrize("text", ["2GB", "1.5GiB", "-1", "much", "MiB"])
def test_other_texts_are_no_sizes(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"worker\.process_memory.*expected a size such as 512MiB"):
        load_settings({"worker_process_memory": text}, {})


@pytest.mark.parametrize("queues", ["io, handlers", "async,io", "handlers,async"])
def test_worker_serves_one_kind_of_queue(queues: str) -> None:
    with pytest.raises(ConfigurationError, match=r"worker\.queues .*: a worker serves one of io, handlers, async"):
        load_settings({"worker_queues": queues, "worker_handlers": "mails"}, {})


@pytest.mark.parametrize("queue", ["handlers", "async"])
def test_worker_of_handlers_needs_their_modules(queue: str) -> None:
    with pytest.raises(ConfigurationError, match=r"needs worker\.handlers"):
        load_settings({"worker_queues": queue}, {})
    assert load_settings({"worker_queues": queue, "worker_handlers": "a.b"}, {}).worker.handlers == ("a.b",)


def test_key_of_a_setting_is_shown_nowhere_and_a_mistyped_one_is_refused_without_being_quoted() -> None:
    settings = load_settings({}, {"SCHEDULER_AUTH_ADMIN_KEY": KEY.text})
    assert explained(settings, "auth.admin_key").value == "***"
    assert KEY.secret not in repr(settings)
    with pytest.raises(ConfigurationError) as caught:
        load_settings({}, {"SCHEDULER_AUTH_ADMIN_KEY": KEY.text[:-1]})
    assert "auth.admin_key: the value from SCHEDULER_AUTH_ADMIN_KEY is not valid" in str(caught.value)
    assert KEY.secret[:20] not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("queue", f"redis://:{SECRET}@broker.example:6379/0"),
        ("queue", f"amqp://u:{SECRET}@10.0.0.1/"),
        ("queue", f"amqp://u:{SECRET}@localhost.example/"),
        ("cache", f"redis://:{SECRET}@[2001:db8::1]:6379/0"),
        ("limits", f"redis://:{SECRET}@10.0.0.1:6379/0"),
    ],
)
def test_broker_and_cache_beyond_loopback_need_tls_unless_told_otherwise(name: str, url: str) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"{name}\.url leads to another machine without TLS.*{name}"
    ) as caught:
        load_settings({f"{name}_url": url}, {})
    assert SECRET not in str(caught.value)
    assert load_settings({f"{name}_url": url, f"{name}_disable_tls": True}, {})


def test_only_rabbitmq_has_quorum_queues() -> None:
    with pytest.raises(ConfigurationError, match=r"queue\.type is quorum, which only RabbitMQ has: queue\.url must be"):
        load_settings({"queue_type": "quorum"}, {})
    assert load_settings({"queue_type": "quorum", "queue_url": "amqp://127.0.0.1//"}, {}).queue.type == "quorum"


@pytest.mark.parametrize(
    "url", ["redis://localhost/0", "amqp://127.1.2.3:5672//", "redis://[::1]:6379/0", "rediss://broker.example/0"]
)
def test_broker_on_this_machine_or_with_tls_needs_no_word(url: str) -> None:
    assert load_settings({"queue_url": url}, {}).queue_url() == url


def test_authorities_are_a_file_of_certificates(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for path in (tmp_path / "empty.pem", tmp_path / "missing.pem", tmp_path):
        with pytest.raises(ConfigurationError, match=r"tls\.ca_file: .* expected the path of a file with certificates"):
            load_settings({"tls_ca_file": str(path)}, {})


def test_authorities_vouch_for_the_database_unless_its_url_names_others() -> None:
    def url(given: str, *, disable_tls: bool = False) -> str:
        made = driver_url(given, password=None, disable_tls=disable_tls, authorities="/etc/ca.pem")
        return made.removeprefix("postgresql+psycopg2://")

    assert url("postgresql://u@db/x") == "u@db/x?sslmode=verify-full&sslrootcert=/etc/ca.pem"
    assert url("postgresql://u@db/x?sslrootcert=system") == "u@db/x?sslrootcert=system&sslmode=verify-full"
    assert url("postgresql://u@db/x", disable_tls=True) == "u@db/x?sslmode=disable"


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("postgresql://u:p@db.example/x", [("db.example", 5432)]),
        ("postgresql+psycopg2://u@db:6000/x?sslmode=disable", [("db", 6000)]),
        ("postgresql://u@a:1,b/x", [("a", 1), ("b", 5432)]),
        ("postgresql://u@[fd00::1]:6000/x", [("fd00::1", 6000)]),
        ("postgresql://u@/x?host=db&port=6000", [("db", 6000)]),
        ("postgresql://u@/x?host=a:1&host=b:2", [("a", 1), ("b", 2)]),
        ("postgresql://u@db/x?hostaddr=10.0.0.1", [("db", 5432), ("10.0.0.1", 5432)]),
        ("postgresql://u@/x?host=/run/postgresql", []),
        ("redis://:p@cache", [("cache", 6379)]),
        ("rediss://cache:7000/1", [("cache", 7000)]),
        ("amqp://u:p@broker/v", [("broker", 5672)]),
        ("amqps://u:p@broker:99//", [("broker", 99)]),
    ],
)
def test_servers_are_those_that_an_address_names(url: str, servers: list[tuple[str, int]]) -> None:
    assert servers_of(url) == servers


def test_own_servers_are_the_database_the_brokers_and_the_cache() -> None:
    flags = {
        "db_host": "db:6000",
        "queue_url": "amqps://a;amqps://b:99",
        "cache_url": "rediss://c",
        "limits_url": "rediss://d:98",
    }
    assert load_settings(flags, {}).own_servers() == [
        ("database", "db", 6000),
        ("broker", "a", 5671),
        ("broker", "b", 99),
        ("cache", "c", 6379),
        ("rate limiter", "d", 98),
    ]
