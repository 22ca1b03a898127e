"""Begins and mends faults at their times, however they overlap."""

import heapq
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import count

from chaos.brokers import Missed
from chaos.faults import KINDS, Carried, Fault, Scene
from chaos.recovery import Episode


class Agenda:
    """What is to be done when, in seconds since its beginning. `say` is told of each fault."""

    def __init__(self, scene: Scene, say: Callable[[str], None]) -> None:
        self._scene = scene
        self._say = say
        self._order = count()
        self._begun = time.monotonic()
        self._acts: list[tuple[float, int, Callable[[], None]]] = []
        self._mending: list[threading.Thread] = []
        self._episodes: list[Episode] = []

    def carry_out(self, faults: Sequence[Fault]) -> Sequence[Episode]:
        """In this thread, which should be the main one: servers that it starts end with this process."""
        for fault in faults:
            self._add(fault.at.total_seconds(), partial(self._begin, fault))
        while self._acts:
            at, _, act = heapq.heappop(self._acts)
            time.sleep(max(0.0, self._begun + at - time.monotonic()))
            act()
        for mending in self._mending:
            mending.join()
        self._scene.cluster.heal()
        if self._scene.post_office is not None:
            self._scene.post_office.heal()
        return self._episodes

    def _add(self, at: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._acts, (at, next(self._order), act))

    def _begin(self, fault: Fault) -> None:
        begun_at = datetime.now(UTC)
        kind = KINDS[fault.kind]
        try:
            mend = kind.begin(self._scene, fault)
        except Missed as reason:
            self._say(f"{fault}: missed, {reason}")
            return
        self._say(str(fault))
        end = partial(self._mend_aside if kind.slow else self._mend, fault, begun_at, mend)
        self._add(time.monotonic() - self._begun + fault.lasts.total_seconds(), end)

    def _mend(self, fault: Fault, begun_at: datetime, mend: Carried) -> None:
        mend()
        ended_at = datetime.now(UTC)
        self._episodes.append(Episode(name=str(fault), victim=fault.victim, begun_at=begun_at, ended_at=ended_at))

    def _mend_aside(self, fault: Fault, begun_at: datetime, mend: Carried) -> None:
        mending = threading.Thread(target=self._mend, args=(fault, begun_at, mend))
        mending.start()
        self._mending.append(mending)
