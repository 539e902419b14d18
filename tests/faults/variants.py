"""Scenarios that are run more than once: on every server that can be had, alone and as a cluster."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from broker.embedded import MIN_SERVER_VERSION, SERVER_VARIABLE
from tests.conftest import TOPOLOGY_VARIABLE
from tools.provide_server import SERVERS, provide
from tools.server_wheels import version_of

_ALONE: Final = ("tests/store",)
_AS_CLUSTER: Final = ("tests/store", "tests/cluster")


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run a scenario."""

    name: str
    tests: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}
    missing: str = ""
    """Why it cannot run here; '' when it can."""


def name_of(server: Path) -> str:
    """A server program's own name and version: ``Redis 6.2.14``."""
    told = subprocess.run([server, "--version"], capture_output=True, text=True, check=True).stdout
    return f"{told.partition(' server ')[0]} {'.'.join(map(str, version_of(server)))}"


def on_each_server() -> list[Variant]:
    """The suites on every server, which is downloaded if need be; those that cannot be had say why."""
    variants: dict[str, Variant] = {}
    for name, place in _servers():
        if isinstance(place, Path):
            variants |= {variant.name: variant for variant in _both(name_of(place), place)}
        else:
            variants[name] = Variant(name=name, missing=place)
    return list(variants.values())


def _both(server: str, program: Path) -> Iterator[Variant]:
    environment = {SERVER_VARIABLE: str(program)}
    yield Variant(name=f"{server}, alone", tests=_ALONE, environment={**environment, TOPOLOGY_VARIABLE: "standalone"})
    yield Variant(
        name=f"{server}, cluster", tests=_AS_CLUSTER, environment={**environment, TOPOLOGY_VARIABLE: "cluster"}
    )


def _servers() -> Iterator[tuple[str, Path | str]]:
    """Each with the place of its program, or why there is none."""
    for name in SERVERS:
        try:
            yield name, provide(name)
        except SystemExit as error:
            yield name, str(error.code).splitlines()[0]
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None and version_of(Path(found)) >= MIN_SERVER_VERSION:
            yield name, Path(found)
        else:
            yield f"{name} of the system", "not on PATH"
