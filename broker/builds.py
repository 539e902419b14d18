"""Versions and aliases of functions as data. Pure.

A *build* is what a worker's code is called. A *version* is a build with the settings that its function had when it was
published; an *alias* names a version, and perhaps a second one that gets a share of the calls.

Each of them that can hold events is a function of its own in the store, named ``orders:3`` or ``orders:live``, in the
slot of the function and with its permits; an alias has two, as each event is given to one of its two versions when it
is accepted: ``orders:live`` for the first, ``orders:live+`` for the second. Which version serves them may change while
events wait there. Their settings are made from what stands here and from the function's; but only the function's own
events are split into partitions.
"""

from __future__ import annotations

import base64
import hashlib
import math
import random
import re
from collections.abc import Iterator
from typing import Final
from zlib import crc32

import msgspec

from broker import limits
from broker.errors import InvalidName, InvalidOption
from broker.names import LATEST, SPARE, Target
from broker.records import FunctionSettings, InvokeConfig

BUILD_PATTERN: Final = re.compile(r"[A-Za-z0-9._+-]{1,128}")
ALIAS_PATTERN: Final = re.compile(r"(?!^[0-9]+$)([a-zA-Z0-9-_]+)")
_MAX_ALIAS: Final = 128
_OF_CONFIGURATION: Final = ("timeout_s", "memory_mb", "environment", "description")
"""What a version takes as it is in force; all else as its code declares it."""
_OF_FUNCTION: Final = ("concurrency", "dead_letter")
"""What all versions share with their function, as it is at the moment."""


def check_build(build: str) -> str:
    """The build's name itself. Raises InvalidOption."""
    if build and not BUILD_PATTERN.fullmatch(build):
        raise InvalidOption("build", build, "1 to 128 of letters, digits, ., _, + and -")
    return build


def check_alias(name: str) -> str:
    """The alias's name itself. Raises InvalidName."""
    if not ALIAS_PATTERN.fullmatch(name) or len(name) > _MAX_ALIAS:
        raise InvalidName("alias", name, f"1 to {_MAX_ALIAS} of letters, digits, - and _, not digits alone")
    return name


