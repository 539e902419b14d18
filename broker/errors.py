"""Every error that Penstock raises, as one tree.

::

    PenstockError
    ├── InvalidInput                 the caller's fault: names the thing, the rule and the value
    │   ├── InvalidName
    │   ├── InvalidOption
    │   ├── InvalidPattern           a filter pattern (broker.event_patterns)
    │   ├── PayloadNotJson
    │   ├── PayloadTooLarge
    │   ├── BuildNotNamed            a version can be made only of a build that has a name
    │   └── DeduplicationIdMissing   a FIFO queue that does not go by content needs one
    ├── NotFound                     QueueNotFound · FunctionNotFound · StreamNotFound · MoveNotFound ·
    │                                MappingNotFound · EventNotFound · VersionNotFound
    ├── Conflict                     QueueExists · QueueDeletedRecently · TooManyInFlight · MoveInProgress ·
    │                                ResourceBusy · MappingExists · EventPending · ResultNotKept · AliasExists ·
    │                                VersionInUse · RevisionChanged
    ├── LeaseLost                    the message belongs to a newer lease, or is finished
    ├── CallError                    a synchronous call gave no result
    │   ├── FunctionError            the handler failed: Lambda's error type, message and stack
    │   ├── CallThrottled            the function is at its concurrency limit, or paused
    │   ├── CallTimeout              no answer before the caller's deadline
    │   ├── NoLiveWorker             nobody serves the function at the moment
    │   └── RecursiveInvocation      its chain of requests has run the function 16 times
    └── StoreError                   Redis
        ├── StoreUnavailable         no connection, or it was lost: the outcome of a write is unknown
        ├── StoreFull                maxmemory is reached: nothing was stored
        │   └── StoreThrottled       it soon would be: producers are told to wait
        ├── StoreReadOnly            a replica answered
        ├── StoreDenied              credentials or ACL
        ├── StoreUnsuitable          too old, or set to throw data away
        ├── DurabilityNotMet         Redis is less safe than the resource requires: nothing was stored
        ├── WriteNotConfirmed        stored, but too few replicas have confirmed it in time
        └── StoreFault               an answer that no rule explains: a defect

Each class has a stable ``code``; the fields that the message speaks of are attributes of the error.
"""

from __future__ import annotations

from typing import ClassVar, Literal


class PenstockError(Exception):
    """Base of every error raised by Penstock; ``code`` is stable and meant for programs."""

    code: ClassVar[str] = "PenstockError"
    stored: tuple[str, ...] = ()
    """Of a send of many: the ids of what was stored before, in the order of the send, '' for what was not. What is
    behind the last of them was not stored either, as far as ``code`` lets anybody know."""

    def __str__(self) -> str:
        count = sum(map(bool, self.stored))
        before = f" (before that, {count} messages of this send were stored: `stored` of the error has their ids)"
        return super().__str__() + (before if count else "")


class InvalidInput(PenstockError):
    """Something the caller gave breaks a rule; nothing was done."""

    code = "InvalidInput"


class InvalidName(InvalidInput):
    """A name of a queue, function, stream or mapping that breaks its pattern."""

    code = "InvalidName"

    def __init__(self, what: str, value: str, rule: str) -> None:
        super().__init__(f'{what} name "{value}": {rule}')
        self.what, self.value, self.rule = what, value, rule


class InvalidOption(InvalidInput):
    """An option outside its range or of the wrong type."""

    code = "InvalidOption"

    def __init__(self, option: str, value: object, rule: str) -> None:
        super().__init__(f"{option}={value!r}: {rule}")
        self.option, self.value, self.rule = option, value, rule


class BuildNotNamed(InvalidInput):
    """A version is to be published of workers whose code has no name."""

    code = "BuildNotNamed"

    def __init__(self, function: str) -> None:
        super().__init__(
            f'function "{function}": its workers do not say what their build is called, so no version could be told '
            "from the next; start them with `penstock runtime --build NAME`, or App(build=...)"
        )
        self.function = function


class PayloadNotJson(InvalidInput):
    """An event or body that is not JSON, or cannot be encoded as JSON."""

    code = "PayloadNotJson"

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} is not JSON: {reason}")
        self.what, self.reason = what, reason


class PayloadTooLarge(InvalidInput):
    """An event, body or batch over its limit in bytes."""

    code = "PayloadTooLarge"

    def __init__(self, what: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"{what} has {size_bytes} bytes; at most {limit_bytes} are allowed")
        self.what, self.size_bytes, self.limit_bytes = what, size_bytes, limit_bytes


class DeduplicationIdMissing(InvalidInput):
    """A message for a FIFO queue without deduplication id, where the queue does not take one from the content."""

    code = "DeduplicationIdMissing"

    def __init__(self, queue: str) -> None:
        super().__init__(f'queue "{queue}": give a deduplication_id, or let the queue go by content_deduplication')
        self.queue = queue


