"""What the sources of one worker process share: the core, the invoker, the lease keeper, relays, and its limits."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec

from broker.client import Broker
from broker.core import Core
from broker.errors import StoreError, StoreFault
from broker.figures import Figures
from broker.ids import TOKEN_OWNER_LENGTH, TokenSource
from broker.limits import ERROR_MESSAGE_ATTRIBUTE_BYTES as ERROR_TEXT_BYTES
from broker.message_attributes import Attribute
from broker.names import LATEST, Queue, Resource
from broker.queue_settings import ensure_queue
from broker.records import Delivery, FunctionSettings, pack
from broker.relays import Relays
from runtime.handlers import HandlerFunction
from runtime.invoker import Invoker
from runtime.keeper import RETRY_S, LeaseKeeper
from runtime.room import Room
from runtime.settler import MOST_FAULTS, Settler
from runtime.shaping import Letter
from runtime.tracing import Tracer

DEFAULT_CALLS: Final = 1_000
_BREATH_S: Final = 0.01
SHARED_S: Final = 0.2
"""How soon to look again whether permits are free that are shared with versions, which give them back unheard."""
_GIVE_BACK_PAUSES_S: Final = (0.05, 0.1, RETRY_S / 2)
"""The last one as often as it takes. Workers claim again no sooner than ``RETRY_S`` after Redis is back: who then finds
a lease that has ended takes it for a crash of this process."""


class Engine:
    """One worker process's shared parts, built once by the worker."""

    def __init__(
        self,
        broker: Broker,
        *,
        tokens: TokenSource,
        invoker: Invoker,
        keeper: LeaseKeeper,
        max_calls: int,
        alone: bool,
        log_stream: str,
        build: str,
        figures: Figures | None,
        on_suspects: Callable[[Resource, int], None],
        on_backlog: Callable[[int], None],
        on_settings: Callable[[HandlerFunction], None],
    ) -> None:
        self.core: Final[Core] = broker.core
        self.tokens: Final = tokens
        self.invoker: Final = invoker
        self.keeper: Final = keeper
        self.relays: Final = Relays(broker)
        self.max_calls: Final = max_calls
        self.room: Final = Room(invoker, max_calls=max_calls, alone=alone)
        self.alone: Final = alone
        self.log_stream: Final = log_stream
        self.build: Final = build
        self.figures: Final = figures
        """What metrics are made of; None where nobody asked for them."""
        self._on_suspects: Final = on_suspects
        self._on_backlog: Final = on_backlog
        self.on_settings: Final = on_settings
        self.on_split: Callable[[Resource, int], None] = _nothing_to_do
        """Told when a resource is seen to have several partitions: each needs a source."""
        self._turns: Final[dict[tuple[Resource, ...], asyncio.Lock]] = {}
        self._breathed_at = 0.0
        self._settling: Final[list[asyncio.Task[None]]] = []
        self._ending: Final[set[asyncio.Task[object]]] = set()
        self.settlers: Final[dict[Resource, Settler]] = {}
        self.calls_ended = 0
        """Synchronous calls, which nothing settles."""

    @property
    def events_ended(self) -> int:
        """Events, messages and calls that this process has ended or given back."""
        return self.calls_ended + sum(settler.settled for settler in self.settlers.values())

    def tracer(self, function: HandlerFunction) -> Tracer:
        """What tells what the calls of a function belong to."""
        one_at_a_time = self.alone or self.max_calls == 1
        resource = self.core.resource("function", function.name)
        return Tracer(resource, sets_variable=one_at_a_time and function.as_lambda)

    def holds_loop_too_long(self) -> bool:
        """Whether the caller should let the loop go round before it starts more calls."""
        now = time.monotonic()
        if now - self._breathed_at < _BREATH_S:
            return False
        self._breathed_at = now
        return True

    def turn(self, *whole: Resource) -> asyncio.Lock:
        """In which order those who share permits wait for them in this process: of a function with a limit its own
        events, in whatever partition, and its mappings; of a mapping the partitions of its queue."""
        return self._turns.setdefault(whole, asyncio.Lock())

    def permit_wait_s(self, function: HandlerFunction) -> float:
        """For how long to wait at most for a permit of a function, should no wake-up tell of one given back: those of a
        dead process have run out by then."""
        return SHARED_S if function.shares_limit else self.core.settings.lease_ms / 1000

    async def end_of(self, lease_token: str) -> str | None:
        """Why the process that held a lease under this token ended, where its supervisor saw it."""
        return await self.core.directory.end_of(lease_token[1 : 1 + TOKEN_OWNER_LENGTH])

    async def quarantine_record(self, queue: Resource, letter: Letter, target: str, cause: str) -> bytes:
        """A message that ended its workers, with the cause, on its way to where it is kept."""
        await ensure_queue(self.core, target)
        return self.set_aside(queue, letter, target, code="200", reason=f"Runtime exited with error: {cause}")

    def set_aside(self, queue: Resource, letter: Letter, target: str, *, code: str, reason: str) -> bytes:
        """A message that must not run, with the reason, on its way to another queue."""
        attributes = {
            **letter.header.attributes,
            "ErrorCode": Attribute("Number", code.encode()),
            "ErrorMessage": Attribute("String", reason.encode()[:ERROR_TEXT_BYTES]),
        }
        header = msgspec.structs.replace(letter.header, id=letter.id, attributes=attributes, source=queue.arn)
        delivery = Delivery(kind="dead_letter", target=Queue(target), blob=pack(letter.body, header))
        return msgspec.msgpack.encode(delivery)

    def seen_suspects(self, resource: Resource, count: int) -> None:
        """So many events of a resource are set apart at the moment, beside what was claimed."""
        if not self.alone:
            self._on_suspects(resource, count)
        elif count:
            self._on_backlog(count)

    def is_foreign(self, settings: FunctionSettings) -> bool:
        """Whether what runs under these settings is a version of another build than this process's."""
        return settings.version != LATEST and settings.build != self.build

    def end_in_background(self, work: Coroutine[Any, Any, object], *, name: str) -> None:
        """Starts work that ends leases of this process without a call: where one message at a time runs, none does
        meanwhile."""
        task = self.core.in_background(work, name=name)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def give_back(self, resource: Resource, token: str) -> None:
        """After a claim whose reply was lost, or that came too late: whatever it leased is given back as soon as Redis
        is there, however long that takes, so that it does not look like a crash."""
        self.end_in_background(self._give_back(resource, token), name="release_claim")

    async def _give_back(self, resource: Resource, token: str) -> None:
        faults = 0
        for attempt in itertools.count():
            try:
                await self.core.messages.release_claim(resource, token)
            except StoreError as error:
                faults += isinstance(error, StoreFault)
                if faults > MOST_FAULTS:
                    raise
                await asyncio.sleep(_GIVE_BACK_PAUSES_S[min(attempt, len(_GIVE_BACK_PAUSES_S) - 1)])
            else:
                return

    def lease_token(self) -> str:
        """A token for one claim: its first letter tells how the lease is held, what follows names this process; behind
        the dot stands when, in milliseconds, for who asks since when an event runs."""
        return f"{'s' if self.alone else 'w'}{self.tokens.next()}.{time.time_ns() // 1_000_000:x}"

    def settler(self, resource: Resource) -> Settler:
        """The settler of a resource; made when it is first asked for."""
        found = self.settlers.get(resource)
        if found is None:
            found = Settler(self.core, resource, self.keeper, on_onward=self.relays.kick, figures=self.figures)
            self.settlers[resource] = found
            self._settling.append(asyncio.create_task(found.run(), name=f"penstock-settle-{resource.name}"))
        return found

    async def close(self) -> None:
        """Ends the settlers; whoever needs what they hold in Redis awaits :meth:`settled` before."""
        self.relays.close()
        for task in self._settling:
            task.cancel()
        await asyncio.gather(*self._settling, return_exceptions=True)

    async def settled(self) -> None:
        """Returns when every verdict handed in so far is in Redis, and what else ends leases is done."""
        while self._ending:
            await asyncio.wait(self._ending)
        await asyncio.gather(*(settler.drained() for settler in self.settlers.values()))

    async def settled_alone(self) -> None:
        """Where one message at a time runs: returns when none but what was claimed last is leased by this process. Else
        what ends the process would be the cause of death of others, too."""
        if self.alone:
            await self.settled()


def _nothing_to_do(_whole: Resource, _count: int) -> None:
    """Until the worker says what is to be done."""
