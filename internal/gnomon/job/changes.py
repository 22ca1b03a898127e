"""What an edit changed: the names of fields, never what is in them."""

from collections.abc import Iterator, Mapping
from typing import Any

from gnomon.job.document import write_definition
from gnomon.job.model import Definition

# What users name themselves, and what holds what only handlers know.
WHOLE = frozenset({"headers", "payload"})


def changed_fields(before: Definition | None, after: Definition) -> tuple[str, ...]:
    """Each as a path into the job as the API shows it, such as `http_job.auth.password`.

    Of a definition that could not be read, all that the new one has.
    """
    old = {} if before is None else write_definition(before, secrets=True)
    return tuple(_differing(old, write_definition(after, secrets=True), ""))


def _differing(before: Mapping[str, Any], after: Mapping[str, Any], path: str) -> Iterator[str]:
    for name in dict.fromkeys([*after, *before]):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping) and name not in WHOLE:
            yield from _differing(old, new, f"{path}{name}.")
        else:
            yield f"{path}{name}"
