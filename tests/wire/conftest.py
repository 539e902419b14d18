"""One gateway a test process, an account a test, and clients of both protocols."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from broker.embedded import EmbeddedRedis
from broker.settings import Settings
from runtime import App
from tests.wire.clients import REGION, SECRET, Boto3, Caller, QueryBotocore, Sqs, WireProtocol
from tests.wire.gateway import Gateway, WireClock, running_gateway
from tests.wire.lambda_control import LambdaClient
from tests.wire.lambdas import Functions, Lambda, Served, serving_worker, settings_of
from tests.wire.raw import RawClient

_accounts = itertools.count(100_000_000_001)


@pytest.fixture(scope="session")
def wire_settings() -> Settings:
    """Settings of the gateways: a prefix of their own, and a clock that can be moved."""
    return Settings(prefix=f"wire-{os.getpid()}", test_clock=True)


@pytest.fixture(scope="session")
def gateway(redis_server: EmbeddedRedis, wire_settings: Settings) -> Iterator[Gateway]:
    """The gateway that all tests of this process share."""
    with running_gateway(redis_server.url, wire_settings) as running:
        yield running


@pytest.fixture(scope="session")
def query_botocore() -> Iterator[QueryBotocore]:
    """The process with the older botocore."""
    with QueryBotocore() as process:
        yield process


@pytest.fixture(params=["json", "query"])
def protocol(request: pytest.FixtureRequest) -> WireProtocol:
    """What the test's client speaks; a test that takes it, or `sqs`, runs once with each."""
    spoken: WireProtocol = request.param
    return spoken


@pytest.fixture
def account() -> str:
    """An account that no other test has; without access keys at the gateway its number is an access key for it."""
    return str(next(_accounts))


@pytest.fixture
def connect(gateway: Gateway, request: pytest.FixtureRequest) -> Iterator[Callable[..., Sqs]]:
    """Makes clients: of a protocol and access key, for a region, at another gateway, with another secret."""
    with ExitStack() as stack:

        def make(
            protocol: WireProtocol, key: str, *, region: str = REGION, at: Gateway = gateway, secret: str = SECRET
        ) -> Sqs:
            call: Caller
            if protocol == "json":
                call = stack.enter_context(Boto3(at.url, key, region, secret=secret))
            else:
                process: QueryBotocore = request.getfixturevalue("query_botocore")
                call = process.client(at.url, key, region, secret=secret)
            return Sqs(call, protocol, account=key, endpoint=at.url)

        yield make


@pytest.fixture
def sqs(connect: Callable[..., Sqs], protocol: WireProtocol, account: str, clock: WireClock) -> Sqs:
    """The test's account, as a client sees it, at the real time."""
    return connect(protocol, account)


@pytest.fixture
def json_sqs(connect: Callable[..., Sqs], account: str, clock: WireClock) -> Sqs:
    """The same, only with boto3 of today: for what does not depend on the protocol."""
    return connect("json", account)


@pytest.fixture
def control(gateway: Gateway, account: str, clock: WireClock) -> Iterator[LambdaClient]:
    """Lambda's configuration of the test's account, at the real time."""
    with Boto3(gateway.url, account, service="lambda") as call:
        yield LambdaClient(call, gateway, account)


@pytest.fixture
def clock(gateway: Gateway, account: str) -> Iterator[WireClock]:
    """The clock; at the real time when the test begins and when it has ended."""
    gateway.reset_clock()
    yield WireClock(gateway, account)
    gateway.reset_clock()


# -- Lambda ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def functions() -> Functions:
    """Functions to invoke; a test that takes `work` has them on a live worker."""
    return Functions()


@pytest.fixture
def served(redis_server: EmbeddedRedis, wire_settings: Settings, account: str) -> Served:
    """Runs workers for the test's account."""

    def run(app: App, *, region: str = REGION, **options: Any) -> Any:
        return serving_worker(app, redis_server.url, settings_of(wire_settings, account, region), **options)

    return run


@pytest.fixture
def connect_lambda(gateway: Gateway) -> Iterator[Callable[..., Lambda]]:
    """Makes clients: of an access key, for a region, at another gateway, with another secret."""

    with ExitStack() as stack:

        def make(key: str, *, region: str = REGION, at: Gateway = gateway, **options: Any) -> Lambda:
            call = stack.enter_context(Boto3(at.url, key, region, service="lambda", **options))
            return Lambda(call, key, region)

        yield make


@pytest.fixture
def aws_lambda(connect_lambda: Callable[..., Lambda], account: str) -> Lambda:
    """The test's account."""
    return connect_lambda(account)


@pytest.fixture
def work(served: Served, functions: Functions) -> Iterator[Functions]:
    """The functions, on a live worker."""
    with served(functions.app):
        yield functions
        functions.release.set()


@pytest.fixture
def raw_lambda(gateway: Gateway, account: str) -> RawClient:
    """Requests to Lambda made by hand, as the test's account."""
    return RawClient(gateway.url, account, service="lambda")
