"""Every scenario of the plan: what happens, what must hold, and which tests are it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from broker.embedded import EmbeddedRedisMissing, find_server
from tests.faults import split_network
from tests.faults.tools import libfaketime
from tests.faults.variants import Variant, on_each_server

ROOT: Final = Path(__file__).parent.parent.parent
PREVIOUS_VARIABLE: Final = "PENSTOCK_FAULT_PREVIOUS"
"""The commit that stands for the release before; without it, the one that last had other scripts."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the plan."""

    id: str
    title: str
    tests: tuple[str, ...]
    promise: str
    """What must hold."""
    topology: str = "one Redis"
    in_make_test: bool = False
    """Also runs, smaller, in ``make test``."""
    environment: Mapping[str, str] = {}
    missing: Callable[[], str] = str
    """Why it cannot run here; '' when it can."""
    variants: Callable[[], Sequence[Variant]] = list
    """Where it is run more than once: how; asked for when it begins. They have tests and environments of their own."""


def _no_server() -> str:
    try:
        find_server()
    except EmbeddedRedisMissing as error:
        return str(error).partition("\n")[0]
    return ""


def _no_split() -> str:
    return _no_server() or split_network.why_not()


def _no_faketime() -> str:
    return "" if libfaketime() else "libfaketime is not installed (Debian, Ubuntu: apt install faketime)"


