"""`gnomon config`: the settings in force, and the reference of all there are."""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

from gnomon.cli.output import Form, Row, rendered
from gnomon.settings import Explained, Settings, explain


def show(settings: Settings, form: Form | Literal["markdown", "example"] | None) -> str:
    """Every setting with its value and where that came from."""
    explained = explain(settings)
    match form:
        case "markdown":
            return _reference(explained)
        case "example":
            return _example(explained)
        case _:
            return rendered(_rows(explained), form)


def show_given(settings: Settings, form: Form | None) -> str:
    """The settings that a flag, a variable or the file gave."""
    return rendered(_rows([item for item in explain(settings) if item.source != "default"]), form)


def _rows(explained: Sequence[Explained]) -> Sequence[Row]:
    """Short columns first: on a narrow terminal the long ones wrap last."""
    return [
        {
            "name": item.name,
            "value": item.value,
            "from": item.source,
            "default": item.default,
            "expects": item.expects,
            "meaning": item.meaning,
        }
        for item in explained
    ]


def _reference(explained: Sequence[Explained]) -> str:
    """A Markdown table of what can be set, the same on every machine."""
    head = "| setting and flag | variable | default | expects | meaning |\n| --- | --- | --- | --- | --- |"
    return "\n".join([head, *map(_reference_row, explained)])


def _reference_row(item: Explained) -> str:
    text = {name: value.replace("|", "\\|") for name, value in asdict(item).items()}
    default = f"`{text['default']}`" if text["default"] else "-"
    return (
        f"| `{text['name']}` `{text['flag']}` | `{text['env']}` | {default} | {text['expects']} | {text['meaning']} |"
    )


def _example(explained: Sequence[Explained]) -> str:
    """A configuration file that changes nothing: every setting with its default, commented out."""
    lines = [
        "# Copy this to config/config.yaml and uncomment what you change. Flags and SCHEDULER_* variables win over it.",
        "# Durations are written 10s, 500ms, 1h30m; a bare number is seconds. `gnomon config check` reads it for you.",
        "",
    ]
    section = ""
    for item in explained:
        name, key = item.name.split(".")
        if name != section:
            section = name
            lines += [f"{name}:"]
        lines += [*_comment(f"{item.meaning} ({item.expects})"), f"  # {key}:{_example_value(item)}", ""]
    return "\n".join(lines[:-1])


def _comment(text: str) -> Sequence[str]:
    return textwrap.wrap(text, width=110, initial_indent="  # ", subsequent_indent="  # ")


def _example_value(item: Explained) -> str:
    """The default, as it would be written; nothing where there is none, or each process makes its own."""
    return f" {item.default}" if item.default and item.default != "generated" else ""
