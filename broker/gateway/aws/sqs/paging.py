"""Lists in pages: which names belong to a page, and the token for the next. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Final
from zlib import crc32

import msgspec

from broker.gateway.aws.sqs.errors import invalid, invalid_value

MAX_RESULTS: Final = 1_000
_CHECKSUM_BYTES: Final = 4


class Page(msgspec.Struct, frozen=True):
    """One page; ``next_token`` where there is more, and whoever asks can take it in pages."""

    names: Sequence[str]
    next_token: str | None = None


def page_of(names: Sequence[str], *, scope: str, max_results: int | None, token: str | None) -> Page:
    """The page behind the token, of sorted names. ``scope`` is what a token is good for: another list's is refused.

    Without ``max_results`` there are up to 1,000 names and no token. Raises InvalidParameterValue.
    """
    if max_results is not None and not 1 <= max_results <= MAX_RESULTS:
        reason = f"Must be an integer between 1 and {MAX_RESULTS}, if provided."
        raise invalid_value("MaxResults", max_results, reason)
    behind = _read(token, scope) if token else ""
    left = [name for name in names if name > behind]
    shown = left[: max_results or MAX_RESULTS]
    more = max_results is not None and len(left) > len(shown)
    return Page(shown, _token(shown[-1], scope) if more else None)


def _token(last: str, scope: str) -> str:
    text = last.encode()
    return base64.b64encode(_checksum(text, scope) + text).decode()


def _read(token: str, scope: str) -> str:
    try:
        raw = base64.b64decode(token, validate=True)
        checksum, text = raw[:_CHECKSUM_BYTES], raw[_CHECKSUM_BYTES:]
        if checksum == _checksum(text, scope):
            return text.decode()
    except (binascii.Error, ValueError):
        pass
    raise invalid("Invalid or expired next token.")


def _checksum(text: bytes, scope: str) -> bytes:
    return crc32(text, crc32(scope.encode(errors="replace"))).to_bytes(_CHECKSUM_BYTES, "big")