class InvokeOverlay(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was said through the API of the asynchronous calls of one version or alias: all of it, in place of the
    code's."""

    retries: int = limits.DEFAULT_RETRIES
    max_event_age_s: float = limits.DEFAULT_MAX_EVENT_AGE_S
    on_success: Target | None = None
    on_failure: Target | None = None
    config: InvokeConfig = InvokeConfig()


class Version(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A numbered version: what was registered when it was published. Only its overlay changes."""

    number: int
    build: str
    settings: FunctionSettings
    published_ms: int = 0
    invoke: InvokeOverlay | None = None

    @property
    def qualifier(self) -> str:
        """Its number as clients write it."""
        return str(self.number)


class Alias(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A name for a version, and the share of another one."""

    name: str
    version: str
    weights: dict[str, float] = {}
    """Lambda's AdditionalVersionWeights: none, or one version and its share of the calls."""
    description: str = ""
    revision: str = ""
    split: bool = False
    """It has, or has once had, a second version: events may wait for that."""
    invoke: InvokeOverlay | None = None

    def version_of(self, *, spare: bool) -> str:
        """The version of its first, or its spare, events."""
        return next(iter(self.weights), self.version) if spare else self.version

    def takes_spare(self, own_id: str | None = None) -> bool:
        """Whether this call is of the second version's share: by chance, or, that a repetition goes the same way, by
        its id."""
        share = next(iter(self.weights.values()), 0.0)
        if not share:
            return False
        return (random.random() if own_id is None else crc32(own_id.encode()) / 2**32) < share


class Catalogue(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All versions and aliases of one function."""

    last: int = 0
    """The highest number given so far, also to what was deleted."""
    versions: dict[str, Version] = {}
    aliases: dict[str, Alias] = {}

    def newest_of(self, build: str) -> int:
        """The number of the newest version that is this build; 0 where none is."""
        return max((version.number for version in self.versions.values() if version.build == build), default=0)

    def build_of(self, version: str, latest: str) -> str | None:
        """The build of a version, or ``latest``; None where there is no such version."""
        if version == LATEST:
            return latest
        found = self.versions.get(version)
        return None if found is None else found.build

    def users_of(self, version: str) -> list[str]:
        """The aliases that name a version, sorted."""
        return sorted(
            alias.name for alias in self.aliases.values() if version == alias.version or version in alias.weights
        )

    def served(self) -> Iterator[tuple[str, str]]:
        """What holds events beside the function itself: its qualifier in the store, and the version that serves it."""
        for number in self.versions:
            yield number, number
        for alias in self.aliases.values():
            yield alias.name, alias.version
            if alias.split:
                yield alias.name + SPARE, alias.version_of(spare=True)

    def settings_of(self, qualifier: str, function: FunctionSettings) -> FunctionSettings:
        """The settings under which what waits at a qualifier of :meth:`served` runs."""
        alias = self.aliases.get(qualifier.removesuffix(SPARE))
        if alias is None:
            version = self.versions[qualifier]
            return _overlaid(_of_version(version, function), version.invoke)
        number = alias.version_of(spare=qualifier.endswith(SPARE))
        found = self.versions.get(number)
        settings = _plain(function) if found is None else _of_version(found, function)
        return _overlaid(settings, alias.invoke)


def published(settings: FunctionSettings, number: int, *, description: str | None, now_ms: int) -> Version:
    """The version that a function's settings make."""
    code = settings if settings.declared is None else settings.declared
    taken = {name: getattr(settings, name) for name in (*_OF_CONFIGURATION, *_OF_FUNCTION)}
    if description is not None:
        taken["description"] = description
    kept = msgspec.structs.replace(_plain(code), **taken, version=str(number))
    return Version(number=number, build=settings.build, settings=kept, published_ms=now_ms)


def same_but_number(one: Version, other: Version) -> bool:
    """Whether two versions differ in nothing but number, time and description."""
    blank = {"version": "", "description": "", "concurrency": None, "dead_letter": None}
    return one.build == other.build and (
        msgspec.structs.replace(one.settings, **blank) == msgspec.structs.replace(other.settings, **blank)
    )


def code_digest(build: str) -> str:
    """What stands for Lambda's CodeSha256: of the build's name, as the code itself is not here. '' without one."""
    return base64.b64encode(hashlib.sha256(build.encode()).digest()).decode() if build else ""


def function_fields(settings: FunctionSettings) -> dict[str, str]:
    """The settings that the scripts read."""
    return {
        "limit": "" if settings.concurrency is None else str(settings.concurrency),
        "paused": "1" if settings.paused else "",
        "max_crashes": str(settings.max_crashes),
        "durability": settings.durability,
        "keep_ms": str(math.ceil(settings.keep_status_s * 1000)) if settings.keep_status_s else "",
    }


def _of_version(version: Version, function: FunctionSettings) -> FunctionSettings:
    return msgspec.structs.replace(version.settings, **{name: getattr(function, name) for name in _OF_FUNCTION})


def _plain(settings: FunctionSettings) -> FunctionSettings:
    """Without what belongs to the function alone."""
    return msgspec.structs.replace(settings, declared=None, tags={}, invoke_config=None, partitions=1)


def _overlaid(settings: FunctionSettings, overlay: InvokeOverlay | None) -> FunctionSettings:
    if overlay is None:
        return settings
    delays = settings.retry_delays_s or (limits.DEFAULT_RETRY_DELAYS_S if overlay.retries else ())
    return msgspec.structs.replace(
        settings,
        retries=overlay.retries,
        retry_delays_s=delays,
        max_event_age_s=overlay.max_event_age_s,
        on_success=overlay.on_success,
        on_failure=overlay.on_failure,
        invoke_config=overlay.config,
    )
