"""What must not start says so in one line with what to do, ends with status 1, and leaves nothing behind."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from tests.cli.shell import Shell

APP = """
from runtime import App

app = App()

@app.function()
async def greet(event, context):
    return None
"""
COMMANDS = (("broker", "--port", "0"), ("runtime", "app:app"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


class _Answer(socketserver.StreamRequestHandler):
    """Says the same to whatever comes: what no Redis of today can be made to say."""

    said: ClassVar[bytes] = b""

    def handle(self) -> None:
        with suppress(ConnectionError):
            for line in iter(self.rfile.readline, b""):
                if line.startswith(b"*"):
                    self.wfile.write(self.said)


@contextmanager
def answering(said: bytes) -> Iterator[str]:
    handler = type("Handler", (_Answer,), {"said": said})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"redis://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def bulk(text: str) -> bytes:
    return f"${len(text)}\r\n{text}\r\n".encode()


async def refused(folder: Path, url: str, command: tuple[str, ...]) -> str:
    done = await Shell(folder).run(*command, "--url", url, "--log-format", "json", status=1)
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert line.startswith("penstock: ")
    return line


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_redis_that_is_not_there_is_named_with_what_to_look_at(folder: Path, command: tuple[str, ...]) -> None:
    line = await refused(folder, f"unix://{folder}/none.sock", command)
    assert "none.sock" in line
    assert "see that it runs, and that --url or PENSTOCK_REDIS_URL is its address" in line


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_database_that_is_no_number_is_not_taken_for_database_0(folder: Path, command: tuple[str, ...]) -> None:
    line = await refused(folder, "redis://127.0.0.1:1/abc", command)
    assert "/abc': the database is a number: redis://host:6379/0" in line


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_redis_that_wants_a_password_says_where_it_goes_and_never_shows_one(
    folder: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    with EmbeddedRedis(tmp_path / "redis", append_only=False) as redis:
        async with Broker(redis.url) as broker:
            await broker.core.runner.fetch("CONFIG", "SET", "requirepass", "right")
            path = redis.url.removeprefix("unix://")
            for url in (redis.url, f"unix://:hunter2@{path}"):
                line = await refused(folder, url, command)
                assert "; give a user and password that may, in the URL" in line
                assert ".;" not in line
                assert "hunter2" not in line
            await broker.core.runner.fetch("CONFIG", "SET", "requirepass", "")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("said", "words"),
    [
        (bulk("redis_version:6.0.16\r\nmaxmemory_policy:noeviction"), "is version 6.0.16; Penstock needs 6.2 or newer"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "try again in a moment"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is no Redis"),
    ],
)
async def test_what_is_no_redis_for_us_is_refused_by_name(
    folder: Path, said: bytes, words: str, command: tuple[str, ...]
) -> None:
    with answering(said) as url:
        assert words in await refused(folder, url, command)


async def test_keys_that_are_wrong_or_missing_are_named_without_their_secrets(folder: Path, redis_url: str) -> None:
    (folder / "keys").write_text("AKIDWRONG;hunter2\n")
    for path, words in (
        (folder / "none", "let --create-access-keys make it"),
        (folder / "keys", "must be KEYID:SECRET"),
        (folder, "cannot be read"),
    ):
        line = await refused(folder, redis_url, ("broker", "--port", "0", "--access-keys", str(path)))
        assert words in line
        assert "hunter2" not in line


async def test_an_app_that_cannot_be_found_starts_nothing(folder: Path, redis_url: str) -> None:
    assert 'no module "nope"' in await refused(folder, redis_url, ("runtime", "nope:app", "--processes", "2"))