def previous_commit() -> str | None:
    """The commit that stands for the release before, None where there is no history."""
    if named := os.environ.get(PREVIOUS_VARIABLE):
        return named
    command = ["git", "log", "--first-parent", "-n1", "--format=%H^1", "--", "broker/store/lua"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None if found.returncode == 0 else None


def _no_previous() -> str:
    return "" if previous_commit() else f"no git history here, and no commit in {PREVIOUS_VARIABLE}"


def _no_soak() -> str:
    return (
        "" if os.environ.get("PENSTOCK_FAULT_SOAK_S") else "only where PENSTOCK_FAULT_SOAK_S says for how many seconds"
    )


_HERE: Final = "tests/faults/"
_LONG: Final = "tests/faults/long/"

SCENARIOS: Final = (
    Scenario(
        id="headline",
        title="A million events while workers and Redis are killed and paused",
        tests=(f"{_LONG}test_million.py",),
        promise="none lost, one live lease, attempts exact, whoever slept past its lease is refused",
    ),
    Scenario(
        id="R1",
        title="Workers are killed at random",
        tests=(f"{_HERE}test_killed_workers.py",),
        promise="none lost, one live lease, counts exact, nothing left behind",
        in_make_test=True,
    ),
    Scenario(
        id="R2",
        title="Workers sleep past their leases and go on",
        tests=(f"{_HERE}test_stopped_workers.py",),
        promise="what they settle late is refused; a store that keeps the newest fencing token is never undone",
        in_make_test=True,
    ),
    Scenario(
        id="R3",
        title="Redis is killed under producers and workers, the last two times in a row",
        tests=(f"{_HERE}test_restarted_redis.py", f"{_HERE}test_supervision.py"),
        promise="with `appendfsync always` nothing acknowledged is lost; unknown outcomes happened once or not at all",
        in_make_test=True,
    ),
    Scenario(
        id="R4",
        title="Power loss with `appendfsync everysec`: the end of the append-only file is cut off",
        tests=(f"{_LONG}test_power_loss.py",),
        promise="only what was acknowledged within two seconds before the cut is lost; what is there is whole",
    ),
    Scenario(
        id="R5",
        title="Deaf workers: cut, unheard and half-open connections, a server that stands still",
        tests=(f"{_HERE}test_deaf_workers.py",),
        promise="work flows again by itself, no connection is left over",
        in_make_test=True,
    ),
    Scenario(
        id="R6",
        title="Lost replies",
        tests=(
            f"{_HERE}test_lost_replies.py",
            f"{_HERE}test_lost_claims.py",
            "tests/store/test_scripts_run_twice.py",
            "tests/store/test_scripts_broken_off.py",
        ),
        promise="one effect a request, whatever of it arrived",
        in_make_test=True,
    ),
    Scenario(
        id="R7",
        title="A slow network: jitter, resets, 10 kB/s",
        tests=(f"{_LONG}test_slow_network.py",),
        promise="none lost, one live lease, no lease missed below the stated delays",
    ),
    Scenario(
        id="R8",
        title="Failover and resharding under load",
        tests=(f"{_LONG}test_failovers.py", "tests/cluster"),
        promise="with `replica:1` none lost, otherwise the loss is told; none runs twice at a time whose lease was not "
        "lost with a primary; half of the times served again within the node timeout and three seconds",
        topology="cluster 3+3, Sentinel 1+2",
        missing=_no_server,
    ),
    Scenario(
        id="R9",
        title="Split brain",
        tests=(f"{_LONG}test_split_brain.py",),
        promise="with `replica:1` none lost, otherwise the loss is told; none runs twice at a time on the side that "
        "goes on",
        topology="cluster 3+3 in network namespaces",
        missing=_no_split,
    ),
    Scenario(
        id="R10",
        title="Redis's clock jumps an hour forward and back, and stands still",
        tests=(f"{_LONG}test_clock_jumps.py",),
        promise="a jump back delays at most; a jump forward ends leases early, and fencing holds",
        missing=_no_faketime,
    ),
    Scenario(
        id="R11",
        title="Poison: events that end their process, or do what no handler should",
        tests=(
            f"{_HERE}test_poison.py",
            f"{_HERE}test_lanes.py",
            "tests/runtime/test_quarantine.py",
            f"{_LONG}test_poisoned_neighbours.py",
        ),
        promise="quarantined with the cause, neighbours unharmed, and at more than 80 % of their rate",
        in_make_test=True,
    ),
    Scenario(
        id="R12",
        title="Handlers that hold the event loop or the interpreter",
        tests=(f"{_HERE}test_blocked_loop.py",),
        promise="leases are kept, or lost and fenced; the log names the function",
        in_make_test=True,
    ),
    Scenario(
        id="R13",
        title="Partial batches: every shape of answer",
        tests=(
            f"{_HERE}test_partial_batches.py",
            "tests/runtime/test_batch_rules_end_to_end.py",
            "tests/runtime/test_mappings.py",
            "tests/runtime/test_fifo_mappings.py",
        ),
        promise="exactly what Lambda's table says comes back",
        in_make_test=True,
    ),
    Scenario(
        id="R14",
        title="Order in groups while workers are killed and handlers fail",
        tests=(f"{_LONG}test_order.py",),
        promise="each group in its order, one at a time",
    ),
    Scenario(
        id="R15",
        title="Many delayed messages",
        tests=(f"{_LONG}test_delays.py",),
        promise="never early; lateness is told",
    ),
    Scenario(
        id="R16",
        title="Redis is full while producers push",
        tests=(f"{_LONG}test_full_under_load.py", "tests/store/test_full_server.py", "tests/store/test_headroom.py"),
        promise="producers are refused by name, work goes on, and nothing needs a restart",
    ),
    Scenario(
        id="R17",
        title="Payloads from nothing to the limits",
        tests=("tests/broker/test_bad_input.py", "tests/gateway/test_memory.py", "tests/wire/test_lambda_invoke.py"),
        promise="size rules as published, memory bounded",
    ),
    Scenario(
        id="R18",
        title="Malformed HTTP",
        tests=("tests/gateway/test_fuzz.py", "tests/gateway/test_limits.py", "tests/gateway/test_sigv4.py"),
        promise="AWS's errors, no crash, memory bounded",
    ),
    Scenario(
        id="R19",
        title="Queues against a plain model",
        tests=("tests/model",),
        promise="the same answers as the model under random operations",
        in_make_test=True,
        environment={"PENSTOCK_MODEL_EXAMPLES": os.environ.get("PENSTOCK_MODEL_EXAMPLES", "2000")},
    ),
    Scenario(
        id="R20",
        title="Cancellation at every await, and scripts that fail before, after, or run twice",
        tests=(f"{_LONG}test_interleavings.py",),
        promise="none lost, none stored twice, no lease or connection left over",
    ),
    Scenario(
        id="R21",
        title="SIGTERM at random moments",
        tests=(f"{_HERE}test_drained_workers.py", f"{_HERE}test_recycled_workers.py"),
        promise="nothing more is claimed, what is unfinished is back at once, and a stop is no crash",
        in_make_test=True,
    ),
    Scenario(
        id="R22",
        title="Rolling upgrade and back, with events in flight",
        tests=(f"{_LONG}test_rolling_upgrade.py",),
        promise="none lost, counts exact while the scripts of two commits live side by side",
        missing=_no_previous,
    ),
    Scenario(
        id="R23",
        title="Cold start with a million events",
        tests=(f"{_LONG}test_cold_start.py",),
        promise="ready in less than 15 s, and no command that looks at everything",
    ),
    Scenario(
        id="R24",
        title="Soak",
        tests=(f"{_LONG}test_soak.py",),
        promise="memory, keys and connections stay",
        missing=_no_soak,
    ),
    Scenario(
        id="R25",
        title="Damaged data",
        tests=(f"{_LONG}test_damaged_data.py",),
        promise="what is damaged is told and set aside, the rest flows",
    ),
    Scenario(
        id="R26",
        title="The suites on other servers and topologies",
        tests=("tests/store", "tests/cluster"),
        promise="identical results",
        topology="one server, and cluster 3+3",
        missing=_no_server,
        variants=on_each_server,
    ),
    Scenario(
        id="R27",
        title="The wire: boto3, an old botocore, the aws command",
        tests=("tests/wire",),
        promise="AWS's fields, errors and limits",
    ),
)
