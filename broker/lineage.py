"""How often the functions of one chain of requests have run: the ``Lineage`` of an X-Ray trace header. Pure.

Source: AWS's announcement of recursive loop detection (``Lineage=<hops>:<hash>:<counter>`` in the trace header, raised
by every invocation; what is over 16 is stopped). A chain may go round over several functions, so there is one pair of
hash and counter for each, with ``|`` between them, as X-Ray's own documents write it::

    Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1;Lineage=3:a87bd80c:1|68fd508a:0

The counter of a function is 0 while it runs for the first time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, TypeAlias
from urllib.parse import unquote

MAX_INVOCATIONS: Final = 16
"""So often a function runs in one chain; the next time is stopped."""
MAX_HEADER_BYTES: Final = 4_096
"""Of a trace header; a real one has some hundred."""
_MOST_FUNCTIONS: Final = 32
_MOST_COUNTED: Final = 32_767
_FIELD: Final = "Lineage="
_HEADER: Final = re.compile(rf"[\x20-\x7e]{{1,{MAX_HEADER_BYTES}}}")
_COUNTED: Final = re.compile(r"([0-9a-f]{8}):([0-9]{1,5})")
_UNQUALIFIED: Final = 7  # parts of a function's ARN without its qualifier

_Counts: TypeAlias = dict[str, int]


def readable(header: str) -> str:
    """A trace header as somebody sent it, '' for what is none: too long, or not printable.

    botocore sends it with percent signs for what it thinks unsafe, ``|`` among it.
    """
    text = unquote(header) if "%" in header else header
    return text if _HEADER.fullmatch(text) else ""


@lru_cache(maxsize=1_024)
def hash_of(function_arn: str) -> str:
    """What a function is called in a lineage; the same for all its versions."""
    name = ":".join(function_arn.split(":")[:_UNQUALIFIED])
    return hashlib.sha256(name.encode()).hexdigest()[:8]


@lru_cache(maxsize=4_096)
def invocations(header: str, function: str) -> int:
    """How often the function, named by its hash, has run in the chain that a trace header comes from."""
    return _parsed(header)[1].get(function, -1) + 1


@lru_cache(maxsize=4_096)
def run_once_more(header: str, function: str) -> str:
    """The trace header of what a function sends on that runs under this one."""
    hops, counts = _parsed(header)
    counted = min(counts.pop(function, -1) + 1, _MOST_COUNTED)
    if len(counts) >= _MOST_FUNCTIONS:
        del counts[min(counts, key=lambda other: counts[other])]
    others = (f"{other}:{count}" for other, count in counts.items())
    lineage = f"{_FIELD}{min(hops + 1, _MOST_COUNTED)}:{'|'.join((f'{function}:{counted}', *others))}"
    return _joined((without(header), lineage))


def merged(headers: Sequence[str]) -> str:
    """The trace header of what belongs to several at once: the highest counters, and the other fields where all have
    the same."""
    others = {without(header) for header in headers}
    parsed = [_parsed(header) for header in headers]
    counts: _Counts = {}
    for _, each in parsed:
        for function, count in each.items():
            counts[function] = max(count, counts.get(function, 0))
    most = sorted(counts, key=lambda function: -counts[function])[:_MOST_FUNCTIONS]
    pairs = "|".join(f"{function}:{counts[function]}" for function in most)
    found = f"{_FIELD}{max(hops for hops, _ in parsed)}:{pairs}" if pairs else ""
    return _joined((others.pop() if len(others) == 1 else "", found))


def continued(header: str, other: str) -> str:
    """The trace header with the lineage of another one."""
    return _joined((without(header), _field_of(other)))


def without(header: str) -> str:
    """The same trace header with no lineage: who runs in it has run for the first time."""
    return _joined(field for field in header.split(";") if not field.strip().startswith(_FIELD))


def _field_of(header: str) -> str:
    return next((field.strip() for field in header.split(";") if field.strip().startswith(_FIELD)), "")


def _joined(fields: Iterable[str]) -> str:
    return ";".join(field for field in fields if field)


def _parsed(header: str) -> tuple[int, _Counts]:
    """The number of invocations in the chain, and the counter of each function; what is no lineage is none."""
    text = _field_of(header).removeprefix(_FIELD)
    hops, _, rest = text.partition(":")
    stated = int(hops) if rest.count(":") > text.count("|") and hops.isascii() and hops.isdecimal() else None
    pairs = _COUNTED.findall(rest if stated is not None else text)
    counts: _Counts = {function: min(int(count), _MOST_COUNTED) for function, count in pairs}
    return min(sum(counts.values()) + len(counts) if stated is None else stated, _MOST_COUNTED), counts
