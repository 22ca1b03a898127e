"""docs/performance.md: what it says between its marks is made of files of results, each group in one of them."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import report
from bench.bed import ROOT

PAGE = ROOT / "docs/performance.md"
_MARKED = re.compile(
    r"(?<=<!-- made of )(\S+(?: \S+)*?)( by scripts/bench --page; a test compares -->\n).*?(?=<!-- end -->)", re.S
)


def rewrite(results: Sequence[Path]) -> None:
    """Puts the figures of these files into the page."""
    named = " ".join(str(path.resolve().relative_to(ROOT)) for path in results)
    made = rendered(results)
    PAGE.write_text(_MARKED.sub(lambda match: f"{named}{match[2]}{made}", PAGE.read_text()))


def sources() -> list[Path]:
    """The results that the page says it is made of."""
    return [ROOT / name for name in _match()[1].split()]


def present() -> str:
    """What stands between the marks."""
    return _match()[0].partition("-->\n")[2]


def rendered(results: Sequence[Path]) -> str:
    """What should."""
    documents = [json.loads(path.read_text()) for path in results]
    goals = {"goals": _goals(documents)}
    parts = ["### Goals", _markdown(report.goal_table(goals)), report.unmeasured(goals)]
    for path, document in zip(results, documents, strict=True):
        parts.append(_origin(document))
        for group, table in report.tables(document).items():
            parts += [f"### {group}", _plot(path, group), _markdown(table)]
    return "\n" + "\n\n".join(part for part in parts if part) + "\n\n"


def _goals(documents: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Each once, from the run that has its cases."""
    found: dict[str, Mapping[str, Any]] = {}
    for document in documents:
        for goal in document["goals"]:
            if goal["text"] not in found or found[goal["text"]]["value"] is None:
                found[goal["text"]] = goal
    return list(found.values())


def _match() -> re.Match[str]:
    match = _MARKED.search(PAGE.read_text())
    if match is None:
        raise ValueError(f"{PAGE} has no marks; see bench/page.py")
    return match


def _origin(document: Mapping[str, Any]) -> str:
    machine, rounds = document["machine"], max(len(case["rounds"]) for case in document["cases"])
    versions = ", ".join(f"{name} {version}" for name, version in (document["servers"] | _libraries(machine)).items())
    return (
        f"`{document['command']}` at commit {document['commit']}, {document['begun_at'][:10]}; "
        f"{f'medians of {rounds} rounds' if rounds > 1 else 'one round'}. "
        f"{machine['cores']} cores ({machine['processor']}), load {machine['load_at_start']} when it began, "
        f"{machine['memory_gib']} GiB, {machine['system']}, Python {machine['python']}, {versions}."
    )


def _libraries(machine: Mapping[str, Any]) -> dict[str, str]:
    return {name: machine[name] for name in report.LIBRARIES}


def _plot(results: Path, group: str) -> str:
    drawn = results.with_name(f"{results.stem}-{group}.svg")
    return f"![{group}](../{drawn.resolve().relative_to(ROOT)})" if drawn.exists() else ""


def _markdown(table: Sequence[Sequence[str]]) -> str:
    titles, *lines = table
    rule = ["---", *["---:"] * (len(titles) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (titles, rule, *lines))
