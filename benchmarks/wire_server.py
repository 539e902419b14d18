"""The servers of the wire's figures, each in a process of its own: ``python -m benchmarks.wire_server URL WHICH``.

``gateway`` is Penstock's, ``verifying`` the same with an access key, so that it verifies signatures; ``constant`` is
the same HTTP server around an application that always answers the same; ``moto`` is moto's own server.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from benchmarks.answering import answer, run, say
from benchmarks.wire_client import KEY_ID, SECRET
from broker import Broker
from broker.gateway.access import AccessKey
from broker.gateway.asgi import Receive, Scope, Send
from broker.gateway.options import GatewayOptions
from broker.gateway.running import run_gateway
from broker.gateway.server import serve
from runtime.collecting import collect_seldom
from runtime.logs import configure_logs

_CONSTANT: Final = (
    b'{"MessageId":"019aa8d0-7b5c-8000-8000-00007f3a9c21","MD5OfMessageBody":"5d41402abc4b2a76b9719d911017c592"}'
)
_HEADERS: Final = [
    (b"x-amzn-requestid", b"5d41402a-bc4b-4a76-89d9-11017c592000"),
    (b"content-type", b"application/x-amz-json-1.0"),
    (b"content-length", str(len(_CONSTANT)).encode()),
]


async def _constant(_scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the request, and answers as SendMessage does, whatever was asked."""
    while (await receive()).get("more_body", False):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _CONSTANT})


@asynccontextmanager
async def _gateway(url: str, *keys: AccessKey) -> AsyncIterator[int]:
    async with (
        Broker(url) as broker,
        run_gateway(broker, GatewayOptions(port=0, keys=keys), grace_s=1.0) as bound,
    ):
        yield bound.port


@asynccontextmanager
async def _moto() -> AsyncIterator[int]:
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - takes a second, and only this one needs it

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # its line for each request would slow it down
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    await asyncio.to_thread(server.start)
    try:
        yield server.get_host_and_port()[1]
    finally:
        await asyncio.to_thread(server.stop)


@asynccontextmanager
async def _served(url: str, which: str) -> AsyncIterator[int]:
    match which:
        case "gateway":
            served = _gateway(url)
        case "verifying":
            served = _gateway(url, AccessKey(KEY_ID, SECRET))
        case "moto":
            served = _moto()
        case "constant":
            async with serve(_constant, grace_s=1.0) as bound:
                yield bound.port
            return
        case _:
            raise ValueError(which)
    async with served as port:
        yield port


async def main(url: str, which: str) -> None:
    """Serves until the parent has no more questions."""
    async with _served(url, which) as port:
        collect_seldom()  # as `penstock broker` does; the constant answer's server, too
        say("ready")
        await answer({"port": lambda: port, "cpu_s": time.process_time})


if __name__ == "__main__":
    configure_logs()  # as in production: what the lines cost belongs to the figures
    run(main(*sys.argv[1:]))
