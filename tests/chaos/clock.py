"""A machine whose clock is off: a library of a few lines, preloaded into one process, that shifts what time it sees.

Only the clock of the day is shifted; the monotonic ones, which measure, go on as they do when somebody sets a clock.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

_SHIFT = "CHAOS_CLOCK_SHIFT"
_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long shift(void) {
    static long seconds, known;
    if (!known) {
        const char *given = getenv("CHAOS_CLOCK_SHIFT");
        seconds = given ? atol(given) : 0;
        known = 1;
    }
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, at);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += shift();
    return failed;
}

int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


def true_time() -> float:
    """Seconds since 1970 by the machine's clock, in a process whose own one may be off."""
    return time.time() - int(os.environ.get(_SHIFT, 0))


class WrongClock:
    """`environment(seconds)` makes a process that gets it see a time that is so much later (or earlier)."""

    def __init__(self, folder: Path) -> None:
        self._library = folder / "clock.so"
        self.available = shutil.which("gcc") is not None
        if self.available:
            source = folder / "clock.c"
            source.write_text(_SOURCE)
            command = ["gcc", "-O2", "-shared", "-fPIC", "-o", str(self._library), str(source), "-ldl"]
            subprocess.run(command, check=True)

    def environment(self, seconds: int) -> Mapping[str, str]:
        if not seconds or not self.available:
            return {}
        return {"LD_PRELOAD": str(self._library), _SHIFT: str(seconds)}
