"""What is stored: messages, settings of functions, queues, streams and mappings, and what is sent on.

Every record is versioned by tolerance: readers ignore fields they do not know and fill in those that are missing.
"""

from __future__ import annotations

import struct
from typing import Any, Final, Literal, TypeAlias, get_args
from uuid import NAMESPACE_URL, uuid5
from zlib import crc32

import msgspec

from broker import limits
from broker.durability import check_durability
from broker.environment import check_environment
from broker.errors import InvalidOption, PayloadNotJson
from broker.message_attributes import Attribute
from broker.names import LATEST, Queue, Target

# -- messages ---------------------------------------------------------------------------------------------------------


class Header(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What travels with a body besides it; most messages need none."""

    id: str | None = None
    attributes: dict[str, Attribute] = {}
    source: str | None = None
    """ARN of where a dead letter comes from: the queue, or the function whose event it was."""
    group: str = ""
    """SQS's MessageGroupId: what keeps its order in a FIFO queue; whose message it is in a standard one."""
    deduplication_id: str = ""
    trace: str = ""
    """The system attribute AWSTraceHeader."""
    sender: str = ""
    """SenderId, where it is not the account itself."""
    traceparent: str = msgspec.field(default="", name="tp")
    """W3C's, with :attr:`tracestate`; spelled short, as it is in every message of who traces."""
    tracestate: str = msgspec.field(default="", name="ts")


_HEADER_ENCODER: Final = msgspec.msgpack.Encoder()
_HEADER_DECODER: Final = msgspec.msgpack.Decoder(Header)
_LENGTH: Final = struct.Struct(">I")
_HEADER_START: Final = 1 + _LENGTH.size
_PLAIN: Final = b"\x00"
_HEADED: Final = b"\x01"
NO_HEADER: Final = Header()
PACKING_BYTES: Final = 2
"""By how much a body without header grows."""
_SALTS: Final = tuple(bytes((value,)) for value in range(256))


def pack(body: bytes, header: Header | None = None) -> bytes:
    """A body, with its header if it has one, as the one opaque value that Redis keeps.

    Its last byte differs between bodies that differ anywhere. Redis's Lua hashes only some characters of a long text,
    always the last one: without it, bodies that differ in a digit or two made a claim take twice as long.
    """
    salt = _SALTS[crc32(body) & 0xFF]
    if header is None or header == NO_HEADER:
        return _PLAIN + body + salt
    encoded = _HEADER_ENCODER.encode(header)
    return b"".join((_HEADED, _LENGTH.pack(len(encoded)), encoded, body, salt))


def unpack(blob: bytes) -> tuple[Header, bytes]:
    """Header and body of a packed message; what is damaged is all body, for its handler's decoder to refuse."""
    if blob[:1] == _PLAIN:
        return NO_HEADER, blob[1:-1]
    if blob[:1] != _HEADED:
        return NO_HEADER, blob
    try:
        (length,) = _LENGTH.unpack_from(blob, 1)
        end = _HEADER_START + length
        return _HEADER_DECODER.decode(blob[_HEADER_START:end]), blob[end:-1]
    except (struct.error, msgspec.MsgspecError):
        return NO_HEADER, blob


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The counters of one message: leases granted, errors and timeouts, leases that ended without a word."""

    receives: int = 1
    tries: int = 0
    crashes: int = 0
    first_receive_ms: int = 0
    sent_ms: int = 0
    culprit: str = ""

    @classmethod
    def parse(cls, text: bytes) -> Facts:
        """Facts from their stored form; empty text is a message that is handed out for the first time. What is damaged
        is forgotten, as in the scripts."""
        if not text:
            return FIRST_FACTS
        try:
            receives, tries, crashes, first, sent, culprit = text.decode().split(",", 5)
            numbers = [int(word) for word in (receives, tries, crashes, first, sent)]
        except ValueError:
            return FIRST_FACTS
        return cls(
            receives=numbers[0],
            tries=numbers[1],
            crashes=numbers[2],
            first_receive_ms=numbers[3],
            sent_ms=numbers[4],
            culprit=culprit,
        )

    def stored(self) -> str:
        """The stored form, as the scripts read it."""
        return f"{self.receives},{self.tries},{self.crashes},{self.first_receive_ms},{self.sent_ms},{self.culprit}"


FIRST_FACTS: Final = Facts()

# -- settings ---------------------------------------------------------------------------------------------------------


DeduplicationScope: TypeAlias = Literal["queue", "messageGroup"]
ThroughputLimit: TypeAlias = Literal["perQueue", "perMessageGroupId"]
RedrivePermission: TypeAlias = Literal["allowAll", "denyAll", "byQueue"]
RecursiveLoop: TypeAlias = Literal["Allow", "Terminate"]


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Attributes of a queue, in seconds and bytes, with SQS's defaults."""

    visibility_timeout_s: float = limits.DEFAULT_VISIBILITY_TIMEOUT_S
    delay_s: float = 0
    retention_s: float = limits.DEFAULT_RETENTION_S
    max_message_bytes: int = limits.MAX_MESSAGE_BYTES
    receive_wait_s: float = 0
    dead_letter: str | None = None
    max_receives: int | None = None
    fifo: bool = False
    content_deduplication: bool = False
    deduplication_scope: DeduplicationScope = "queue"
    throughput_limit: ThroughputLimit = "perQueue"
    redrive_permission: RedrivePermission | None = None
    """Whose dead letters it takes; None where nobody has said, which allows all."""
    redrive_sources: tuple[str, ...] = ()
    """ARNs of the queues that may name it as their dead-letter queue, where the permission is ``byQueue``."""
    policy: str = ""
    """A policy as JSON: what other accounts may do."""
    kms_key: str = ""
    """Kept for clients that set it; what Redis keeps is not encrypted by Penstock."""
    kms_reuse_s: int = limits.DEFAULT_KMS_REUSE_S
    managed_sse: bool = True
    durability: str = ""
    """What a send must be before it is answered; '' where nothing is required."""
    tags: dict[str, str] = {}
    partitions: int = 1
    """Over how many cluster slots it is spread."""

    def __post_init__(self) -> None:
        check_durability(self.durability)
        check_whole("partitions", self.partitions, 1, limits.MAX_PARTITIONS)
        check_range("visibility_timeout", self.visibility_timeout_s, 0, limits.MAX_VISIBILITY_TIMEOUT_S)
        check_range("delay", self.delay_s, 0, limits.MAX_DELAY_S)
        check_range("retention", self.retention_s, limits.MIN_RETENTION_S, limits.MAX_RETENTION_S)
        check_whole("max_message_bytes", self.max_message_bytes, limits.KIB, limits.MAX_MESSAGE_BYTES)
        check_range("receive_wait", self.receive_wait_s, 0, limits.MAX_RECEIVE_WAIT_S)
        if (self.dead_letter is None) != (self.max_receives is None):
            raise InvalidOption("max_receives", self.max_receives, "goes together with dead_letter")
        if self.max_receives is not None:
            check_whole("max_receives", self.max_receives, 1, limits.MAX_RECEIVES)
        self._check_fifo()

    def _check_fifo(self) -> None:
        check_one_of("deduplication_scope", self.deduplication_scope, DeduplicationScope)
        check_one_of("throughput_limit", self.throughput_limit, ThroughputLimit)
        if self.fifo and self.partitions > 1:
            rule = "1 for a FIFO queue, whose order and deduplication ids hold over all of it"
            raise InvalidOption("partitions", self.partitions, rule)
        if self.redrive_permission is not None:
            check_one_of("redrive_permission", self.redrive_permission, RedrivePermission)
        for option, value, usual in (
            ("content_deduplication", self.content_deduplication, False),
            ("deduplication_scope", self.deduplication_scope, "queue"),
            ("throughput_limit", self.throughput_limit, "perQueue"),
        ):
            if not self.fifo and value != usual:
                raise InvalidOption(option, value, "only for a FIFO queue, whose name ends in .fifo")
        if self.throughput_limit == "perMessageGroupId" and self.deduplication_scope != "messageGroup":
            raise InvalidOption("throughput_limit", self.throughput_limit, "needs deduplication_scope='messageGroup'")


class StreamSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How long a stream keeps its records: by number and by age, whichever is less."""

    max_length: int = limits.DEFAULT_STREAM_MAX_LENGTH
    retention_s: float = limits.DEFAULT_STREAM_RETENTION_S
    durability: str = ""

    def __post_init__(self) -> None:
        check_durability(self.durability)
        check_whole("max_length", self.max_length, 1, 1_000_000_000)
        check_range("retention", self.retention_s, 1, 365 * 86_400)


class InvokeConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was said through the API of a function's asynchronous calls; the values are with the other settings."""

    told: tuple[str, ...] = ()
    """The settings that were given a value, be it the usual one."""
    modified_ms: int = 0


class FunctionSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A registered function as data: everything a process without its code needs to know."""

    timeout_s: float = limits.DEFAULT_TIMEOUT_S
    retries: int = limits.DEFAULT_RETRIES
    retry_delays_s: tuple[float, ...] = limits.DEFAULT_RETRY_DELAYS_S
    max_event_age_s: float = limits.DEFAULT_MAX_EVENT_AGE_S
    concurrency: int | None = None
    paused: bool = False
    max_crashes: int = limits.DEFAULT_MAX_CRASHES
    on_success: Target | None = None
    on_failure: Target | None = None
    dead_letter: Target | None = None
    keep_status_s: float = limits.DEFAULT_KEEP_STATUS_S
    keep_result_bytes: int = 0
    """The largest result that is kept with the status; larger ones are not, and 0 keeps none."""
    durability: str = ""
    """What an event must be before its sender is answered; '' where nothing is required."""
    recursive_loop: RecursiveLoop = "Terminate"
    """Whether a chain of events that comes back to the function is stopped after it has run 16 times."""
    description: str = ""
    memory_mb: int = limits.DEFAULT_MEMORY_MB
    """What handlers and clients are told; it limits nothing."""
    environment: dict[str, str] = {}
    """Variables for its handler; never to be logged."""
    build: str = ""
    """What the code that declared them is called; '' where it has no name."""
    version: str = LATEST
    """The version that runs under them."""
    tags: dict[str, str] = {}
    partitions: int = 1
    """Over how many cluster slots its events are spread."""
    invoke_config: InvokeConfig | None = None
    declared: FunctionSettings | None = None
    """What its code said last, where the API has changed something since; None where these are the code's settings."""

    def __post_init__(self) -> None:
        check_durability(self.durability)
        check_whole("partitions", self.partitions, 1, limits.MAX_PARTITIONS)
        check_range("timeout", self.timeout_s, 0.001, limits.MAX_TIMEOUT_S)
        check_whole("retries", self.retries, 0, limits.MAX_RETRIES)
        if self.retries and not self.retry_delays_s:
            raise InvalidOption("retry_delays", self.retry_delays_s, "at least one delay, as retries is above 0")
        for delay in self.retry_delays_s:
            check_range("retry_delays", delay, 0, 86_400 * 365)
        check_range("max_event_age", self.max_event_age_s, 0.001, 86_400 * 365)
        if self.concurrency is not None:
            check_whole("concurrency", self.concurrency, 0, limits.MAX_CONCURRENCY)
        check_whole("max_crashes", self.max_crashes, 0, 1_000)
        check_whole("memory", self.memory_mb, limits.DEFAULT_MEMORY_MB, limits.MAX_MEMORY_MB)
        check_environment(self.environment)
        check_range("keep_status", self.keep_status_s, 0, limits.MAX_KEEP_STATUS_S)
        check_whole("keep_result", self.keep_result_bytes, 0, limits.MAX_KEEP_RESULT_BYTES)
        if self.keep_result_bytes and not self.keep_status_s:
            raise InvalidOption("keep_result", self.keep_result_bytes, "goes with a keep_status above 0")
        check_one_of("recursive_loop", self.recursive_loop, RecursiveLoop)
        for option in ("on_success", "on_failure", "dead_letter"):
            target: Target | None = getattr(self, option)
            if isinstance(target, Queue) and target.name.endswith(".fifo"):
                raise InvalidOption(option, target.name, "no FIFO queue (Lambda's rule): name a standard queue")


MAPPING_ARROW: Final = "->"
MappingOrigin: TypeAlias = Literal["code", "api"]


class MappingSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event source mapping as data: which queue feeds which function, and how."""

    queue: str
    function: str
    batch_size: int = limits.DEFAULT_BATCH_SIZE
    batch_window_s: float = 0
    partial_failures: bool = False
    max_concurrency: int | None = None
    filters: tuple[str, ...] = ()
    """Patterns as JSON texts, checked before they come here; a handler sees what one of them matches, or all."""
    enabled: bool = True
    undeclared: bool = False
    """No live worker declares it (any more): it rests until one does."""
    uuid: str = ""
    """Made when it is first stored, and kept."""
    origin: MappingOrigin = "code"
    modified_ms: int = 0
    qualifier: str = ""
    """As its function was named through the API, where with one: ``$LATEST``, a version's number, an alias."""
    pollers: tuple[int, int] | None = None
    """Lambda's ProvisionedPollerConfig, fewest and most; kept for clients that set it."""
    metrics: tuple[str, ...] = ()
    kms_key: str = ""
    tags: dict[str, str] = {}
    declared: MappingSettings | None = None
    """What its code said last, where the API has changed something since; None where these are the code's settings."""

    def __post_init__(self) -> None:
        check_whole("batch_size", self.batch_size, 1, limits.MAX_BATCH_SIZE)
        check_range("batch_window", self.batch_window_s, 0, limits.MAX_BATCH_WINDOW_S)
        if self.max_concurrency is not None:
            low, high = limits.MIN_MAPPING_CONCURRENCY, limits.MAX_MAPPING_CONCURRENCY
            check_whole("max_concurrency", self.max_concurrency, low, high)

    @property
    def asleep(self) -> bool:
        """Whether nothing is polled for it."""
        return self.undeclared or not self.enabled

    @property
    def name(self) -> str:
        """One mapping a pair of queue and function."""
        return f"{self.queue}{MAPPING_ARROW}{self.function}"

    @property
    def target(self) -> str:
        """What it feeds, as workers say what they serve: a function, or ``function:qualifier``."""
        return self.function if self.qualifier in {"", LATEST} else f"{self.function}:{self.qualifier}"

    @property
    def identity(self) -> str:
        """Its UUID; of one that an older release has stored, one that its name gives."""
        return self.uuid or str(uuid5(NAMESPACE_URL, self.name))


def check_range(option: str, value: object, low: float, high: float) -> None:
    """Raises InvalidOption unless the value is a number from low to high."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidOption(option, value, f"must be a number from {low:g} to {high:g}")


def check_one_of(option: str, value: object, words: object) -> None:
    """Raises InvalidOption unless the value is one of the words of a Literal."""
    if value not in (known := get_args(words)):
        raise InvalidOption(option, value, f"one of {', '.join(known)}")


def check_whole(option: str, value: object, low: int, high: int) -> None:
    """Raises InvalidOption unless the value is a whole number from low to high."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidOption(option, value, f"must be a whole number from {low} to {high}")


# -- what is sent on --------------------------------------------------------------------------------------------------

DeliveryKind: TypeAlias = Literal["success", "failure", "dead_letter", "redrive"]


class Delivery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of an outbox: a packed message on its way to a target."""

    kind: DeliveryKind
    target: Target
    blob: bytes
    facts: str = ""
    first_attempt_ms: int = 0
    attempts: int = 0
    last_error: str = ""
    detour: bool = False
    """It could not be delivered for a day and is on its way to the dead-letter queue instead."""

    @property
    def is_record(self) -> bool:
        """Whether it is an invocation record, whose payloads may be left out where they do not fit."""
        return self.kind in {"success", "failure"}


# -- JSON -------------------------------------------------------------------------------------------------------------

_JSON_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")
_JSON_DECODER: Final = msgspec.json.Decoder()


def encode_json(what: str, value: object) -> bytes:
    """The value as JSON; raises PayloadNotJson, naming what it was, if it cannot be."""
    try:
        return _JSON_ENCODER.encode(value)
    except (TypeError, ValueError, RecursionError, UnicodeEncodeError) as error:
        raise PayloadNotJson(what, str(error)) from error


def decode_json(what: str, text: bytes | str) -> Any:
    """The value of a JSON text; raises PayloadNotJson, naming what it was."""
    try:
        return _JSON_DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PayloadNotJson(what, str(error) if text.strip() else "it is empty") from error
