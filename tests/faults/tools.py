"""Programs and libraries that some scenarios need and nobody installs for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

LIBRARY_VARIABLE: Final = "PENSTOCK_LIBFAKETIME"
_FOLDERS: Final = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
)


def libfaketime() -> Path | None:
    """The library that gives one process another clock, None where it is not installed."""
    named = os.environ.get(LIBRARY_VARIABLE)
    places = [Path(named)] if named else [Path(folder, "faketime", "libfaketimeMT.so.1") for folder in _FOLDERS]
    return next((path for path in places if path.exists()), None)
