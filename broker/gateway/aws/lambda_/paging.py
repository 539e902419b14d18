"""Pages of lists: a marker says where the next one begins, and stays good when what it names is gone."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import TypeVar

from broker.gateway.aws.lambda_.errors import invalid

T = TypeVar("T")


def page_of(
    items: Sequence[T], marker: str | None, *, size: int, key: Callable[[T], str]
) -> tuple[list[T], str | None]:
    """The page of sorted items that a marker begins, and the marker of the next one. Raises ServiceError."""
    after = _read(marker) if marker else None
    rest = [item for item in items if after is None or key(item) > after]
    page = rest[:size]
    more = len(rest) > size
    return page, base64.urlsafe_b64encode(key(page[-1]).encode()).decode() if more else None


def _read(marker: str) -> str:
    try:
        return base64.b64decode(marker, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise invalid("The marker is not one that this service has given.") from None
