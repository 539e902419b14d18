"""The page of metrics and the dashboard against the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import yaml

from broker.figures import Metric
from broker.gateway.monitoring import GATEWAY
from broker.gateway.scaling import Work
from runtime.metrics import WORKER
from tests.docs.pages import ROOT, blocks, code, page, section, table

PAGE = page("operations/metrics.md")
METRICS = {metric.name: metric for metric in (*GATEWAY, *WORKER)}
DASHBOARD: dict[str, Any] = msgspec.json.decode((ROOT / "deploy/grafana/penstock.json").read_bytes())


@pytest.mark.parametrize(
    ("heading", "metrics"), [("## Gateway", GATEWAY), ("## Workers", WORKER)], ids=["gateway", "workers"]
)
def test_every_metric_is_listed_as_it_is(heading: str, metrics: tuple[Metric, ...]) -> None:
    rows = [
        (code(row["metric"]), row["kind"], tuple(re.findall(r"`(\w+)`", row["labels"])), row["what it says"])
        for row in table(section(PAGE, heading))
    ]
    assert rows == [(metric.shown_name, metric.kind, metric.labels, metric.says) for metric in metrics]


def test_names_follow_prometheus_conventions() -> None:
    assert len(METRICS) == len(GATEWAY) + len(WORKER), "no name is there twice"
    for metric in METRICS.values():
        assert re.fullmatch(r"penstock_[a-z_]+[a-z]", metric.name)
        assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket", "_ms", "_milliseconds"))
        assert (metric.kind == "histogram") == bool(metric.bounds)
        assert list(metric.bounds) == sorted(set(metric.bounds))


def test_fields_of_scaling_are_listed() -> None:
    rows = [code(row["field"]) for row in table(section(PAGE, "## Scaling"))]
    assert rows == list(Work.__struct_fields__)


def test_the_example_for_keda_asks_for_what_there_is() -> None:
    (text,) = (block.text for block in blocks(PAGE) if block.text.startswith("# keda.yaml"))
    scaled, authentication = yaml.safe_load_all(text)
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["type"] == "metrics-api"
    assert re.fullmatch(r"http://[\w-]+:4566/scaling/function/\w+", trigger["metadata"]["url"])
    assert trigger["metadata"]["valueLocation"] in Work.__struct_fields__
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]


# -- the dashboard ----------------------------------------------------------------------------------------------------


def expressions() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield re.sub(r"^label_values\((.*), \w+\)$", r"\1", variable["query"]["query"])


def sample_names(metric: Metric) -> list[str]:
    if metric.kind == "histogram":
        return [f"{metric.name}_{part}" for part in ("bucket", "sum", "count")]
    return [metric.shown_name]


KNOWN = {name: metric for metric in METRICS.values() for name in sample_names(metric)}


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_every_panel_asks_for_metrics_and_labels_that_there_are(expression: str) -> None:
    asked = re.findall(r"(penstock_\w+)(?:\{([^}]*)\})?", expression)
    assert asked
    labels: set[str] = {"instance"}
    for name, selector in asked:
        assert name in KNOWN, name
        own = set(KNOWN[name].labels) | ({"le"} if name.endswith("_bucket") else set())
        assert set(re.findall(r'(\w+)(?:=~|!=|=)"', selector)) <= own, selector
        labels |= own
    for group in re.findall(r"by \(([^)]*)\)", expression):
        assert set(group.split(", ")) <= labels, group
    for open_, close in ("()", "{}", "[]"):
        assert expression.count(open_) == expression.count(close)


def test_every_panel_can_be_told_apart_and_has_a_unit() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    drawn = [panel for panel in panels if panel["type"] != "row"]
    assert all(panel["fieldConfig"]["defaults"]["unit"] and panel["targets"] for panel in drawn)
    spots = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(spots)) == len(spots)


def test_what_is_stored_is_never_summed_over_gateways() -> None:
    """All of them tell the same of it."""
    for expression in expressions():
        if re.search(r"penstock_(messages|oldest|concurrency|resources)", expression) and "(" in expression:
            assert expression.startswith("max"), expression
