"""Every rule for asynchronous events through Redis and a worker: tries, delays, what destination and dead-letter queue
receive, and what the status says. The rows are in tests/runtime/rules.py; time moves by the test server's clock."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, assert_never

import msgspec
import pytest

from broker import Broker, Function, Queue, Status, Stream
from broker.functions import change_function
from broker.invocation_records import Condition
from broker.message_attributes import Attribute
from broker.records import FunctionSettings
from broker.store.values import ClaimMode
from runtime import App, Context
from tests.conftest import Clock
from tests.runtime.rules import (
    ERROR_TYPES,
    NEVER_RAN,
    QUARANTINE,
    RULES,
    SYSTEM_ERRORS,
    Later,
    Retry,
    Rule,
    Step,
    Try,
)
from tests.runtime.scene import Serve, empty, eventually, received

ARN = "arn:aws:lambda:us-east-1:000000000000:function:job:$LATEST"
EVENT = {"order": 7}
ELSEWHERE = "a call of another worker"
TARGETS: dict[str, Any] = {
    "on_success": Queue("done"),
    "on_failure": Queue("failed"),
    "dead_letter": Queue("dead"),
}
RESULTS: dict[str, Any] = {"succeeds": {"ok": True}, "answers 500": {"statusCode": 500}}
STATES: dict[Condition, str] = {
    "Success": "succeeded",
    "EventAgeExceeded": "expired",
    "Cancelled": "cancelled",
}


class Job:
    """A function that does what the story says, try by try, and what it has seen."""

    def __init__(self, tries: list[Try], settings: dict[str, Any]) -> None:
        self.app = App()
        self.seen: list[tuple[str, int, int]] = []
        self._tries = tries
        timeout = 0.2 if "times out" in tries else 3
        self.app.function(name="job", **{"timeout": timeout, **TARGETS, **settings})(self.handle)

    async def handle(self, event: Any, context: Context) -> Any:
        assert event == EVENT
        self.seen.append((context.aws_request_id, context.attempt, context.fencing_token))
        return await self._do(self._tries[len(self.seen) - 1], context.attempt)

    async def _do(self, what: Try, attempt: int) -> Any:
        match what:
            case "succeeds" | "answers 500":
                return RESULTS[what]
            case "raises":
                raise ValueError(f"try {attempt}")
            case "times out":
                return await asyncio.sleep(60)
            case "exits":
                sys.exit(1)
            case "no json":
                return object()
            case "too large":
                return "x" * 6_291_555
            case _:
                assert_never(what)


class Story:
    """Lives through the steps of one row with one event."""

    def __init__(self, broker: Broker, clock: Clock, job: Job) -> None:
        self.broker = broker
        self.clock = clock
        self.job = job
        self.function = broker.function("job")
        self.request_id = ""
        self.tried = 0
        self._began_ms = 0

    async def live(self, steps: tuple[Step, ...]) -> None:
        for deed in steps[: self._before(steps)]:
            await self.take(deed)
        self._began_ms = await self.now_ms()
        self.request_id = await self.broker.invoke("job", EVENT)
        for step in steps[self._before(steps) :]:
            await self.take(step)

    def _before(self, steps: tuple[Step, ...]) -> int:
        """What is as it is when the event arrives."""
        return 1 if steps and steps[0] in {"paused", "limit full"} else 0

    async def take(self, step: Step) -> None:
        match step:
            case Retry(after_s):
                await self._retry(after_s)
            case Later(seconds):
                await self._waits()
                await self.clock.advance(seconds)
            case "paused":
                await self.function.pause()
            case "resumed":
                await self.function.resume()
            case "limit 0":
                await self._limit(0)
            case "no limit":
                await self._limit(None)
            case "limit full":
                await self._limit(1)
                permits = self.broker.core.permits
                taken = await permits.take_of_function(self.function.resource, [ELSEWHERE], permit_ms=10**9)
                assert taken.granted == 1
            case "limit free":
                assert len(self.job.seen) == self.tried, "it ran beside the one that has the only permit"
                await self.broker.core.permits.release_of_function(self.function.resource, [ELSEWHERE])
            case "cancelled":
                await self._waits()
                assert await self.broker.cancel(self.request_id)
            case _:
                self.tried += 1
                await eventually(lambda: len(self.job.seen) >= self.tried, what=f"try {self.tried}")

    async def status(self) -> Status:
        return await self.broker.status(self.request_id)

    async def now_ms(self) -> int:
        return await self.broker.core.messages.now_ms()

    async def _limit(self, limit: int | None) -> None:
        def change(found: FunctionSettings) -> FunctionSettings:
            return msgspec.structs.replace(found, concurrency=limit)

        await change_function(self.broker.core, self.function.resource, change)

    async def _waits(self) -> None:
        async def look() -> bool:
            return (await self.status()).state in {"queued", "retrying"}

        await eventually(look, what="the event waits")

    async def _retry(self, after_s: float) -> None:
        """The try ended between its beginning and now, so it is due as long after that."""

        async def due() -> int | None:
            next_ms = (await self.status()).next_ms
            return next_ms if next_ms is not None and next_ms > self._began_ms else None  # not what was due before

        due_ms = await eventually(due, what="it waits for its next try")
        assert self._began_ms <= due_ms - after_s * 1_000 <= await self.now_ms()
        assert len(self.job.seen) == self.tried
        # Before the clock moves: the next try may be over before the clock is read again.
        self._began_ms = await self.now_ms() + round(after_s * 1_000)
        await self.clock.advance(after_s)


# -- what must have come of it ----------------------------------------------------------------------------------------


def check_record(record: dict[str, Any], rule: Rule, request_id: str) -> None:
    response, payload = record.pop("responseContext", None), record.pop("responsePayload", None)
    assert record.pop("timestamp").endswith("Z")
    assert record == {
        "version": "1.0",
        "requestContext": {
            "requestId": request_id,
            "functionArn": ARN,
            "condition": rule.ends,
            "approximateInvokeCount": len(rule.tries),
        },
        "requestPayload": EVENT,
    }
    if rule.ends == "Success":
        assert response == {"statusCode": 200, "executedVersion": "$LATEST"}
        assert payload == RESULTS[rule.tries[-1]]
    elif rule.tries:
        assert response == {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}
        assert payload["errorType"] == ERROR_TYPES[rule.tries[-1]]
        assert payload["requestId"] == request_id
        assert payload["errorType"] != "ValueError" or payload["errorMessage"] == f"try {len(rule.tries)}"
    else:
        assert (response, payload) == (None, None)


async def check_dead_letter(broker: Broker, rule: Rule, request_id: str, error_message: str | None) -> None:
    (dead,) = await received(broker, "dead")
    assert dead.json() == EVENT
    code, text = (b"429", NEVER_RAN[rule.ends]) if error_message is None else (b"200", error_message)
    assert dict(dead.header.attributes) == {
        "RequestID": Attribute("String", request_id.encode()),
        "ErrorCode": Attribute("Number", code),
        "ErrorMessage": Attribute("String", text.encode()),
    }
    assert dead.source == ARN.removesuffix(":$LATEST")


async def check(broker: Broker, rule: Rule, job: Job, request_id: str) -> None:
    """Where the event went, where it did not, what is told of it, and that nothing is left."""
    status = await broker.status(request_id, wait=8)
    assert (status.state, status.condition) == (STATES.get(rule.ends, "failed"), rule.ends)
    assert status.attempt == len(rule.tries)
    assert [attempt for _, attempt, _ in job.seen] == list(range(1, len(rule.tries) + 1))
    assert {seen_id for seen_id, *_ in job.seen} <= {request_id}
    fences = [fence for *_, fence in job.seen]
    assert fences == sorted(set(fences))
    await broker.core.permits.release_of_function(broker.function("job").resource, [ELSEWHERE])
    await empty(broker, "job")
    went = "done" if rule.ends == "Success" else "failed"
    record = (await received(broker, went))[0].json()
    error = record.get("responsePayload")
    check_record(record, rule, request_id)
    if rule.ends not in {"Success", "Cancelled"}:
        await check_dead_letter(broker, rule, request_id, error and error["errorMessage"])
    for queue in ("done", "failed", "dead"):
        counts = await broker.queue(queue).counts()
        assert counts.visible + counts.delayed + counts.retrying == 0, queue


@pytest.mark.parametrize("rule", RULES, ids=[rule.name for rule in RULES])
async def test_rule(rule: Rule, broker: Broker, serve: Serve, clock: Clock) -> None:
    job = Job(rule.tries, rule.settings)
    story = Story(broker, clock, job)
    async with serve(job.app):
        await story.live(rule.story)
        await check(broker, rule, job, story.request_id)


async def test_what_the_system_cannot_run_uses_up_no_try(broker: Broker, serve: Serve, clock: Clock) -> None:
    """A worker whose operating system gives it no threads."""
    app = App()

    @app.function(name="job", **TARGETS, **SYSTEM_ERRORS.settings)
    def job(event: Any, context: Context) -> None:
        raise AssertionError

    story = Story(broker, clock, Job([], {}))
    async with serve(app) as worker:
        worker._engine.invoker._pool.shutdown()
        await story.live(SYSTEM_ERRORS.story)
        await check(broker, SYSTEM_ERRORS, story.job, story.request_id)


# -- quarantine -------------------------------------------------------------------------------------------------------


async def crash(broker: Broker, clock: Clock, times: int) -> None:
    """What workers that die over the event leave behind: leases that end without settle or release."""
    resource, lease_ms = broker.core.resource("function", "job"), broker.core.settings.lease_ms
    modes: list[ClaimMode] = ["work", *["alone"] * times]  # type: ignore[list-item]
    for number, mode in enumerate(modes):
        token = f"{'s' if mode == 'alone' else 'w'}deadbeef0000{number}"
        claim = await broker.core.messages.claim(resource, token=token, lease_ms=lease_ms, room=1, mode=mode)
        if not claim.messages:  # the one that ended was set apart by this claim
            claim = await broker.core.messages.claim(resource, token=token, lease_ms=lease_ms, room=1, mode="alone")
        assert claim.messages
        await clock.advance(lease_ms / 1_000 + 1)


@pytest.mark.parametrize("cause", ["signal: killed", None])
async def test_an_event_that_ends_its_workers_is_quarantined_with_the_cause(
    broker: Broker, serve: Serve, clock: Clock, cause: str | None
) -> None:
    job = Job([], QUARANTINE.settings)
    async with serve(job.app):
        pass  # registered
    request_id = await broker.invoke("job", EVENT)
    await crash(broker, clock, 2)
    if cause:
        await broker.core.directory.record_end("deadbeef0000", cause)
    async with serve(job.app, alone=True):
        (failed,) = await received(broker, "failed")
    record = failed.json()
    assert record["requestContext"]["condition"] == "Quarantined"
    assert record["requestContext"]["approximateInvokeCount"] == 0
    reason = f"with error: {cause}" if cause else "without providing a reason"
    assert record["responsePayload"] == {
        "errorType": "Runtime.ExitError",
        "errorMessage": f"RequestId: {request_id} Error: Runtime exited {reason}",
        "requestId": request_id,
    }
    await check_dead_letter(broker, QUARANTINE, request_id, record["responsePayload"]["errorMessage"])
    status = await broker.status(request_id)
    assert (status.state, status.condition) == ("failed", "Quarantined")
    assert not job.seen


# -- kinds of destinations --------------------------------------------------------------------------------------------

KINDS = (Queue("there"), Function("there"), Stream("there"))


class Target:
    """Whatever kind of target it is: what has arrived there."""

    def __init__(self, broker: Broker, app: App, kind: Queue | Function | Stream) -> None:
        self._broker = broker
        self._kind = kind
        self._events: list[Any] = []
        if isinstance(kind, Function):
            app.function(name="there")(self._arrive)

    async def _arrive(self, event: Any, context: Context) -> None:
        self._events.append(event)

    async def only(self) -> Any:
        """The only event, record or message."""
        match self._kind:
            case Function():
                await eventually(lambda: self._events, what="the other function is invoked")
            case Queue():
                self._events = [message.json() for message in await received(self._broker, "there")]
            case Stream():
                stream = self._broker.stream("there")

                async def arrived() -> int:
                    return await stream.length()

                await eventually(arrived, what="the stream has a record")
                self._events = [record.json() for record in await stream.read()]
        (found,) = self._events
        return found


@pytest.mark.parametrize("kind", KINDS, ids=[type(kind).__name__ for kind in KINDS])
@pytest.mark.parametrize("option", ["on_success", "on_failure", "dead_letter"])
async def test_every_kind_of_target_receives_what_it_is_for(
    broker: Broker, serve: Serve, option: str, kind: Queue | Function | Stream
) -> None:
    does: Try = "succeeds" if option == "on_success" else "raises"
    nothing_else = dict.fromkeys(TARGETS)
    job = Job([does], {"retries": 0, **nothing_else, option: kind})
    target = Target(broker, job.app, kind)
    async with serve(job.app):
        request_id = await broker.invoke("job", EVENT)
        found = await target.only()
        await empty(broker, "job")
    if option == "dead_letter":
        assert found == EVENT
    else:
        check_record(found, Rule("", (does,), "Success" if does == "succeeds" else "RetriesExhausted"), request_id)
