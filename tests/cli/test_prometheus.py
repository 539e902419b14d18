"""A real Prometheus scrapes a gateway and its workers, and answers what every panel of the dashboard asks."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.settings import Settings
from tests.cli.shell import Shell, eventually
from tests.docs.pages import blocks, page
from tests.docs.test_metrics import expressions

TOKEN = "0123456789abcdef"
PATIENCE_S = 40
APP = """
from runtime import App

app = App()

@app.function(concurrency=4, retries=1, retry_delays=(0,))
async def job(event, context):
    if event == "bad":
        raise ValueError("no")
    return event

@app.queue("letters", batch_size=10)
async def read(event, context):
    return None
"""
QUIET = ("worker_deaths", "leases_lost", "worker_throttles", 'code!="OK"')
"""What panels ask for that does not happen here."""

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed (Debian: apt install it)"),
]


class Prometheus:
    """One with its data in a folder, on a free port of the loopback interface."""

    def __init__(self, folder: Path, scrape_configs: list[dict[str, Any]]) -> None:
        config = {"global": {"scrape_interval": "250ms", "scrape_timeout": "250ms"}, "scrape_configs": scrape_configs}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.url = f"http://127.0.0.1:{free_port()}"
        self._log = (folder / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                *("prometheus", f"--config.file={folder / 'prometheus.yml'}"),
                *(f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={self.url.removeprefix('http://')}"),
            ],
            stdout=self._log,
            stderr=self._log,
        )

    async def answers(self, query: str) -> list[dict[str, Any]]:
        """The series that a query finds now; none while Prometheus starts. Fails the test where it is no query."""

        url = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"

        def ask() -> Any:
            try:
                with urllib.request.urlopen(url) as answer:  # noqa: S310 - our own address
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                    pytest.fail(f"{query}: {error.read().decode()}")
                return {"data": {"result": []}}
            except OSError:
                return {"data": {"result": []}}

        found: list[dict[str, Any]] = (await asyncio.to_thread(ask))["data"]["result"]
        return found

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()
        self._log.close()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def jobs(token: Path, targets: dict[str, str]) -> list[dict[str, Any]]:
    """The page's own configuration, with the token and the addresses of this test."""
    (text,) = (block.text for block in blocks(page("operations/metrics.md")) if "scrape_configs" in block.text)
    found: list[dict[str, Any]] = yaml.safe_load(text)["scrape_configs"]
    for job in found:
        job["authorization"]["credentials_file"] = str(token)
        job["static_configs"][0]["targets"] = [targets[job["job_name"]]]
    return found


@pytest.fixture
def running(redis_server: EmbeddedRedis, settings: Settings, tmp_path: Path) -> Iterator[Prometheus]:
    (tmp_path / "app.py").write_text(APP)
    token = tmp_path / "token"
    token.write_text(TOKEN)
    gateway, workers = (f"127.0.0.1:{free_port()}" for _ in range(2))
    shell = Shell(tmp_path, url=redis_server.url, settings=settings)
    shell.environment["PENSTOCK_METRICS_TOKEN"] = TOKEN
    commands = (
        ("broker", "--port", gateway.rpartition(":")[2]),
        ("runtime", "app:app", "--health-port", workers.rpartition(":")[2]),
    )
    processes = [
        shell.start(command, out=tmp_path / f"{command[0]}.out", err=tmp_path / f"{command[0]}.err")
        for command in commands
    ]
    prometheus = Prometheus(tmp_path, jobs(token, {"penstock-gateway": gateway, "penstock-workers": workers}))
    try:
        yield prometheus
    finally:
        prometheus.close()
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(30)


async def test_prometheus_takes_the_pages_and_answers_every_panel(running: Prometheus, broker: Broker) -> None:
    async def up() -> bool:
        return [each["value"][1] for each in await running.answers("up")] == ["1", "1"]

    async def polling() -> Any:
        return await running.answers('penstock_worker_processes{state="polling"} > 0')

    await broker.queue("letters").create()
    await eventually(up, within_s=PATIENCE_S)
    await eventually(polling, within_s=PATIENCE_S)

    async def traffic() -> None:
        while True:
            await broker.invoke_many("job", ["good", "bad"])
            await broker.call("job", "good")
            await broker.queue("letters").send_many(["a", "b", "c"])
            await asyncio.to_thread(urllib.request.urlopen, await gateway_url())
            await asyncio.sleep(0.2)

    async def gateway_url() -> str:
        (found,) = await running.answers('up{job="penstock-gateway"}')
        return f"http://{found['metric']['instance']}/?Action=ListQueues"

    busy = asyncio.create_task(traffic())
    try:
        for expression in sorted(set(expressions())):
            query = re.sub(r"\$(kind|name|function)", ".*", expression).replace("$__rate_interval", "30s")

            async def look(query: str = query) -> bool:
                return bool(await running.answers(query)) or any(word in query for word in QUIET)

            await eventually(look, within_s=PATIENCE_S)
            assert not busy.done(), busy
    finally:
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)
