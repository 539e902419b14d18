"""How figures become the text that Prometheus reads, when somebody asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final, TypeAlias

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as _Family
from prometheus_client.registry import Collector

from broker.figures import Figures, Histogram, Key, Metric

Family: TypeAlias = _Family
"""One metric with its samples, as the library has it."""
_OPENMETRICS: Final = "application/openmetrics-text"


def families(figures: Figures, gauges: Mapping[Key, float]) -> Iterator[Family]:
    """Everything that was counted, with gauges that were read now. What nothing was counted of has no samples."""
    values = [*figures.counts.items(), *gauges.items()]
    for metric in figures.metrics.values():
        if metric.kind == "histogram":
            yield _histogram_family(metric, tuple(figures.histograms.items()))
        else:
            yield family(metric, [(key[1:], value) for key, value in values if key[0] == metric.name])


def family(metric: Metric, samples: Iterable[tuple[Key, float]]) -> Family:
    """A counter's or gauge's samples: values of its labels, and the number."""
    of_kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    made: CounterMetricFamily | GaugeMetricFamily = of_kind(metric.name, metric.says, labels=metric.labels)
    for labels, value in samples:
        made.add_metric(labels, value)
    return made


def _histogram_family(metric: Metric, histograms: Iterable[tuple[Key, Histogram]]) -> Family:
    made = HistogramMetricFamily(metric.name, metric.says, labels=metric.labels)
    bounds = [*(f"{bound:g}" for bound in metric.bounds), "+Inf"]
    for key, histogram in histograms:
        if key[0] == metric.name:
            buckets = list(zip(bounds, map(float, accumulate(histogram.counts)), strict=True))
            made.add_metric(key[1:], buckets, histogram.total)
    return made


class _Gathered(Collector):
    def __init__(self, found: Iterable[Family]) -> None:
        self._found: Final = list(found)

    def collect(self) -> Iterable[Family]:
        return self._found


def exposition(found: Iterable[Family], accept: str = "") -> tuple[str, bytes]:
    """Content type and text: OpenMetrics where the client's Accept header names it, else what all can read."""
    encode, content_type = choose_encoder(_OPENMETRICS if _OPENMETRICS in accept else "")
    return content_type, encode(_Gathered(found))
