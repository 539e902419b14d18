"""What tags may be: so many, so long, not AWS's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from broker.gateway.aws.lambda_.errors import invalid

_MAX_TAGS: Final = 50
_MAX_KEY: Final = 128
_MAX_VALUE: Final = 256
_RESERVED: Final = "aws:"


def check_tags(tags: Mapping[str, str]) -> None:
    """Raises ServiceError for tags that break a rule."""
    if len(tags) > _MAX_TAGS:
        raise invalid("Number of tags exceeds resource tag limit.")
    for key, value in tags.items():
        if not 1 <= len(key) <= _MAX_KEY or key.lower().startswith(_RESERVED):
            raise invalid(f"The tag key {key[:_MAX_KEY]!r} is invalid: 1 to 128 characters, not beginning with aws:")
        if len(value) > _MAX_VALUE:
            raise invalid(f"The value of the tag {key!r} is invalid: at most 256 characters")
