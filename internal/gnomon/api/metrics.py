"""What Prometheus scrapes: the jobs of the whole fleet, and the requests of this process."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from flask import Flask, Request, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from prometheus_flask_exporter import PrometheusMetrics

from gnomon.api.access import needs
from gnomon.api.asked import asked
from gnomon.job.errors import Unavailable
from gnomon.job.instance import Instance
from gnomon.job.instance import Role as Process
from gnomon.job.model import State
from gnomon.job.ports import DURATION_BUCKETS, HistoryStore, InstanceStore, Tally
from gnomon.job.principal import Role
from gnomon.job.target import METHODS, AmqpTarget, HttpTarget

log = logging.getLogger(__name__)

STARTED = "started"
# Name, meaning, and the outcomes that are counted.
COUNTERS = (
    ("jobs_started", "Executions whose first attempt started", {STARTED}),
    ("jobs_completed", "Executions that succeeded", {State.SUCCEEDED.value}),
    ("jobs_failed", "Executions that ended FAILED or UNKNOWN", {State.FAILED.value, State.UNKNOWN.value}),
    ("jobs_put_off", "Times that an execution was put off, as its target's host had as many as it may", {"put_off"}),
)
BOUNDS = [*map(floatToGoString, DURATION_BUCKETS), "+Inf"]


class FleetCollector(Collector):
    """Workers count in the database, so that any API process answers for all of them, also for those that are gone."""

    def __init__(self, history: HistoryStore, instances: InstanceStore) -> None:
        self._history = history
        self._instances = instances

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry would otherwise ask the database when the app is made."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Without the database, only that it is away."""
        try:
            tallies, instances = self._history.tallies(), self._instances.list()
        except Unavailable as error:
            log.warning("metrics of the jobs are left out: %s", error)
            yield _database_up(0)
            return
        yield _database_up(1)
        kinds = sorted({HttpTarget.kind, AmqpTarget.kind, *(tally.kind for tally in tallies)})
        for name, meaning, outcomes in COUNTERS:
            yield from _counted(name, meaning, _counts(tallies, kinds, outcomes))
        yield _durations(tallies, kinds)
        yield _living(instances)


def install(app: Flask, history: HistoryStore, instances: InstanceStore) -> None:
    """Counts the requests of this app, and serves all metrics at /metrics, with and without the prefix."""
    registry = CollectorRegistry()
    registry.register(FleetCollector(history, instances))
    app.before_request(_leave_out_unknown_methods)
    exporter = PrometheusMetrics(app=None, path=None, group_by=route, defaults_prefix="gnomon", registry=registry)
    exporter.init_app(app)

    @needs(Role.METRICS)
    def metrics() -> Response:
        # The format is not negotiated: OpenMetrics allows no jobs_started beside jobs_started_total.
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)

    for path in ("/metrics", "/v1/metrics"):
        app.add_url_rule(path, endpoint=path, view_func=metrics)


def route(served: Request) -> str:
    """The rule that matched, not the path: labels must be few."""
    return str(served.url_rule or "none").removeprefix("/v1").replace("<id:", "<")


def _leave_out_unknown_methods() -> None:
    request = asked()
    if request.method not in METHODS:
        request.prom_do_not_track = True  # type: ignore[attr-defined] # what the exporter looks for


def _database_up(value: int) -> Metric:
    return GaugeMetricFamily("gnomon_database_up", "Whether the database answered this scrape", value=value)


def _counts(tallies: Sequence[Tally], kinds: Sequence[str], outcomes: set[str]) -> dict[str, int]:
    return {
        kind: sum(tally.count for tally in tallies if tally.kind == kind and tally.outcome in outcomes)
        for kind in kinds
    }


def _counted(name: str, meaning: str, counts: dict[str, int]) -> Iterator[Metric]:
    """The counter, which prometheus_client names …_total, and the same under its bare name."""
    counter = CounterMetricFamily(name, meaning, labels=["kind"])
    plain = GaugeMetricFamily(name, f"{meaning} (the same as {name}_total)", labels=["kind"])
    for kind, count in counts.items():
        counter.add_metric([kind], count)
        plain.add_metric([kind], count)
    yield counter
    yield plain


def _durations(tallies: Sequence[Tally], kinds: Sequence[str]) -> Metric:
    histogram = HistogramMetricFamily("job_duration_seconds", "How long attempts took", labels=["kind"])
    for kind in kinds:
        timed = [tally for tally in tallies if tally.kind == kind and tally.outcome != STARTED]
        counts = [sum(tally.duration_buckets[place] for tally in timed) for place in range(len(BOUNDS))]
        total = sum(tally.duration_sum for tally in timed)
        histogram.add_metric([kind], list(zip(BOUNDS, accumulate(counts), strict=True)), total)
    return histogram


def _living(instances: Sequence[Instance]) -> Metric:
    gauge = GaugeMetricFamily("gnomon_instances", "Processes that live", labels=["role"])
    for role in Process:
        gauge.add_metric([role.value], sum(instance.alive for instance in instances if instance.role is role))
    return gauge
