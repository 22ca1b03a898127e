"""How commands print data: a table for people, JSON or YAML for programs."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Literal

Form = Literal["table", "json", "yaml"]
Row = Mapping[str, str]


def rendered(rows: Sequence[Row], form: Form | None) -> str:
    """All rows; None means a table on a terminal and JSON elsewhere."""
    match form or ("table" if sys.stdout.isatty() else "json"):
        case "table":
            return table(rows)
        case "json":
            return json.dumps(rows, indent=2, ensure_ascii=False)
        case "yaml":
            import yaml

            return yaml.safe_dump([dict(row) for row in rows], sort_keys=False, allow_unicode=True).rstrip()


def table(rows: Sequence[Row]) -> str:
    """Columns as wide as their widest value, headed by their names. Control characters become '?'."""
    if not rows:
        return "(none)"
    cells = [[name.upper() for name in rows[0]], *([_printable(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
