"""How the events of a function end: settled by the policy, with what is kept of their end and what is sent on."""

from __future__ import annotations

from typing import Final

from broker import tracing
from broker.endings import how_it_ended
from broker.errors import StoreError
from broker.invocation_records import Condition, InvocationEnd, onward_records
from broker.lineage import MAX_INVOCATIONS
from broker.log import log
from broker.names import Resource
from broker.records import NO_HEADER
from broker.store.values import Deferral
from broker.tracing import Trace
from runtime.engine import Engine
from runtime.events import Event
from runtime.handlers import HandlerFunction
from runtime.outcomes import Outcome, exit_error, response_of
from runtime.policy import Finish, GiveUp, Release, Retry, after_run
from runtime.tally import Tally
from runtime.tracing import Tracer

_MAX_NOTE_BYTES: Final = 256 * 1024
_UNREADABLE_MS: Final = 1_000


class EventEnds:
    """Settles the events that one process has claimed of one function."""

    def __init__(
        self, engine: Engine, function: HandlerFunction, resource: Resource, tally: Tally, tracer: Tracer
    ) -> None:
        self._engine: Final = engine
        self._function: Final = function
        self._resource: Final = resource
        self._settler: Final = engine.settler(resource)
        self._tally: Final = tally
        self._tracer: Final = tracer

    def settle(self, event: Event, outcome: Outcome, *, keep_permit: bool = False, started: float = 0) -> None:
        """What becomes of an event whose call has ended."""
        verdict = after_run(self._function.settings, event.facts, outcome, age_s=event.age_s())
        self._tally.add(outcome, verdict, event, started)
        response = response_of(outcome)
        match verdict:
            case Finish(tries):
                self._finish(event, "Success", tries, response, keep_permit=keep_permit)
            case GiveUp(condition, tries):
                self._finish(event, condition, tries, response, keep_permit=keep_permit)
            case Retry(delay_s):
                note = response if response is not None and len(response) <= _MAX_NOTE_BYTES else b"null"
                deferral = Deferral(event.member, round(delay_s * 1000), adds_try=True, note=note)
                self._settler.defer(deferral, counter="retried", keep_permit=keep_permit)
            case Release(delay_s):
                deferral = Deferral(event.member, round(delay_s * 1000))
                self._settler.defer(deferral, counter="released", keep_permit=keep_permit)

    async def give_up_unrun(self, event: Event, verdict: GiveUp) -> None:
        """An event that must not run (any more): its record carries what its last try answered, if there was one."""
        try:
            response = await self._last_response(event, verdict)
        except StoreError:
            self._settler.defer(Deferral(event.member, _UNREADABLE_MS), counter="released")
            raise
        log.warning(
            "event_given_up",
            function=self._function.shown_name,
            request_id=event.request_id,
            condition=verdict.condition,
            tries=verdict.tries,
            crashes=event.facts.crashes,
        )
        if self._tally.figures is not None:
            self._tally.figures.given_up(verdict.condition)
        self._finish(event, verdict.condition, verdict.tries, response)

    def _finish(
        self, event: Event, condition: Condition, tries: int, response: bytes | None, *, keep_permit: bool = False
    ) -> None:
        settings, end = self._function.settings, None
        if settings.keep_status_s and (  # the usual end needs no word; asked here, as a call costs half a microsecond
            condition != "Success" or tries > 1 or settings.keep_result_bytes or event.own_id
        ):
            end = how_it_ended(
                condition, tries, response, own_id=event.own_id, keep_result_bytes=settings.keep_result_bytes
            )
        onward = self._records(event, condition, tries, response)
        counter = "done" if condition == "Success" else "failed"
        self._settler.finish(event.member, counter=counter, onward=onward, keep_permit=keep_permit, end=end)

    async def _last_response(self, event: Event, verdict: GiveUp) -> bytes | None:
        if verdict.condition == "Quarantined":
            return await self._cause_of_death(event)
        if not event.facts.tries:
            return None
        entry = event.member.partition("|")[0]
        return (await self._engine.core.messages.notes(self._resource, [entry]))[0]

    async def _cause_of_death(self, event: Event) -> bytes:
        return exit_error(await self._engine.end_of(event.facts.culprit), event.request_id)

    def _records(
        self, event: Event, condition: Condition, tries: int, response: bytes | None
    ) -> tuple[tuple[str, bytes], ...]:
        """What the end of an event sends on: suffix and stored record each."""
        settings = self._function.settings
        wanted = settings.on_success if condition == "Success" else settings.on_failure or settings.dead_letter
        if wanted is None:
            return ()
        end = InvocationEnd(
            function=self._resource,
            request_id=event.request_id,
            condition=condition,
            tries=tries,
            event=event.body,
            response=response,
            now_ms=event.redis_now_ms(),
            trace=self._sent_on(event),
            to_functions=condition != "RecursiveInvocation" or not self._was_stopped(event),
        )
        return onward_records(end, settings)

    def _sent_on(self, event: Event) -> Trace:
        """What the records of an event belong to."""
        if event.trace is not None:
            return event.trace.trace
        if event.header is NO_HEADER:
            return self._tracer.untraced
        return self._tracer.run_once_more(tracing.of_header(event.header))

    def _was_stopped(self, event: Event) -> bool:
        """Whether its chain has been stopped here before."""
        return self._tracer.invocations(event.header.trace) > MAX_INVOCATIONS
