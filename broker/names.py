"""Names, accounts, regions and ARNs: what may be called how, and what a stored resource is called everywhere."""

from __future__ import annotations

import re
from binascii import crc_hqx
from functools import lru_cache
from itertools import count
from typing import Final, Literal, TypeAlias

import msgspec

from broker.errors import InvalidName

Kind: TypeAlias = Literal["queue", "function", "stream"]

_PATTERNS: Final[dict[Kind, tuple[re.Pattern[str], str]]] = {
    "queue": (
        re.compile(r"(?=.{1,80}\Z)[A-Za-z0-9_-]+(\.fifo)?"),
        "1 to 80 of letters, digits, - and _, with .fifo at the end of a FIFO queue's",
    ),
    "function": (re.compile(r"[A-Za-z0-9_-]{1,64}"), "1 to 64 of letters, digits, - and _"),
    "stream": (re.compile(r"[A-Za-z0-9_.-]{1,128}"), "1 to 128 of letters, digits, -, _ and ."),
}
LATEST: Final = "$LATEST"
"""Lambda's word for what was registered last."""
SPARE: Final = "+"
"""Behind an alias's name: its events that wait for its second version."""
_QUALIFIED: Final = re.compile(r"([A-Za-z0-9_-]{1,64}):(\$LATEST|[A-Za-z0-9_-]{1,128})")
_SLOT_BITS: Final = 14
_SLOTS: Final = 1 << _SLOT_BITS
_NEAR: Final = 128
_KNOWN_TAGS: Final = 4_096
_TAGS: Final[dict[Kind, str]] = {"queue": "q", "function": "fn", "stream": "s"}


def check_name(kind: Kind, name: str) -> str:
    """The name itself if it is a valid one for that kind; raises InvalidName otherwise."""
    pattern, rule = _PATTERNS[kind]
    if not isinstance(name, str):
        raise InvalidName(kind, repr(name), "must be text")
    if not pattern.fullmatch(name):
        raise InvalidName(kind, name, f"only {rule}")
    return name


@lru_cache(maxsize=_KNOWN_TAGS)
def _spread(first: str, partition: int) -> str:
    """The tag of a partition beside the first one's. Tags that were only numbered would meet in some parts of a cluster
    and miss others; so it is the first of its kind whose slot lies about where the partitions before leave most room:
    half of all slots from the first one, then a quarter, three quarters, … as the bits of its number say, reversed."""
    wanted = crc_hqx(first.encode(), 0) + int(f"{partition:0{_SLOT_BITS}b}"[::-1], 2)
    for attempt in count():  # some 128 on average, at about half a microsecond
        tag = f"{first}:{partition}.{attempt}"
        if (crc_hqx(tag.encode(), 0) - wanted) % _SLOTS < _NEAR:
            return tag
    raise AssertionError(first)


def split_function(name: str) -> tuple[str, str]:
    """Function and qualifier (a version's number, an alias, ``$LATEST``) of ``orders:live``; '' where it has none.
    Raises InvalidName."""
    found = _QUALIFIED.fullmatch(name) if ":" in str(name) else None
    return (found[1], found[2]) if found else (check_name("function", name), "")


class Resource(msgspec.Struct, frozen=True):
    """One stored resource: its kind, account, region and name. Hashable; the identity used everywhere.

    What is split into partitions is one such value a partition. The first one stands for the whole, too: it has the
    settings in force and the permits.
    """

    kind: Kind
    account: str
    region: str
    name: str
    partition: int = 0

    @property
    def fifo(self) -> bool:
        """Whether it is a FIFO queue, which its name says."""
        return self.kind == "queue" and self.name.endswith(".fifo")

    @property
    def tag(self) -> str:
        """What identifies it in text, among all of them: a partition and a version of one number are two."""
        return f"{self.slot}:@{self.qualifier}" if self.qualifier else self.slot

    @property
    def slot(self) -> str:
        """What stands between the braces of every key of this resource, so that they share a cluster slot; versions
        and aliases are in that of their function's first partition."""
        name = self.name.partition(":")[0] if self.kind == "function" else self.name
        slot = f"{_TAGS[self.kind]}:{self.account}:{self.region}:{name}"
        return _spread(slot, self.partition) if self.partition else slot

    @property
    def whole(self) -> Resource:
        """The first partition, which stands for all of them; itself, where it is not split."""
        return self.part(0) if self.partition else self

    def part(self, partition: int) -> Resource:
        """One of its partitions."""
        return Resource(self.kind, self.account, self.region, self.name, partition)

    def parts(self, count: int) -> list[Resource]:
        """Its first ``count`` partitions."""
        return [self.part(partition) for partition in range(count)]

    @property
    def qualifier(self) -> str:
        """Of a version or alias of a function, what is behind its name; else ''."""
        return self.name.partition(":")[2] if self.kind == "function" else ""

    @property
    def arn(self) -> str:
        """The Amazon Resource Name that AWS would give it."""
        match self.kind:
            case "queue":
                return f"arn:aws:sqs:{self.region}:{self.account}:{self.name}"
            case "function":
                return f"arn:aws:lambda:{self.region}:{self.account}:function:{self.name.removesuffix(SPARE)}"
            case "stream":
                return f"arn:aws:kinesis:{self.region}:{self.account}:stream/{self.name}"

    @classmethod
    def from_arn(cls, arn: str) -> Resource:
        """The resource that an ARN of :attr:`arn`'s forms names; raises InvalidName for any other text."""
        parts = arn.split(":")
        match parts:
            case ["arn", "aws", "sqs", region, account, name]:
                return cls("queue", account, region, name)
            case ["arn", "aws", "lambda", region, account, "function", name]:
                return cls("function", account, region, name)
            case ["arn", "aws", "kinesis", region, account, tail] if tail.startswith("stream/"):
                return cls("stream", account, region, tail.removeprefix("stream/"))
            case _:
                raise InvalidName("resource", arn, "not the ARN of a queue, function or stream")


class Route(msgspec.Struct, frozen=True):
    """What a synchronous call goes to."""

    function: str
    """A function, or a version of it as ``orders:3``."""
    invoked: str = ""
    """The qualifier that the caller gave."""


class Queue(msgspec.Struct, frozen=True, tag="queue"):
    """A queue by name, as a destination, dead-letter queue or source. Raises InvalidName."""

    name: str

    def __post_init__(self) -> None:
        check_name("queue", self.name)


class Function(msgspec.Struct, frozen=True, tag="function"):
    """A function by name, as a destination: it is invoked asynchronously with the record. Raises InvalidName."""

    name: str

    def __post_init__(self) -> None:
        check_name("function", self.name)


class Stream(msgspec.Struct, frozen=True, tag="stream"):
    """A stream by name, as a destination: an append-only log. Raises InvalidName."""

    name: str

    def __post_init__(self) -> None:
        check_name("stream", self.name)


Target: TypeAlias = Queue | Function | Stream
"""Where a record can be sent."""