class NotFound(PenstockError):
    """A named thing does not exist."""

    code = "NotFound"
    hint: ClassVar[str] = ""

    def __init__(self, name: str) -> None:
        super().__init__(f'{self.thing} "{name}" does not exist{self.hint}')
        self.name = name

    thing: ClassVar[str] = "resource"


class QueueNotFound(NotFound):
    """No function, mapping or ``create`` has ever named this queue."""

    code, thing = "QueueNotFound", "queue"
    hint = ": create it, or name it in a function or mapping"


class MappingNotFound(NotFound):
    """No app has ever declared this mapping and nobody has made it through the API, or it was deleted."""

    code, thing = "MappingNotFound", "mapping"
    hint = ": `penstock functions` lists them"


class FunctionNotFound(NotFound):
    """No worker has ever registered this function, or it was deleted."""

    code, thing = "FunctionNotFound", "function"
    hint = ": no worker has registered it; start one with `penstock runtime`"


class VersionNotFound(NotFound):
    """The function has no such version or alias; ``name`` is ``function:qualifier``."""

    code, thing = "VersionNotFound", "version or alias"
    hint = ": `penstock functions` shows them; `penstock publish` and `penstock alias` make them"


class StreamNotFound(NotFound):
    """No function or ``create`` has ever named this stream."""

    code, thing = "StreamNotFound", "stream"
    hint = ": create it, or name it as a destination"


class MoveNotFound(NotFound):
    """No such move task runs: it has ended, or there never was one."""

    code, thing = "MoveNotFound", "running move task"


class EventNotFound(NotFound):
    """No event has this id, or it ended longer ago than its function keeps that."""

    code, thing = "EventNotFound", "event"
    hint = ": its id is wrong, or it ended longer ago than its function's keep_status says"


class Conflict(PenstockError):
    """The thing exists in a state that forbids what was asked."""

    code = "Conflict"


class MappingExists(Conflict):
    """There is a mapping of this queue and function already."""

    code = "MappingExists"

    def __init__(self, name: str, uuid: str) -> None:
        super().__init__(f'mapping "{name}" exists already, with the UUID {uuid}')
        self.name, self.uuid = name, uuid


class QueueExists(Conflict):
    """A queue of this name exists with other settings (SQS CreateQueue's rule)."""

    code = "QueueExists"

    def __init__(self, name: str, attribute: str) -> None:
        super().__init__(f'queue "{name}" exists with a different value for {attribute}; use configure() to change it')
        self.name, self.attribute = name, attribute


class QueueDeletedRecently(Conflict):
    """A queue of this name was deleted less than a minute ago (over the AWS wire)."""

    code = "QueueDeletedRecently"

    def __init__(self, name: str) -> None:
        super().__init__(f'queue "{name}" was deleted less than a minute ago; its name is not free yet')
        self.name = name


class TooManyInFlight(Conflict):
    """More messages of one queue are in flight than SQS allows (over the AWS wire)."""

    code = "TooManyInFlight"

    def __init__(self, name: str) -> None:
        super().__init__(f'queue "{name}" has too many messages in flight: delete some, or let their receivers end')
        self.name = name


class MoveInProgress(Conflict):
    """A move task runs on this queue; there may be one at a time."""

    code = "MoveInProgress"

    def __init__(self, name: str) -> None:
        super().__init__(f'queue "{name}": a move task runs already; cancel it, or wait for its end')
        self.name = name


class AliasExists(Conflict):
    """The function has an alias of this name already."""

    code = "AliasExists"

    def __init__(self, name: str) -> None:
        super().__init__(f'alias "{name}" exists already')
        self.name = name


class VersionInUse(Conflict):
    """A version that aliases name cannot be deleted."""

    code = "VersionInUse"

    def __init__(self, name: str, aliases: list[str]) -> None:
        super().__init__(
            f'version "{name}" is what aliases name: {", ".join(aliases)}; let them name another one first'
        )
        self.name, self.aliases = name, aliases


class RevisionChanged(Conflict):
    """A change was to be made only to a certain revision, and there is a newer one."""

    code = "RevisionChanged"

    def __init__(self, name: str) -> None:
        super().__init__(f'"{name}" has been changed since the given revision')
        self.name = name


class ResourceBusy(Conflict):
    """A deletion that would lose messages."""

    code = "ResourceBusy"

    def __init__(self, what: str, name: str, messages: int) -> None:
        super().__init__(f'{what} "{name}" still holds {messages} messages: purge it first, or delete it with force')
        self.what, self.name, self.messages = what, name, messages


class EventPending(Conflict):
    """The result of an event was asked for, and it has not ended."""

    code = "EventPending"

    def __init__(self, request_id: str, state: str) -> None:
        super().__init__(f"event {request_id} has not ended: it is {state}")
        self.request_id, self.state = request_id, state


class ResultNotKept(Conflict):
    """The event succeeded, and its function did not keep the result."""

    code = "ResultNotKept"

    def __init__(self, request_id: str, function: str, *, too_large: bool) -> None:
        why = "it is larger than the function's keep_result" if too_large else "the function has no keep_result"
        super().__init__(f'event {request_id} of function "{function}" succeeded; its result was not kept: {why}')
        self.request_id, self.function, self.too_large = request_id, function, too_large


