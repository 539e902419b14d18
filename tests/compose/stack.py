"""A stack of docker-compose.yml under a name of its own: brought up, looked into, hit, taken down without a trace."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import boto3
import msgspec
from botocore.config import Config

ROOT: Final = Path(__file__).resolve().parents[2]
BASE_IMAGES: Final = ROOT / "tests" / "compose" / "base-images.sh"
PROJECT_LABEL: Final = "com.docker.compose.project"


def base_images() -> list[str]:
    """The images that Dockerfile and docker-compose.yml build on."""
    python = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    redis = re.findall(r"\$\{PENSTOCK_REDIS_IMAGE:-([^}]+)\}", (ROOT / "docker-compose.yml").read_text())
    return sorted({*python, *redis})


def docker(*words: str) -> str:
    """What the engine's command prints, and what containers said on standard error."""
    done = subprocess.run(["docker", *words], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout + (done.stderr if words[0] == "logs" else "")


def free_port() -> int:
    """A port of loopback that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def until(condition: Callable[[], Any], *, within_s: float, what: str) -> Any:
    """The first truth that it answers."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.5)
    return found


class Stack:
    """One project of compose; everything of it is gone at the end of its ``with`` block."""

    def __init__(self, name: str, *, files: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        self.project: Final = f"penstock-test-{name}-{os.getpid()}"
        self.port: Final = free_port()
        self._files: Final = [word for file in files for word in ("-f", file)]
        self._environment: Final = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PENSTOCK_", "COMPOSE_"))},
            "PENSTOCK_PUBLISH": f"127.0.0.1:{self.port}",
            "PENSTOCK_IMAGE": "penstock-test:penstock",
            "PENSTOCK_APP_IMAGE": f"penstock-test:{name}",
            **(environment or {}),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.compose("--profile", "cluster", "down", "--volumes", "--timeout", "5")

    @property
    def url(self) -> str:
        """The gateway's, from outside."""
        return f"http://127.0.0.1:{self.port}"

    def compose(self, *words: str, check: bool = True) -> str:
        """Runs docker-compose or `docker compose`; answers what it prints."""
        done = subprocess.run(
            [*_compose(), "-p", self.project, *self._files, *words],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert not check or done.returncode == 0, f"{words}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout if check else done.stdout + done.stderr

    def inside(self, service: str, *words: str) -> str:
        """What a command prints in a service's first container."""
        return self.compose("exec", "-T", service, *words)

    def containers(self, service: str) -> list[str]:
        """The ids of a service's containers, stopped ones too."""
        return self.compose("ps", "-q", service).split()

    def is_healthy(self, service: str) -> bool:
        """Whether each of its containers is."""
        states = [self.state(each) for each in self.containers(service)]
        return bool(states) and all(state["Health"]["Status"] == "healthy" for state in states)

    def state(self, container: str) -> dict[str, Any]:
        """How the engine sees a container."""
        found: dict[str, Any] = msgspec.json.decode(docker("inspect", "--format", "{{json .State}}", container))
        return found

    def hit(self, container: str) -> None:
        """SIGKILL to its first process, past the engine, which would take its own kill for a wish to stop."""
        os.kill(self.state(container)["Pid"], signal.SIGKILL)

    def access_key(self) -> tuple[str, str]:
        """The key that the first start has made."""
        line = self.inside("broker", "cat", "/keys/access-keys").splitlines()[-1]
        key_id, _, secret = line.partition(":")
        return key_id, secret

    def client(self, service: str, key: tuple[str, str]) -> Any:
        """A boto3 client of the published gateway."""
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=key[0],
            aws_secret_access_key=key[1],
            config=Config(retries={"mode": "standard", "total_max_attempts": 8}),
        )

    def left(self) -> list[str]:
        """Containers, volumes and networks that bear its name."""
        wanted = ("--quiet", "--filter", f"label={PROJECT_LABEL}={self.project}")
        kinds = (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
        return [each for kind in kinds for each in docker(*kind, *wanted).split()]


def _compose() -> list[str]:
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if plugin.returncode == 0:
        return ["docker", "compose"]
    found = shutil.which("docker-compose")
    assert found is not None
    return [found]
