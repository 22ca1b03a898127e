"""What the documentation says is so: links lead somewhere, printed defaults are the defaults, named things exist."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gnomon.job.document import read_definition, write_definition
from gnomon.job.model import State

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
DEFAULTS = write_definition(
    read_definition(
        {"type": "HTTP", "cron_schedule": "@hourly", "http_job": {"url": "example.com"}},
        now=datetime(2026, 1, 1, tzinfo=UTC),
    ),
    secrets=False,
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_that_exist(page: Path) -> None:
    assert [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:internal|scripts|tests|docs|config|cmd)/[\w./-]+\.\w+)`", page.read_text())
    written_by_users = {"config/config.yaml"}
    assert [name for name in named if name not in written_by_users and not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text())
    assert [(file, test) for file, test in named if f"def {test}(" not in (ROOT / file).read_text()] == []


@pytest.mark.parametrize("policy", ["misfire", "retry"])
def test_printed_policy_is_the_default(policy: str) -> None:
    printed = re.search(rf"^`{policy} = (\{{.*\}})`$", (ROOT / "docs/semantics.md").read_text(), re.MULTILINE)
    assert printed
    assert json.loads(printed[1]) == DEFAULTS[policy]


@pytest.mark.parametrize("policy", ["overlap", "delivery"])
def test_printed_choice_is_the_default(policy: str) -> None:
    assert f'`{policy} = "{DEFAULTS[policy]}"` (default)' in (ROOT / "docs/semantics.md").read_text()


def test_state_diagram_shows_every_state() -> None:
    diagram = (ROOT / "docs/protocol.md").read_text().split("## States")[1].split("## Steps")[0]
    assert [state for state in State if state.value not in diagram] == []
