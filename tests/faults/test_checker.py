"""The judge is judged: hand-made bad histories, each of which must be found out, and good ones that must pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.functions import register_function
from broker.names import Resource
from broker.records import FunctionSettings
from broker.settings import Settings
from broker.store.keys import Keyspace
from broker.store.values import ClaimMode, Deferral, member_of
from tests.faults import checker
from tests.faults.checker import Run
from tests.faults.history import Kind, Line, Recorder, read_histories
from tests.faults.ledger import Counted, Extended, Gone, Granted, Removed, Step, read_ledger

A, B = "wA", "wB"


def granted(token: str, at_ms: int, *, fence: int, entry: str = "1-0") -> Granted:
    return Granted(entry, token, at_ms, at_ms + 1_000, fence)


CRASHED: list[Step] = [
    granted(A, 0, fence=1),
    Extended("1-0", A, 1_250),
    Removed("1-0", A, "ended", 1_250),
    Counted("1-0", 1, 0, 1),
    granted(B, 1_300, fence=2),
    Counted("1-0", 2, 0, 1),
    Removed("1-0", B, "finished"),
    Gone("1-0"),
]
RELEASED: list[Step] = [
    granted(A, 0, fence=1),
    Removed("1-0", A, "deferred"),
    Counted("1-0", 1, 0, 0),
    granted(B, 5, fence=2),
    Counted("1-0", 2, 0, 0),
    Removed("1-0", B, "finished"),
    Gone("1-0"),
]


@pytest.mark.parametrize("steps", [CRASHED, RELEASED])
def test_good_ledgers_pass(steps: list[Step]) -> None:
    assert checker.lease_faults(steps) == []
    assert checker.count_faults(steps) == []
    assert checker.try_faults(steps) == []


@pytest.mark.parametrize(
    ("steps", "fault"),
    [
        ([granted(A, 0, fence=1), granted(B, 500, fence=2)], "while wA holds it"),
        ([granted(A, 0, fence=1), Removed("1-0", A, "ended", 999)], "taken away at 999"),
        ([granted(A, 0, fence=1), Extended("1-0", A, 1_250), Removed("1-0", A, "ended", 1_100)], "ends at 1250"),
        ([granted(A, 0, fence=1), Removed("1-0", B, "finished")], "finished by wB, but wA holds it"),
        ([Removed("1-0", B, "deferred")], "but nobody holds it"),
        ([granted(A, 0, fence=1), Extended("1-0", B, 2_000)], "wB renewed"),
        ([granted(A, 0, fence=1), Gone("1-0")], "without its lease"),
        ([Gone("1-0")], "without its lease"),
        ([granted(A, 0, fence=2), Removed("1-0", A, "deferred"), granted(B, 0, fence=2)], "fencing token 2 after 2"),
    ],
)
def test_bad_leases_are_found(steps: list[Step], fault: str) -> None:
    (found,) = checker.lease_faults(steps)
    assert fault in found


@pytest.mark.parametrize(
    ("steps", "fault"),
    [
        ([granted(A, 0, fence=1), Counted("1-0", 2, 0, 0)], "2 receives, 1 leases"),
        ([granted(A, 0, fence=1), Counted("1-0", 1, 0, 1)], "1 crashes, 0 leases that ran out"),
        ([granted(A, 0, fence=1), Removed("1-0", A, "ended", 1_000), Counted("1-0", 1, 0, 0)], "0 crashes, 1 leases"),
        ([*CRASHED[:4], CRASHED[4], Removed("1-0", B, "finished"), Gone("1-0")], "ended with 1 receives, 2 leases"),
    ],
)
def test_bad_counters_are_found(steps: list[Step], fault: str) -> None:
    (found,) = checker.count_faults(steps)
    assert fault in found


def test_a_try_used_by_a_crash_is_found() -> None:
    assert checker.try_faults([Counted("1-0", 2, 1, 1)]) == ["1-0: 1 tries used, of at most 0"]
    assert checker.try_faults([Counted("1-0", 2, 1, 1)], tries=1) == []


def test_a_lease_given_after_a_stop_is_found() -> None:
    assert checker.late_grants([granted(A, 10, fence=1)], after_ms=10) == []
    assert checker.late_grants([granted(A, 14, fence=1)], after_ms=10) == ["1-0: leased to wA 4 ms too late"]


# -- runs -------------------------------------------------------------------------------------------------------------


def line(kind: Kind, at_ns: int, *, pid: int = 7, fence: int = 1, event: str = "e", attempt: int = 1) -> Line:
    return Line(kind, at_ns, pid, event, fence, attempt)


def runs(*lines: Line, deaths: dict[int, int] | None = None) -> list[Run]:
    return checker.runs_of(lines, deaths or {})


def test_a_run_ends_with_its_end_its_process_or_never() -> None:
    lines = (
        line("start", 1),
        line("start", 2, pid=8, fence=2),
        line("start", 3, pid=9, fence=3),
        line("end", 4, pid=9, fence=3),
    )
    ended, killed, going_on = sorted(runs(*lines, deaths={7: 5}), key=lambda run: run.end_ns)
    assert (ended.ended, ended.end_ns) == (True, 4)
    assert (killed.ended, killed.end_ns) == (False, 5)
    assert (going_on.ended, going_on.pid) == (False, 8)


def test_a_run_that_was_cut_off_has_stopped_but_not_ended_well() -> None:
    (run,) = runs(line("start", 1), line("effect", 2), line("cut", 3))
    assert (run.ended, run.end_ns) == (False, 3)


def test_lost_and_invented_events_are_found() -> None:
    found = runs(line("start", 1), line("start", 2, event="f"), line("end", 3, event="f"))
    assert checker.lost(["e", "f"], found) == ["e: accepted, never handled"]
    assert checker.lost(["f"], found) == []
    assert checker.never_accepted(["e"], found) == ["f: ran, but was never accepted"]


def test_two_runs_at_once_are_found_unless_the_first_was_stopped() -> None:
    overlapping = runs(
        line("start", 1), line("end", 5), line("start", 4, pid=8, fence=2), line("end", 6, pid=8, fence=2)
    )
    assert checker.overlaps(overlapping) == ["e: starts in 8 while it runs in 7"]
    assert checker.overlaps(overlapping, stopped={7}) == []
    assert checker.overlaps(overlapping, stopped={8}) != []


def test_a_killed_run_may_be_repeated_after_its_death_only() -> None:
    lines = line("start", 1), line("start", 4, pid=8, fence=2), line("end", 6, pid=8, fence=2)
    assert checker.overlaps(runs(*lines, deaths={7: 3})) == []
    assert checker.overlaps(runs(*lines, deaths={7: 5})) != []
    assert checker.overlaps(runs(*lines)) != []


def test_tokens_that_do_not_rise_and_repeated_runs_are_found() -> None:
    falling = runs(line("start", 1, fence=5), line("start", 2, pid=8, fence=4))
    assert checker.unfenced(falling) == ["e: a run with fencing token 4 after one with 5"]
    twice = runs(line("start", 1), line("start", 2, pid=8))
    assert checker.repeated(twice) == ["e: 2 runs under fencing token 1"]


def test_an_attempt_used_by_a_crash_is_found() -> None:
    assert checker.wrong_attempts(runs(line("start", 1, attempt=2))) == ["e: attempt 2"]


def test_a_run_without_a_lease_is_found() -> None:
    steps = [granted(A, 0, fence=1)]
    assert checker.without_lease(runs(line("start", 1)), steps, {"e": "1-0"}) == []
    assert checker.without_lease(runs(line("start", 1, fence=2)), steps, {"e": "1-0"}) != []


def test_a_history_survives_in_its_file(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.write("start", "e", fence=3, attempt=1)
    recorder.write("end", "e", fence=3, attempt=1)
    start, end = read_histories(tmp_path)
    assert (start.kind, end.kind, start.event, start.fence, start.attempt) == ("start", "end", "e", 3, 1)
    assert start.at_ns <= end.at_ns


# -- the ledger reads what a real server writes ------------------------------------------------------------------------


async def test_the_ledger_tells_what_the_scripts_did(durable: EmbeddedRedis, tmp_path: Path) -> None:
    settings = Settings(prefix="faults", lease_ms=200)
    async with Broker(durable.url, settings=settings) as broker:
        resource = broker.core.resource("function", "work")
        keys, store = broker.core.keys.of(resource), broker.core.messages
        await register_function(broker.core, "work", FunctionSettings())
        await broker.invoke("work", 1)

        async def claim(token: str, *, alone: bool = False) -> str:
            mode: ClaimMode = "alone" if alone else "work"
            while True:
                found = await store.claim(resource, token=token, lease_ms=200, room=1, mode=mode)
                if found.messages:
                    return member_of(found.messages[0].entry, token)

        first = await claim("w1")
        await store.extend(resource, [first], lease_ms=300)
        await store.defer(resource, [Deferral(first, 0, adds_try=True)])
        second = await claim("w2")
        third = await claim("s3", alone=True)  # when the second has ended
        await store.finish(resource, [second], counter="done")
        await store.finish(resource, [third], counter="done")
    steps = read_ledger(durable.directory, keys, lease_ms=200)
    kinds = [(type(step).__name__, getattr(step, "why", None)) for step in steps]
    assert kinds == [
        ("Granted", None),
        ("Extended", None),
        ("Removed", "deferred"),
        ("Counted", None),
        ("Granted", None),
        ("Counted", None),
        ("Removed", "ended"),
        ("Granted", None),
        ("Counted", None),
        ("Removed", "finished"),
        ("Gone", None),
    ]
    assert checker.lease_faults(steps) == []
    assert checker.count_faults(steps) == []
    assert checker.try_faults(steps) != []
    assert [step for step in steps if isinstance(step, Counted)][-1] == Counted(steps[0].entry, 3, 1, 1)


async def test_the_ledger_sees_those_end_that_leave_the_stream_in_one_step(durable: EmbeddedRedis) -> None:
    async with Broker(durable.url, settings=Settings(prefix="faults")) as broker:
        resource = broker.core.resource("function", "work")
        keys, store = broker.core.keys.of(resource), broker.core.messages
        await register_function(broker.core, "work", FunctionSettings())
        await broker.invoke_many("work", range(50))
        found = await store.claim(resource, token="w1", lease_ms=200, room=40, mode="work")
        await store.finish(resource, [member_of(item.entry, "w1") for item in found.messages], counter="done")
    steps = read_ledger(durable.directory, keys, lease_ms=200)
    assert [step.entry for step in steps if isinstance(step, Gone)] == sorted(item.entry for item in found.messages)


def written(*words: str) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words)


def test_a_script_without_its_end_is_left_out(tmp_path: Path) -> None:
    keys = Keyspace("p", "0", "r").of(Resource("function", "0", "r", "work"))
    begin, grant = written("MULTI"), written("ZADD", keys.leases, "1000", "1-0|w1")
    for ending, expected in ((b"", 0), (written("EXEC"), 1)):
        (tmp_path / "appendonly.aof").write_bytes(begin + grant + ending)
        assert len(read_ledger(tmp_path, keys, lease_ms=1_000)) == expected
