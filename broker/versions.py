"""Versions and aliases of functions: publishing, changing and deleting them, and which of them a call goes to.

The catalogue of a function is the truth; what holds events is made after it by :func:`align`, which may run any number
of times. Everything here raises FunctionNotFound, VersionNotFound and the StoreError family.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Container, Mapping
from typing import Final
from uuid import uuid4

import msgspec

from broker.builds import Alias, Catalogue, InvokeOverlay, Version, function_fields, published, same_but_number
from broker.compare_and_set import CHANGE_ATTEMPTS, compare_and_set
from broker.core import Core
from broker.errors import (
    AliasExists,
    BuildNotNamed,
    FunctionNotFound,
    InvalidOption,
    ResourceBusy,
    RevisionChanged,
    VersionInUse,
    VersionNotFound,
)
from broker.names import LATEST, SPARE, Resource, Route, split_function
from broker.records import FunctionSettings, check_range
from broker.store.directory import Described
from broker.workers import live_workers

_HEARD_S: Final = 1.0
_LOOK_S: Final = 0.02
EMPTY: Final = Catalogue()


# -- looking ----------------------------------------------------------------------------------------------------------


async def read_catalogue(core: Core, function: str) -> Catalogue:
    """The versions and aliases of a function, without a look at whether there is one."""
    stored = await core.directory.catalogue(function)
    return EMPTY if stored is None else _decoded(stored)


async def read_catalogues(core: Core, functions: Container[str]) -> dict[str, Catalogue]:
    """Those of the functions named that have any; the others' are not looked at."""
    found = await core.directory.catalogues()
    return {name: _decoded(stored) for name, stored in found.items() if name in functions}


async def route_call(core: Core, name: str) -> Route:
    """Which version a synchronous call of ``function`` or ``function:qualifier`` goes to, chosen anew each time."""
    function, qualifier = split_function(name)
    if qualifier in {"", LATEST}:
        return Route(function, qualifier)
    catalogue = await read_catalogue(core, function)
    alias = catalogue.aliases.get(qualifier)
    if alias is not None:
        version = alias.version_of(spare=alias.takes_spare())
        return Route(function if version == LATEST else f"{function}:{version}", qualifier)
    if qualifier not in catalogue.versions:
        raise await _missing(core, function, qualifier)
    return Route(name, qualifier)


async def route_events(core: Core, name: str) -> Callable[[str | None], Resource]:
    """Where events for ``function`` or ``function:qualifier`` wait, each by its caller's own id: one for an alias runs
    as the version that the alias names by then."""
    function, qualifier = split_function(name)
    alias = None
    if qualifier not in {"", LATEST}:
        function = name
        catalogue = await read_catalogue(core, name.partition(":")[0])
        alias = catalogue.aliases.get(qualifier)
        if alias is None and qualifier not in catalogue.versions:
            raise await _missing(core, name.partition(":")[0], qualifier)
    first, spare = core.resource("function", function), core.resource("function", f"{function}{SPARE}")
    return lambda own_id: spare if alias is not None and alias.takes_spare(own_id) else first


async def _missing(core: Core, function: str, qualifier: str) -> FunctionNotFound | VersionNotFound:
    if await core.directory.describe(core.resource("function", function)) is None:
        return FunctionNotFound(function)
    return VersionNotFound(f"{function}:{qualifier}")


# -- changing ---------------------------------------------------------------------------------------------------------


async def publish_version(core: Core, function: str, *, description: str | None = None) -> Version:
    """Makes a version of what is registered now, or answers the newest one where nothing has changed since.

    Raises BuildNotNamed where the workers do not say what their build is called.
    """
    settings = _settings(await _described(core, function))
    if not settings.build:
        raise BuildNotNamed(function)
    now_ms = await core.messages.now_ms()

    def add(catalogue: Catalogue) -> Catalogue:
        made = published(settings, catalogue.last + 1, description=description, now_ms=now_ms)
        newest = catalogue.versions.get(str(catalogue.last))
        if newest is not None and same_but_number(newest, made):
            return catalogue
        versions = {**catalogue.versions, made.qualifier: made}
        return msgspec.structs.replace(catalogue, last=made.number, versions=versions)

    after = await _change(core, function, add)
    return after.versions[str(after.last)]


async def create_alias(
    core: Core,
    function: str,
    name: str,
    version: str,
    *,
    weights: Mapping[str, float] | None = None,
    description: str = "",
) -> Alias:
    """Gives a version a name. Raises AliasExists, and InvalidOption for weights that cannot be."""
    await _described(core, function)

    def add(catalogue: Catalogue) -> Catalogue:
        if name in catalogue.aliases:
            raise AliasExists(f"{function}:{name}")
        return _with(catalogue, function, Alias(name=name, version=version), weights=weights, description=description)

    return (await _change(core, function, add)).aliases[name]