class LeaseLost(PenstockError):
    """The lease has ended and the message was handed to somebody else, finished or removed."""

    code = "LeaseLost"

    def __init__(self, message_id: str) -> None:
        super().__init__(f"message {message_id}: this lease has ended; the message is finished or somebody else's")
        self.message_id = message_id


class CallError(PenstockError):
    """A synchronous call that gave no result."""

    code = "CallError"


class FunctionError(CallError):
    """The handler failed; carries Lambda's error object (spec: function error objects)."""

    code = "FunctionError"

    def __init__(self, error_type: str, message: str, stack: list[str], request_id: str) -> None:
        super().__init__(f"{error_type}: {message}")
        self.error_type, self.message, self.stack, self.request_id = error_type, message, stack, request_id


class CallThrottled(CallError):
    """The function is at its concurrency limit, or paused: Lambda's 429, to be tried again by the caller.

    ``limit`` says what there was none left of: ``concurrency`` (the function's own), ``paused``, or ``workers`` (none
    has room).
    """

    code = "CallThrottled"

    def __init__(
        self, function: str, reason: str, *, limit: Literal["concurrency", "paused", "workers"] = "concurrency"
    ) -> None:
        super().__init__(f'function "{function}": {reason}')
        self.function, self.reason, self.limit = function, reason, limit


class CallTimeout(CallError):
    """No answer before the caller's deadline; the call was abandoned and is not tried again."""

    code = "CallTimeout"

    def __init__(self, function: str, timeout_s: float) -> None:
        super().__init__(f'function "{function}" gave no answer within {timeout_s:g} s; the call is abandoned')
        self.function, self.timeout_s = function, timeout_s


class NoLiveWorker(CallError):
    """The function is registered but no live worker serves it."""

    code = "NoLiveWorker"

    def __init__(self, function: str) -> None:
        super().__init__(f'function "{function}": no live worker serves it; start one with `penstock runtime`')
        self.function = function


class RecursiveInvocation(CallError):
    """The chain of requests that this call belongs to has run the function 16 times: taken for a loop, and stopped."""

    code = "RecursiveInvocation"

    def __init__(self, function: str) -> None:
        super().__init__(f'function "{function}": {RECURSION_STOPPED}')
        self.function = function


RECURSION_STOPPED = (
    "Lambda has detected your function being invoked in a recursive loop with other Amazon Web Services resources and "
    "stopped your function's invocation."
)
"""Lambda's own words."""


class StoreError(PenstockError):
    """Redis did not do what was asked."""

    code = "StoreError"


class StoreUnavailable(StoreError):
    """No connection to Redis, or it was lost before the answer: the outcome of a write is unknown."""

    code = "StoreUnavailable"


class StoreFull(StoreError):
    """Redis has reached its maxmemory: nothing was stored; give it memory or let workers catch up."""

    code = "StoreFull"


class StoreThrottled(StoreFull):
    """Redis is nearly full: producers are told to wait, so that what is there can still be handled. Nothing was stored;
    try again later."""

    code = "StoreThrottled"

    def __init__(self, place: str, percent: float, limit_percent: int) -> None:
        super().__init__(
            f"{place} has used {percent:.1f} % of its maxmemory, and producers have to wait from {limit_percent} % on "
            "(PENSTOCK_FULL_AT); nothing was stored: try again later, give it memory or let workers catch up"
        )
        self.percent, self.limit_percent = percent, limit_percent


class StoreReadOnly(StoreError):
    """The server is a read-only replica."""

    code = "StoreReadOnly"


class StoreDenied(StoreError):
    """Redis refused the credentials, or its ACL a command."""

    code = "StoreDenied"


class StoreUnsuitable(StoreError):
    """A server that Penstock must not trust: too old, or set to evict keys."""

    code = "StoreUnsuitable"


class DurabilityNotMet(StoreError):
    """Redis is less safe at the moment than what was asked for; nothing was stored, created or changed."""

    code = "DurabilityNotMet"

    def __init__(self, required: str, reason: str) -> None:
        super().__init__(f"durability={required} is required and not given: {reason}; nothing was done")
        self.required, self.reason = required, reason


class WriteNotConfirmed(StoreError):
    """It is stored on the primary, and too few replicas have said in time that they have it. It may be lost if the
    primary is; the same send again (with its id) is safe, and waits for the confirmation again."""

    code = "WriteNotConfirmed"

    def __init__(self, required: str, confirmed: int, waited_ms: int, *, reason: str = "") -> None:
        told = f"only {confirmed} replicas have confirmed it within {waited_ms} ms (PENSTOCK_CONFIRM_MS)"
        super().__init__(
            f"durability={required}: stored, but {reason or told}; the outcome is unknown, "
            "and the same send with its id may be repeated"
        )
        self.required, self.confirmed, self.waited_ms = required, confirmed, waited_ms


class StoreFault(StoreError):
    """An error reply that no rule explains; please report it."""

    code = "StoreFault"
