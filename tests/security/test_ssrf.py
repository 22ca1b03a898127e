"""No spelling, redirect or change of a name brings a worker to call what it must not: counted in packets."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from servers.netlab import CONTROLS, Case, NoNamespace, run_lab
from support.api import HOURLY, make_client, problem
from support.missing import give_up
from support.ssrf import CLOSED, FORMS
from support.world import World

from gnomon.job.address import EgressPolicy
from gnomon.job.service import JobService

RUNS = 50


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return in_a_namespace(rebindings=RUNS)


def in_a_namespace(*, rebindings: int) -> list[Case]:
    try:
        return run_lab(rebindings=rebindings)
    except NoNamespace as error:
        give_up(f"SERVER MISSING: {error}")


@pytest.mark.parametrize("path", ["run", "redirect", "amqp"])
def test_no_packet_goes_where_no_job_may_call(cases: list[Case], path: str) -> None:
    found = [case for case in cases if case.path == path]

    assert [case.form for case in found] == [str(form) for form in FORMS]
    assert [case for case in found if case.packets] == []


def test_name_that_changes_leads_nowhere_else(cases: list[Case]) -> None:
    check_rebinding(cases, RUNS)


@pytest.mark.long
def test_name_that_changes_leads_nowhere_else_a_thousand_times() -> None:
    check_rebinding(in_a_namespace(rebindings=1_000), 1_000)


def check_rebinding(cases: list[Case], runs: int) -> None:
    first = [case for case in cases if case.path == "rebinding"]
    second = [case for case in cases if case.path == "rebound"]
    assert (len(first), len(second)) == (runs, runs)
    assert {case.outcome for case in first} == {"succeeded"}, "the public server is called"
    assert {case.outcome for case in second} <= {"egress_blocked", "dns"}
    assert [case for case in [*first, *second] if case.packets] == []


@pytest.mark.parametrize("path", ["run", "redirect", "amqp"])
def test_refusal_is_told_as_one(cases: list[Case], path: str) -> None:
    """Of all forms that a job can have; what a resolver itself refuses to say is dns."""
    jobs = {str(form) for form in FORMS if form.created == 201}
    outcomes = {case.form: case.outcome for case in cases if case.path == path and case.form in jobs}

    assert {form: code for form, code in outcomes.items() if code not in ("egress_blocked", "dns")} == {}
    assert list(outcomes.values()).count("egress_blocked") > 0.9 * len(jobs)


def test_each_canary_hears_a_call_when_there_is_no_guard(cases: list[Case]) -> None:
    controls = {case.form: case for case in cases if case.path == "control"}

    assert tuple(controls) == CONTROLS
    for case in controls.values():
        host, _, port = (
            case.form.rpartition(":") if case.form[-1].isdigit() and ":" in case.form else (case.form, "", "80")
        )
        assert case.outcome == "succeeded"
        assert (host.strip("[]"), int(port)) in case.packets  # beside the farewell to the one before


class Heard:
    """What Python code of this process has looked up and connected to while it listened."""

    def __init__(self) -> None:
        self.listening = False
        self.events: list[tuple[str, Any]] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.listening and event in (
            "socket.getaddrinfo",
            "socket.gethostbyname",
            "socket.connect",
            "socket.sendto",
        ):
            self.events.append((event, arguments[1:] if event.endswith(("connect", "sendto")) else arguments))


@pytest.fixture
def heard() -> Iterator[Heard]:
    hearing = Heard()
    yield hearing
    hearing.listening = False


def test_creating_a_job_asks_for_no_name_and_calls_nobody(world: World, heard: Heard) -> None:
    world.service = JobService(
        jobs=world.jobs, runs=world.runs, history=world.history, catalog=world.catalog, egress=EgressPolicy()
    )
    client = make_client(world)
    client.post("/v1/jobs", json=HOURLY)
    wrong = {}
    heard.listening = True
    for form in FORMS:
        response = client.post("/v1/jobs", json={**HOURLY, "http_job": {"url": f"http://{form.authority}/"}})
        if response.status_code != form.created:
            wrong[form.authority] = response.status_code
        elif form.created == 422:
            assert problem(response, 422)["errors"][0]["pointer"] == "/http_job/url"
    heard.listening = False

    assert wrong == {}
    assert heard.events == []


def test_broker_that_no_setting_opens_can_not_be_named(world: World) -> None:
    """Where a user name may stand in a broker's URL the form means another place."""
    client = make_client(world)
    for form in FORMS:
        if form.created == 201 or "@" in form.authority:
            continue
        amqp = {"connection": f"amqp://{form.authority}/"}
        response = client.post("/v1/jobs", json={"type": "AMQP", "cron_schedule": "@hourly", "amqp_job": amqp})
        assert problem(response, 422)["errors"][0]["pointer"] == "/amqp_job/connection", form


def test_corpus_is_as_large_as_it_says() -> None:
    assert len({form.authority for form in FORMS}) == len(FORMS) >= 130
    assert len(CLOSED) >= 30
