"""Code declares, the API may change: which wins, setting by setting."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from broker.declarations import Change, changed_by_api, declared_anew, held, overruled
from broker.records import FunctionSettings, MappingSettings


def after_api(declaration: FunctionSettings, **changes: Any) -> FunctionSettings:
    return changed_by_api(declaration, msgspec.structs.replace(declaration, **changes))


@pytest.mark.parametrize(
    ("declared", "by_api", "declared_then", "in_force"),
    [
        ({}, {}, {}, {}),
        ({}, {}, {"retries": 1}, {"retries": 1}),
        ({}, {"retries": 5}, {}, {"retries": 5}),
        ({}, {"retries": 5}, {"timeout_s": 9}, {"retries": 5, "timeout_s": 9}),
        ({}, {"retries": 5}, {"retries": 1}, {"retries": 1}),
        ({}, {"retries": 5}, {"retries": 5}, {"retries": 5}),
        ({"retries": 1}, {"retries": 5}, {"retries": 1}, {"retries": 5}),
        ({"retries": 1}, {"retries": 5}, {}, {}),
        ({"concurrency": 3}, {"concurrency": None}, {"concurrency": 3}, {}),
        ({}, {"retries": 5, "timeout_s": 8}, {"retries": 1}, {"retries": 1, "timeout_s": 8}),
    ],
)
def test_what_the_api_changed_holds_until_the_code_declares_something_else(
    declared: dict[str, Any], by_api: dict[str, Any], declared_then: dict[str, Any], in_force: dict[str, Any]
) -> None:
    stored = after_api(FunctionSettings(**declared), **by_api)
    after = declared_anew(stored, FunctionSettings(**declared_then))
    assert msgspec.structs.replace(after, declared=None) == FunctionSettings(**in_force)


def test_nothing_is_kept_beside_settings_that_are_the_codes() -> None:
    stored = after_api(FunctionSettings(), retries=5)
    assert stored.declared == FunctionSettings()
    back = changed_by_api(stored, msgspec.structs.replace(stored, retries=2))
    assert back == FunctionSettings()
    assert declared_anew(stored, FunctionSettings(retries=1)).declared is None


def test_a_second_change_leaves_what_the_code_said() -> None:
    stored = after_api(FunctionSettings(retries=1), retries=5)
    again = changed_by_api(stored, msgspec.structs.replace(stored, retries=6))
    assert again.declared == FunctionSettings(retries=1)
    assert held(again) == [Change("retries", 1, 6)]


def test_what_does_not_go_together_any_more_is_all_as_the_code_says() -> None:
    stored = after_api(FunctionSettings(retries=0, retry_delays_s=(1,)), retries=2)
    declaration = FunctionSettings(retries=0, retry_delays_s=())
    assert declared_anew(stored, declaration) == declaration


def test_what_is_taken_back_from_the_api_is_told_apart() -> None:
    stored = after_api(FunctionSettings(), retries=5)
    after = declared_anew(stored, FunctionSettings(retries=1, timeout_s=9))
    assert overruled(stored, after) == [Change("timeout_s", 3.0, 9), Change("retries", 5, 1, over_api=True)]


def test_a_mapping_that_nobody_declared_goes_on_however_it_was_changed() -> None:
    declaration = MappingSettings(queue="q", function="f")
    stored = changed_by_api(declaration, msgspec.structs.replace(declaration, batch_size=5))
    resting = msgspec.structs.replace(stored, undeclared=True)
    after = declared_anew(resting, declaration)
    assert (after.undeclared, after.batch_size) == (False, 5)
