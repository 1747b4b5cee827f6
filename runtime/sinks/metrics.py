"""Metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sdi.runtime.frame import Event, Result, Skipped
from sdi.runtime.sinks.base import Sink

__all__ = ["Metrics"]

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # bounds of the histograms' buckets


class Metrics:
    """Counts results and events, and renders them in Prometheus' text format. `docs/line.md` lists the names.

    Args:
        sinks: their counters are read whenever the metrics are.
    Raises:
        ModuleNotFoundError: prometheus_client is not installed.
    """

    def __init__(self, sources: Sequence[str], sinks: Sequence[Sink] = ()) -> None:
        import prometheus_client as prometheus  # an extra

        self._registry = prometheus.CollectorRegistry()
        options: dict[str, Any] = {"labelnames": ("source",), "namespace": "sdi", "registry": self._registry}
        self._frames = prometheus.Counter("frames", "Frames with a result.", **options)
        self._defective = prometheus.Counter("frames_with_defects", "Frames with at least one defect.", **options)
        self._dropped = prometheus.Counter("frames_dropped", "Live frames passed over.", **options)
        self._skipped = prometheus.Counter("skipped", "Pictures that could not be read.", **options)
        self._alarm = prometheus.Gauge("alarm", "1 while the source is in alarm.", **options)
        self._up = prometheus.Gauge("source_up", "0 while the source is lost.", **options)
        self._area = prometheus.Gauge("defect_area_pixels", "Area of all defects in the last frame.", **options)
        self._last = prometheus.Gauge("last_frame_timestamp_seconds", "When the last frame was captured.", **options)
        timing = {**options, "buckets": _SECONDS}
        self._engine = prometheus.Histogram("engine_seconds", "Time in the engine, resizing included.", **timing)
        self._age = prometheus.Histogram("age_seconds", "From capture to result.", **timing)
        self._events = prometheus.Counter(
            "events", "Events by kind.", ("source", "kind"), namespace="sdi", registry=self._registry
        )
        prometheus.ProcessCollector(registry=self._registry)
        self._drops = dict.fromkeys(sources, 0)
        for source in sources:
            for metric in (self._frames, self._defective, self._dropped, self._skipped, self._alarm):
                metric.labels(source)  # there from the start, with 0
            self._up.labels(source).set(1)
        self._registry.register(_SinkCollector(sinks))

    def write(self, result: Result) -> None:
        """Count a result."""
        source = result.frame.source
        self._frames.labels(source).inc()
        self._defective.labels(source).inc(bool(result.regions))
        self._dropped.labels(source).inc(max(0, result.drops - self._drops[source]))
        self._drops[source] = result.drops
        self._alarm.labels(source).set(result.alarm)
        self._up.labels(source).set(1)
        self._area.labels(source).set(sum(region.area for region in result.regions))
        self._last.labels(source).set(result.frame.wall_time)
        self._engine.labels(source).observe(result.engine_ms / 1e3)
        self._age.labels(source).observe(result.age_ms / 1e3)

    def note(self, skipped: Skipped) -> None:
        """Count what gave no picture."""
        self._skipped.labels(skipped.source).inc()

    def event(self, event: Event) -> None:
        """Count an event."""
        self._events.labels(event.source, event.kind).inc()
        if event.kind in ("source_lost", "source_back"):
            self._up.labels(event.source).set(event.kind == "source_back")

    def render(self) -> tuple[str, bytes]:
        """Content type and text."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return CONTENT_TYPE_LATEST, generate_latest(self._registry)


class _SinkCollector:
    """The sinks' own counters as gauges, read when Prometheus asks."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily

        for sink in self._sinks:
            for counter in sink.counters():
                yield GaugeMetricFamily(f"sdi_{counter.name}", counter.text, counter.value)
