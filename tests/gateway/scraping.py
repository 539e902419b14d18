"""Scrapes as Prometheus would, read with its client's own parser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from broker.gateway.server import Bound
from tests.gateway.tiny import Answered, asked, request


class Scraped:
    """The samples of one scrape."""

    def __init__(self, text: str, *, openmetrics: bool = False) -> None:
        families = list((parse_openmetrics if openmetrics else text_string_to_metric_families)(text))
        self.kinds = {family.name: family.type for family in families}
        self.samples = [sample for family in families for sample in family.samples]

    def all(self, metric: str, /, **labels: str) -> list[float]:
        """The values of the samples that have these labels, whatever others they have."""
        return [each.value for each in self.samples if each.name == metric and labels.items() <= each.labels.items()]

    def sum(self, metric: str, /, **labels: str) -> float:
        """Their sum; 0 where there are none."""
        return sum(self.all(metric, **labels))

    def one(self, metric: str, /, **labels: str) -> float:
        """The only one."""
        (value,) = self.all(metric, **labels)
        return value


def get(path: str, headers: Mapping[str, str] | None = None, *, method: str = "GET") -> bytes:
    return request(method, path, headers={"Content-Length": "", **(headers or {})})


async def answer_of(bound: Bound, path: str, **headers: str) -> Answered:
    return await asked(bound, get(path, {name.replace("_", "-"): value for name, value in headers.items()}))


async def scrape(bound: Bound, path: str = "/metrics", **headers: str) -> Scraped:
    answer = await answer_of(bound, path, **headers)
    assert answer.status == 200, answer.body
    content_type: Any = answer.headers["content-type"]
    return Scraped(answer.body.decode(), openmetrics="openmetrics" in content_type)
