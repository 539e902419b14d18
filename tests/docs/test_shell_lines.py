"""What the pages say to type: every `penstock` is understood, every `aws` is run, and so are the programs for SQS."""

from __future__ import annotations

import asyncio
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from broker import Broker
from broker.gateway.options import GatewayOptions
from broker.gateway.running import run_gateway
from broker.settings import Settings
from runtime import App, Context, cli
from tests.docs.pages import ROOT, blocks, page, pages
from tests.docs.test_guides import eventually, run_snippets, serving, snippets_of, write_files

ADDRESS = "http://127.0.0.1:4566"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
async def address(broker: Broker) -> AsyncIterator[str]:
    """A gateway on the test's own queues."""
    async with run_gateway(broker, GatewayOptions(port=0), grace_s=1, upkeep=False) as bound:
        yield bound.url


def typed(command: str) -> Iterator[tuple[str, list[str]]]:
    """Every line of a shell that runs the command, as place and words behind its name."""
    for path in pages():
        for block in blocks(path):
            if block.language not in {"sh", "console"}:
                continue
            for number, line in enumerate(block.text.splitlines()):
                for words in commands(line, output=block.language == "console"):
                    if words[0] == command:
                        yield f"{path.name}:{block.line + number}", words[1:]


def commands(line: str, *, output: bool) -> Iterator[list[str]]:
    """The commands of one line: behind pipes too, without comments, redirections and variables set for it."""
    if output and not line.startswith("$ "):
        return
    words = shlex.split(line.removeprefix("$ "), comments=True)
    while words:
        end = next((place for place, word in enumerate(words) if word in {"|", "<", ">"}), len(words))
        one = [word for place, word in enumerate(words[:end]) if place or "=" not in word]
        one = one if not words[0].partition("=")[1] else words[1:end]
        if one:
            yield one
        words = words[end + 1 :]


def test_every_line_with_penstock_is_understood() -> None:
    found = list(typed("penstock"))
    for place, words in found:
        app = cli._build(words)
        try:
            app.parse_args(cli._without_bare_hyphens(words), exit_on_error=False, print_error=False)
        except Exception as error:
            raise AssertionError(f"{place}: penstock {shlex.join(words)}: {error}") from error
    assert len(found) > 40


async def test_every_line_with_aws_works(address: str, redis_url: str, settings: Settings, tmp_path: Path) -> None:
    found = [(place, [word.replace(ADDRESS, address) for word in words]) for place, words in typed("aws")]
    assert {place.partition(":")[0] for place, _ in found} == {"README.md", "deploying.md", "from-sqs.md", "lambda.md"}
    app, aws = App(), Path(sys.executable).with_name("aws")

    @app.function()
    async def orders(event: Any, context: Context) -> Any:
        return event

    app.function(name="thumbnail")(orders)
    async with serving(app, redis_url, settings):
        for place, words in found:
            done = await asyncio.to_thread(run, tmp_path, aws, *words, address=address)
            assert done.returncode == 0, f"{place}: {done.stderr}"


def test_whoever_sets_credentials_sets_the_region_that_boto3_reads() -> None:
    lines = [line for path in pages() for block in blocks(path) for line in block.text.splitlines()]
    exports = [line for line in lines if line.startswith("export ") and "AWS_ACCESS_KEY_ID=" in line]
    assert len(exports) >= 3
    assert all(" AWS_DEFAULT_REGION=" in line for line in exports), exports


def run(folder: Path, program: object, *words: str, address: str) -> subprocess.CompletedProcess[str]:
    """Runs a program as its page says: with nothing of ours but the address of the gateway."""
    environment = {**CREDENTIALS, "AWS_ENDPOINT_URL": address, "HOME": str(folder), "PATH": "/usr/bin:/bin"}
    command = [str(program), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


async def test_programs_for_sqs_run_against_the_gateway(address: str, broker: Broker, tmp_path: Path) -> None:
    path = page("guides/from-sqs.md")
    write_files(path, tmp_path)
    printed = {}
    for name in ("orders.py", "letters.py"):
        done = await asyncio.to_thread(run, tmp_path, sys.executable, name, address=address)
        assert (done.returncode, done.stderr) == (0, "")
        printed[name] = done.stdout.splitlines()
    assert printed == {"orders.py": ['{"id": 1} new'], "letters.py": ["letter 0", "letter 1", "letter 2"]}
    assert {file.name for file in tmp_path.glob("*.py")} == set(printed)
    assert await broker.queues() == ["letters-dead.fifo", "letters.fifo", "orders"]


async def test_a_handler_takes_what_boto3_sends(
    address: str, broker: Broker, redis_url: str, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {"__name__": "app"}
    await run_snippets(snippets_of(page("guides/from-sqs.md")), names)

    def send() -> None:
        sqs = boto3.client(
            "sqs",
            endpoint_url=address,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        url = sqs.get_queue_url(QueueName="invoices")["QueueUrl"]
        kind = {"DataType": "String", "StringValue": "paid"}
        sqs.send_message(QueueUrl=url, MessageBody="17", MessageAttributes={"kind": kind})

    async with serving(names["app"], redis_url, settings):
        await asyncio.to_thread(send)
        said: list[str] = []

        def told() -> list[str]:
            said.extend(line for line in capsys.readouterr().out.splitlines() if line.startswith("invoice"))
            return said

        await eventually(told, ["invoice 17 paid"])


def test_the_lines_for_aws_use_the_default_address() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{GatewayOptions().host}:{GatewayOptions().port}" in readme
