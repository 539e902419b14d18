"""Settings that every process shares, and where Redis is found."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from broker.dev_directory import running_dev_url
from broker.errors import InvalidOption
from broker.limits import LEASE_MS

DEFAULT_URL: Final = "redis://localhost:6379"
DEFAULT_ACCOUNT: Final = "000000000000"
DEFAULT_REGION: Final = "us-east-1"
_MIN_LEASE_MS: Final = 200
_MAX_LEASE_MS: Final = 600_000
_CONFIRM_MS: Final = (50, 8_000)  # less than a command may take
_MS: Final = "milliseconds"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for a process: whose resources it sees, and how long a worker's lease lasts."""

    prefix: str = "penstock"
    account: str = DEFAULT_ACCOUNT
    region: str = DEFAULT_REGION
    lease_ms: int = LEASE_MS
    full_at_percent: int = 90
    """Of Redis's maxmemory: from there on producers have to wait; 100 leaves that to Redis."""
    confirm_ms: int = 2_000
    """How long a write waits for the replicas that its resource requires."""
    test_clock: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Settings from ``PENSTOCK_PREFIX``, ``_ACCOUNT``, ``_REGION``, ``_LEASE_MS``, ``_FULL_AT`` and
        ``_CONFIRM_MS``. Raises InvalidOption."""
        defaults = cls()
        settings = cls(
            prefix=environment.get("PENSTOCK_PREFIX", defaults.prefix),
            account=environment.get("PENSTOCK_ACCOUNT", defaults.account),
            region=environment.get("PENSTOCK_REGION", defaults.region),
            lease_ms=_whole(environment, "PENSTOCK_LEASE_MS", defaults.lease_ms, (_MIN_LEASE_MS, _MAX_LEASE_MS), _MS),
            full_at_percent=_whole(environment, "PENSTOCK_FULL_AT", defaults.full_at_percent, (1, 100), "percent"),
            confirm_ms=_whole(environment, "PENSTOCK_CONFIRM_MS", defaults.confirm_ms, _CONFIRM_MS, _MS),
            test_clock=environment.get("PENSTOCK_TEST_CLOCK") == "1",
        )
        for option, value, pattern, rule in (
            ("PENSTOCK_PREFIX", settings.prefix, r"[A-Za-z0-9_.-]{1,64}", "1 to 64 of letters, digits, -, _ and ."),
            ("PENSTOCK_ACCOUNT", settings.account, "[0-9]{12}", "twelve digits"),
            ("PENSTOCK_REGION", settings.region, r"[a-z0-9-]{1,32}", "1 to 32 of small letters, digits and -"),
        ):
            if not re.fullmatch(pattern, value):
                raise InvalidOption(option, value, rule)
        return settings


def _whole(environment: Mapping[str, str], option: str, default: int, bounds: tuple[int, int], unit: str) -> int:
    text = environment.get(option)
    if text is None:
        return default
    low, high = bounds
    if not re.fullmatch("[0-9]{1,6}", text) or not low <= int(text) <= high:
        raise InvalidOption(option, text, f"a whole number of {unit} from {low} to {high}")
    return int(text)


class Address(msgspec.Struct, frozen=True):
    """The URL of a Redis and why that one is used, for messages about failed connections."""

    url: str
    chosen_by: str


def find_redis(url: str | None, *, folder: Path | None = None, environment: Mapping[str, str] = os.environ) -> Address:
    """The URL given; else ``PENSTOCK_REDIS_URL``, the running ``penstock dev`` here or in a parent, localhost."""
    if url is not None:
        return Address(url, "the URL given")
    if from_environment := environment.get("PENSTOCK_REDIS_URL"):
        return Address(from_environment, "from PENSTOCK_REDIS_URL")
    if dev_url := running_dev_url(folder or Path.cwd()):
        return Address(dev_url, "the running `penstock dev` of this folder")
    return Address(DEFAULT_URL, "the default; set PENSTOCK_REDIS_URL, or start `penstock dev`")