async def update_alias(
    core: Core,
    function: str,
    name: str,
    *,
    version: str | None = None,
    weights: Mapping[str, float] | None = None,
    description: str | None = None,
    revision: str | None = None,
) -> Alias:
    """Changes what is given; empty ``weights`` take the second version away. Events that wait for the alias run as the
    version that it names from now on. Raises RevisionChanged where ``revision`` is not the newest, InvalidOption."""

    def change(catalogue: Catalogue) -> Catalogue:
        alias = catalogue.aliases.get(name)
        if alias is None:
            raise VersionNotFound(f"{function}:{name}")
        if revision and revision != alias.revision:
            raise RevisionChanged(f"{function}:{name}")
        named = alias if version is None else msgspec.structs.replace(alias, version=version)
        return _with(catalogue, function, named, weights=weights, description=description)

    await _described(core, function)
    return (await _change(core, function, change)).aliases[name]


def _with(
    catalogue: Catalogue,
    function: str,
    alias: Alias,
    *,
    weights: Mapping[str, float] | None,
    description: str | None,
) -> Catalogue:
    """The catalogue with an alias as it is to be."""
    shares = alias.weights if weights is None else dict(weights)
    for version in (alias.version, *shares):
        if version != LATEST and version not in catalogue.versions:
            raise VersionNotFound(f"{function}:{version}")
    _check_weights(alias.version, shares)
    after = msgspec.structs.replace(
        alias,
        weights=shares,
        split=alias.split or bool(shares),
        description=alias.description if description is None else description,
        revision=str(uuid4()),
    )
    return msgspec.structs.replace(catalogue, aliases={**catalogue.aliases, alias.name: after})


def _check_weights(version: str, weights: Mapping[str, float]) -> None:
    if len(weights) > 1:
        raise InvalidOption("weights", dict(weights), "at most one more version")
    for other, share in weights.items():
        if LATEST in {version, other}:
            raise InvalidOption("weights", dict(weights), "an alias of $LATEST has no second version")
        if other == version:
            raise InvalidOption("weights", dict(weights), f"version {version} is what the alias names already")
        check_range(f"weights[{other!r}]", share, 0, 1)


async def set_overlay(core: Core, function: str, qualifier: str, overlay: InvokeOverlay | None) -> None:
    """Says how asynchronous calls of a version or alias are run; None: as its code declares."""

    def change(catalogue: Catalogue) -> Catalogue:
        alias, version = catalogue.aliases.get(qualifier), catalogue.versions.get(qualifier)
        if alias is not None:
            changed = msgspec.structs.replace(alias, invoke=overlay)
            return msgspec.structs.replace(catalogue, aliases={**catalogue.aliases, qualifier: changed})
        if version is None:
            raise VersionNotFound(f"{function}:{qualifier}")
        renewed = msgspec.structs.replace(version, invoke=overlay)
        return msgspec.structs.replace(catalogue, versions={**catalogue.versions, qualifier: renewed})

    await _change(core, function, change)


async def delete_version(core: Core, function: str, version: str, *, force: bool = False) -> None:
    """Removes a version. Raises VersionInUse, and ResourceBusy where events wait for it, unless forced."""

    def without(catalogue: Catalogue) -> Catalogue:
        if users := catalogue.users_of(version):
            raise VersionInUse(f"{function}:{version}", users)
        if version not in catalogue.versions:
            raise VersionNotFound(f"{function}:{version}")
        kept = {number: each for number, each in catalogue.versions.items() if number != version}
        return msgspec.structs.replace(catalogue, versions=kept)

    before = await read_catalogue(core, function)
    without(before)

    def back(catalogue: Catalogue) -> Catalogue:
        return msgspec.structs.replace(catalogue, versions={version: before.versions[version], **catalogue.versions})

    await _drop(core, function, [version], without, back, force=force)


async def delete_alias(core: Core, function: str, name: str, *, force: bool = False) -> None:
    """Removes an alias. Raises ResourceBusy where events wait for it, unless forced."""
    before = await read_catalogue(core, function)
    if name not in before.aliases:
        raise VersionNotFound(f"{function}:{name}")

    def without(catalogue: Catalogue) -> Catalogue:
        kept = {each: alias for each, alias in catalogue.aliases.items() if each != name}
        return msgspec.structs.replace(catalogue, aliases=kept)

    def back(catalogue: Catalogue) -> Catalogue:
        return msgspec.structs.replace(catalogue, aliases={name: before.aliases[name], **catalogue.aliases})

    await _drop(core, function, [name, name + SPARE], without, back, force=force)


async def forget_versions(core: Core, function: str, *, force: bool) -> None:
    """Removes all versions and aliases of a function. Raises ResourceBusy where events wait for one, unless forced."""
    catalogue = await read_catalogue(core, function)
    if catalogue != EMPTY:
        qualifiers = [qualifier for qualifier, _ in catalogue.served()]
        await _remove(core, function, qualifiers, force=force)
        await core.directory.drop_catalogue(function)
        try:
            await _remove(core, function, qualifiers, force=force)  # an alignment may have come between the two
        except ResourceBusy:
            await core.directory.put_catalogue(function, msgspec.json.encode(catalogue), instead_of=None)
            raise
        await core.directory.tell_of_versions(function)


