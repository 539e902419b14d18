"""Versions and aliases over the wire, with workers of two builds beside each other."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from broker import Broker, Queue
from runtime import App, Context
from tests.wire.gateway import Gateway
from tests.wire.lambdas import Lambda, Served

_WITHIN_S = 10.0


def until(look: Callable[[], Any], what: str) -> Any:
    """What `look` answers as soon as that is true; versions and aliases reach workers within a moment."""
    deadline = time.monotonic() + _WITHIN_S
    while not (found := look()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)  # what it waits for is on another thread
    return found


class Build:
    """The code of a build: what it answers tells which it is."""

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self.app = App(build=name)
        self.seen: list[Any] = []
        self.app.function(name="orders", timeout=20, **options)(self.handle)

    async def handle(self, event: Any, context: Context) -> Any:
        self.seen.append((event, context.function_version, context.invoked_function_arn))
        if event == "fail":
            raise ValueError("no")
        return [self.name, context.function_version, context.invoked_function_arn.rpartition("function:")[2]]


@contextmanager
def two_builds(served: Served, aws_lambda: Lambda, **options: Any) -> Iterator[tuple[Build, Build]]:
    """Version 1 is the build `one`, version 2 the newer `two`; workers of both run."""
    one, two = Build("one", **options), Build("two", **options)
    with served(one.app):
        assert aws_lambda.publish_version(FunctionName="orders")["Version"] == "1"
        with served(two.app):
            assert aws_lambda.publish_version(FunctionName="orders")["Version"] == "2"
            yield one, two


def test_a_version_is_the_build_that_was_registered_and_runs_on_workers_of_that_alone(
    served: Served, aws_lambda: Lambda
) -> None:
    with two_builds(served, aws_lambda):
        for version, build in (("1", "one"), ("2", "two")):
            for _ in range(5):
                run = aws_lambda.run("orders", Qualifier=version)
                assert (run.result, run.version) == ([build, version, f"orders:{version}"], version)
            assert aws_lambda.run(f"orders:{version}").result[0] == build
            assert aws_lambda.run(aws_lambda.arn("orders", version), LogType="Tail").log.startswith("START")
            assert f"Version: {version}" in aws_lambda.run("orders", Qualifier=version, LogType="Tail").log
        for _ in range(5):  # not the older one, as that is a version, which can be called as such
            run = aws_lambda.run("orders")
            assert (run.result, run.version) == (["two", "$LATEST", "orders"], "$LATEST")


def test_events_of_a_version_are_only_taken_by_its_build(served: Served, aws_lambda: Lambda) -> None:
    with two_builds(served, aws_lambda) as (one, two):
        for number in range(40):
            aws_lambda.run("orders", number, Qualifier="1", InvocationType="Event")
            aws_lambda.run("orders:2", number, InvocationType="Event")
            aws_lambda.run("orders", number, InvocationType="Event")
        until(lambda: len(one.seen) + len(two.seen) == 120, "all ran")
        assert Counter(version for _, version, _ in one.seen) == {"1": 40}
        assert Counter(version for _, version, _ in two.seen) == {"2": 40, "$LATEST": 40}
        assert {arn for _, _, arn in one.seen} == {aws_lambda.arn("orders", "1")}


def test_a_version_whose_build_has_no_live_worker_is_answered_at_once(served: Served, aws_lambda: Lambda) -> None:
    one, two = Build("one"), Build("two")
    with served(one.app):
        aws_lambda.publish_version(FunctionName="orders")
    with served(two.app):
        code, message, status = aws_lambda.refusal("orders", Qualifier="1")
        assert (code, status) == ("ResourceNotReadyException", 502)
        assert message == "No live worker serves the function orders:1. Start one and try the request again."
        shown = aws_lambda.get_function_configuration(FunctionName="orders", Qualifier="1")
        assert (shown["State"], shown["StateReasonCode"]) == ("Inactive", "Idle")
        aws_lambda.run("orders", "later", Qualifier="1", InvocationType="Event")
        with served(one.app):
            until(lambda: one.seen, "the event waited for its build")
            assert aws_lambda.run("orders").result[0] == "two"  # started again, the old build stands back
    assert one.seen == [("later", "1", aws_lambda.arn("orders", "1"))]


def test_calls_without_a_qualifier_go_to_the_older_build_when_the_newer_has_left(
    served: Served, aws_lambda: Lambda
) -> None:
    one, two = Build("one"), Build("two")
    with served(one.app):
        aws_lambda.publish_version(FunctionName="orders")
        with served(two.app):
            until(lambda: aws_lambda.run("orders").result[0] == "two", "the newer one takes over")
            until(lambda: _lands(aws_lambda, two), "events go to the newer one, once the older stands back")
        until(lambda: _answers(aws_lambda, "orders", "one"), "the older one takes over again")


def _lands(aws_lambda: Lambda, build: Build) -> bool:
    aws_lambda.run("orders", "to two", InvocationType="Event")
    return ("to two", "$LATEST", aws_lambda.arn("orders")) in build.seen


def _answers(aws_lambda: Lambda, function: str, build: str) -> bool:
    try:
        return bool(aws_lambda.run(function).result[0] == build)
    except Exception:  # noqa: BLE001 - nobody serves it for a moment
        return False


def test_an_alias_moves_calls_and_what_waits_from_one_build_to_the_next(served: Served, aws_lambda: Lambda) -> None:
    one, two = Build("one"), Build("two")
    with served(one.app):
        aws_lambda.publish_version(FunctionName="orders")
        aws_lambda.create_alias(FunctionName="orders", Name="live", FunctionVersion="1")
        run = until(lambda: aws_lambda.run("orders", Qualifier="live"), "served")
        assert (run.result, run.version) == (["one", "1", "orders:live"], "1")
    for number in range(10):
        aws_lambda.run("orders:live", number, InvocationType="Event")
    with served(two.app):
        aws_lambda.publish_version(FunctionName="orders")
        assert aws_lambda.refusal("orders:live")[0] == "ResourceNotReadyException"
        aws_lambda.update_alias(FunctionName="orders", Name="live", FunctionVersion="2")
        assert aws_lambda.run("orders:live").result == ["two", "2", "orders:live"]
        until(lambda: len(two.seen) == 11, "what waited behind the change runs the new version")
        assert {seen[1:] for seen in two.seen} == {("2", aws_lambda.arn("orders", "live"))}
    assert len(one.seen) == 1


def test_weights_are_chosen_for_each_call_and_each_event(served: Served, aws_lambda: Lambda) -> None:
    with two_builds(served, aws_lambda) as (one, two):
        weights = {"AdditionalVersionWeights": {"2": 0.25}}
        made = aws_lambda.create_alias(FunctionName="orders", Name="live", FunctionVersion="1", RoutingConfig=weights)
        assert made["RoutingConfig"] == weights
        runs = [aws_lambda.run("orders:live") for _ in range(200)]
        assert all(run.version == run.result[1] for run in runs)
        share = Counter(run.version for run in runs)["2"]
        assert 20 < share < 80  # 50 +- 6 is one deviation
        del one.seen[:], two.seen[:]
        for number in range(200):
            aws_lambda.run("orders:live", number, InvocationType="Event")
        until(lambda: len(one.seen) + len(two.seen) == 200, "all ran")
        assert 20 < len(two.seen) < 80
        assert {seen[1] for seen in one.seen} == {"1"}
        assert {seen[1] for seen in two.seen} == {"2"}
        aws_lambda.update_alias(
            FunctionName="orders", Name="live", RoutingConfig={"AdditionalVersionWeights": {"2": 1}}
        )
        assert {aws_lambda.run("orders:live").version for _ in range(20)} == {"2"}
        after = aws_lambda.update_alias(FunctionName="orders", Name="live", RoutingConfig={})
        assert "RoutingConfig" not in after
        assert {aws_lambda.run("orders:live").version for _ in range(20)} == {"1"}


def test_reserved_concurrency_is_shared_by_all_versions(served: Served, aws_lambda: Lambda) -> None:
    app, started, release = App(build="one"), [0], threading.Event()

    async def hold(event: Any, context: Context) -> str:
        started[0] += 1
        await asyncio.to_thread(release.wait, 20)
        return context.function_version

    app.function(name="orders", timeout=20, concurrency=1)(hold)
    with served(app):
        aws_lambda.publish_version(FunctionName="orders")
        aws_lambda.run("orders:1", InvocationType="Event")
        until(lambda: started[0] == 1, "it runs")
        for name in ("orders", "orders:1"):
            code, _, status = aws_lambda.refusal(name)
            assert (code, status) == ("TooManyRequestsException", 429)
        aws_lambda.run("orders", InvocationType="Event")
        aws_lambda.put_function_concurrency(FunctionName="orders", ReservedConcurrentExecutions=2)
        until(lambda: started[0] == 2, "the new limit holds for both")
        assert aws_lambda.refusal("orders:1")[0] == "TooManyRequestsException"
        release.set()


async def starved(broker: Broker) -> Any:
    keys = broker.core.keys.of(broker.core.resource("function", "orders:1"))
    return await broker.core.runner.fetch("HGET", keys.meta, "starved")


def test_a_permit_given_back_by_one_is_soon_seen_by_the_others(
    served: Served, aws_lambda: Lambda, gateway: Gateway, account: str
) -> None:
    app, started, release = App(build="one"), list[str](), threading.Event()

    async def hold(event: Any, context: Context) -> None:
        started.append(context.function_version)
        if event == "hold":
            await asyncio.to_thread(release.wait, 20)

    app.function(name="orders", timeout=20, concurrency=1)(hold)
    with served(app):
        aws_lambda.publish_version(FunctionName="orders")
        aws_lambda.run("orders", "hold", InvocationType="Event")
        until(lambda: started == ["$LATEST"], "it runs")
        aws_lambda.run("orders:1", "next", InvocationType="Event")
        until(lambda: gateway.run(starved, account=account) == b"1", "the version has looked, and gone without")
        release.set()
        until(lambda: started == ["$LATEST", "1"], "the version has the permit")


def test_each_qualifier_has_its_own_settings_of_asynchronous_calls(
    served: Served, aws_lambda: Lambda, gateway: Gateway, account: str
) -> None:
    def records(queue: str) -> list[Any]:
        messages = gateway.run(lambda broker: broker.queue(queue).receive(10), account=account)
        return [message.json() for message in messages]

    def create(queue: str) -> str:
        gateway.run(lambda broker: broker.queue(queue).create(), account=account)
        return f"arn:aws:sqs:{aws_lambda.region}:{account}:{queue}"

    with two_builds(served, aws_lambda, retries=0, on_failure=Queue("of-code")):
        aws_lambda.create_alias(FunctionName="orders", Name="live", FunctionVersion="1")
        destination = {"OnFailure": {"Destination": create("of-alias")}}
        put = aws_lambda.put_function_event_invoke_config(
            FunctionName="orders", Qualifier="live", MaximumRetryAttempts=0, DestinationConfig=destination
        )
        assert put["FunctionArn"] == aws_lambda.arn("orders", "live")
        aws_lambda.run("orders:live", "fail", InvocationType="Event")
        (record,) = until(lambda: records("of-alias"), "the alias's destination")
        assert record["requestContext"]["functionArn"] == aws_lambda.arn("orders", "live")
        assert record["responseContext"]["executedVersion"] == "1"
        aws_lambda.run("orders:1", "fail", InvocationType="Event")
        (record,) = until(lambda: records("of-code"), "what the version's code declares")
        assert record["requestContext"]["functionArn"] == aws_lambda.arn("orders", "1")
        listed = aws_lambda.list_function_event_invoke_configs(FunctionName="orders")["FunctionEventInvokeConfigs"]
        assert [each["FunctionArn"].rpartition(":")[2] for each in listed] == ["$LATEST", "1", "2", "live"]
        aws_lambda.delete_function_event_invoke_config(FunctionName="orders", Qualifier="live")
        aws_lambda.run("orders:live", "fail", InvocationType="Event")
        (record,) = until(lambda: records("of-code"), "what the version's code declares")
        assert record["requestContext"]["functionArn"] == aws_lambda.arn("orders", "live")


def test_a_mapping_feeds_the_version_that_its_alias_names(
    served: Served, aws_lambda: Lambda, gateway: Gateway, account: str
) -> None:
    gateway.run(lambda broker: broker.queue("in").create(), account=account)

    def send(body: str) -> None:
        gateway.run(lambda broker: broker.queue("in").send(body), account=account)

    with two_builds(served, aws_lambda) as (one, two):
        aws_lambda.create_alias(FunctionName="orders", Name="live", FunctionVersion="1")
        arn = f"arn:aws:sqs:{aws_lambda.region}:{account}:in"
        made = aws_lambda.create_event_source_mapping(EventSourceArn=arn, FunctionName="orders:live")
        assert made["FunctionArn"] == aws_lambda.arn("orders", "live")
        send("first")
        until(lambda: one.seen, "the alias's version gets it")
        assert one.seen[0][1:] == ("1", aws_lambda.arn("orders", "live"))
        aws_lambda.update_alias(FunctionName="orders", Name="live", FunctionVersion="2")

        def moved() -> bool:
            send("next")
            return bool(two.seen)

        until(moved, "the mapping follows the alias")
        assert two.seen[0][1:] == ("2", aws_lambda.arn("orders", "live"))


def test_the_variables_and_memory_of_a_version_stay(served: Served, aws_lambda: Lambda) -> None:
    app = App(build="one")

    async def tell(event: Any, context: Context) -> Any:
        return [context.memory_limit_in_mb, dict(context.environment)]

    app.function(name="orders", memory=256, environment={"TABLE": "first"})(tell)
    with served(app):
        aws_lambda.publish_version(FunctionName="orders")
        aws_lambda.update_function_configuration(
            FunctionName="orders", MemorySize=512, Environment={"Variables": {"TABLE": "second"}}
        )
        second = aws_lambda.publish_version(FunctionName="orders", Description="with more memory")
        assert (second["Version"], second["MemorySize"], second["Description"]) == ("2", 512, "with more memory")
        until(lambda: aws_lambda.run("orders").result == ["512", {"TABLE": "second"}], "$LATEST follows")
        assert aws_lambda.run("orders:1").result == ["256", {"TABLE": "first"}]
        assert aws_lambda.run("orders:2").result == ["512", {"TABLE": "second"}]


@pytest.mark.parametrize("qualifier", ["7", "staging", "$latest"])
def test_what_is_not_there_is_not_found(served: Served, aws_lambda: Lambda, qualifier: str) -> None:
    with served(Build("one").app):
        kind = "Cannot find alias arn" if qualifier == "staging" else "Function not found"
        expected = ("ResourceNotFoundException", f"{kind}: {aws_lambda.arn('orders', qualifier)}", 404)
        for invocation in ("RequestResponse", "Event", "DryRun"):
            assert aws_lambda.refusal("orders", Qualifier=qualifier, InvocationType=invocation) == expected
