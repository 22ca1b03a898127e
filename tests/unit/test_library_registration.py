"""What can be said against a registration before any store is asked, and how schedules are written."""

import functools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gnomon import (
    After,
    At,
    ConfigurationError,
    Context,
    Cron,
    Every,
    InvalidJob,
    RetryPolicy,
    Scheduler,
    handler,
)
from gnomon.bootstrap.stores import check_namespace, check_url, secured_url
from gnomon.job import schedule
from gnomon.library.durations import read_duration
from gnomon.library.registration import Policies, make_registration
from gnomon.library.schedules import resolve

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def nothing() -> None:
    return None


def another() -> None:
    return None


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("90s", 90),
        ("1h30m", 5400),
        ("2d", 172_800),
        ("1w", 604_800),
        ("500ms", 0.5),
        ("1.5h", 5400),
        (90, 90),
        (0.5, 0.5),
    ],
)
def test_durations_are_read_as_people_write_them(written: str | float, seconds: float) -> None:
    assert read_duration(written) == timedelta(seconds=seconds)


@pytest.mark.parametrize("written", ["", "5", "5 minutes", "m5", "1h 30m", "-5m", float("nan"), None, [5]])
def test_what_is_no_duration_is_refused(written: Any) -> None:
    with pytest.raises(ConfigurationError, match="not a duration"):
        read_duration(written)


@pytest.mark.parametrize("every", [Every("5m"), Every(300), Every(minutes=5), Every(timedelta(minutes=5))])
def test_an_interval_may_be_written_in_many_ways(every: Every) -> None:
    assert every == Every(seconds=300)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Every(0), "whole seconds"),
        (lambda: Every("500ms"), "whole seconds"),
        (lambda: Every(days=5000), "whole seconds"),
        (lambda: After("-1s"), "not a duration"),
        (lambda: After(seconds=-1), "between 0"),
        (lambda: At("tomorrow"), "not an instant"),
        (lambda: At("2030-01-01T09:00:00"), "UTC offset"),
        (lambda: At(datetime(2030, 1, 1)), "UTC offset"),  # noqa: DTZ001 - what is refused
        (lambda: Cron("61 * * * *"), "cron_schedule"),
        (lambda: Cron("0 0 30 2 *"), "never"),
        (lambda: Cron("0 0 * * *", timezone="Mars/Olympus"), "timezone"),
    ],
)
def test_schedule_that_makes_no_sense_is_refused_where_it_is_written(make: Callable[[], object], reason: str) -> None:
    with pytest.raises((InvalidJob, ConfigurationError), match=reason):
        make()


def test_instants_are_read_from_texts_with_an_offset() -> None:
    assert At("2030-01-01T09:00:00+01:00") == At(datetime(2030, 1, 1, 8, tzinfo=UTC))


def test_interval_and_delay_are_counted_from_the_registration() -> None:
    assert resolve(Every("5m"), None, NOW) == schedule.Every(300, NOW)
    assert resolve(After("5m"), None, NOW) == schedule.At(NOW + timedelta(minutes=5))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schedule": "0 3 * * *"}, "no schedule"),
        ({"schedule": Every("1h"), "timezone": "Europe/Berlin"}, "only a Cron"),
        ({"schedule": Cron("0 3 * * *", timezone="Europe/Paris"), "timezone": "Europe/Berlin"}, "contradicts"),
        ({"name": "Nightly report"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "HTTP"}, "kind"),
        ({"payload": {"a": object()}}, "nightly.*JSON"),
        ({"payload": {"a": float("nan")}}, "nightly.*JSON"),
        ({"payload": {"unwanted": 1}}, "nightly.*unwanted"),
        ({"handler": lambda who: who}, "nightly.*who"),
        ({"handler": "nothing"}, "nightly.*not a callable"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": "soon"}, "not a duration"),
        ({"misfire": "never"}, "run_once"),
        ({"overlap": "maybe"}, "queue"),
        ({"delivery": "exactly_once"}, "at_most_once"),
    ],
)
def test_registration_that_can_not_work_says_what_is_wrong(changes: dict[str, Any], reason: str) -> None:
    given: dict[str, Any] = {"name": "nightly", "schedule": Cron("0 3 * * *"), "handler": nothing, **changes}
    with pytest.raises((InvalidJob, ConfigurationError), match=reason):
        Scheduler().register(given.pop("name"), given.pop("schedule"), given.pop("handler"), **given)


def test_generator_is_no_handler() -> None:
    def endless() -> Any:
        yield 1

    with pytest.raises(ConfigurationError, match="generator"):
        Scheduler().register("endless", Every(1), endless)


def test_second_function_under_one_name_is_refused_and_both_are_named() -> None:
    scheduler = Scheduler()
    scheduler.register("nightly", Every("1h"), nothing)
    scheduler.register("nightly", Every("2h"), nothing)
    with pytest.raises(ConfigurationError, match="another function") as refused:
        scheduler.register("nightly", Every("1h"), another)
    assert str(refused.value).count("test_library_registration.py:") == 2


