"""What the options of an existing handler make of its function."""

from __future__ import annotations

import pytest

from broker.errors import InvalidOption
from broker.records import FunctionSettings
from runtime.cli.handler_options import HandlerOptions
from runtime.lambda_handler import LambdaHandler


def settings_of(options: HandlerOptions) -> FunctionSettings:
    source = options.source(None)
    assert isinstance(source, LambdaHandler)
    return source.settings


def test_what_is_not_said_is_as_in_an_app() -> None:
    assert settings_of(HandlerOptions(handler="orders.handler", function="orders")) == FunctionSettings()


def test_every_setting_of_a_function_can_be_said() -> None:
    given = HandlerOptions(
        handler="orders.handler", function="orders", timeout=5, retries=1, max_event_age=90, concurrency=4,
        keep_status=60, keep_result=1_000,
    )  # fmt: skip
    assert settings_of(given) == FunctionSettings(
        timeout_s=5, retries=1, max_event_age_s=90, concurrency=4, keep_status_s=60, keep_result_bytes=1_000
    )


def test_they_go_without_an_app() -> None:
    with pytest.raises(InvalidOption, match="--keep-result=5: goes with --handler"):
        HandlerOptions(keep_result=5).source("app:app")
