"""The `gnomon` command and its entry scripts: what they need, what they print, how they end."""

import cmd
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from gnomon.cli.main import gnomon
from gnomon.cli.output import table
from gnomon.job.errors import Conflict, GnomonError, InvalidJob, NameTaken, NotFound, Unavailable
from gnomon.settings import declared

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ["api", "scheduler", "worker", "migrate"]
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, **environment: CliRunner().invoke(gnomon, arguments, env=environment)


def python(*arguments: str) -> str:
    """What a fresh interpreter in the repository's root prints."""
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_help_needs_nothing_but_click() -> None:
    program = """
import sys, contextlib
from gnomon.cli.main import main
with contextlib.suppress(SystemExit):
    main(["--help"])
print(sorted({"pydantic", "yaml", "sqlalchemy", "flask", "celery", "gnomon.settings"} & set(sys.modules)))
"""
    assert python("-c", program).splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", SERVICES)
def test_every_setting_is_a_flag_of_every_service(run: Run, command: str) -> None:
    shown = run(command, "--help").output
    assert [setting.flag for setting in declared() if setting.flag not in shown] == []


@pytest.mark.parametrize("command", SERVICES)
def test_entry_script_takes_the_same_flags_as_the_command(command: str) -> None:
    assert python(f"cmd/{command}.py", "--help") == python("-m", "gnomon.cli.main", command, "--help")


def test_cmd_folder_does_not_shadow_the_standard_library() -> None:
    assert not (ROOT / "cmd" / "__init__.py").exists()
    assert cmd.Cmd.__module__ == "cmd"
    assert python("-c", "import cmd; print(cmd.Cmd)") == "<class 'cmd.Cmd'>\n"


def test_version(run: Run) -> None:
    assert run("--version").output == "gnomon 0.1.0\n"


def test_config_show_is_json_where_there_is_no_terminal(run: Run) -> None:
    rows = json.loads(run("config", "show", SCHEDULER_WEB_THREADS="3").stdout)
    assert [row["name"] for row in rows] == [setting.name for setting in declared()]
    assert {
        "name": "web.threads",
        "value": "3",
        "from": "SCHEDULER_WEB_THREADS",
        "default": "8",
        "expects": "a whole number from 1 to 1024",
        "meaning": "requests answered at once by one API process",
    } in rows


def test_config_show_speaks_yaml_and_tables(run: Run) -> None:
    assert yaml.safe_load(run("config", "show", "-o", "yaml").stdout)[0]["name"] == "web.api_host"
    lines = run("config", "show", "-o", "table").stdout.splitlines()
    assert lines[0].split() == ["NAME", "VALUE", "FROM", "DEFAULT", "EXPECTS", "MEANING"]
    assert lines[1].startswith("web.api_host")


def test_config_check_shows_what_is_set_and_says_that_it_is_valid(run: Run) -> None:
    result = run("config", "check", "--db-disable-tls", "--db-password", "canary")
    assert [(row["name"], row["value"]) for row in json.loads(result.stdout)] == [
        ("db.password", "***"),
        ("db.disable_tls", "true"),
    ]
    assert result.stderr == "the settings are valid\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["config", "check", "--web-threads", "0"],
            "Error: web.threads: '0' from --web-threads is not valid",
        ),
        (
            ["config", "show", "--config", "no.yaml"],
            "file no.yaml named by --config does not exist",
        ),
        (["api", "--web-threds", "1"], "No such option '--web-threds'"),
        (["serve"], "No such command 'serve'"),
    ],
)
def test_wrong_usage_and_settings_exit_with_2_and_a_clear_line(run: Run, arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unavailable("db is\naway"), 8),
        (NotFound("no such job"), 3),
        (NameTaken("taken"), 5),
        (Conflict("running"), 5),
        (InvalidJob.at("/type", "missing"), 2),
        (GnomonError("other"), 1),
    ],
)
def test_our_errors_become_one_line_and_an_exit_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: GnomonError, code: int
) -> None:
    @click.command()
    def fail() -> None:
        raise error

    monkeypatch.setitem(gnomon.commands, "fail", fail)
    result = run("fail")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == f"Error: {' '.join(str(error).split())}\n"


def test_table_shows_no_control_characters() -> None:
    assert table([{"name": "a\x1b[2Jb", "value": "longer"}]) == "NAME    VALUE\na?[2Jb  longer"
