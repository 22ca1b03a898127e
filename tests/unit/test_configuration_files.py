"""What is written about settings is what the settings are."""

import re
from pathlib import Path

import pytest
import yaml

from gnomon.cli.config import show
from gnomon.settings import declared, explain, load_settings

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "config" / "config.yaml.example"
GUIDE = ROOT / "docs" / "configuration.md"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_example_file_shows_every_setting_with_its_default() -> None:
    assert EXAMPLE.read_text() == show(load_settings({}, {}), "example") + "\n"


def test_example_file_changes_nothing_as_it_is_and_nothing_when_uncommented(tmp_path: Path) -> None:
    as_it_is = load_settings({"config": EXAMPLE}, {})
    assert {item.source for item in explain(as_it_is)} == {"default"}
    keys = {setting.name.split(".")[1] for setting in declared()}
    uncommented = re.sub(rf"# ({'|'.join(keys)}):", r"\1:", EXAMPLE.read_text())
    (tmp_path / "all.yaml").write_text(uncommented)
    sections = yaml.safe_load(uncommented)
    assert [f"{section}.{key}" for section, body in sections.items() for key in body] == [
        setting.name for setting in declared()
    ]
    settings = explain(load_settings({"config": tmp_path / "all.yaml"}, {}))
    differing = [item.name for item in settings if item.value != item.default]
    assert differing == ["scheduler.id"]  # each process makes its own


def test_guide_has_the_table_of_all_settings() -> None:
    assert show(load_settings({}, {}), "markdown") in GUIDE.read_text()


def test_guide_names_only_settings_that_exist() -> None:
    text = GUIDE.read_text()
    variables = {setting.variable for setting in declared()}
    short = {variable.removeprefix("SCHEDULER_") for variable in variables}
    files = {f"{setting.variable}_FILE" for setting in declared() if setting.is_secret}
    assert set(re.findall(r"SCHEDULER_[A-Z_]+[A-Z]", text)) <= variables | short | files | {"SCHEDULER_CONFIG"}
    flags = {setting.flag for setting in declared()}
    ours = {flag for flag in re.findall(r"`(--[a-z-]+)`", text) if flag.split("-")[2] in {"web", "db", "scheduler"}}
    assert ours <= flags
