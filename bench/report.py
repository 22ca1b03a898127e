"""A run as data, as a table, as goals, and as a file."""

import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.bed import ROOT
from bench.case import Case, Figures, Goal, Medians

LIBRARIES = ("celery", "kombu", "sqlalchemy", "psycopg2-binary", "pycurl", "uvloop", "redis", "pika", "gunicorn")
# points of a curve, which a plot shows
_CURVE = re.compile(r"p([1-4]0|[6-9]0|95)_ms")


@dataclass(kw_only=True)
class Run:
    """What has been measured so far."""

    command: str
    begun_at: datetime
    rounds: dict[str, list[Figures]] = field(default_factory=dict)  # by the name of the case
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, case: Case, figures: Figures) -> None:
        """To six digits."""
        self.rounds.setdefault(case.name, []).append({name: float(f"{value:.6g}") for name, value in figures.items()})

    @property
    def medians(self) -> Medians:
        return {name: _medians(rounds) for name, rounds in self.rounds.items()}


def document_of(run: Run, goals: Sequence[Goal], servers: Mapping[str, str]) -> dict[str, Any]:
    """All that the table, the page and the plots are made of."""
    medians = run.medians
    return {
        "command": run.command,
        "begun_at": run.begun_at.isoformat(timespec="seconds"),
        "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "servers": dict(servers),
        "cases": [
            {"name": name, "medians": dict(medians[name]), "rounds": [dict(figures) for figures in rounds]}
            for name, rounds in run.rounds.items()
        ],
        "failures": run.failures,
        "goals": [_judged(goal, medians) for goal in goals],
    }


def write(document: Mapping[str, Any], folder: Path) -> Path:
    """<folder>/<begun>.json"""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{datetime.fromisoformat(document['begun_at']):%Y-%m-%dT%H%M%S}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def machine() -> dict[str, str | int | float]:
    return {
        "cores": os.cpu_count() or 0,
        "processor": _processor(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_at_start": round(os.getloadavg()[0], 2),
        **{name: version(name) for name in LIBRARIES},
    }


def commit() -> str:
    """Of the work tree, with `+` where it differs."""
    told = _git("rev-parse", "--short=12", "HEAD")
    return f"{told}+" if told and _git("status", "--porcelain", "--untracked-files=no") else told or "unknown"


def tables(document: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """By the first part of the cases' names: a line of titles, then one for each case."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for case in document["cases"]:
        groups.setdefault(case["name"].split("/")[0], []).append(case)
    return {name: _table(name, cases) for name, cases in groups.items()}


def aligned(table: Sequence[Sequence[str]]) -> str:
    """For a terminal: names to the left, figures to the right."""
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    )


def goal_table(document: Mapping[str, Any]) -> list[list[str]]:
    """Of the goals whose cases were run."""
    goals = [goal for goal in document["goals"] if goal["value"] is not None]
    return [["goal", "figure", ""], *([goal["text"], _figure(goal["value"]), _verdict(goal)] for goal in goals)]


def unmeasured(document: Mapping[str, Any]) -> str:
    """What is to be said of the other goals."""
    others = sum(goal["value"] is None for goal in document["goals"])
    return f"{others} goals are of cases that were not run." if others else ""


def _table(group: str, cases: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A column for each figure that a case has; where others do the same work, their rate as a share of ours."""
    figures = list(dict.fromkeys(name for case in cases for name in case["medians"] if not _CURVE.fullmatch(name)))
    ours = {
        case["name"].rpartition("/")[0]: _first(case["medians"]) for case in cases if case["name"].endswith("/gnomon")
    }
    compared = any(case["name"].rpartition("/")[0] in ours and not case["name"].endswith("/gnomon") for case in cases)
    lines = [[group, *figures, *(["of gnomon"] if compared else [])]]
    for case in cases:
        of_ours = ours.get(case["name"].rpartition("/")[0])
        share = f"{_first(case['medians']) / of_ours:.2f}" if of_ours else ""
        lines.append(
            [
                case["name"].partition("/")[2],
                *(_figure(case["medians"].get(name)) for name in figures),
                *([share] if compared else []),
            ]
        )
    return lines


def _medians(rounds: Sequence[Figures]) -> dict[str, float]:
    names = dict.fromkeys(name for figures in rounds for name in figures)
    return {name: statistics.median(figures[name] for figures in rounds if name in figures) for name in names}


def _judged(goal: Goal, medians: Medians) -> dict[str, Any]:
    value = goal.value(medians)
    return {
        "text": goal.text,
        "value": value,
        "at_least": goal.at_least,
        "at_most": goal.at_most,
        "reached": None if value is None else goal.reached(value),
    }


def _verdict(goal: Mapping[str, Any]) -> str:
    return "reached" if goal["reached"] else "NOT REACHED"


def _first(figures: Mapping[str, float]) -> float:
    return next(iter(figures.values()))


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    return done.stdout.strip()
