"""What a stack costs that has nothing to do."""

import time
from collections.abc import Sequence
from functools import partial

from bench.bed import Bed
from bench.case import Case, Figures, Goal, Scale, Section, figure_of

SETTLED = 10.0  # seconds after the start: by then the first heartbeats, looks and rounds are over
SHORT_SETTLED = 1.0
BROKERS = ("redis", "rabbitmq")


def name_of(broker: str) -> str:
    return f"idle/{broker}/gnomon"


def cases(scale: Scale) -> Sequence[Case]:
    settled = SHORT_SETTLED if scale.short else SETTLED
    measured = partial(measure, settled=settled, seconds=scale.seconds)
    brokers = BROKERS[:1] if scale.short else BROKERS
    return [Case(name=name_of(broker), measure=partial(measured, broker=broker)) for broker in brokers]


def measure(bed: Bed, *, broker: str, settled: float, seconds: float) -> Figures:
    """Parts of one core, and MB of memory with shared pages counted in parts."""
    with (
        bed.database() as database_url,
        bed.queue(broker) as queue_url,
        bed.stack(database_url=database_url, queue_url=queue_url) as stack,
    ):
        stack.start_ready("scheduler", "worker")
        stack.start_api()
        time.sleep(settled)
        meter = stack.meter()
        time.sleep(seconds)
        used, elapsed = meter.used(), meter.elapsed()
        memory = {name: usage.pss_bytes / 1e6 for name, usage in stack.usage().items()}
    percent = {name: 100 * seconds_used / elapsed for name, seconds_used in used.items()}
    return {
        "all_cpu_percent": sum(percent[name] for name in memory),
        "largest_pss_mb": max(memory.values()),
        **{f"{name}_cpu_percent": value for name, value in percent.items()},
        **{f"{name}_pss_mb": value for name, value in memory.items()},
    }


SECTION = Section(
    name="idle",
    cases=cases,
    goals=[
        goal
        for broker in BROKERS
        for goal in (
            Goal(
                text=f"idle api, scheduler and worker, {broker}: <= 1 % of one core in all",
                value=figure_of(name_of(broker), "all_cpu_percent"),
                at_most=1.0,
            ),
            Goal(
                text=f"idle api, scheduler and worker, {broker}: <= 120 MB PSS each",
                value=figure_of(name_of(broker), "largest_pss_mb"),
                at_most=120.0,
            ),
        )
    ],
)
