"""What is said of queues, functions, streams and mappings: exact counts and a bounded look at each, never a scan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

import msgspec

from broker.core import Core
from broker.doctor.findings import Finding
from broker.durability import parse_durability
from broker.errors import InvalidOption
from broker.names import Kind, Resource
from broker.partitions import counts
from broker.records import Delivery, FunctionSettings, MappingSettings, QueueSettings, StreamSettings
from broker.store.durable import ServerState
from broker.store.outbox import OutboxEntry
from broker.store.values import Counts
from broker.workers import Serves

_OUTBOX_LOOK: Final = 20
_STUCK_ATTEMPTS: Final = 3
_OVERDUE_MS: Final = 60_000
_OLD_S: Final = 3_600.0
_GROWING_PER_S: Final = 1.0


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One queue or function at a moment, with all its partitions."""

    resource: Resource
    settings: bytes
    counts: Counts
    now_ms: int
    held: bool
    stranded: int
    """At least so many messages are in no set."""
    outbox_late_ms: int
    outbox: tuple[Delivery, ...]

    @property
    def waiting(self) -> int:
        """What is there and nobody works on."""
        return self.counts.visible + self.counts.delayed + self.counts.retrying + self.counts.set_apart

    @property
    def oldest_s(self) -> float:
        """How long the oldest that nobody has received waits."""
        return 0.0 if self.counts.oldest_ms is None else max(0, self.now_ms - self.counts.oldest_ms) / 1000


async def see(core: Core, resource: Resource) -> Seen | None:
    """One look; None where it does not exist (any more)."""
    described = await core.directory.describe(resource)
    counted = await counts(core, resource)
    if described is None or counted is None:
        return None
    now_ms, parts = await core.messages.now_ms(), resource.parts(described.partitions)
    late_ms, entries = 0, list[OutboxEntry]()
    for part in parts if counted.outbox else ():
        late_ms = max(late_ms, await core.outbox.late_ms(part, now_ms))
        entries += await core.outbox.entries(part, _OUTBOX_LOOK)
    return Seen(
        resource=resource,
        settings=described.settings,
        counts=counted,
        now_ms=now_ms,
        held=described.held,
        stranded=sum([await core.repairs.stranded_at_least(part) for part in parts]),
        outbox_late_ms=late_ms,
        outbox=tuple(_deliveries(entries)),
    )


def _deliveries(entries: Iterable[OutboxEntry]) -> Iterator[Delivery]:
    for entry in entries:
        # A message whose receives are used up is in another form.
        with suppress(msgspec.MsgspecError, ValueError):
            yield msgspec.msgpack.decode(entry.record, type=Delivery)


def resource_findings(first: Seen, last: Seen, *, after_s: float, serving: int | None) -> Iterator[Finding]:
    """What is said of one queue or function, seen twice. ``serving`` is the number of a function's live workers."""
    subject = f'{first.resource.kind} "{first.resource.name}"'
    yield _backlog(subject, first, last, after_s)
    if serving == 0 and last.waiting:
        text = f"{last.waiting} events wait, and no live worker serves it"
        yield Finding("error", "workers", subject, text, "start one: `penstock runtime`")
    if last.held:
        yield Finding("note", "pause", subject, "paused", f"`penstock resume {first.resource.name}`")
    if last.counts.set_apart:
        text = f"{last.counts.set_apart} are set apart, as a worker died over them"
        yield Finding("warning", "poison", subject, text, "they run alone under `penstock runtime`; see its log")
    if last.stranded:
        text = f"at least {last.stranded} messages are in no set"
        yield Finding("error", "stranded", subject, text, "`penstock doctor --repair`; a worker repairs when it starts")
    yield from _outbox(subject, last)


def _backlog(subject: str, first: Seen, last: Seen, after_s: float) -> Finding:
    growth = (last.waiting - first.waiting) / after_s if after_s else 0.0
    text = f"{last.waiting} wait, {last.counts.in_flight} in flight"
    if last.waiting:
        text += f", the oldest for {last.oldest_s:.0f} s, {growth:+.0f} a second"
    growing = growth >= _GROWING_PER_S
    if growing and last.oldest_s >= _OLD_S:
        return Finding("warning", "backlog", subject, text, "it grows: more workers, or a higher concurrency")
    if last.oldest_s >= _OLD_S:
        return Finding("note", "backlog", subject, text, "nobody receives it, or not fast enough")
    return Finding("ok", "backlog", subject, text)


def _outbox(subject: str, seen: Seen) -> Iterator[Finding]:
    stuck = [delivery for delivery in seen.outbox if delivery.attempts >= _STUCK_ATTEMPTS]
    if stuck:
        delivery = stuck[0]
        text = f"{seen.counts.outbox} in its outbox; {delivery.attempts} attempts to {delivery.target.name} failed"
        yield Finding("warning", "outbox", subject, f"{text}: {delivery.last_error}", "mend the target; it goes on")
    elif seen.outbox_late_ms > _OVERDUE_MS:
        text = f"{seen.counts.outbox} in its outbox, the first {seen.outbox_late_ms / 1000:.0f} s overdue"
        yield Finding("warning", "outbox", subject, text, "start a worker or a gateway: they send on")


def durability_finding(kind: Kind, name: str, settings: bytes, state: ServerState) -> Finding | None:
    """What is said of a required durability; None where nothing is required."""
    types = {"queue": QueueSettings, "function": FunctionSettings, "stream": StreamSettings}
    required: str = msgspec.json.decode(settings, type=types[kind]).durability
    if not required:
        return None
    subject = f'{kind} "{name}"'
    try:
        why_not = state.why_not(parse_durability(required))
    except InvalidOption as error:
        why_not = error.rule
    if why_not is None:
        return Finding("ok", "durability", subject, f"{required} is required and given")
    advice = "mend Redis's settings, bring its replicas back, or require less; until then sends are refused"
    return Finding("error", "durability", subject, f"{required} is required and not given: {why_not}", advice)


def mapping_finding(
    mapping: MappingSettings, *, queues: set[str], functions: set[str], live: list[Serves], waiting: int
) -> Finding:
    """What is said of one mapping; ``waiting`` is how many messages of its queue nobody works on."""
    subject = f'mapping "{mapping.name}"'
    if mapping.queue not in queues or mapping.function not in functions:
        gone = f'queue "{mapping.queue}"' if mapping.queue not in queues else f'function "{mapping.function}"'
        advice = f'create it again, or `penstock delete mapping "{mapping.name}"`'
        return Finding("error", "mapping", subject, f"{gone} does not exist", advice)
    if not mapping.enabled:
        advice = "`aws lambda update-event-source-mapping --enabled --uuid …` lets it poll again"
        return Finding("note", "mapping", subject, "disabled", advice)
    if not any(worker.polls(mapping) for worker in live):
        advice = (
            f'start a worker that serves "{mapping.target}": `penstock runtime`; '
            f'or `penstock delete mapping "{mapping.name}"`, if it is no longer wanted'
        )
        if waiting:
            text = f"{waiting} messages wait in its queue, and no live worker polls for it"
            return Finding("error", "mapping", subject, text, advice)
        return Finding("warning", "mapping", subject, "no live worker polls for it", advice)
    return Finding("ok", "mapping", subject, "polled")
