"""The engine for the tests that bring stacks up; they run with `make test-compose` only."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.compose.stack import BASE_IMAGES, base_images, docker

WANTED = "PENSTOCK_TEST_COMPOSE"


@pytest.fixture(scope="session")
def engine() -> Iterator[None]:
    """A Docker engine with the base images; what was not there before is gone afterwards."""
    if os.environ.get(WANTED) != "1":
        pytest.skip("takes minutes, and installs and starts a Docker engine where there is none: `make test-compose`")
    if os.geteuid() != 0:
        pytest.skip("needs root, for the engine and to kill what runs in containers")
    if shutil.which("dockerd") is None and shutil.which("apt-get") is None:
        pytest.skip("there is no Docker engine, and no apt-get to install one")
    try:
        made = subprocess.run([BASE_IMAGES, *base_images()], capture_output=True, text=True, timeout=900, check=False)
        if made.returncode != 0:
            pytest.skip(f"no engine or base images: {made.stderr[-500:]}")
        yield
        for image in docker("image", "ls", "--quiet", "penstock-test").split():
            subprocess.run(["docker", "image", "rm", "--force", image], capture_output=True, check=False)
    finally:
        subprocess.run([BASE_IMAGES, "--clean"], capture_output=True, timeout=120, check=False)
