"""What processes have used, read from /proc."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gnomon.embedded.processes import family_of

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Of one process with its children; CPU seconds since its start, children that have ended included."""

    cpu_seconds: float
    pss_bytes: int


def usage(pid: int) -> Usage:
    return Usage(cpu_seconds=cpu_seconds(pid), pss_bytes=pss_bytes(pid))


def cpu_seconds(pid: int) -> float:
    """User and system time of the process and of all its descendants, the ended ones too, to 10 ms."""
    return sum(_ticks(member) for member in (pid, *family_of(pid))) / _TICKS


def pss_bytes(pid: int) -> int:
    """Memory of the process and its descendants, pages that are shared counted in parts."""
    return sum(_pss(member) for member in (pid, *family_of(pid)))


class Meter:
    """CPU seconds that each of some processes uses from the meter's making on."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._since = self._read()
        self._begun = time.monotonic()

    def used(self) -> dict[str, float]:
        return {name: now - self._since[name] for name, now in self._read().items()}

    def elapsed(self) -> float:
        """Seconds since the meter's making."""
        return time.monotonic() - self._begun

    def _read(self) -> dict[str, float]:
        return {name: cpu_seconds(pid) for name, pid in self._pids.items()}


def _ticks(pid: int) -> int:
    """utime, stime, cutime and cstime: what was waited for counts with whom waited, so nothing counts twice."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0  # it ended since its family was asked for, and counts with its parent
    return sum(int(value) for value in fields[11:15])


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
