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


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """One safeguard: where it stands, what stands there without it, and which test must notice."""

    name: str
    safeguard: str
    file: str
    old: str
    new: str
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
        file=_FINISH,
        old="  if scores[i] then\n    members[#members + 1]",
        new="  if true then\n    members[#members + 1]",
        test=_STOPPED,
    ),
    Mutant(
        name="count-at-lease",
        safeguard="receives are counted when a lease is given",
        file=_CLAIM,
        old="  facts.receives = facts.receives + 1\n",
        new="",
        test=_STOPPED,
    ),
    Mutant(
        name="fence",
        safeguard="every claim raises the fencing token",
        file=_CLAIM,
        old="  fence = fence + 1\n",
        new="  fence = math.max(fence, 1)\n",
        test=_STOPPED,
    ),
    Mutant(
        name="ended-lease",
        safeguard="only a lease that has ended is taken over",
        file=_CLAIM,
        old="redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now,",
        new="redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now + 300,",
        test="tests/store/test_claim.py",
    ),
    Mutant(
        name="renewal",
        safeguard="leases are renewed from a thread",
        file="runtime/keeper.py",
        old="self._leases.setdefault(resource, set()).update(members)\n",
        new="self._leases.setdefault(resource, set())\n",
        test="tests/faults/test_blocked_loop.py",
    ),
    Mutant(
        name="crash-apart",
        safeguard="a worker's lease that ends is a crash, not a try",
        file=_CLAIM,
        old="facts.crashes, facts.culprit = facts.crashes + 1, holder",
        new="facts.tries, facts.culprit = facts.tries + 1, holder",
        test="tests/store/test_claim.py",
    ),
    Mutant(
        name="request-token",
        safeguard="a send that is repeated under its token is stored once",
        file="broker/store/lua/send.lua",
        old="  if first then\n",
        new="  if false then\n",
        test="tests/faults/test_lost_replies.py",
    ),
    Mutant(
        name="lost-claim",
        safeguard="what a lost claim leased is given back",
        file="broker/store/lua/release_claim.lua",
        old="ARGV[1]",
        new="'nobody'",
        test="tests/faults/test_lost_claims.py",
    ),
    Mutant(
        name="early-due",
        safeguard="nothing is handed out before it is due",
        file=_CLAIM,
        old="redis.call('ZRANGEBYSCORE', key, '-inf', now,",
        new="redis.call('ZRANGEBYSCORE', key, '-inf', '+inf',",
        test="tests/broker/test_queues.py::test_a_delayed_message_is_never_early",
    ),
    Mutant(
        name="requeue-on-drain",
        safeguard="a stop gives back at once what has not started",
        file="runtime/sources/invocation.py",
        old="        self._stopped = True\n        self.hand_back()\n",
        new="        self._stopped = True\n",
        test=_DRAINED,
    ),
    Mutant(
        name="claim-after-stop",
        safeguard="nothing is claimed after SIGTERM",
        file="runtime/poller.py",
        old="        self.stopping = True\n",
        new="        pass\n",
        test=_DRAINED,
    ),
    Mutant(
        name="repair",
        safeguard="a worker that starts finds what a broken-off script left",
        file="broker/store/lua/restore.lua",
        old="redis.call('ZADD', KEYS[2], 'NX', now, entry)",
        new="redis.call('TYPE', KEYS[2])",
        test="tests/store/test_repair.py",
    ),
    Mutant(
        name="no-memory-first",
        safeguard="on a full server settles begin with a write that needs no memory",
        file=_FINISH,
        old="redis.call('ZREM', KEYS[2], '') -- a first write that needs no memory\n",
        new="",
        test="tests/store/test_full_server.py",
    ),
    Mutant(
        name="permits",
        safeguard="a claim takes no more than there are permits",
        file=_CLAIM,
        old="  local free = limit - redis.call('ZCARD', KEYS[11])\n",
        new="  local free = limit\n",
        test="tests/store/test_permits.py",
    ),
    Mutant(
        name="quarantine",
        safeguard="what has ended too many processes is given up",
        file="runtime/policy.py",
        old="if facts.crashes > settings.max_crashes:",
        new="if facts.crashes > settings.max_crashes + 3:",
        test="tests/faults/test_poison.py::test_poison_is_quarantined_with_its_cause_and_its_neighbours_go_on",
    ),
    Mutant(
        name="group-lock",
        safeguard="a group of a FIFO queue has one message in flight",
        file="broker/store/lua/_groups.lua",
        old="return until_ms and until_ms > now and until_ms or nil, token",
        new="return nil, token",
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
        path = tree / mutant.file
        text = path.read_text()
        if mutant.old not in text:
            return _mutation(
                mutant, commit, started, noticed=False, detail=f"(not found in {mutant.file}: mend the mutation)"
            )
        path.write_text(text.replace(mutant.old, mutant.new))
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
