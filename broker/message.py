"""A message as its receiver holds it: what was sent, and the lease by which it can be settled."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from broker import limits, tracing
from broker.core import Core
from broker.errors import LeaseLost
from broker.ids import message_id, sequence_number
from broker.lineage import without
from broker.message_attributes import PlainValue
from broker.names import Function, Queue, Resource
from broker.receipts import Receipt
from broker.records import Delivery, Facts, Header, check_range, decode_json, pack, unpack
from broker.store.values import Claim, Claimed, Deferral, member_of


class Message:
    """One message: what was sent, how often it was received, and, when it was received, its lease."""

    def __init__(self, core: Core, queue: Resource, claimed: Claimed, *, claim: Claim) -> None:
        self._core: Final = core
        self.queue: Final = queue
        """The queue, or the partition of it, that it is in."""
        self._claim: Final = claim
        self.entry: Final = claimed.entry
        self.member: Final = member_of(claimed.entry, claim.token)
        header, body = unpack(claimed.blob)
        self.header: Final = header
        """What travels with the body, typed as it is stored."""
        self.facts: Final[Facts] = claimed.facts
        self.id: Final[str] = header.id or message_id(claimed.entry, claim.nonce)
        """Unique; the caller's own where one was given."""
        # Damaged text is handed out all the same: it must not keep back what was received with it.
        self.body: Final[str] = body.decode(errors="replace")
        """The stored text."""
        self.sent_ms: Final[int] = self.facts.sent_ms or int(claimed.entry.partition("-")[0])
        """When it was first sent, in milliseconds of Redis's clock."""

    @property
    def attributes(self) -> dict[str, PlainValue]:
        """The attributes it was sent with: text, numbers, bytes."""
        return {name: attribute.python for name, attribute in self.header.attributes.items()}

    @property
    def receives(self) -> int:
        """How often it has been handed out, this time included (ApproximateReceiveCount)."""
        return self.facts.receives

    @property
    def first_received_ms(self) -> int:
        """When it was first handed out (ApproximateFirstReceiveTimestamp), in milliseconds of Redis's clock."""
        return self.facts.first_receive_ms or self._claim.now_ms

    @property
    def group(self) -> str | None:
        """The group it was sent with; every message of a FIFO queue has one."""
        return self.header.group or None

    @property
    def deduplication_id(self) -> str | None:
        """In a FIFO queue: the id by which it was accepted once, the hash of its content where none was given."""
        if not self.queue.fifo:
            return self.header.deduplication_id or None
        return self.header.deduplication_id or hashlib.sha256(self.body.encode()).hexdigest()

    @property
    def sequence_number(self) -> str | None:
        """In a FIFO queue: twenty digits that rise within its group."""
        return sequence_number(self.entry) if self.queue.fifo else None

    @property
    def receipt(self) -> str:
        """The receipt handle of this receive, for whoever settles without this object."""
        return Receipt(self._claim.nonce, self._claim.now_ms, self.member).handle

    @property
    def source(self) -> str | None:
        """For a dead letter: the ARN of the queue, or of the function, that it comes from."""
        return self.header.source

    @property
    def trace_header(self) -> str:
        """SQS's AWSTraceHeader, the value of ``X-Amzn-Trace-Id``; '' where it was sent without."""
        return self.header.trace

    @property
    def traceparent(self) -> str:
        """W3C's, '' where it was sent without; :attr:`tracestate` goes with it."""
        return tracing.of_header(self.header).parent

    @property
    def tracestate(self) -> str:
        """W3C's, '' where it was sent without."""
        return tracing.of_header(self.header).state

    def json(self) -> Any:
        """The body decoded from JSON; raises PayloadNotJson."""
        return decode_json(f"message {self.id}", self.body)

    async def delete(self) -> None:
        """Done: removes the message. Raises LeaseLost when it has been handed to somebody else since."""
        settled = await self._core.messages.finish(self.queue, [self.member], counter="deleted")
        if settled.refused.get(0) in {"fenced", "expired"}:
            raise LeaseLost(self.id)

    async def extend(self, timeout: float) -> None:
        """Hides it for so many seconds from now. Raises LeaseLost."""
        check_range("timeout", timeout, 0, limits.MAX_VISIBILITY_TIMEOUT_S)
        lost = await self._core.messages.extend(self.queue, [self.member], lease_ms=round(timeout * 1000))
        if lost:
            raise LeaseLost(self.id)

    async def release(self, delay: float = 0) -> None:
        """Gives it back, to be received again after so many seconds. Raises LeaseLost."""
        check_range("delay", delay, 0, limits.MAX_VISIBILITY_TIMEOUT_S)
        deferral = Deferral(self.member, round(delay * 1000))
        settled = await self._core.messages.defer(self.queue, [deferral], counter="released")
        if settled.refused.get(0) in {"fenced", "expired"}:  # 'unknown' is the repeat of a release whose reply was lost
            raise LeaseLost(self.id)

    def redriven(self, to: Queue | Function | None) -> Delivery:
        """This dead letter on its way back to its source, or to ``to``, with fresh counters."""
        target = to
        if target is None:
            source = Resource.from_arn(self.source or "")
            target = Function(source.name) if source.kind == "function" else Queue(source.name)
        # Somebody has decided that it shall run again: no loop.
        trace = msgspec.structs.replace(tracing.of_header(self.header), header=without(self.header.trace))
        header = msgspec.structs.replace(self.header, id=self.id, source=None)
        if isinstance(target, Function):
            header = Header(id=self.id)
        if isinstance(target, Function) and "RequestID" in self.header.attributes:
            header = Header(id=str(self.header.attributes["RequestID"].python))
        header = tracing.stamped(header, trace) or header
        return Delivery(kind="redrive", target=target, blob=pack(self.body.encode(), header))

    def __repr__(self) -> str:
        return f"<Message {self.id} of {self.queue.name!r}, receive {self.receives}>"
