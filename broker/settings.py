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


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for a process: whose resources it sees, and how long a worker's lease lasts."""

    prefix: str = "penstock"
    account: str = DEFAULT_ACCOUNT
    region: str = DEFAULT_REGION
    lease_ms: int = LEASE_MS
    test_clock: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Settings from ``PENSTOCK_PREFIX``, ``_ACCOUNT``, ``_REGION`` and ``_LEASE_MS``. Raises InvalidOption."""
        defaults = cls()
        settings = cls(
            prefix=environment.get("PENSTOCK_PREFIX", defaults.prefix),
            account=environment.get("PENSTOCK_ACCOUNT", defaults.account),
            region=environment.get("PENSTOCK_REGION", defaults.region),
            lease_ms=_milliseconds(environment.get("PENSTOCK_LEASE_MS"), defaults.lease_ms),
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


def _milliseconds(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not re.fullmatch("[0-9]{1,6}", text) or not _MIN_LEASE_MS <= int(text) <= _MAX_LEASE_MS:
        raise InvalidOption("PENSTOCK_LEASE_MS", text, "a whole number of milliseconds from 200 to 600000")
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