def test_decorated_function_stays_as_it_is() -> None:
    scheduler = Scheduler()
    assert scheduler.job("nightly", Every("1h"))(nothing) is nothing


def test_schema_of_a_declared_handler_holds_for_its_jobs() -> None:
    @handler("greet", schema={"type": "object", "required": ["who"]})
    def greet(payload: dict[str, Any]) -> str:
        return f"hello {payload['who']}"

    scheduler = Scheduler()
    scheduler.register("hello", Every("1h"), greet, payload={"who": "you"})
    with pytest.raises(InvalidJob, match="who"):
        scheduler.register("nobody", Every("1h"), greet)


def test_handler_that_records_in_its_transaction_can_not_run_in_a_process_of_others() -> None:
    @handler("pay", transaction=True)
    def pay(context: Context) -> None:
        context.connection.commit()

    with pytest.raises(ConfigurationError, match="transaction=True"):
        Scheduler().register("pay", Every("1h"), pay)


def test_bound_methods_and_partials_are_handlers() -> None:
    class Greeter:
        def greet(self, who: str) -> str:
            return f"hello {who}"

    scheduler = Scheduler()
    scheduler.register("method", Every("1h"), Greeter().greet, payload={"who": "you"})
    scheduler.register("partial", Every("1h"), functools.partial(Greeter().greet, who="you"))


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (Cron("0 3 * * *"), Cron("0 3 * * *"), True),
        (Cron("0 3 * * *"), Cron("0 3 * * *", timezone="Europe/Berlin"), False),
        (Every("1h"), Every(minutes=60), True),
        (At(NOW), At("2030-01-01T00:00:00Z"), True),
    ],
)
def test_definitions_are_compared_by_what_they_mean(first: Any, second: Any, same: bool) -> None:
    policies = Policies(retry=None, timeout=30, misfire="run_once", overlap="skip", delivery="at_least_once")
    one, other = (make_registration("a", each, nothing, None, None, policies) for each in (first, second))
    assert (one.define(None, NOW) == other.define(None, NOW)) is same


def test_policies_may_be_words_or_values() -> None:
    spelled = Policies(retry=RetryPolicy(), timeout="30s", misfire="skip", overlap="queue", delivery="at_most_once")
    definition = make_registration("a", Every(1), nothing, None, None, spelled).define(None, NOW)
    assert definition.timeout == timedelta(seconds=30)
    assert (definition.misfire.policy, definition.overlap, definition.delivery) == ("skip", "queue", "at_most_once")


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory://", "memory"),
        ("redis://localhost", "redis"),
        ("rediss://:secret@host:6380/1", "redis"),
        ("postgresql://user@host/name", "postgres"),
        ("postgres://user@host/name", "postgres"),
    ],
)
def test_url_says_which_store_is_meant(url: str, kind: str) -> None:
    assert check_url(url) == kind


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://root:hunter2@host/name", "mysql:// is no store"),
        ("jobs.db", "not given as a URL"),
        ("", "not given as a URL"),
        ("memory://somewhere", "nothing behind it"),
        ("postgresql://user:hunter2@host", "names no database"),
        ("postgresql://user:hunter2@host:port/name", "can't be read"),
        ("redis://:hunter2@host:99999", "can't be read"),
        ("redis://:hunter2@host:0", "port 0"),
        ("redis://:hunter2/more@host:6379", "percent-encode"),
        ("redis://[hunter2", "can't be read"),
    ],
)
def test_url_that_leads_nowhere_is_refused_without_its_secrets(url: Any, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as refused:
        Scheduler(url)
    assert "hunter2" not in str(refused.value)


def test_store_on_another_machine_is_spoken_to_over_tls_unless_told_otherwise() -> None:
    with pytest.raises(ConfigurationError, match="without TLS") as refused:
        Scheduler("redis://:hunter2@host")
    assert "hunter2" not in str(refused.value)
    assert Scheduler("redis://host", disable_tls=True)
    secured = secured_url("rediss://host/1?health_check_interval=5", disable_tls=False, ca_file="/a b.pem")
    assert secured == "rediss://host/1?health_check_interval=5&ssl_ca_certs=/a+b.pem"
    secured = secured_url("postgresql://user@host/name", disable_tls=False, ca_file="/ca.pem")
    assert secured == "postgresql+psycopg2://user@host/name?sslmode=verify-full&sslrootcert=/ca.pem"


@pytest.mark.parametrize("namespace", ["", "Mine", "a-b", "public", "pg_catalog", "information_schema", "x" * 49, "1a"])
def test_namespace_has_to_be_a_plain_identifier_of_its_own(namespace: str) -> None:
    with pytest.raises(ConfigurationError, match="namespace"):
        check_namespace(namespace)


@pytest.mark.parametrize(
    "limits", [{"concurrency": 0}, {"lease": 0.5}, {"interval": 0}, {"interval": "2m"}, {"grace": "soon"}]
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Scheduler(**limits)


def test_secrets_of_the_url_are_not_shown() -> None:
    assert "hunter2" not in repr(Scheduler("rediss://:hunter2@host"))
