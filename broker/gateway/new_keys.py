"""A first access key, where a gateway finds none: random, in a file that only its owner reads."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import Final

from broker.errors import InvalidOption
from broker.gateway.access import AccessKey

_ID_PREFIX: Final = "PENSTOCK"
_ID_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_ID_LENGTH: Final = 12
_SECRET_BYTES: Final = 30
_HEADER: Final = (
    "# Made by the first start of the gateway. Whoever has a key may do everything; more keys, a line each.\n"
)


def create_access_keys(path: Path, option: str) -> AccessKey | None:
    """Writes a file with one random key; None where the file is there already, also when another gateway was quicker.

    The file appears whole, with its key in it, or not at all. Raises InvalidOption, which names the file and why.
    """
    path = path.expanduser()
    key = AccessKey(
        _ID_PREFIX + "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH)),
        secrets.token_urlsafe(_SECRET_BYTES),
    )
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        if path.exists():
            return None
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(f"{_HEADER}{key.id}:{key.secret}\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # unlike a rename, it does not take the place of another gateway's file
    except FileExistsError:
        return None
    except OSError as error:
        raise InvalidOption(option, str(path), f"the file cannot be made: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    return key
