"""One worker process: registers what its app declares, runs the pollers, stops in two stages."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Final

import anyio
import anyio.abc
import msgspec

from broker.builds import check_build
from broker.client import Broker
from broker.figures import Figures
from broker.functions import register_function
from broker.ids import TokenSource
from broker.log import log
from broker.mappings import register_mapping
from broker.names import Resource
from broker.settings import Settings
from broker.store.channels import Listener
from broker.upkeep import Upkeep
from runtime.app import App
from runtime.engine import DEFAULT_CALLS, Engine
from runtime.handlers import HandlerFunction
from runtime.housekeeping import EVERY_S, Housekeeping
from runtime.idempotency import use_store
from runtime.invoker import DEFAULT_THREADS, Invoker
from runtime.keeper import LeaseKeeper
from runtime.mappings import Mappings
from runtime.mending import mend
from runtime.metrics import count_lost
from runtime.partitions import Partitions
from runtime.poller import Pollers
from runtime.presence import Presence
from runtime.registration_log import log_registration
from runtime.reporting import PollState
from runtime.serving import Duties, Serving
from runtime.set_apart_log import SetApartLog
from runtime.sources.calls import CallSource
from runtime.sources.invocation import InvocationSource
from runtime.sources.queue import QueueSource

DEFAULT_GRACE_S: Final = 25.0
_CANCEL_GRACE_S: Final = 3.0
_ANSWER_GRACE_S: Final = 1.0
_REGISTER_AT_ONCE: Final = 32
_ALONE_IDLE_S: Final = 30.0


class Worker:
    """Runs the functions of an app until :meth:`stop`, or until its task is cancelled.

    ``grace`` seconds are given to running calls after a stop; what is left then is handed back at once.
    ``build`` names the code where the app does not. ``max_calls`` and ``threads`` bound what runs at a time in this
    process. ``alone`` makes it the process that runs only events set apart after a crash, one at a time;
    ``on_suspects`` is called whenever such events are seen (without it the log tells), ``on_backlog`` by that process
    with how many more there are, ``on_settings`` when a function's settings were read.
    Contexts tell ``log_stream``, or a name made of the date and the process. ``figures`` is what metrics are made of.
    """

    def __init__(
        self,
        app: App,
        url: str | None = None,
        *,
        settings: Settings | None = None,
        grace: float = DEFAULT_GRACE_S,
        max_calls: int = DEFAULT_CALLS,
        threads: int = DEFAULT_THREADS,
        alone: bool = False,
        build: str = "",
        log_stream: str | None = None,
        figures: Figures | None = None,
        on_suspects: Callable[[], None] | None = None,
        on_backlog: Callable[[int], None] | None = None,
        on_ready: Callable[[], None] | None = None,
        on_settings: Callable[[HandlerFunction], None] | None = None,
        housekeeping_every: float = EVERY_S,
    ) -> None:
        self._app: Final = app
        self._build: Final = check_build(build or app.build)
        self._url: Final = url
        self._settings: Final = settings
        self._grace_s: Final = grace
        self._max_calls: Final = max_calls
        self._threads: Final = threads
        self._alone: Final = alone
        self._figures: Final = figures
        self._on_suspects: Final = on_suspects
        self._set_apart_log: Final = SetApartLog()
        self._on_backlog: Final = on_backlog or (lambda _: None)
        self._on_ready: Final = on_ready
        self._on_settings: Final = on_settings or (lambda _: None)
        self._housekeeping_every_s: Final = housekeeping_every
        self._tokens: Final = TokenSource()
        self._log_stream: Final = log_stream or f"{time.strftime('%Y/%m/%d', time.gmtime())}/[$LATEST]{self.process}"
        self._stop: Final = anyio.Event()
        self._hurry: Final = anyio.Event()
        self._sources: Final[list[InvocationSource | QueueSource]] = []
        self._drained = False
        self.exhausted = False
        """Whether it stopped because too many of its calls do not."""
        self._pollers: Pollers | None = None
        self.ready: Final = anyio.Event()
        """Set when everything is registered and claiming has begun."""

    @property
    def process(self) -> str:
        """What this worker is called in the registry; its lease tokens and inbox carry it."""
        return self._tokens.owner

    @property
    def events_ended(self) -> int:
        """Events, messages and calls that this process has ended or given back."""
        return self._engine.events_ended if self.ready.is_set() else 0

    def why_not_ready(self) -> str | None:
        """None while it can claim work; else ``starting``, ``stopping``, or the code of the error in the way."""
        if self._stop.is_set():
            return "stopping"
        if self._pollers is None or not self.ready.is_set():
            return "starting"
        return self._pollers.why_not_polling()

    @property
    def running_calls(self) -> int:
        """How many calls run now."""
        return len(self._engine.invoker.running) if self.ready.is_set() else 0

    @property
    def state(self) -> PollState:
        """What it is at; may be asked from another thread."""
        if self._stop.is_set():
            return "stopping"
        if not self.ready.is_set():
            return "starting"
        return "deaf" if self.why_not_ready() else "polling"

    def stop(self) -> None:
        """Nothing new is claimed; running calls have the grace period. A second time: they are ended now."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run(self) -> None:
        """Serves until stopped. Raises StoreError or InvalidInput when it cannot start."""
        async with Broker(self._url, settings=self._settings) as broker:
            functions = self._app.functions
            use_store(broker.core)
            self._duties = Duties(broker.core, functions, self._build)
            self._presence = Presence(broker.core, self.process, self._duties, alone=self._alone)
            await self._join(broker, functions)
            # One that runs events alone has no room beside a call that does not stop.
            invoker = Invoker(threads=1 if self._alone else self._threads, on_exhausted=self._exhausted)
            keeper = LeaseKeeper(broker.core, on_lost=self._lost, latest_function=lambda: invoker.latest)
            engine = Engine(
                broker,
                tokens=self._tokens,
                invoker=invoker,
                keeper=keeper,
                max_calls=self._max_calls,
                alone=self._alone,
                log_stream=self._log_stream,
                build=self._build,
                figures=self._figures,
                on_suspects=self._seen_suspects,
                on_backlog=self._on_backlog,
                on_settings=self._on_settings,
            )
            self._engine = engine
            keeper.start()
            try:
                await self._serve(broker, engine, functions)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._leave(engine)

    # -- start --------------------------------------------------------------------------------------------------------

    async def _join(self, broker: Broker, functions: dict[str, HandlerFunction]) -> None:
        """First it says that it serves them, so that nobody takes its mappings for undeclared, then it registers."""
        self._duties.served.update(await self._duties.look())
        await self._presence.tell()
        try:
            await self._register(broker, [functions[name] for name in functions if name in self._duties.served])
        except BaseException:
            with anyio.CancelScope(shield=True), anyio.move_on_after(_CANCEL_GRACE_S):
                await self._presence.leave()
            raise

    async def _register(self, broker: Broker, functions: Iterable[HandlerFunction]) -> None:
        if self._alone:
            return
        limiter = anyio.CapacityLimiter(_REGISTER_AT_ONCE)

        async def register(function: HandlerFunction) -> None:
            async with limiter:
                settings = msgspec.structs.replace(function.declared, build=self._build)
                done = await register_function(broker.core, function.name, settings)
                log_registration("function", function.name, done)
                if function.mapping is not None:
                    mapped = await register_mapping(broker.core, function.mapping)
                    log_registration("mapping", function.mapping.name, mapped)

        try:
            async with anyio.create_task_group() as group:
                for function in functions:
                    group.start_soon(register, function, name=f"register {function.name}")
        except* Exception as errors:  # noqa: BLE001 - the first is the reason; the others follow from it
            raise errors.exceptions[0] from None

    async def _serve(self, broker: Broker, engine: Engine, functions: dict[str, HandlerFunction]) -> None:
        self._pollers = pollers = Pollers(engine)
        sources = self._sources
        calls = CallSource(engine, self._duties.served, on_dropped=self._cancelled)
        served = self._duties.served
        async with anyio.create_task_group() as group:
            mappings = Mappings(engine, pollers, functions, served, sources, group)

            async def changed() -> None:
                mappings.look_again()
                await self._presence.tell()

            async def register(names: Iterable[str]) -> None:
                await self._register(broker, [functions[name] for name in names])

            serving = Serving(engine, pollers, self._duties, sources, group, register=register, changed=changed)
            engine.on_split = Partitions(engine, mappings, serving, group).split
            listeners: dict[str, list[Listener]] = {}
            for channel, listener in (*serving.begin(), *await mappings.begin()):
                listeners.setdefault(channel, []).append(listener)
            if not self._alone:
                listeners[engine.core.parcels.inbox(self.process)] = [calls.on_notice]
            await engine.core.channels.listen_all(listeners)
            group.start_soon(mappings.run, name="mappings")
            group.start_soon(serving.run, name="serving")
            group.start_soon(self._presence.keep, name="heartbeat")
            if not self._alone:
                group.start_soon(self._mend, broker, [source.resource for source in sources], name="mend")
                keeping = Housekeeping(broker, engine, every_s=self._housekeeping_every_s)
                group.start_soon(keeping.run, name="housekeeping")
                upkeep = Upkeep(broker, relays=engine.relays, every_s=self._housekeeping_every_s)
                group.start_soon(upkeep.run, name="upkeep")
            else:
                group.start_soon(self._stop_when_idle, engine, name="idle watch")
            await self._presence.tell()
            self.ready.set()
            log.info("worker_ready", process=self.process, functions=len(functions), alone=self._alone)
            if self._on_ready is not None:
                self._on_ready()
            await self._stop.wait()
            await self._drain(engine, pollers, calls)
            group.cancel_scope.cancel()

    # -- while it runs ------------------------------------------------------------------------------------------------

    async def _mend(self, broker: Broker, resources: list[Resource]) -> None:
        for resource in resources:
            await mend(broker.core, resource)

    async def _stop_when_idle(self, engine: Engine) -> None:
        """The process that runs events alone ends when there have been none for a while."""
        idle_since = time.monotonic()
        while time.monotonic() - idle_since < _ALONE_IDLE_S:
            await anyio.sleep(1)
            if engine.invoker.running:
                idle_since = time.monotonic()
        self.stop()

    def _exhausted(self) -> None:
        if not self._stop.is_set():
            log.error("worker_exhausted", reason="too many calls do not stop at their timeout; it drains")
            self.exhausted = True
            if self._alone and self._on_suspects is not None:
                self._on_suspects()  # there may be more behind the one that does not stop: another process is needed
            self.stop()

    def _seen_suspects(self, resource: Resource, count: int) -> None:
        if self._on_suspects is None:
            self._set_apart_log.saw(resource, count)
        elif count:
            self._on_suspects()

    def _lost(self, resource: Resource, members: list[str]) -> None:
        """Leases that somebody else has now: their calls are ended, their results would be refused anyway."""
        affected, lost = self._end_calls(resource, members)
        count_lost(self._figures, resource, len(lost))
        if affected:
            log.warning("leases_lost", resource=resource.arn, count=len(lost), calls_or_events=affected)

    def _cancelled(self, function: Resource, member: str) -> None:
        """An event of this process was taken out by somebody."""
        if self._end_calls(function, [member])[0]:
            log.info("event_cancelled", function=function.name)

    def _end_calls(self, resource: Resource, members: list[str]) -> tuple[int, frozenset[str]]:
        keeper, invoker = self._engine.keeper, self._engine.invoker
        lost = keeper.holding(resource).intersection(members)  # without those that were settled meanwhile
        keeper.drop(resource, lost)
        affected = sum(source.forget(lost) for source in self._sources if source.resource == resource)
        held = keeper.holding(resource)
        for call in tuple(invoker.running):
            needs: Collection[str] = getattr(call.work, "members", ())
            # A batch goes on while some of its messages are still ours.
            if not lost.isdisjoint(needs) and held.isdisjoint(needs):
                invoker.abandon(call)
                affected += 1
        return affected, lost

    # -- stop ---------------------------------------------------------------------------------------------------------

    async def _drain(self, engine: Engine, pollers: Pollers, calls: CallSource) -> None:
        log.info("worker_stopping", running=len(engine.invoker.running), grace_s=self._grace_s)
        pollers.stop_claiming()
        calls.stop()
        self._hand_back()
        await self._presence.leave()
        with anyio.move_on_after(_CANCEL_GRACE_S):
            await pollers.ended()
        given_up = time.monotonic() + self._grace_s
        await self._wait_for(engine.invoker.ended, self._grace_s, until=self._hurry)
        unfinished = [call for call in engine.invoker.running if not call.stuck]
        await self._abandon_calls(engine)
        self._hand_back()
        with anyio.move_on_after(_CANCEL_GRACE_S):
            await engine.settled()
            await engine.relays.settled()
        await self._leave_inbox(engine, calls, max(_ANSWER_GRACE_S, given_up - time.monotonic()))
        self._drained = True
        log.info("worker_stopped", handed_back=len(unfinished), stuck=len(engine.invoker.running))

    async def _leave_inbox(self, engine: Engine, calls: CallSource, seconds: float) -> None:
        """Behind all answers: whose worker has no inbox any more takes it for dead."""
        if self._alone:
            return
        await self._wait_for(calls.answered, seconds, until=self._hurry)
        with anyio.move_on_after(_ANSWER_GRACE_S):
            await calls.leave(engine.core.parcels.inbox(self.process))

    def _hand_back(self) -> None:
        for source in self._sources:
            source.stop()

    async def _abandon_calls(self, engine: Engine) -> None:
        for call in tuple(engine.invoker.running):
            if not call.stuck:
                engine.invoker.abandon(call)
        with anyio.move_on_after(_CANCEL_GRACE_S):
            await engine.invoker.ended()

    async def _wait_for(self, what: Callable[[], Awaitable[object]], seconds: float, *, until: anyio.Event) -> None:
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as group:
                group.start_soon(_then_cancel, what, group.cancel_scope, name="waited for")
                group.start_soon(_then_cancel, until.wait, group.cancel_scope, name="second stop")

    async def _leave(self, engine: Engine) -> None:
        """Also when the worker's task was cancelled: nothing stays leased that this process could give back."""
        if not self._drained:
            self._hand_back()
            await self._abandon_calls(engine)
            with anyio.move_on_after(_CANCEL_GRACE_S):
                await engine.settled()
        await engine.invoker.end_left_tasks()
        await engine.close()
        engine.keeper.stop()
        engine.invoker.close()


async def _then_cancel(wait: Callable[[], Awaitable[object]], scope: anyio.CancelScope) -> None:
    await wait()
    scope.cancel()
