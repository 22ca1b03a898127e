"""The tables of error codes in docs/http.md and docs/amqp.md name each code that there is, and say which are final."""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from gnomon.storage.postgres import statements
from gnomon.worker.executors.amqp_outcome import FAULTS

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "internal" / "gnomon"
EXECUTORS = SOURCE / "worker" / "executors"
HTTP, AMQP = ROOT / "docs" / "http.md", ROOT / "docs" / "amqp.md"
SKIPS = {"misfire", "overlap"}  # reasons of SKIPPED rows, not of attempts


@dataclass(frozen=True)
class Code:
    """A failure as it is written in the code. `permanent` is None where it depends."""

    name: str
    permanent: bool | None


def codes_in(path: Path) -> Iterator[Code]:
    """What is given to `Failed(code=…)` and to the helpers named _failed."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if function not in ("Failed", "_failed", "Record"):
            continue
        given = named.get("code") or named.get("error_code") or (node.args[0] if node.args else None)
        if isinstance(given, ast.Constant) and isinstance(given.value, str):
            permanent = named.get("permanent", ast.Constant(False))
            yield Code(given.value, permanent.value if isinstance(permanent, ast.Constant) else None)


def codes_of(*paths: Path) -> Mapping[str, bool | None]:
    found: dict[str, bool | None] = {}
    for code in (code for path in paths for code in codes_in(path)):
        assert found.setdefault(code.name, code.permanent) == code.permanent, f"{code.name} is final here and not there"
    return found


def tables_of(page: Path) -> list[Mapping[str, str]]:
    """Of each table of codes: the code and the last column."""
    found = []
    for table in re.findall(r"\| code \|.*\n\| ---.*\n((?:\|.*\n)+)", page.read_text()):
        rows = [[cell.strip() for cell in line.strip("| \n").split(" | ")] for line in table.splitlines()]
        found.append({row[0].strip("`"): row[-1] for row in rows})
    return found


def expected_of(kind: str) -> Mapping[str, bool | None]:
    codes = dict(codes_of(*EXECUTORS.glob(f"{kind}*.py")))
    return codes | ({code: True for code, _ in FAULTS.values()} if kind == "amqp" else {})


@pytest.mark.parametrize(("kind", "page"), [("http", HTTP), ("amqp", AMQP)])
def test_table_names_each_code_of_its_executor_and_no_other(kind: str, page: Path) -> None:
    assert tables_of(page)[0].keys() == expected_of(kind).keys()


@pytest.mark.parametrize(("kind", "page"), [("http", HTTP), ("amqp", AMQP)])
def test_table_says_of_each_code_whether_it_is_final(kind: str, page: Path) -> None:
    expected = expected_of(kind)
    told = tables_of(page)[0]
    assert {code for code, permanent in expected.items() if permanent} == {code for code in told if told[code] == "no"}


def test_codes_of_every_kind_are_those_of_runner_recorder_and_database() -> None:
    worker = codes_of(SOURCE / "worker" / "runner.py", SOURCE / "worker" / "verdict.py", SOURCE / "job" / "ports.py")
    rows = set(re.findall(r"error_code = '(\w+)'", Path(statements.__file__).read_text()))
    assert tables_of(HTTP)[1].keys() | {"cancelled"} == (worker.keys() | rows) - SKIPS


def test_code_that_is_left_out_is_found(tmp_path: Path) -> None:
    source = tmp_path / "executor.py"
    source.write_text("_failed('new', 'text', permanent=True); Failed(code='other', permanent=late)")
    assert list(codes_in(source)) == [Code("new", True), Code("other", None)]
