"""What is done to a resource as a whole is done to all of its partitions: counting, looking, clearing, deleting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from broker.core import Core
from broker.errors import InvalidOption
from broker.names import Resource
from broker.records import FunctionSettings, QueueSettings
from broker.store.directory import Described
from broker.store.partitions import grown
from broker.store.values import Counts

_SUMMED: Final = ("visible", "in_flight", "retrying", "delayed", "set_apart", "outbox")
_NOTHING: Final = Counts(
    visible=0, in_flight=0, retrying=0, delayed=0, set_apart=0, outbox=0, running=0, oldest_ms=None
)


async def counts(core: Core, whole: Resource, *, expire: bool = False) -> Counts | None:
    """Exact numbers, of each partition at its moment; None where there is no such resource. With ``expire``, what is
    past its retention is removed before."""
    first = await _counts_of(core, whole, expire=expire)
    if first is None or not core.splits.known:
        return first
    others = core.splits.parts(whole)[1:]
    return together([first, *[await _counts_of(core, part, expire=expire) or _NOTHING for part in others]])


async def _counts_of(core: Core, part: Resource, *, expire: bool) -> Counts | None:
    if expire:
        await core.messages.expire(part)
    return await core.messages.counts(part)


def together(found: Sequence[Counts]) -> Counts:
    """Of several places of one function or queue; only the first one's ``running`` counts, as that has the permits."""
    oldest = [one.oldest_ms for one in found if one.oldest_ms is not None]
    summed = {name: sum(getattr(one, name) for one in found) for name in _SUMMED}
    return msgspec.structs.replace(found[0], **summed, oldest_ms=min(oldest, default=None))


async def counters(core: Core, whole: Resource, of_first: Mapping[str, int]) -> dict[str, int]:
    """What has become of all messages, by kind; ``of_first`` is that of the first partition, as described just now."""
    total = dict(of_first)
    for part in core.splits.parts(whole)[1:]:
        described = await core.directory.describe(part)
        for name, count in (described.counters if described else {}).items():
            total[name] += count
    return total


async def purge(core: Core, whole: Resource, *, not_within_ms: int | None = None) -> int | Literal["too soon"] | None:
    """Throws all messages away, in flight too; answers how many. Otherwise as :meth:`MessageStore.purge`."""
    parts = await core.partitions.parts(whole)
    held = await core.messages.purge(whole, not_within_ms=not_within_ms)
    if not isinstance(held, int):
        return held
    for part in parts[1:]:
        of_part = await core.messages.purge(part)
        held += of_part if isinstance(of_part, int) else 0
    return held


async def delete(core: Core, whole: Resource, *, force: bool) -> tuple[Literal["deleted", "unknown", "busy"], int]:
    """Removes a resource with all its partitions; without ``force`` only an empty one. Answers how many messages it
    held. Broken off in between it is still there, and what is gone of it comes back, empty, after a minute."""
    parts = await core.partitions.parts(whole)
    if len(parts) == 1:
        return await core.directory.delete(whole, force=force)
    if not force:
        found = await counts(core, whole)
        if found is not None and found.total + found.outbox:
            return "busy", found.total + found.outbox
    described = await core.directory.describe(whole)
    if described is None:
        return "unknown", 0
    held = 0
    for part in reversed(parts):
        gone, of_part = True, 0
        if part.partition:
            gone, of_part = await core.directory.delete_part(part, described.nonce, force=force)
        else:
            status, of_part = await core.directory.delete(whole, force=force)
            gone = status != "busy"
        held += of_part
        if not gone:  # something was sent meanwhile
            await core.partitions.reopen(whole)
            return "busy", held
    core.splits.heard(whole, None)
    await core.partitions.delist(whole)
    return "deleted", held


async def follow(core: Core, whole: Resource, partitions: int) -> None:
    """Lets all partitions have the settings that have just been stored."""
    if partitions > 1:
        await core.partitions.adopt(whole)


async def replace_settings(
    core: Core,
    whole: Resource,
    described: Described,
    settings: QueueSettings | FunctionSettings,
    fields: Mapping[str, str],
    *,
    before: int,
) -> bool:
    """Stores settings, with the ``fields`` that scripts read, in place of those described, which said ``before``
    partitions; False where somebody was faster. Raises InvalidOption where there would be fewer partitions."""
    grown_to = await growth_fields(core, whole, described, before=before, after=settings.partitions)
    encoded = msgspec.json.encode(settings)
    done = await core.directory.configure(
        whole, encoded, {**fields, **grown_to}, mode="replace", instead_of=described.settings
    )
    if done.status == "kept":
        return False
    await follow(core, whole, settings.partitions)
    return True


async def growth_fields(
    core: Core, whole: Resource, described: Described | None, *, before: int, after: int
) -> dict[str, str]:
    """The fields of a resource that say into how many partitions it is split, where that is changed. Raises
    InvalidOption where there would be fewer."""
    if after < before:
        rule = f'{whole.kind} "{whole.name}" has {before}, and there can only be more: what is in them would be left'
        raise InvalidOption("partitions", after, rule)
    if after == before:
        return {}
    await core.partitions.enlist(whole, after)
    past = grown(described.past if described else "", before, now_ms=await core.messages.now_ms())
    return {"partitions": str(after), "past": past}
