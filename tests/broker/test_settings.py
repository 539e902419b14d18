"""Where Redis is found, and what a process takes from its environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.dev_directory import DevDirectory
from broker.errors import InvalidOption
from broker.settings import DEFAULT_URL, Settings, find_redis

EVERYWHERE = {"PENSTOCK_REDIS_URL": "redis://from-environment:1"}


def test_the_url_given_goes_before_everything(tmp_path: Path) -> None:
    with DevDirectory(tmp_path) as dev:
        dev.publish("unix:///dev.sock")
        found = find_redis("redis://given:1", folder=tmp_path, environment=EVERYWHERE)
    assert (found.url, found.chosen_by) == ("redis://given:1", "the URL given")


def test_the_environment_goes_before_a_running_dev(tmp_path: Path) -> None:
    with DevDirectory(tmp_path) as dev:
        dev.publish("unix:///dev.sock")
        found = find_redis(None, folder=tmp_path, environment=EVERYWHERE)
    assert (found.url, found.chosen_by) == ("redis://from-environment:1", "from PENSTOCK_REDIS_URL")


@pytest.mark.parametrize("below", [".", "src", "src/deep/er"])
def test_the_running_dev_of_the_folder_or_a_parent_goes_before_the_default(tmp_path: Path, below: str) -> None:
    folder = tmp_path / below
    folder.mkdir(parents=True, exist_ok=True)
    with DevDirectory(tmp_path) as dev:
        dev.publish("unix:///dev.sock")
        found = find_redis(None, folder=folder, environment={})
    assert (found.url, found.chosen_by) == ("unix:///dev.sock", "the running `penstock dev` of this folder")


def test_a_dev_that_has_ended_counts_as_nothing(tmp_path: Path) -> None:
    with DevDirectory(tmp_path) as dev:
        dev.publish("unix:///dev.sock")
    found = find_redis(None, folder=tmp_path, environment={"PENSTOCK_REDIS_URL": ""})
    assert (found.url, found.chosen_by) == (DEFAULT_URL, "the default; set PENSTOCK_REDIS_URL, or start `penstock dev`")


def test_the_folder_is_the_current_one_unless_said_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with DevDirectory(tmp_path) as dev:
        dev.publish("unix:///dev.sock")
        assert find_redis(None, environment={}).url == "unix:///dev.sock"


def test_settings_have_defaults_and_are_read_from_the_environment() -> None:
    assert Settings.from_environment({}) == Settings()
    environment = {
        "PENSTOCK_PREFIX": "shop",
        "PENSTOCK_ACCOUNT": "123456789012",
        "PENSTOCK_REGION": "eu-central-1",
        "PENSTOCK_LEASE_MS": "5000",
    }
    assert Settings.from_environment(environment) == Settings(
        prefix="shop", account="123456789012", region="eu-central-1", lease_ms=5000
    )


@pytest.mark.parametrize(
    ("variable", "value", "rule"),
    [
        ("PENSTOCK_PREFIX", "a b", "1 to 64 of letters"),
        ("PENSTOCK_PREFIX", "", "1 to 64 of letters"),
        ("PENSTOCK_PREFIX", "a{b}", "1 to 64 of letters"),
        ("PENSTOCK_ACCOUNT", "12", "twelve digits"),
        ("PENSTOCK_ACCOUNT", "12345678901a", "twelve digits"),
        ("PENSTOCK_REGION", "US", "small letters"),
        ("PENSTOCK_LEASE_MS", "20s", "whole number of milliseconds from 200 to 600000"),
        ("PENSTOCK_LEASE_MS", "199", "whole number of milliseconds from 200 to 600000"),
        ("PENSTOCK_LEASE_MS", "600001", "whole number of milliseconds from 200 to 600000"),
        ("PENSTOCK_LEASE_MS", "²00", "whole number of milliseconds from 200 to 600000"),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_variable(variable: str, value: str, rule: str) -> None:
    with pytest.raises(InvalidOption, match=rule) as caught:
        Settings.from_environment({variable: value})
    assert (caught.value.option, caught.value.value) == (variable, value)
