"""What can be said of the container files without an engine."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from runtime.worker import DEFAULT_GRACE_S
from tests.compose.stack import BASE_IMAGES, ROOT, base_images

OURS = ("broker", "runtime")
DRAIN_OVERHEAD_S = 9
"""What a worker takes at most beside its grace period: three times three seconds."""
LOCKED = ROOT / "deploy" / "requirements"


def compose(name: str = "docker-compose.yml") -> dict[str, Any]:
    """The file as compose reads it, with the defaults of its variables."""
    text = re.sub(r"\$\{\w+:[-?]([^}]*)\}", r"\1", (ROOT / name).read_text())
    parsed: dict[str, Any] = yaml.safe_load(text)
    return parsed


SERVICES = compose()["services"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_each_service_is_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service.get("user", "image's own") != "root"


def test_only_the_gateway_is_published_and_on_loopback() -> None:
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"broker"}
    assert SERVICES["broker"]["ports"] == ["127.0.0.1:4566:4566"]
    assert compose()["networks"]["store"] == {"internal": True}
    for name, service in SERVICES.items():
        if name == "redis" or name.startswith("cluster-"):
            assert service["networks"] == ["store"]


def test_redis_keeps_what_it_has_acknowledged() -> None:
    for name, service in SERVICES.items():
        if name == "redis" or name.removeprefix("cluster-").isdigit():
            command = service["command"]
            assert "--appendonly yes --appendfsync always" in " ".join(command.split())
            assert "--maxmemory-policy noeviction" in command
            assert [volume.partition(":")[2] for volume in service["volumes"]] == ["/data"]
            assert "redis-cli ping" in service["healthcheck"]["test"][1]


@pytest.mark.parametrize("name", OURS)
def test_the_platform_waits_for_longer_than_a_drain_takes(name: str) -> None:
    (grace,) = (word for word in SERVICES[name]["command"] if word.startswith("--grace="))
    grace_s = float(grace.removeprefix("--grace="))
    stop_s = float(SERVICES[name]["stop_grace_period"].removesuffix("s"))
    assert grace_s == DEFAULT_GRACE_S
    assert stop_s > grace_s + DRAIN_OVERHEAD_S


@pytest.mark.parametrize(("name", "variable"), [("broker", "PENSTOCK_PORT"), ("runtime", "PENSTOCK_HEALTH_PORT")])
def test_health_is_asked_where_it_is_told(name: str, variable: str) -> None:
    service = SERVICES[name]
    assert f"http://127.0.0.1:{service['environment'][variable]}/health/ready" in service["healthcheck"]["test"][-1]
    assert not service["environment"]["PENSTOCK_METRICS_TOKEN"], "closed unless somebody chooses a token"
    assert SERVICES["runtime"]["environment"]["PENSTOCK_HEALTH_HOST"] == "127.0.0.1"


def test_containers_that_are_scaled_have_neither_names_nor_ports() -> None:
    assert not {"container_name", "ports", "hostname"} & SERVICES["runtime"].keys()


def test_the_cluster_is_of_six_and_in_its_profile() -> None:
    profiled = {name for name, service in SERVICES.items() if service.get("profiles") == ["cluster"]}
    assert profiled == {*(f"cluster-{number}" for number in range(1, 7)), "cluster-keeper"}


NODES = [f"cluster-{number}" for number in range(1, 7)]


@pytest.mark.parametrize("page", ["deploying.md", "cluster.md"])
def test_the_command_for_a_cluster_names_all_six_and_leaves_the_one_redis_out(page: str) -> None:
    said = (ROOT / "docs" / "operations" / page).read_text()
    seeds = f"PENSTOCK_REDIS_URL=redis+cluster://{','.join(NODES)}"
    assert f"\n{seeds} docker compose --profile cluster up --scale redis=0\n" in said
    assert SERVICES["cluster-keeper"]["command"] == NODES


def test_the_nodes_have_the_settings_that_the_page_on_clusters_asks_for() -> None:
    page = (ROOT / "docs" / "operations" / "cluster.md").read_text()
    wanted = re.findall(r"^(maxmemory-policy|appendonly|cluster-[a-z-]+) (\w+)", page, re.MULTILINE)
    assert len(wanted) == 5
    for node in NODES:
        command = " ".join(SERVICES[node]["command"].split())
        for name, value in wanted:
            assert f"--{name} {value}" in command


def test_images_are_pinned_to_a_release() -> None:
    for image in base_images():
        assert re.fullmatch(r"(python|redis):\d+\.\d+\.\d+-(slim-)?bookworm", image), image


def dockerfile() -> list[str]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_every_stage_builds_on_the_pinned_image_and_none_that_runs_is_root() -> None:
    stages: dict[str, list[str]] = {}
    name = ""
    for line in dockerfile():
        if line.startswith("FROM"):
            _, source, _, name = line.split()
            assert source == "${PYTHON_IMAGE}" or source in stages
            stages[name] = list(stages.get(source, []))
        elif stages:
            stages[name].append(line)
    assert list(stages)[-1] == "penstock"
    for name in ("penstock", "thumbnails"):
        users = [line for line in stages[name] if line.startswith("USER")]
        assert users[-1] == "USER 10001:10001"


def test_nothing_is_installed_that_is_not_pinned_by_hash() -> None:
    installs = [part for line in dockerfile() for part in re.split(r"&&", line) if "pip install" in part]
    assert installs
    for install in installs:
        assert "--require-hashes" in install or "--no-index" in install


@pytest.mark.parametrize(
    "line", [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
)
def test_what_is_let_through_to_the_engine_is_there(line: str) -> None:
    assert (ROOT / line[1:]).exists()


def test_what_the_dockerfile_copies_is_let_through() -> None:
    through = [line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
    for line in dockerfile():
        if line.startswith("COPY") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert any(source.rstrip("/") == each or source.startswith(f"{each}/") for each in through), source


# -- the lock ---------------------------------------------------------------------------------------------------------


def locked(name: str) -> dict[str, tuple[str, int]]:
    """Versions, and how many hashes each has."""
    entries = re.split(r"\n(?=\w)", (LOCKED / name).read_text())
    found = (re.match(r"([\w.-]+)==([^\s;]+)", entry) for entry in entries)
    return {
        match[1]: (match[2], entry.count("--hash=sha256:"))
        for entry, match in zip(entries, found, strict=True)
        if match is not None
    }


def wanted() -> Iterator[tuple[str, Requirement]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for text in project["project"]["dependencies"]:
        yield "penstock.txt", Requirement(text)
    for text in project["build-system"]["requires"]:
        yield "build.txt", Requirement(text)
    for text in project["project"]["optional-dependencies"]["demo"]:
        yield "thumbnails.txt", Requirement(text)


@pytest.mark.parametrize(("file", "requirement"), list(wanted()), ids=str)
def test_the_lock_holds_what_the_project_asks_for(file: str, requirement: Requirement) -> None:
    version, hashes = locked(file)[requirement.name]
    assert requirement.specifier.contains(version), f"{requirement} and {version}: run `make lock`"
    assert hashes


def test_the_tests_run_with_what_the_project_asks_for() -> None:
    lines = (ROOT / "tools/constraints.txt").read_text().splitlines()
    pinned = {(pin := Requirement(line)).name: pin.specifier for line in lines if not line.lstrip().startswith("#")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for text in (*project["dependencies"], *extras["dev"], *extras["demo"]):
        asked = Requirement(text)
        (exactly,) = pinned[asked.name]
        assert exactly.operator == "==", exactly
        assert asked.specifier.contains(exactly.version), f"{asked} and {exactly}: run `make lock`"


@pytest.mark.parametrize("file", ["penstock.txt", "build.txt", "thumbnails.txt"])
def test_every_locked_package_has_hashes(file: str) -> None:
    assert all(hashes for _, hashes in locked(file).values())


def test_the_inputs_of_the_lock_say_what_the_project_says() -> None:
    for file, requirement in wanted():
        source = LOCKED / file.replace(".txt", ".in")
        if source.exists():
            assert str(requirement).replace(" ", "") in source.read_text()


# -- scripts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shell", "script"),
    [
        ("sh", ROOT / "deploy" / "keep-cluster.sh"),
        ("sh", ROOT / "tools" / "lock_requirements.sh"),
        ("bash", BASE_IMAGES),
    ],
    ids=lambda value: Path(value).name,
)
def test_shell_scripts_can_be_read_by_their_shells(shell: str, script: Path) -> None:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"there is no {shell}")
    subprocess.run([found, "-n", script], check=True, timeout=20)


def test_your_own_app_takes_the_example_out() -> None:
    own = compose("deploy/own-app.yml")["services"]
    assert own["runtime"]["build"] == {"target": "penstock"}
    assert own["photographs"]["profiles"] == ["example"]
    assert own["runtime"]["command"][2:] == SERVICES["runtime"]["command"][2:]
