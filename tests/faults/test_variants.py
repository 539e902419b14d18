"""A scenario that runs on several servers: each by itself, a figure for each, and why one is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.faults import report, results, running, variants
from tests.faults.results import Case, Machine, Part, Ran, Results
from tests.faults.scenarios import ROOT, SCENARIOS, Scenario
from tests.faults.variants import Variant, on_each_server

MACHINE = Machine(commit="c", python="3.12", server="Redis 6.2.14", system="Linux", cores=2, memory_gb=4, load=0.1)


def test_each_variant_is_run_with_its_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    def cases(tests: tuple[str, ...], environment: dict[str, str], **_: Any) -> list[Case]:
        return [Case(name=tests[0], outcome="failed" if environment["X"] == "2" else "passed", seconds=1)]

    monkeypatch.setattr(running, "_cases", cases)
    monkeypatch.setattr(running, "this_machine", lambda: MACHINE)
    there = [Variant(name=f"server {n}", tests=("tests/store",), environment={"X": str(n)}) for n in (1, 2)]
    absent = Variant(name="server 3", missing="not on PATH")
    scenario = Scenario(id="R0", title="", tests=("tests/store",), promise="", variants=lambda: [*there, absent])
    ran = running.run(scenario, size="P", seed=1, say=lambda _: None)
    assert [(case.variant, case.outcome) for case in ran.cases] == [("server 1", "passed"), ("server 2", "failed")]
    assert [(part.name, part.not_run) for part in ran.parts] == [
        *(("server 1", ""), ("server 2", "")),
        ("server 3", "not on PATH"),
    ]
    assert not ran.passed


def test_what_was_run_on_each_is_a_row_of_the_page() -> None:
    outcomes: tuple[results.Outcome, ...] = ("passed", "passed", "skipped", "failed")
    ran = Ran(
        scenario="R26",
        size="N",
        seed=1,
        began="2026-12-01 10:00",
        seconds=30,
        machine=MACHINE,
        cases=[
            Case(
                name=f"tests/store/a.py::test_{n}",
                outcome=outcome,
                reason="why",
                seconds=1,
                variant="Valkey 9.1.2, alone",
            )
            for n, outcome in enumerate(outcomes)
        ],
        parts=[Part(name="Valkey 9.1.2, alone", seconds=29.6), Part(name="redis-8", not_run="no network")],
    )
    page = report.markdown(Results(scenarios={"R26": ran}))
    assert "| Valkey 9.1.2, alone | 2 | 1 | 1 | 30 |" in page
    assert "| redis-8 | not run: no network | | | |" in page
    assert "* Valkey 9.1.2, alone: `test_3`: why" in page


def test_results_of_before_can_be_read() -> None:
    kept = (ROOT / "docs/reliability-report.json").read_bytes()
    old = msgspec.json.decode(kept)
    for ran in old["scenarios"].values():
        ran.pop("parts", None)
        for case in ran["cases"]:
            case.pop("variant", None)
    assert set(msgspec.convert(old, Results).scenarios) == set(
        results.read(ROOT / "docs/reliability-report.json").scenarios
    )


def test_every_server_is_run_alone_and_as_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = tmp_path / "redis-server"
    server.write_text("#!/bin/sh\necho 'Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64'\n")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    def provide(name: str) -> Path:
        raise SystemExit(f"{name} is made for another machine;\nmore")

    monkeypatch.setattr(variants, "provide", provide)
    found = {variant.name: variant for variant in on_each_server()}
    assert {name: variant.missing for name, variant in found.items() if variant.missing} == {
        **{name: f"{name} is made for another machine;" for name in ("redis-6", "redis-8", "valkey-9")},
        "valkey-server of the system": "not on PATH",
    }
    assert found["Redis 7.0.15, alone"].tests == ("tests/store",)
    assert found["Redis 7.0.15, cluster"].environment == {
        "PENSTOCK_REDIS_SERVER": str(server),
        "PENSTOCK_TEST_TOPOLOGY": "cluster",
    }
    assert any(scenario.variants is on_each_server for scenario in SCENARIOS)
