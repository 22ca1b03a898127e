"""Runs the bench: python -m bench --help."""

import argparse
import shlex
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from itertools import groupby
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import bench
from bench import page, report
from bench.bed import PYTHON, ROOT, Bed
from bench.case import SHORT, Case, Scale, Section
from gnomon.job.errors import ConfigurationError

_PROGRAMS = ("__main__", "plots")


def main() -> int:
    wanted = _arguments()
    if wanted.page:
        page.rewrite(wanted.page)
        return 0
    scale = SHORT if wanted.short else Scale()
    scale = replace(scale, rounds=wanted.rounds or scale.rounds)
    sections = _sections()
    cases = _chosen(sections, scale, only=wanted.only, long=wanted.long)
    if wanted.list:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # for a reader like head, which goes when it has seen enough
        print(*(case.name for case in cases), sep="\n")
        return 0
    if not cases:
        print(f"no case begins with {' or '.join(wanted.only)}; --list names them", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run = report.Run(command=shlex.join(["scripts/bench", *sys.argv[1:]]), begun_at=datetime.now(UTC))
    try:
        with Bed() as bed:
            try:
                _measure(bed, run, cases, scale)
            except KeyboardInterrupt:  # what was measured until then is told
                run.failures["the rest"] = "broken off"
            versions = bed.versions()
    except ConfigurationError as error:
        print(f"*** NO BENCH: {error}", file=sys.stderr)
        return 1
    document = report.document_of(run, [goal for section in sections for goal in section.goals], versions)
    path = report.write(document, wanted.out)
    _tell(document)
    print(f"\n{path}\n{_plots(path)}")
    return 1 if run.failures else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=bench.__doc__)
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=[""],
        metavar="BEGINNING,…",
        help="the cases whose names begin so: burst, or burst/http-0ms,api",
    )
    parser.add_argument("--rounds", type=int, help="how often each case is measured; the median counts (5)")
    parser.add_argument(
        "--short", action="store_true", help="once, with very little: shows that it works, not how fast"
    )
    parser.add_argument("--long", action="store_true", help="with the cases that take very long")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "bench/results", help="the folder for the results (bench/results)"
    )
    parser.add_argument(
        "--page", type=Path, nargs="+", metavar="RESULTS", help="only write docs/performance.md from these files"
    )
    parser.add_argument("--list", action="store_true", help="only say what would be measured")
    return parser.parse_args()


def _sections() -> list[Section]:
    """Those of all modules of this package."""
    names = [found.name for found in iter_modules(bench.__path__) if found.name not in _PROGRAMS]
    modules = [import_module(f"bench.{name}") for name in sorted(names)]
    return [module.SECTION for module in modules if hasattr(module, "SECTION")]


def _chosen(sections: Sequence[Section], scale: Scale, *, only: Sequence[str], long: bool) -> list[Case]:
    """In groups, those that do the same work side by side."""
    cases = [case for section in sections for case in section.cases(scale)]
    chosen = [case for case in cases if case.name.startswith(tuple(only)) and (long or not case.long)]
    places = {work: place for place, work in enumerate(dict.fromkeys(case.work for case in chosen))}
    return sorted(chosen, key=lambda case: (case.group, places[case.work]))


def _measure(bed: Bed, run: report.Run, cases: Sequence[Case], scale: Scale) -> None:
    """Round by round, so that what changes on the machine meanwhile meets all cases of a group alike."""
    for group, members in groupby(cases, key=lambda case: case.group):
        of_group = list(members)
        for number in range(1, scale.rounds + 1):
            for case in of_group:
                _measure_once(bed, run, case, f"{group} {number}/{scale.rounds}")
        bed.drop_kept()


def _measure_once(bed: Bed, run: report.Run, case: Case, where: str) -> None:
    begun = time.monotonic()
    try:
        figures = case.measure(bed)
    except ConfigurationError:
        raise
    except Exception as error:
        traceback.print_exc()
        run.failures[case.name] = f"{type(error).__name__}: {error}"
        print(f"[{where}] {case.name} FAILED", flush=True)
        return
    run.add(case, figures)
    told = ", ".join(f"{name} {value:,.4g}" for name, value in figures.items())
    print(f"[{where}] {case.name}: {told} ({time.monotonic() - begun:.0f} s)", flush=True)


def _tell(document: dict[str, Any]) -> None:
    for table in report.tables(document).values():
        print(f"\n{report.aligned(table)}")
    print(f"\n{report.aligned(report.goal_table(document))}\n{report.unmeasured(document)}")
    for name, failure in document["failures"].items():
        print(f"\nFAILED {name}: {failure}")


def _plots(results: Path) -> str:
    """Draws them; their paths, one a line."""
    command = [str(PYTHON), str(ROOT / "bench/plots.py"), str(results)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
