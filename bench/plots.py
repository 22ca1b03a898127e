"""Draws a run: plots.py RESULTS.json writes RESULTS-<group>.svg beside it and prints their paths.

A program by itself, run by the interpreter of the bench's own environment, which has matplotlib.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

_PERCENTILE = re.compile(r"p(\d+)_ms")
_SIZE = re.compile(r"(\d+)-jobs")
_OURS, _OTHERS = "#1f6f8b", "#b9b9b9"

Cases = Sequence[Mapping[str, Any]]


def main() -> None:
    path = Path(sys.argv[1])
    pyplot.rcParams |= {"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 9, "axes.spines.right": False}
    pyplot.rcParams |= {"axes.spines.top": False, "figure.constrained_layout.use": True}
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for case in json.loads(path.read_text())["cases"]:
        groups.setdefault(case["name"].split("/")[0], []).append(case)
    for name, cases in groups.items():
        drawn = path.with_name(f"{path.stem}-{name}.svg")
        _draw(cases).savefig(drawn, metadata={"Date": None})
        pyplot.close()
        print(drawn)


def _draw(cases: Cases) -> pyplot.Figure:
    """By the shape of the figures: a curve of percentiles, a cost that may grow with the size, or bars."""
    if timed := [case for case in cases if len(_percentiles(case)) > 4]:
        return _curves(timed)
    if len({size for case in cases for size in _sizes(case)}) > 1 and _costs(cases):
        return _growth(cases)
    return _bars(cases)


def _bars(cases: Cases) -> pyplot.Figure:
    """The first figure of each case."""
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.24 * len(cases)))
    labels = [case["name"].partition("/")[2] for case in cases]
    values = [next(iter(case["medians"].values())) for case in cases]
    bars = axes.barh(labels, values, color=[_OURS if label.endswith("gnomon") else _OTHERS for label in labels])
    axes.bar_label(bars, labels=[f"{value:,.4g}" if value < 100 else f"{value:,.0f}" for value in values], padding=3)
    for bar, case in zip(bars, cases, strict=True):
        rounds = [next(iter(figures.values())) for figures in case["rounds"]]
        middle = bar.get_y() + bar.get_height() / 2
        axes.plot([min(rounds), max(rounds)], [middle, middle], color="black", linewidth=1)
    if min(values) > 0 and max(values) > 30 * min(values):
        axes.set_xscale("log")
    axes.set_xlabel(next(iter(cases[0]["medians"])) + " (median; the line reaches from the least to the greatest)")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    return figure


def _curves(cases: Cases) -> pyplot.Figure:
    """Within how much time which part of the calls had come."""
    figure, axes = pyplot.subplots(figsize=(8, 4))
    for case in cases:
        points = _percentiles(case)
        axes.plot([late for _, late in points], [percent for percent, _ in points], marker=".", label=case["name"])
    axes.set_xlabel("milliseconds after the moment")
    axes.set_ylabel("% of the calls")
    axes.set_xlim(left=0)
    axes.legend(frameon=False)
    return figure


def _growth(cases: Cases) -> pyplot.Figure:
    """Each cost over the number of jobs."""
    figure, axes = pyplot.subplots(figsize=(8, 4))
    ordered = sorted(cases, key=lambda case: _sizes(case)[0])
    for name in _costs(cases):
        axes.plot(
            [_sizes(case)[0] for case in ordered], [case["medians"][name] for case in ordered], marker=".", label=name
        )
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("jobs")
    axes.set_ylabel("microseconds per execution")
    axes.legend(frameon=False, ncols=2)
    return figure


def _percentiles(case: Mapping[str, Any]) -> list[tuple[int, float]]:
    named = [(_PERCENTILE.fullmatch(name), value) for name, value in case["medians"].items()]
    return sorted((int(match[1]), value) for match, value in named if match and int(match[1]) <= 100)


def _sizes(case: Mapping[str, Any]) -> list[int]:
    return [int(size) for size in _SIZE.findall(case["name"])]


def _costs(cases: Cases) -> list[str]:
    """Figures in microseconds that all the cases have."""
    names = [name for name in cases[0]["medians"] if name.endswith("_us")]
    return [name for name in names if all(name in case["medians"] and _sizes(case) for case in cases)]


if __name__ == "__main__":
    main()
