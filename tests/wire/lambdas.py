"""Lambda as programs see it, and functions for it on workers."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, Protocol

import msgspec
import pytest
from anyio.from_thread import start_blocking_portal

from broker.settings import Settings
from runtime import App, Context, Worker
from tests.runtime.scene import serving
from tests.wire.clients import REGION, Boto3, Refused
from tests.wire.raw import Answer, RawClient

INVOKE: Final = "/2015-03-31/functions/{}/invocations"
_LOGGER: Final = logging.getLogger("tests.wire.invoked")


class Served(Protocol):
    """Runs a worker of an app for the test's account: `with served(app):`."""

    def __call__(self, app: App, *, region: str = REGION, **options: Any) -> AbstractContextManager[Worker]: ...


@contextmanager
def serving_worker(app: App, url: str, settings: Settings, **options: Any) -> Iterator[Worker]:
    """A worker on an event loop of its own."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving(app, url, settings, **options)) as worker,
    ):
        yield worker


def settings_of(base: Settings, account: str, region: str) -> Settings:
    """The gateway's settings for one account and region."""
    return msgspec.structs.replace(base, account=account, region=region)


class Invoked:
    """How an invocation was answered."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self.status: Final[int] = answer["StatusCode"]
        self.body: Final[bytes] = answer["Payload"].read()
        self.error: Final[str | None] = answer.get("FunctionError")
        self.version: Final[str | None] = answer.get("ExecutedVersion")
        self.headers: Final[Mapping[str, str]] = answer["ResponseMetadata"]["HTTPHeaders"]
        self.request_id: Final[str] = answer["ResponseMetadata"]["RequestId"]
        self._log: Final[str | None] = answer.get("LogResult")

    @property
    def result(self) -> Any:
        return json.loads(self.body)

    @property
    def log(self) -> str:
        """What the call wrote; '' where nobody asked."""
        return b64decode(self._log or "").decode("utf-8", "replace")


class Lambda:
    """boto3's client for one account; methods as there, and short ways."""

    def __init__(self, call: Boto3, account: str, region: str = REGION) -> None:
        self._call: Final = call
        self.account: Final = account
        self.region: Final = region

    def __getattr__(self, method: str) -> Callable[..., dict[str, Any]]:
        """Any of boto3's methods; raises Refused."""
        if method.startswith("_"):
            raise AttributeError(method)
        return lambda **parameters: self._call(method, parameters)

    def run(self, function: str, event: object = None, **options: Any) -> Invoked:
        """Invokes with an event as JSON; bytes are sent as they are. `context=` is the client context."""
        if "context" in options:
            options["ClientContext"] = b64encode(json.dumps(options.pop("context")).encode()).decode()
        payload = event if isinstance(event, bytes) else json.dumps(event).encode()
        return Invoked(self._call("invoke", {"FunctionName": function, "Payload": payload, **options}))

    def refused(self, function: str, event: object = None, **options: Any) -> Mapping[str, Any]:
        """The whole answer of an invocation that must be refused."""
        with pytest.raises(Refused) as caught:
            self.run(function, event, **options)
        return caught.value.response

    def refusal(self, function: str, event: object = None, **options: Any) -> tuple[str, str, int]:
        """Code, message and status of the same."""
        answer = self.refused(function, event, **options)
        error = answer["Error"]
        return error["Code"], error["Message"], answer["ResponseMetadata"]["HTTPStatusCode"]

    def arn(self, function: str, qualifier: str = "") -> str:
        """The function's ARN."""
        arn = f"arn:aws:lambda:{self.region}:{self.account}:function:{function}"
        return f"{arn}:{qualifier}" if qualifier else arn


class Functions:
    """Functions to invoke, and what they have seen."""

    def __init__(self) -> None:
        self.app = App()
        self.seen: list[tuple[str, Any]] = []
        self.arrived = threading.Event()
        self.cancelled = threading.Event()
        self.release = threading.Event()
        for handler in (self.echo, self.fail, self.leave, self.write, self.unusable, self.of_size, self.context):
            self.app.function(timeout=20)(handler)
        self.app.function(timeout=20)(self.plain)
        self.app.function(timeout=20)(self.talk)
        self.app.function(timeout=0.05)(self.slow)
        self.app.function(timeout=20, concurrency=1, name="one")(self.wait)
        self.app.function(timeout=20, concurrency=0, name="none")(self.echo)
        self.app.function(timeout=20, name="long")(self.wait)

    async def echo(self, event: Any, context: Context) -> Any:
        self.seen.append((context.aws_request_id, event))
        self.arrived.set()
        return event

    async def fail(self, event: Any, context: Context) -> None:
        raise ValueError(f"no {event}")

    async def leave(self, event: Any, context: Context) -> None:
        sys.exit(event)

    async def slow(self, event: Any, context: Context) -> None:
        await asyncio.sleep(30)

    async def wait(self, event: Any, context: Context) -> str:
        self.arrived.set()
        try:
            await asyncio.to_thread(self.release.wait, 20)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return "done"

    async def unusable(self, event: Any, context: Context) -> Any:
        return object()

    async def of_size(self, event: int, context: Context) -> str:
        return "x" * (event - 2)

    async def context(self, event: Any, context: Context) -> Any:
        sent = context.client_context
        client = None if sent is None or sent.client is None else sent.client.app_title
        return None if sent is None else {"custom": sent.custom, "env": sent.env, "title": client}

    async def write(self, event: Any, context: Context) -> str:
        print(f"printed {event}")
        sys.stderr.write("to stderr\n")
        _LOGGER.warning("logged %s", event)
        await asyncio.sleep(0)
        await asyncio.to_thread(print, "from a thread")
        return context.aws_request_id

    def plain(self, event: Any, context: Context) -> str:
        print(f"plain {event}")
        return "plain"

    async def talk(self, event: Any, context: Context) -> None:
        print("x" * event + "the end")


def posted(raw: RawClient, function: str, body: bytes = b"{}", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return raw.request("POST", INVOKE.format(function), body=body, headers=named)
