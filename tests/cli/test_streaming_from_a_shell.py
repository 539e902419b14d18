"""`penstock call --stream` against a real worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio

from broker import Broker
from broker.settings import Settings
from runtime import App, Context
from tests.cli.shell import COMMAND, Shell
from tests.runtime.scene import serving


def telling_app() -> App:
    app = App()

    @app.function(timeout=20)
    async def tell(event: dict[str, Any], context: Context) -> AsyncIterator[Any]:
        for value in event["values"]:
            yield value
        yield b"\xff"
        if event.get("bad"):
            raise ValueError("no more")

    return app


async def test_call_prints_what_a_function_yields_as_it_is(
    shell: Shell, broker: Broker, redis_url: str, settings: Settings
) -> None:
    async with serving(telling_app(), redis_url, settings):
        command = [*COMMAND, "call", "tell", '{"values": ["once\\u001b ", "upon\\n", 7]}', "--stream"]
        done = await anyio.run_process(command, cwd=shell.folder, env=shell.environment)
        assert done.stdout == b"once\x1b upon\n7\xff"
        assert done.stderr == b""


async def test_a_failure_midway_is_told_behind_the_chunks(
    shell: Shell, broker: Broker, redis_url: str, settings: Settings
) -> None:
    async with serving(telling_app(), redis_url, settings):
        command = [*COMMAND, "call", "tell", '{"values": ["once"], "bad": true}', "--stream"]
        done = await anyio.run_process(command, cwd=shell.folder, env=shell.environment, check=False)
        assert (done.returncode, done.stdout) == (1, b"once\xff")
        assert done.stderr.decode() == 'penstock: function "tell" failed: ValueError: no more\n'
        gone = await anyio.run_process(
            [*COMMAND, "call", "nobody", "1", "--stream"], cwd=shell.folder, env=shell.environment, check=False
        )
        assert (gone.returncode, gone.stdout) == (1, b"")
        assert b"nobody" in gone.stderr