async def _drop(
    core: Core,
    function: str,
    qualifiers: list[str],
    without: Callable[[Catalogue], Catalogue],
    back: Callable[[Catalogue], Catalogue],
    *,
    force: bool,
) -> None:
    """Removes what holds events, then what the catalogue says, then again what an alignment has made between the two.
    What has got events there stays, and in the catalogue."""
    await _remove(core, function, qualifiers, force=force)
    try:
        await _change(core, function, without)
    except (VersionInUse, VersionNotFound):
        await align(core, function)  # it stays, or stays away
        raise
    if await _serves(core, function, qualifiers):  # somebody has made it anew
        return
    try:
        await _remove(core, function, qualifiers, force=force)
    except ResourceBusy:
        await _change(core, function, back)
        raise
    if await _serves(core, function, qualifiers):
        await align(core, function)


async def _serves(core: Core, function: str, qualifiers: Collection[str]) -> bool:
    catalogue = await read_catalogue(core, function)
    return any(qualifier in qualifiers for qualifier, _ in catalogue.served())


async def _remove(core: Core, function: str, qualifiers: list[str], *, force: bool) -> None:
    resources = [core.resource("function", f"{function}:{qualifier}") for qualifier in qualifiers]
    for resource in resources if not force else ():
        counts = await core.messages.counts(resource)
        if counts is not None and (held := counts.total + counts.outbox):
            raise ResourceBusy("function", resource.name, held)
    for resource in resources:
        status, held = await core.directory.delete(resource, force=force)
        if status == "busy":
            await align(core, function)  # another one may be gone already
            raise ResourceBusy("function", resource.name, held)


async def _change(core: Core, function: str, change: Callable[[Catalogue], Catalogue]) -> Catalogue:
    """Compare and set, then what holds events is made to agree, and workers hear of it."""

    async def attempt() -> Catalogue | None:
        stored = await core.directory.catalogue(function)
        after = change(EMPTY if stored is None else _decoded(stored))
        put = await core.directory.put_catalogue(function, msgspec.json.encode(after), instead_of=stored)
        return after if put else None

    after = await compare_and_set(f'the versions of function "{function}"', attempt)
    await align(core, function)
    await _heard(core, function, after)
    return after


async def _heard(core: Core, function: str, catalogue: Catalogue) -> None:
    """Returns when live workers serve what their builds are behind, so that who calls it next is served; at the latest
    after a second, as one of them may be dead."""
    deadline = time.monotonic() + _HEARD_S
    served = {f"{function}:{qualifier}": catalogue.build_of(version, "") for qualifier, version in catalogue.served()}
    while time.monotonic() < deadline:
        live = [
            (worker.build, {name for name in worker.functions if name.startswith(f"{function}:")})
            for worker in await live_workers(core)
            if not worker.alone and any(name.partition(":")[0] == function for name in worker.functions)
        ]
        if all(names >= {name for name, build in served.items() if build == own} for own, names in live if own):
            return
        await asyncio.sleep(_LOOK_S)


# -- what holds events ------------------------------------------------------------------------------------------------


async def align(core: Core, function: str) -> None:
    """Makes what holds the events of versions and aliases agree with the catalogue and the function's settings."""
    resource = core.resource("function", function)
    made: set[str] = set()
    for _ in range(CHANGE_ATTEMPTS):
        stored, described = await core.directory.catalogue(function), await core.directory.describe(resource)
        catalogue = EMPTY if stored is None or described is None else _decoded(stored)
        if stray := made - {qualifier for qualifier, _ in catalogue.served()}:
            # They were deleted before they were made here. What has got events meanwhile stays.
            for qualifier in stray:
                await core.directory.delete(core.resource("function", f"{function}:{qualifier}"), force=False)
            made -= stray
            continue  # one of them may be wanted again by now
        if stored is None or described is None:
            return
        made |= await _align(core, function, catalogue, described)
        again = await core.directory.describe(resource)
        if await core.directory.catalogue(function) == stored and _standing(again) == _standing(described):
            break  # else somebody has changed them meanwhile, whose look may have come before our writing
    await core.directory.tell_of_versions(function)


async def _align(core: Core, function: str, catalogue: Catalogue, described: Described) -> set[str]:
    """Answers what had to be made."""
    settings = _settings(described)
    made = set[str]()
    for qualifier, _ in catalogue.served():
        resource = core.resource("function", f"{function}:{qualifier}")
        wanted = catalogue.settings_of(qualifier, settings)
        encoded, fields = msgspec.json.encode(wanted), function_fields(wanted)
        done = await core.directory.configure(resource, encoded, fields, mode="replace")
        if done.status == "created":
            core.directory.forget(resource)
            await core.directory.note_nonce(resource)
            made.add(qualifier)
        await core.directory.hold(resource, held=described.held)
    return made


def _standing(described: Described | None) -> object:
    return None if described is None else (described.settings, described.held)


async def _described(core: Core, function: str) -> Described:
    described = await core.directory.describe(core.resource("function", function))
    if described is None:
        raise FunctionNotFound(function)
    return described


def _settings(described: Described) -> FunctionSettings:
    return msgspec.json.decode(described.settings, type=FunctionSettings)


def _decoded(stored: bytes) -> Catalogue:
    return msgspec.json.decode(stored, type=Catalogue)
