"""`gnomon config`: the settings in force, and the reference of all there are."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

from gnomon.cli.output import Form, Row, rendered
from gnomon.settings import Explained, Settings, explain


def show(settings: Settings, form: Form | Literal["markdown"] | None) -> str:
    """Every setting with its value and where that came from."""
    explained = explain(settings)
    if form == "markdown":
        return _reference(explained)
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
