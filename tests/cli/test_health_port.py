"""The port of `penstock runtime` for health and metrics: real processes, scraped as Prometheus does."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio.to_thread
import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.errors import InvalidOption
from broker.gateway.server import Bound
from broker.settings import Settings
from runtime.cli.health_options import HealthOptions
from tests.cli.shell import Shell, eventually
from tests.gateway.scraping import Scraped, answer_of, get, scrape
from tests.gateway.tiny import asked

TOKEN = "0123456789abcdef"
APP = """
import os, signal, time

from runtime import App

app = App()

@app.function(retries=0)
async def job(event, context):
    if event == "bad":
        raise ValueError
    if event == "block":
        time.sleep(1.2)
    if event == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if event == "token":
        return os.environ.get("PENSTOCK_METRICS_TOKEN")
    return os.getpid()
"""


class Workers:
    """A running `penstock runtime` and its port."""

    def __init__(self, shell: Shell, *words: str) -> None:
        (shell.folder / "app.py").write_text(APP)
        self.err = shell.folder / "err"
        command = ["runtime", "app:app", "--log-format", "json", "--health-port", "0", *words]
        self.process = shell.start(command, out=shell.folder / "out", err=self.err)
        self.bound = Bound("127.0.0.1", 0)

    async def listening(self) -> Bound:
        async def look() -> re.Match[str] | None:
            assert self.process.poll() is None, self.err.read_text()
            return re.search(r'"health_listening","url":"http://[^"]*:(\d+)"', self.err.read_text())

        return Bound("127.0.0.1", int((await eventually(look, within_s=40))[1]))

    async def is_ready(self, *, status: int = 200) -> str:
        """Returns when it says so; what it says."""

        async def look() -> bytes | None:
            answer = await answer_of(self.bound, "/health/ready")
            return answer.body if answer.status == status else None

        return str((await eventually(look, within_s=40)).decode())

    async def counted(self, metric: str, value: float, **labels: str) -> Scraped:
        """A scrape with at least that."""

        async def look() -> Scraped | None:
            found = await scrape(self.bound)
            return found if found.sum(metric, **labels) >= value else None

        found: Scraped = await eventually(look, within_s=40)
        return found


@asynccontextmanager
async def workers(shell: Shell, *words: str) -> AsyncIterator[Workers]:
    started = Workers(shell, *words)
    try:
        started.bound = await started.listening()
        yield started
    finally:
        started.process.terminate()
        try:
            await anyio.to_thread.run_sync(started.process.wait, 15)
        except subprocess.TimeoutExpired:
            started.process.kill()
            raise


async def test_what_all_processes_did_is_told_also_after_one_has_died(shell: Shell, broker: Broker) -> None:
    async with workers(shell, "--processes", "2") as running:
        await running.is_ready()
        assert (await answer_of(running.bound, "/health/live")).json == {"status": "ok"}
        await running.counted("penstock_worker_processes", 2, state="polling")
        await broker.invoke_many("job", ["good"] * 5 + ["bad"])
        found = await running.counted("penstock_worker_calls_total", 6)
        assert found.sum("penstock_worker_calls_total", function="job", outcome="succeeded") == 5
        assert found.one("penstock_worker_failures_total", error_type="ValueError") == 1
        assert found.one("penstock_worker_given_up_total", condition="RetriesExhausted") == 1
        assert found.sum("penstock_worker_call_duration_seconds_count") == 6
        assert found.one("penstock_worker_resident_memory_bytes") > 1e6
        os.kill(await broker.call("job", "pid"), signal.SIGKILL)
        found = await running.counted("penstock_worker_deaths_total", 1, cause="signal: killed")
        assert found.sum("penstock_worker_calls_total", source="event") == 6
        await running.counted("penstock_worker_processes", 2, state="polling")
        await running.is_ready()


async def test_a_handler_that_blocks_the_loop_shows_as_lag(shell: Shell, broker: Broker) -> None:
    async with workers(shell) as running:
        await running.is_ready()
        assert (await scrape(running.bound)).one("penstock_worker_loop_lag_seconds") < 1
        await broker.invoke("job", "block")
        await running.counted("penstock_worker_loop_lag_seconds", 0.8)


async def test_readiness_is_red_while_redis_stands_still_and_green_again(tmp_path: Path, settings: Settings) -> None:
    with EmbeddedRedis(tmp_path / "redis", append_only=False) as redis:
        async with workers(Shell(tmp_path, url=redis.url, settings=settings)) as running:
            await running.is_ready()
            os.kill(redis.pid, signal.SIGSTOP)
            try:
                assert "StoreUnavailable" in await running.is_ready(status=503)
                assert (await answer_of(running.bound, "/health/live")).status == 200
            finally:
                os.kill(redis.pid, signal.SIGCONT)
            await running.is_ready()


async def test_a_worker_process_that_cannot_poll_makes_it_red(shell: Shell, broker: Broker) -> None:
    """Also where the supervisor itself can reach Redis."""
    async with workers(shell) as running:
        await running.is_ready()
        pid = await broker.call("job", "pid")
        os.kill(pid, signal.SIGSTOP)
        try:
            assert "silent: 1 of 1" in await running.is_ready(status=503)
        finally:
            os.kill(pid, signal.SIGCONT)
        await running.is_ready()


async def test_metrics_need_the_token_and_health_does_not(shell: Shell, broker: Broker) -> None:
    async with workers(shell, "--health-host", "0.0.0.0") as running:  # noqa: S104 - closed without a token
        await running.is_ready()
        closed = await answer_of(running.bound, "/metrics")
        assert (closed.status, "PENSTOCK_METRICS_TOKEN" in closed.json["reason"]) == (403, True)
    shell.environment["PENSTOCK_METRICS_TOKEN"] = TOKEN
    async with workers(shell) as running:
        await running.is_ready()
        assert (await answer_of(running.bound, "/metrics")).status == 401
        await scrape(running.bound, Authorization=f"Bearer {TOKEN}")
        assert (await answer_of(running.bound, "/health/live")).status == 200
        assert await broker.call("job", "token") is None, "handlers do not see it"
        assert (await answer_of(running.bound, "/health/other")).status == 404
        assert (await asked(running.bound, get("/health/live", method="DELETE"))).status == 405


async def test_web_pages_do_not_see_them(shell: Shell) -> None:
    async with workers(shell) as running:
        assert (await asked(running.bound, get("/metrics", {"Host": "evil.example"}))).status == 403
        assert (await asked(running.bound, get("/metrics", {"Origin": "http://evil.example"}))).status == 403


async def test_a_taken_port_stops_the_start_before_any_worker(shell: Shell) -> None:
    (shell.folder / "app.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = await shell.run("runtime", "app:app", "--health-port", port, status=1)
    words = "the port is taken by another program; choose another with --health-port, or --health-host"
    assert f"port {port}: {words}" in ended.err
    assert "worker_ready" not in ended.err


@pytest.mark.parametrize("text", ["-1", "65536", "80a", "8 0", "999999"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(InvalidOption, match="PENSTOCK_HEALTH_PORT"):
        HealthOptions().read({"PENSTOCK_HEALTH_PORT": text})


def test_there_is_no_port_unless_somebody_asks_for_one() -> None:
    assert HealthOptions().read({"PENSTOCK_HEALTH_HOST": "127.0.0.1"}) is None
    place = HealthOptions().read({"PENSTOCK_HEALTH_PORT": "8080"})
    assert place is not None
    assert (place.host, place.port) == ("127.0.0.1", 8080)
    given = HealthOptions(health_port=1, health_host="::1").read({"PENSTOCK_HEALTH_PORT": "8080"})
    assert given is not None
    assert (given.host, given.port) == ("::1", 1)
