"""Safeguards that are switched off one at a time, in a copy of the tree: a test of ``make test`` must turn red."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec

from tests.faults.results import Mutation

ROOT: Final = Path(__file__).parent.parent.parent
_LIMIT_S: Final = 900.0
_COPIED: Final = ("broker", "runtime", "tests", "pyproject.toml")


class Edit(msgspec.Struct, frozen=True):
    """What stands in a file, and what stands there without the safeguard."""

    file: str
    old: str
    new: str


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """One safeguard: how it is switched off, and which test must notice."""

    name: str
    safeguard: str
    edits: tuple[Edit, ...]
    test: str


_CLAIM: Final = "broker/store/lua/claim.lua"
_FINISH: Final = "broker/store/lua/finish.lua"
_STOPPED: Final = "tests/faults/test_stopped_workers.py"
_KILLED: Final = "tests/faults/test_killed_workers.py"
_DRAINED: Final = (
    "tests/faults/test_drained_workers.py::test_after_sigterm_nothing_is_claimed_and_what_is_unfinished_is_back_at_once"
)

MUTATIONS: Final = (
    Mutant(
        name="token-check",
        safeguard="a settle needs the lease that its token names",
        edits=(
            Edit(
                _FINISH, "  if scores[i] then\n    members[#members + 1]", "  if true then\n    members[#members + 1]"
            ),
        ),
        test=_STOPPED,
    ),
    Mutant(
        name="count-at-lease",
        safeguard="receives are counted when a lease is given",
        edits=(Edit(_CLAIM, "  facts.receives = facts.receives + 1\n", ""),),
        test=_STOPPED,
    ),
    Mutant(
        name="fence",
        safeguard="every claim raises the fencing token",
        edits=(Edit(_CLAIM, "  fence = fence + 1\n", "  fence = math.max(fence, 1)\n"),),
        test=_STOPPED,
    ),
    Mutant(
        name="ended-lease",
        safeguard="only a lease that has ended is taken over",
        edits=(
            Edit(
                _CLAIM,
                "redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now,",
                "redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now + 300,",
            ),
        ),
        test=_KILLED,
    ),
    Mutant(
        name="renewal",
        safeguard="leases are renewed from a thread",
        edits=(
            Edit(
                "runtime/keeper.py",
                "self._leases.setdefault(resource, set()).update(members)\n",
                "self._leases.setdefault(resource, set())\n",
            ),
        ),
        test="tests/faults/test_blocked_loop.py",
    ),
    Mutant(
        name="crash-apart",
        safeguard="a worker's lease that ends is a crash, not a try",
        edits=(
            Edit(
                _CLAIM,
                "facts.crashes, facts.culprit = facts.crashes + 1, holder",
                "facts.tries, facts.culprit = facts.tries + 1, holder",
            ),
        ),
        test="tests/store/test_claim.py",
    ),
    Mutant(
        name="request-token",
        safeguard="a send that is repeated under its token is stored once",
        edits=(Edit("broker/store/lua/send.lua", "  if first then\n", "  if false then\n"),),
        test="tests/faults/test_lost_replies.py",
    ),
    Mutant(
        name="lost-claim",
        safeguard="what a lost claim leased is given back",
        edits=(Edit("broker/store/lua/release_claim.lua", "ARGV[1]", "'nobody'"),),
        test="tests/faults/test_lost_claims.py",
    ),
    Mutant(
        name="early-due",
        safeguard="nothing is handed out before it is due",
        edits=(
            Edit(
                _CLAIM,
                "redis.call('ZRANGEBYSCORE', key, '-inf', now,",
                "redis.call('ZRANGEBYSCORE', key, '-inf', '+inf',",
            ),
        ),
        test="tests/broker/test_queues.py::test_a_delayed_message_is_never_early",
    ),
    Mutant(
        name="requeue-on-drain",
        safeguard="a stop gives back what runs on after its grace period",
        edits=(Edit("runtime/worker.py", "                engine.invoker.abandon(call)\n", "                pass\n"),),
        test=_DRAINED,
    ),
    Mutant(
        name="hand-back",
        safeguard="a stop gives back at once what has not started",
        edits=(
            Edit(
                "runtime/sources/invocation.py",
                "        while len(self._prefetched) > keep:\n            member",
                "        while False:\n            member",
            ),
        ),
        test="tests/runtime/test_worker.py",
    ),
    Mutant(
        name="claim-after-stop",
        safeguard="nothing is claimed after SIGTERM",
        edits=(
            Edit("runtime/poller.py", "        self.stopping = True\n", "        pass\n"),
            Edit(
                "runtime/sources/invocation.py",
                "        self._stopped = True\n        self.hand_back()\n",
                "        pass\n",
            ),
        ),
        test=_DRAINED,
    ),
    Mutant(
        name="repair",
        safeguard="a worker that starts finds what a broken-off script left",
        edits=(
            Edit(
                "broker/store/lua/restore.lua",
                "redis.call('ZADD', KEYS[2], now, entry)",
                "redis.call('TYPE', KEYS[2])",
            ),
        ),
        test="tests/store/test_repair.py",
    ),
    Mutant(
        name="repair-looks-again",
        safeguard="what is leased while the repair looks is left alone",
        edits=(Edit("broker/store/lua/restore.lua", "~= facts then return true end", "~= facts then facts = '' end"),),
        test="tests/store/test_repair.py",
    ),
    Mutant(
        name="last-look",
        safeguard="a worker that stops refuses what has reached its inbox",
        edits=(Edit("runtime/worker.py", "            await calls.leave(", "            str("),),
        test="tests/runtime/test_calls_at_a_stop.py",
    ),
    Mutant(
        name="one-at-a-time",
        safeguard="what runs alone waits until the one before is settled",
        edits=(Edit("runtime/sources/invocation.py", "        await self._engine.settled_alone()\n", ""),),
        test="tests/runtime/test_running_alone.py",
    ),
    Mutant(
        name="nothing-beside-an-end",
        safeguard="what runs alone waits until what was given up or given back before is off the process",
        edits=(
            Edit(
                "runtime/engine.py", "        while self._ending:\n            await asyncio.wait(self._ending)\n", ""
            ),
        ),
        test="tests/runtime/test_running_alone.py",
    ),
    Mutant(
        name="asked-where-idle",
        safeguard="Redis is back when it has answered, also for who has no leases to renew",
        edits=(
            Edit(
                "runtime/keeper.py", "        if not self._leases.get(resource):  # then", "        if False:  # then"
            ),
        ),
        test="tests/runtime/test_outages.py",
    ),
    Mutant(
        name="given-back-in-the-end",
        safeguard="what a lost claim has leased is given back however long Redis is away",
        edits=(
            Edit(
                "runtime/engine.py",
                "                if faults > MOST_FAULTS:\n                    raise",
                "                if attempt >= 23:\n                    raise",
            ),
        ),
        test="tests/runtime/test_outages.py",
    ),
    Mutant(
        name="no-memory-first",
        safeguard="on a full server work begins with a write that needs no memory",
        edits=(Edit(_CLAIM, "redis.call('ZREM', KEYS[2], '') -- a first write", "-- a first write"),),
        test="tests/store/test_full_server.py",
    ),
    Mutant(
        name="permits",
        safeguard="a claim takes no more than there are permits",
        edits=(Edit(_CLAIM, "  local free = limit - redis.call('ZCARD', KEYS[11])\n", "  local free = limit\n"),),
        test="tests/store/test_permits.py",
    ),
    Mutant(
        name="quarantine",
        safeguard="what has ended too many processes is given up",
        edits=(
            Edit(
                "runtime/policy.py",
                "if facts.crashes > settings.max_crashes:",
                "if facts.crashes > settings.max_crashes + 3:",
            ),
        ),
        test="tests/faults/test_poison.py::test_poison_is_quarantined_with_its_cause_and_its_neighbours_go_on",
    ),
    Mutant(
        name="group-lock",
        safeguard="a group of a FIFO queue has one message in flight",
        edits=(
            Edit(
                "broker/store/lua/_groups.lua",
                "return until_ms and until_ms > now and until_ms or nil, token",
                "return nil, token",
            ),
        ),
        test="tests/broker/test_fifo.py",
    ),
)


def switch_off(mutant: Mutant, *, commit: str) -> Mutation:
    """Runs the mutant's test on a copy of the tree without the safeguard."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="penstock-mutant-") as name:
        tree = Path(name)
        for part in _COPIED:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
            copy(ROOT / part, tree / part)
        for edit in mutant.edits:
            path = tree / edit.file
            text = path.read_text()
            if edit.old not in text:
                detail = f"(not found in {edit.file}: mend the mutation)"
                return _mutation(mutant, commit, started, noticed=False, detail=detail)
            path.write_text(text.replace(edit.old, edit.new))
        environment = {
            **os.environ,
            "PYTHONPATH": str(tree),
            "PENSTOCK_FAULT_SIZE": "P",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [sys.executable, "-m", "pytest", "-q", "-n0", "-x", "-p", "no:cacheprovider", mutant.test]
        try:
            ran = subprocess.run(
                command, cwd=tree, env=environment, capture_output=True, text=True, timeout=_LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return _mutation(mutant, commit, started, noticed=True, detail="(never ended)")
    red = ran.returncode == 1 and re.search(r"\d+ failed", ran.stdout) is not None
    return _mutation(
        mutant, commit, started, noticed=red, detail="" if red else f"(pytest ended with {ran.returncode})"
    )


def _mutation(mutant: Mutant, commit: str, started: float, *, noticed: bool, detail: str) -> Mutation:
    return Mutation(
        safeguard=mutant.safeguard,
        test=mutant.test,
        noticed=noticed,
        seconds=round(time.monotonic() - started, 1),
        commit=commit,
        detail=detail,
    )
