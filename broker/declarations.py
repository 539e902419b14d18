"""Code declares, the API may change: which of the two wins, setting by setting.

What the API has changed holds until the code declares something else for that very setting. For this what the code said
last is kept beside the settings in force, as ``declared``, for as long as the two differ.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from broker.errors import InvalidOption
from broker.records import FunctionSettings, MappingSettings

S = TypeVar("S", FunctionSettings, MappingSettings)

_OWN: Final = frozenset({"declared", "uuid", "origin", "modified_ms", "undeclared"})
"""What no code declares and nobody sets: left out of every comparison."""


class Change(msgspec.Struct, frozen=True):
    """One setting that differs."""

    setting: str
    before: object
    after: object
    over_api: bool = False
    """What was there before had been set through the API."""


def declared_anew(stored: S, declaration: S) -> S:
    """The settings in force after code has declared its own: what it declares as before stays as the API has set it.

    Where the two do not go together (retries of the API's, and no delays for them any more), all is as the code says.
    """
    kept = {
        change.setting: change.after for change in held(stored) if getattr(declaration, change.setting) == change.before
    }
    try:
        return _beside(declaration, msgspec.structs.replace(declaration, **kept))
    except InvalidOption:
        return declaration


def changed_by_api(stored: S, settings: S) -> S:
    """The settings in force after the API has made ``settings`` of the ``stored`` ones, which code declares."""
    return _beside(stored if stored.declared is None else stored.declared, settings)


def held(settings: S) -> list[Change]:
    """Where the API's word holds against the code's: the code's before, the one in force after."""
    return [] if settings.declared is None else differences(settings.declared, settings)


def differences(before: S, after: S) -> list[Change]:
    """The settings in which two of one type differ."""
    pairs = [(name, getattr(before, name), getattr(after, name)) for name in after.__struct_fields__]
    return [Change(name, was, now) for name, was, now in pairs if name not in _OWN and was != now]


def overruled(stored: S, after: S) -> list[Change]:
    """What differs, and whether that takes back something that the API had set."""
    from_api = {change.setting for change in held(stored)}
    return [
        msgspec.structs.replace(change, over_api=change.setting in from_api) for change in differences(stored, after)
    ]


def _beside(declaration: S, settings: S) -> S:
    kept: Any = msgspec.structs.replace(declaration, declared=None) if differences(declaration, settings) else None
    return msgspec.structs.replace(settings, declared=kept)
