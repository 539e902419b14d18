"""Lambda's context object: attributes and methods of the Python runtime, plus ours."""

from __future__ import annotations

import time
from typing import Any

import pytest

from broker.ids import message_id
from runtime import Context
from runtime.context import ClientContext

ARN = "arn:aws:lambda:us-east-1:000000000000:function:thumbnail"


def context(**options: Any) -> Context:
    values: dict[str, Any] = {
        "identity": "an-id",
        "function_name": "thumbnail",
        "invoked_function_arn": ARN,
        "log_stream_name": "2026/01/02/[$LATEST]abc",
        "deadline": time.monotonic() + 10,
    }
    return Context(**{**values, **options})


def test_it_has_lambdas_attributes() -> None:
    made = context()
    assert made.aws_request_id == "an-id"
    assert made.function_name == "thumbnail"
    assert made.function_version == "$LATEST"
    assert made.invoked_function_arn == ARN
    assert made.memory_limit_in_mb == "128"  # text in Lambda, too
    assert made.log_group_name == "/aws/lambda/thumbnail"
    assert made.log_stream_name == "2026/01/02/[$LATEST]abc"
    assert made.client_context is None
    assert made.tenant_id is None
    assert made.identity.cognito_identity_id is None
    assert made.identity.cognito_identity_pool_id is None


def test_it_tells_the_attempt_and_the_fencing_token() -> None:
    assert (context().attempt, context().fencing_token) == (1, 0)
    made = context(attempt=3, fencing_token=17)
    assert (made.attempt, made.fencing_token) == (3, 17)


def test_the_id_of_an_entry_is_spelled_out_when_asked_for() -> None:
    made = context(identity=("1700000000000-0", 7))
    assert made.aws_request_id == message_id("1700000000000-0", 7)
    assert made.aws_request_id == made.aws_request_id


def test_the_remaining_time_is_whole_milliseconds_and_never_below_zero() -> None:
    left_ms = context().get_remaining_time_in_millis()
    assert isinstance(left_ms, int)
    assert 9_000 < left_ms <= 10_000
    assert context(deadline=time.monotonic() - 5).get_remaining_time_in_millis() == 0


def test_the_client_context_is_lambdas_object() -> None:
    made = context(client_context=ClientContext({"client": {"app_title": "shop"}, "custom": {"a": 1}})).client_context
    assert isinstance(made, ClientContext)
    assert (made.custom, made.env) == ({"a": 1}, None)
    assert made.client is not None
    assert (made.client.app_title, made.client.installation_id) == ("shop", None)
    assert ClientContext({"client": "text"}).client is None


def test_log_writes_unformatted_text(capsys: pytest.CaptureFixture[str]) -> None:
    context().log("plain")
    context().log({"a": 1})
    assert capsys.readouterr().out == "plain{'a': 1}"
