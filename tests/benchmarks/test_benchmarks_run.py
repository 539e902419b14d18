from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_quick_run_of_one_family_writes_its_table_and_its_records(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "memory", "--output", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    results = json.loads((tmp_path / "results-partial.json").read_bytes())
    assert [figure["family"] for figure in results["figures"]] == ["memory", "memory"]
    assert "a queued event of 100 bytes" in (tmp_path / "results-partial.md").read_text()


def test_fifo_queues_are_measured_beside_a_standard_queue(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "fifo", "--output", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    figures = json.loads((tmp_path / "results-partial.json").read_bytes())["figures"]
    assert len(figures) == 6
    assert all(figure["ceiling"] and figure["target"] for figure in figures)


def test_synchronous_calls_are_measured_beside_a_bare_request_and_reply(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "calls", "--output", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    figures = json.loads((tmp_path / "results-partial.json").read_bytes())["figures"]
    assert {"synchronous call, SDK, p50", "synchronous Invoke, HTTP, p99"} <= {figure["name"] for figure in figures}
    assert all(figure["ceiling"] for figure in figures)
