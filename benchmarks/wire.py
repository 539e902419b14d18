"""Requests a second over the AWS wire: the gateway beside the same HTTP server answering a constant, and beside moto.

Clients, gateway and Redis are processes of their own. All servers get requests of the same sizes, signed, whether or
not they verify signatures.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count, cycle, islice
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec

from benchmarks.harness import Bed, Stage, child, event
from benchmarks.records import Figure, Round, Target, figure
from benchmarks.wire_client import KEY_ID, REGION, SECRET, Requests, Script, each_of, run_scripts, timed

CONNECTIONS: Final = 64
_BATCH: Final = 10
_PREPARED: Final = 500
_LATENCIES: Final = 1_000
_BOTO3_CALLS: Final = 500
_HANDLE_LENGTH: Final = 60
_Server: TypeAlias = Literal["gateway", "verifying", "constant", "moto"]
_Action: TypeAlias = Literal["send", "send ten", "receive and delete ten"]
_NAMES: Final[dict[_Action, str]] = {
    "send": "SendMessage",
    "send ten": "SendMessageBatch of 10",
    "receive and delete ten": "ReceiveMessage and DeleteMessageBatch of 10",
}
_REQUESTS: Final[dict[_Action, int]] = {"send": 20_000, "send ten": 4_000, "receive and delete ten": 6_000}
_OURS: Final[tuple[_Server, ...]] = ("gateway", "verifying")
_SAID: Final[dict[_Server, str]] = {
    "gateway": f", {CONNECTIONS} connections",
    "verifying": f", {CONNECTIONS} connections, signatures verified",
    "moto": f", {CONNECTIONS} connections, beside moto",
}
_TARGETS: Final[dict[tuple[_Action, _Server], Target]] = {
    ("send", "gateway"): Target(of="ratio", at_least=1 / 2),
    ("send", "moto"): Target(of="ratio", at_least=20),
}
# moto looks through the whole queue at each send, so it is measured on a short one.
_MOTO_REQUESTS: Final[dict[_Action, int]] = {"send": 120, "send ten": 20, "receive and delete ten": 20}
_MOTO_ROUNDS: Final = 3


class _Received(msgspec.Struct):
    ReceiptHandle: str


class _Answer(msgspec.Struct):
    Messages: tuple[_Received, ...] = ()


class _Created(msgspec.Struct):
    QueueUrl: str


_answers: Final = msgspec.json.Decoder(_Answer)


class _Lane:
    """One server, and the requests prepared for it."""

    def __init__(self, server: _Server, port: int) -> None:
        self.server: Final = server
        self.port: Final = port
        self._requests = Requests(port)
        self._prepared: Final[dict[_Action, list[bytes]]] = {}
        self._queues: Final = count()
        self._url = ""

    async def renew(self) -> None:
        """Throws the queue away with what was sent, creates another, and makes the requests that are sent to it."""
        self._requests = Requests(self.port)
        if self.server != "constant":
            if self._url:
                await self._call("DeleteQueue", {"QueueUrl": self._url})
            created = await self._call("CreateQueue", {"QueueName": f"{self.server}-{next(self._queues)}"})
            self._url = msgspec.json.decode(created, type=_Created).QueueUrl
        else:
            self._url = f"http://127.0.0.1:{self.port}/000000000000/bench-0"
        handles = [{"Id": str(number), "ReceiptHandle": "A" * _HANDLE_LENGTH} for number in range(_BATCH)]
        self._prepared["send"] = [self._make("SendMessage", {"MessageBody": _body(n)}) for n in range(_PREPARED)]
        self._prepared["send ten"] = [
            self._make("SendMessageBatch", {"Entries": self._ten(n * _BATCH)}) for n in range(_PREPARED)
        ]
        self._prepared["receive and delete ten"] = [
            self._make("ReceiveMessage", {"MaxNumberOfMessages": _BATCH}),
            self._make("DeleteMessageBatch", {"Entries": handles}),
        ]

    def _ten(self, start: int) -> list[dict[str, str]]:
        return [{"Id": str(number), "MessageBody": _body(start + number)} for number in range(_BATCH)]

    def _make(self, action: str, members: dict[str, Any]) -> bytes:
        return self._requests.make(action, msgspec.json.encode({"QueueUrl": self._url, **members}))

    async def _call(self, action: str, members: dict[str, Any]) -> bytes:
        answers: list[bytes] = []

        def once() -> Script:
            answers.append((yield self._requests.make(action, msgspec.json.encode(members))))

        await run_scripts(self.port, [once()])
        return answers[0]

    async def rate(self, action: _Action, requests: int) -> float:
        """Requests a second, over all connections, which share so many requests."""
        if action == "receive and delete ten" and self.server != "constant":
            await self.rate("send ten", requests // 2)
            made = count()
            took_s = await run_scripts(self.port, [self._receive_and_delete(made) for _ in range(CONNECTIONS)])
            return next(made) / took_s
        work = islice(cycle(self._prepared[action]), requests)
        return requests / await run_scripts(self.port, [each_of(work) for _ in range(CONNECTIONS)])

    def _receive_and_delete(self, made: Iterator[int]) -> Script:
        """Until nothing is left; draws a number for each request, but not for the last receive, which is empty."""
        receive, _ = self._prepared["receive and delete ten"]
        while messages := _answers.decode((yield receive)).Messages:
            entries = [{"Id": str(n), "ReceiptHandle": each.ReceiptHandle} for n, each in enumerate(messages)]
            yield self._make("DeleteMessageBatch", {"Entries": entries})
            next(made), next(made)

    async def latency_ms(self, samples: int) -> float:
        """The median time of a send by one connection."""
        took_ms: list[float] = []
        await run_scripts(self.port, [timed(islice(cycle(self._prepared["send"]), samples), took_ms)])
        return statistics.median(took_ms)

    async def boto3_rate(self, calls: int) -> float:
        """Sends a second by boto3, in one thread."""
        return await asyncio.to_thread(_boto3_rate, self.port, self._url, calls)


class _Findings(msgspec.Struct):
    """The rounds so far, by the figure that they are of."""

    rates: dict[tuple[_Action, _Server], list[Round]] = msgspec.field(default_factory=dict)
    latencies: list[Round] = msgspec.field(default_factory=list)
    boto3: list[Round] = msgspec.field(default_factory=list)


async def measure(stage: Stage) -> list[Figure]:
    """The gateway without and with access keys beside the constant, without them beside moto, and under boto3."""
    found = _Findings()
    async with stage.bed() as bed, AsyncExitStack() as stack:
        lanes: dict[_Server, _Lane] = {}
        for server in get_args(_Server):
            stage.say(f"starting {server}")
            lanes[server] = await stack.enter_async_context(_lane(bed, server))
        for number in range(stage.rounds):
            await _beside_constant(stage, lanes, found, round_name=f"round {number + 1} of {stage.rounds}")
        for number in range(min(stage.rounds, _MOTO_ROUNDS)):
            stage.say(f"moto, round {number + 1}")
            await _beside_moto(lanes, found)
    return _figures(found, aof=stage.aof)


@asynccontextmanager
async def _lane(bed: Bed, server: _Server) -> AsyncIterator[_Lane]:
    async with child(bed, "wire_server", server) as process:
        lane = _Lane(server, int(await process.ask("port")))
        await lane.renew()
        yield lane


async def _beside_constant(stage: Stage, lanes: dict[_Server, _Lane], found: _Findings, *, round_name: str) -> None:
    constant, gateway = lanes["constant"], lanes["gateway"]
    for action, full in _REQUESTS.items():
        stage.say(f"{_NAMES[action]}, {round_name}")
        ceiling = await constant.rate(action, stage.size(full))
        for server in _OURS:
            rate = await lanes[server].rate(action, stage.size(full))
            found.rates.setdefault((action, server), []).append(Round(rate, ceiling))
            await lanes[server].renew()
    stage.say(f"one connection, {round_name}")
    samples, calls = stage.size(_LATENCIES), stage.size(_BOTO3_CALLS)
    bare_ms = await constant.latency_ms(samples)
    found.latencies.append(Round(await gateway.latency_ms(samples), bare_ms))
    stage.say(f"boto3, {round_name}")
    bare_rate = await constant.boto3_rate(calls)
    found.boto3.append(Round(await gateway.boto3_rate(calls), bare_rate))
    await gateway.renew()


async def _beside_moto(lanes: dict[_Server, _Lane], found: _Findings) -> None:
    gateway, moto = lanes["gateway"], lanes["moto"]
    for action, full in _REQUESTS.items():
        peer = await moto.rate(action, _MOTO_REQUESTS[action])
        rate = await gateway.rate(action, full // 3)
        found.rates.setdefault((action, "moto"), []).append(Round(rate, peer))
        for lane in (moto, gateway):
            await lane.renew()


def _figures(found: _Findings, *, aof: bool) -> list[Figure]:
    figures = []
    for server in (*_OURS, "moto"):
        for action, name in _NAMES.items():
            figures.append(
                figure(
                    "wire",
                    f"{name}{_SAID[server]}",
                    unit="requests/s",
                    aof=aof,
                    rounds=found.rates[action, server],
                    target=_TARGETS.get((action, server)),
                )
            )
    figures.append(figure("wire", "SendMessage, one connection, p50", unit="ms", aof=aof, rounds=found.latencies))
    figures.append(
        figure(
            "wire",
            "SendMessage by boto3, one thread",
            unit="calls/s",
            aof=aof,
            rounds=found.boto3,
            note="its ceiling is boto3 on the constant answer",
        )
    )
    return figures


def _body(number: int) -> str:
    return msgspec.json.encode(event(number)).decode()


def _boto3_rate(port: int, url: str, calls: int) -> float:
    import boto3  # noqa: PLC0415 - takes long, and only this one needs it

    session = boto3.Session(aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET, region_name=REGION)
    client = session.client("sqs", endpoint_url=f"http://127.0.0.1:{port}")
    bodies = [_body(number) for number in range(calls)]
    client.send_message(QueueUrl=url, MessageBody=bodies[0])
    started = time.perf_counter()
    for body in bodies:
        client.send_message(QueueUrl=url, MessageBody=body)
    return calls / (time.perf_counter() - started)
