"""Move tasks: where messages go, how fast, how a task ends; nothing is lost or doubled when its process dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from broker import Broker, Queue
from broker.errors import FunctionNotFound, InvalidOption, MoveNotFound, QueueNotFound
from broker.functions import register_function
from broker.mover import LEAD_MS, Mover, Pace
from broker.moves import MoveTask, cancel_move, dead_letter_sources, list_moves, start_move
from broker.names import Resource
from broker.records import FunctionSettings
from broker.settings import Settings
from broker.upkeep import Upkeep
from tests.conftest import Clock
from tests.runtime.scene import eventually

ROOT = Path(__file__).parent.parent.parent


async def dead_letters(broker: Broker, source: str, dead: str, bodies: list[str], *, group: str | None = None) -> None:
    """Messages sent to a queue, received once too often, and now in its dead-letter queue."""
    queue = broker.queue(source)
    options: dict[str, Any] = {"content_deduplication": True} if source.endswith(".fifo") else {}
    await queue.create(dead_letter=Queue(dead), max_receives=1, **options)
    await queue.send_many(bodies, group=group)
    before = await broker.core.messages.counts(of(broker, dead))
    wanted = (before.visible if before else 0) + len(bodies)
    for _ in range(2 * len(bodies)):
        await queue.receive(1_000, visibility_timeout=0)
        await broker.deliver(queue.resource)
        if (await broker.queue(dead).counts()).visible >= wanted:
            return
    raise AssertionError("the messages did not become dead letters")


def of(broker: Broker, queue: str) -> Resource:
    return broker.queue(queue).resource


@asynccontextmanager
async def upkeep(broker: Broker) -> AsyncIterator[Upkeep]:
    made = Upkeep(broker, look_every_s=0.5)
    running = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def ended(broker: Broker, queue: str, *, timeout_s: float = 8.0) -> MoveTask:
    """The newest task of a queue, once it does not run any more."""

    async def look() -> MoveTask | None:
        (task,) = await list_moves(broker.core, of(broker, queue))
        return None if task.status in {"RUNNING", "CANCELLING"} else task

    found: MoveTask = await eventually(look, what="the end of the task", timeout_s=timeout_s)
    return found


async def bodies(broker: Broker, queue: str) -> list[str]:
    """Everything in a queue, in the order in which it comes."""
    found: list[str] = []
    while messages := await broker.queue(queue).receive(1_000):
        found += [message.body for message in messages]
        for message in messages:
            await message.delete()
    return found


async def moved_once(broker: Broker, queue: str) -> MoveTask:
    """The task of a queue run to its end, by this process."""
    await Mover(broker.core, broker.deliver, of(broker, queue)).run()
    (task,) = await list_moves(broker.core, of(broker, queue))
    return task


# -- where messages go ------------------------------------------------------------------------------------------------


async def test_each_message_goes_back_to_where_it_came_from_with_a_fresh_count(broker: Broker) -> None:
    await dead_letters(broker, "orders", "dead", ["a", "b"])
    await dead_letters(broker, "bills", "dead", ["c"])
    started = await start_move(broker.core, of(broker, "dead"))
    assert (started.status, started.to_move, started.moved, started.destination) == ("RUNNING", 3, 0, None)
    async with upkeep(broker):
        task = await ended(broker, "dead")
    assert (task.status, task.moved, task.to_move, task.failure_reason) == ("COMPLETED", 3, 3, "")
    assert task.started_ms == started.started_ms
    found = await broker.queue("orders").receive(10)
    assert sorted(message.body for message in found) == ["a", "b"]
    assert {(message.receives, message.source) for message in found} == {(1, None)}
    assert await bodies(broker, "bills") == ["c"]
    assert (await broker.queue("dead").counts()).total == 0


async def test_ids_and_attributes_stay_and_retention_begins_anew(broker: Broker, clock: Clock) -> None:
    await broker.queue("orders").create(retention=60)
    await broker.queue("dead").create(retention=600)
    sent = await broker.queue("dead").send("a", attributes={"n": 5})
    await clock.advance(300)
    await start_move(broker.core, of(broker, "dead"), destination=of(broker, "orders"))
    assert (await moved_once(broker, "dead")).status == "COMPLETED"
    await clock.advance(50)
    (message,) = await broker.queue("orders").receive()
    assert (message.id, message.body, message.attributes) == (sent, "a", {"n": 5})


async def test_all_go_to_the_destination_where_there_is_one(broker: Broker) -> None:
    await dead_letters(broker, "orders", "dead", ["a", "b"])
    await broker.queue("dead").send("never was elsewhere")
    await broker.queue("other").create()
    await start_move(broker.core, of(broker, "dead"), destination=of(broker, "other"))
    task = await moved_once(broker, "dead")
    assert (task.status, task.moved, task.destination) == ("COMPLETED", 3, of(broker, "other"))
    assert sorted(await bodies(broker, "other")) == ["a", "b", "never was elsewhere"]
    assert (await broker.queue("orders").counts()).total == 0


async def test_a_function_can_be_the_destination(broker: Broker) -> None:
    await register_function(broker.core, "job", FunctionSettings())
    await broker.queue("dead").create()
    await broker.queue("dead").send("1")
    await start_move(broker.core, of(broker, "dead"), destination=broker.core.resource("function", "job"))
    assert (await moved_once(broker, "dead")).moved == 1
    assert (await broker.function("job").counts()).visible == 1


async def test_messages_of_a_fifo_queue_keep_their_order_in_each_group(broker: Broker) -> None:
    wanted = {group: [f"{group}{number}" for number in range(130)] for group in "abc"}
    await broker.queue("orders.fifo").create(content_deduplication=True)
    await broker.queue("dead.fifo").create(content_deduplication=True)
    for number in range(130):
        for group in "abc":
            await broker.queue("dead.fifo").send(f"{group}{number}", group=group)
    await start_move(broker.core, of(broker, "dead.fifo"), destination=of(broker, "orders.fifo"))
    async with upkeep(broker):
        task = await ended(broker, "dead.fifo")
    assert (task.status, task.moved) == ("COMPLETED", 390)
    found = await bodies(broker, "orders.fifo")
    assert {group: [body for body in found if body[0] == group] for group in "abc"} == wanted


async def test_order_is_kept_also_beside_other_things_in_the_outbox(broker: Broker) -> None:
    """Relays that run side by side then take parts of a batch: so of each group one at a time is on its way."""
    await broker.queue("orders.fifo").create(content_deduplication=True)
    dead = broker.queue("dead.fifo")
    await dead.create(content_deduplication=True, dead_letter=Queue("gone.fifo"), max_receives=1)
    await dead.send("stuck", group="x")
    await broker.queue("gone.fifo").delete(force=True)
    for _ in range(2):
        await dead.receive(visibility_timeout=0)
    await broker.deliver(dead.resource)
    assert (await dead.counts()).outbox == 1
    await dead.configure(remove_dead_letter=True)
    for number in range(10):
        await dead.send(f"{number}", group="a")
    await start_move(broker.core, dead.resource, destination=of(broker, "orders.fifo"))
    assert (await moved_once(broker, "dead.fifo")).moved == 10
    assert await bodies(broker, "orders.fifo") == [str(number) for number in range(10)]


async def test_dead_letters_of_a_fifo_queue_go_back_in_order_within_the_time_of_deduplication(broker: Broker) -> None:
    await dead_letters(broker, "orders.fifo", "dead.fifo", ["a", "b", "c"], group="g")
    await start_move(broker.core, of(broker, "dead.fifo"))
    assert (await moved_once(broker, "dead.fifo")).moved == 3
    assert await bodies(broker, "orders.fifo") == ["a", "b", "c"]


# -- what stays -------------------------------------------------------------------------------------------------------


async def test_messages_without_a_source_stay_and_the_task_fails(
    broker: Broker,
) -> None:
    await broker.queue("dead").create()
    await broker.queue("dead").send("from nowhere")
    await dead_letters(broker, "orders", "dead", ["a"])
    await start_move(broker.core, of(broker, "dead"))
    with structlog.testing.capture_logs() as logs:
        task = await moved_once(broker, "dead")
    assert (task.status, task.moved, task.failure_reason) == ("FAILED", 1, "CouldNotDetermineMessageSource")
    (line,) = [each for each in logs if each["event"] == "move_failed"]
    assert (line["queue"], line["moved"], line["log_level"]) == ("dead", 1, "warning")
    assert await bodies(broker, "orders") == ["a"]
    assert await bodies(broker, "dead") == ["from nowhere"]


async def test_messages_whose_source_is_gone_stay_and_the_task_fails(broker: Broker) -> None:
    await dead_letters(broker, "orders", "dead", ["a"])
    await broker.queue("orders").delete(force=True)
    await start_move(broker.core, of(broker, "dead"))
    task = await moved_once(broker, "dead")
    assert (task.status, task.moved) == ("FAILED", 0)
    assert task.failure_reason == "AWS.SimpleQueueService.NonExistentQueue"
    assert await bodies(broker, "dead") == ["a"]


async def test_what_is_in_flight_elsewhere_is_not_waited_for(broker: Broker) -> None:
    await broker.queue("other").create()
    await broker.queue("dead").create()
    await broker.queue("dead").send_many(["held", "free"])
    (held,) = await broker.queue("dead").receive()
    started = await start_move(broker.core, of(broker, "dead"), destination=of(broker, "other"))
    assert started.to_move == 1
    task = await moved_once(broker, "dead")
    assert (task.status, task.moved) == ("COMPLETED", 1)
    await held.delete()
    assert await bodies(broker, "other") == ["free"]


async def test_what_arrives_after_the_start_stays(broker: Broker, clock: Clock) -> None:
    """Otherwise messages that fail again at once would go round and round for ever."""
    await broker.queue("other").create()
    await broker.queue("dead").create()
    await broker.queue("dead").send("early")
    await start_move(broker.core, of(broker, "dead"), destination=of(broker, "other"))
    await clock.advance(0.01)
    await broker.queue("dead").send_many(["late", "later"])
    task = await moved_once(broker, "dead")
    assert (task.status, task.moved) == ("COMPLETED", 1)
    assert sorted(await bodies(broker, "dead")) == ["late", "later"]


async def test_a_destination_that_is_deleted_fails_the_task(broker: Broker, clock: Clock) -> None:
    await broker.queue("other").create()
    await broker.queue("dead").create()
    await broker.queue("dead").send_many([str(number) for number in range(8)])
    await start_move(broker.core, of(broker, "dead"), destination=of(broker, "other"), max_per_s=5)
    async with upkeep(broker) as keeping:
        await moving(broker, "dead", clock, keeping)

        async def arrived() -> bool:
            return (await broker.queue("other").counts()).visible > 0

        await eventually(arrived, what="something has arrived")
        await broker.queue("other").delete(force=True)
        keeping.kick(of(broker, "dead"))
        task = await ended(broker, "dead")
    assert (task.status, task.failure_reason) == ("FAILED", "AWS.SimpleQueueService.NonExistentQueue")
    counts = await broker.queue("dead").counts()
    assert counts.visible + counts.outbox <= 8 - 1
    assert counts.visible == 8 - task.moved


async def moving(broker: Broker, queue: str, clock: Clock, keeping: Upkeep) -> None:
    """Lets a second pass; returns when the first messages have gone."""

    async def look() -> bool:
        (task,) = await list_moves(broker.core, of(broker, queue))
        keeping.kick(of(broker, queue))
        return task.moved > 0

    await clock.advance(1)
    await eventually(look, what="something moves")


# -- one at a time, and how it ends -----------------------------------------------------------------------------------


async def test_one_task_at_a_time_runs_on_a_queue(broker: Broker) -> None:
    await broker.queue("dead").create()
    started = await asyncio.gather(
        *(start_move(broker.core, of(broker, "dead")) for _ in range(10)), return_exceptions=True
    )
    assert sum(isinstance(each, MoveTask) for each in started) == 1
    assert {str(each) for each in started if not isinstance(each, MoveTask)} == {
        'queue "dead": a move task runs already; cancel it, or wait for its end'
    }
    assert (await moved_once(broker, "dead")).status == "COMPLETED"
    await start_move(broker.core, of(broker, "dead"))


async def test_a_cancelled_task_leaves_what_it_has_moved(broker: Broker, clock: Clock) -> None:
    await broker.queue("other").create()
    await broker.queue("dead").create()
    await broker.queue("dead").send_many([str(number) for number in range(8)])
    started = await start_move(broker.core, of(broker, "dead"), destination=of(broker, "other"), max_per_s=5)
    async with upkeep(broker) as keeping:
        await moving(broker, "dead", clock, keeping)
        cancelled = await cancel_move(broker.core, started.handle)
        assert cancelled.status in {"CANCELLING", "CANCELLED"}
        task = await ended(broker, "dead")
    assert task.status == "CANCELLED"
    assert 0 < task.moved <= 5
    assert len(await bodies(broker, "other")) == task.moved
    assert len(await bodies(broker, "dead")) == 8 - task.moved
    with pytest.raises(MoveNotFound):
        await cancel_move(broker.core, started.handle)


async def test_a_task_that_nobody_runs_is_cancelled_at_once(broker: Broker) -> None:
    await broker.queue("dead").create()
    started = await start_move(broker.core, of(broker, "dead"))
    assert (await cancel_move(broker.core, started.handle)).status == "CANCELLED"
    await start_move(broker.core, of(broker, "dead"))


async def test_the_newest_ten_ended_tasks_are_listed_newest_first(broker: Broker) -> None:
    await broker.queue("dead").create()
    started = []
    for _ in range(12):
        started.append(await start_move(broker.core, of(broker, "dead")))
        await moved_once(broker, "dead")
    assert [task.handle for task in await list_moves(broker.core, of(broker, "dead"), count=10)] == [
        task.handle for task in reversed(started[2:])
    ]
    assert len(await broker.core.moves.all(of(broker, "dead")) or ()) == 10
    assert len(await list_moves(broker.core, of(broker, "dead"))) == 1


async def test_a_deleted_queue_takes_its_tasks_with_it(broker: Broker) -> None:
    await broker.queue("dead").create()
    started = await start_move(broker.core, of(broker, "dead"))
    await broker.queue("dead").delete()
    with pytest.raises(QueueNotFound):
        await list_moves(broker.core, of(broker, "dead"))
    with pytest.raises(MoveNotFound):
        await cancel_move(broker.core, started.handle)
    async with upkeep(broker):
        await eventually(lambda: _nothing_listed(broker), what="it is off the list")


async def _nothing_listed(broker: Broker) -> bool:
    return await broker.core.moves.running() == {}


@pytest.mark.parametrize(
    ("error", "start"),
    [
        (QueueNotFound, {"source": "queue/never"}),
        (InvalidOption, {"source": "function/job"}),
        (InvalidOption, {"max_per_s": 0}),
        (InvalidOption, {"max_per_s": 501}),
        (InvalidOption, {"destination": "queue/dead"}),
        (InvalidOption, {"destination": "queue/orders.fifo"}),
        (InvalidOption, {"destination": "stream/log"}),
        (QueueNotFound, {"destination": "queue/never"}),
        (FunctionNotFound, {"destination": "function/never"}),
    ],
)
async def test_what_cannot_be_moved_is_refused(broker: Broker, error: type[Exception], start: dict[str, Any]) -> None:
    await broker.queue("dead").create()
    await broker.queue("orders.fifo").create()
    source = _named(broker, start.get("source", "queue/dead"))
    destination = _named(broker, start["destination"]) if "destination" in start else None
    with pytest.raises(error):
        await start_move(broker.core, source, destination=destination, max_per_s=start.get("max_per_s"))
    assert await list_moves(broker.core, of(broker, "dead")) == []


def _named(broker: Broker, what: str) -> Resource:
    kind, _, name = what.partition("/")
    return broker.core.resource(kind, name)  # type: ignore[arg-type]  # one of the table's


async def test_no_task_of_another_account_or_region_can_be_cancelled(broker: Broker) -> None:
    await broker.queue("dead").create()
    started = await start_move(broker.core, of(broker, "dead"))
    with pytest.raises(MoveNotFound):
        await cancel_move(broker.within("111111111111", "us-east-1").core, started.handle)
    for text in ("", "nonsense", "eyJhIjoxfQ==", "ü", started.handle[:-4]):
        with pytest.raises(InvalidOption, match="not the handle of a move task"):
            await cancel_move(broker.core, text)


async def test_queues_that_name_a_dead_letter_queue_are_found(broker: Broker) -> None:
    for number in range(40):
        dead = Queue("dead") if number % 2 else Queue("other")
        await broker.queue(f"q{number:02}").create(dead_letter=dead, max_receives=3)
    elsewhere = broker.within("111111111111", "us-east-1")
    await elsewhere.queue("there").create(dead_letter=Queue("dead"), max_receives=3)
    found = await dead_letter_sources(broker.core, of(broker, "dead"))
    assert [queue.name for queue in found] == [f"q{number:02}" for number in range(1, 40, 2)]
    assert await dead_letter_sources(broker.core, of(broker, "q01")) == []
    (there,) = await dead_letter_sources(broker.core, elsewhere.queue("dead").resource)
    assert (there.account, there.name) == ("111111111111", "there")


# -- how fast ---------------------------------------------------------------------------------------------------------


def test_no_second_has_more_than_its_share() -> None:
    pace = Pace(10, now_ms=0)
    assert pace.room(199) == 0
    assert pace.room(250) == 2
    pace.spend(2)
    assert pace.room(300) == 0
    assert pace.room(60_000) == 2
    pace.spend(2)
    assert pace.room(59_000) == 0
    assert pace.room(61_000) == 2


def test_a_slow_pace_goes_one_by_one() -> None:
    pace = Pace(1, now_ms=0)
    assert [pace.room(now_ms) for now_ms in (0, 999, 1_000, 9_000)] == [0, 0, 1, 1]


def test_without_a_rate_it_goes_as_fast_as_it_can() -> None:
    assert Pace(None, now_ms=0).room(0) is None


async def test_a_task_with_a_rate_moves_no_more_than_that_also_across_a_restart(broker: Broker, clock: Clock) -> None:
    await broker.queue("other").create()
    await broker.queue("dead").create()
    await broker.queue("dead").send_many([str(number) for number in range(1_000)])
    started = await start_move(broker.core, of(broker, "dead"), destination=of(broker, "other"), max_per_s=50)
    for _ in range(3):
        async with upkeep(broker) as keeping:
            before = (await list_moves(broker.core, of(broker, "dead")))[0].moved
            await clock.advance(1)
            (task,) = await list_moves(broker.core, of(broker, "dead"))
            for _ in range(40):
                keeping.kick(of(broker, "dead"))
                await asyncio.sleep(0.01)
                (task,) = await list_moves(broker.core, of(broker, "dead"))
                elapsed_s = (await broker.core.messages.now_ms() - started.started_ms) / 1000
                assert task.moved <= 50 * elapsed_s
            assert task.moved > before
            await clock.advance(20)  # nobody may catch up on what nobody did


# -- when processes die -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dead", "other", "group"), [("dead", "other", None), ("dead.fifo", "other.fifo", "g")])
async def test_a_task_that_is_cut_short_at_any_step_is_finished_by_the_next_exactly(
    redis_url: str, settings: Settings, broker: Broker, clock: Clock, dead: str, other: str, group: str | None
) -> None:
    """Killed before each of its commands, and after it, when its effect is there but not its answer."""
    sent = ["a", "b", "c"]
    for lost in ("command", "answer"):
        for step in range(1, 100):
            for name in (dead, other):
                await broker.queue(name).create(content_deduplication=bool(group))
            await broker.queue(dead).send_many(sent, group=group)
            await start_move(broker.core, of(broker, dead), destination=of(broker, other))
            async with Broker(redis_url, settings=settings) as dying:
                cut = _cut_at(dying, step, lost)
                with contextlib.suppress(_Killed):
                    await Mover(dying.core, dying.deliver, of(broker, dead)).run()
            await clock.advance(LEAD_MS / 1000 + 1)
            await Mover(broker.core, broker.deliver, of(broker, dead)).run()
            (task,) = await list_moves(broker.core, of(broker, dead))
            assert (task.status, task.moved) == ("COMPLETED", 3), (lost, step)
            found = await bodies(broker, other)
            assert (found if group else sorted(found)) == sent, (lost, step)
            for name in (dead, other):
                counts = await broker.queue(name).counts()
                assert (counts.total, counts.outbox) == (0, 0), (lost, step, name)
                await broker.queue(name).delete(force=True)
            if not cut():
                break
        else:
            raise AssertionError("the mover never ran through")
        assert step > 10


class _Killed(BaseException):
    pass


def _cut_at(broker: Broker, step: int, lost: str) -> Callable[[], bool]:
    """From that command on nothing more reaches Redis. Answers whether it came so far."""
    runner = broker.core.runner
    execute: Callable[..., Awaitable[Any]] = runner._execute
    done = 0

    async def cut(*command: Any) -> Any:
        nonlocal done
        done += 1
        if done < step:
            return await execute(*command)
        if done == step and lost == "answer":
            await execute(*command)
        raise _Killed

    object.__setattr__(runner, "_execute", cut)
    return lambda: done >= step


async def test_a_task_survives_its_processes(redis_url: str, settings: Settings, broker: Broker, clock: Clock) -> None:
    sent = [str(number) for number in range(2_000)]
    await broker.queue("other").create()
    await broker.queue("dead").create()
    await broker.queue("dead").send_many(sent)
    await start_move(broker.core, of(broker, "dead"), destination=of(broker, "other"), max_per_s=500)
    for _ in range(3):
        before = (await list_moves(broker.core, of(broker, "dead")))[0].moved
        with _upkeep_process(redis_url, settings) as process:

            async def goes_on(before: int = before) -> bool:
                (task,) = await list_moves(broker.core, of(broker, "dead"))
                return task.moved > before

            await eventually(goes_on, what="the task goes on", timeout_s=20)
            process.kill()
            process.wait()
        (task,) = await list_moves(broker.core, of(broker, "dead"))
        assert task.status == "RUNNING"
        await clock.advance(LEAD_MS / 1000 + 1)
    async with upkeep(broker) as keeping:

        async def over() -> bool:
            await clock.advance(1)
            keeping.kick(of(broker, "dead"))
            (task,) = await list_moves(broker.core, of(broker, "dead"))
            return task.status != "RUNNING"

        await eventually(over, what="the end of the task", timeout_s=20)
    (task,) = await list_moves(broker.core, of(broker, "dead"))
    assert (task.status, task.moved) == ("COMPLETED", len(sent))
    assert Counter(await bodies(broker, "other")) == Counter(sent)
    counts = await broker.queue("dead").counts()
    assert (counts.total, counts.outbox) == (0, 0)


@contextlib.contextmanager
def _upkeep_process(url: str, settings: Settings) -> Any:
    environment = {
        **os.environ,
        "PENSTOCK_PREFIX": settings.prefix,
        "PENSTOCK_TEST_CLOCK": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.broker.upkeep_process", url]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_several_upkeeps_at_once_move_everything_once(broker: Broker) -> None:
    sent = [str(number) for number in range(3_000)]
    await broker.queue("other").create()
    await broker.queue("dead").create()
    await broker.queue("dead").send_many(sent)
    async with upkeep(broker), upkeep(broker), upkeep(broker):
        await start_move(broker.core, of(broker, "dead"), destination=of(broker, "other"))
        task = await ended(broker, "dead")
    assert (task.status, task.moved) == ("COMPLETED", len(sent))
    assert Counter(await bodies(broker, "other")) == Counter(sent)


async def test_who_loses_the_lead_after_a_claim_moves_nothing(broker: Broker, clock: Clock) -> None:
    """A process that stood still for longer than its lease: the task has been ended by another meanwhile."""
    await broker.queue("other").create()
    await broker.queue("dead").create()
    await broker.queue("dead").send("a")
    await start_move(broker.core, of(broker, "dead"), destination=of(broker, "other"))
    claim = broker.core.messages.claim

    async def slow_claim(*arguments: Any, **options: Any) -> Any:
        claimed = await claim(*arguments, **options)
        broker.core.messages.claim = claim  # type: ignore[method-assign]  # the second mover is as quick as usual
        await clock.advance(LEAD_MS / 1000 + 1)
        second = await Mover(broker.core, broker.deliver, of(broker, "dead")).run()
        assert second.status == "none"
        return claimed

    broker.core.messages.claim = slow_claim  # type: ignore[method-assign]  # stands still in the worst moment
    lead = await Mover(broker.core, broker.deliver, of(broker, "dead")).run()
    assert lead.status == "none"
    (task,) = await list_moves(broker.core, of(broker, "dead"))
    assert (task.status, task.moved) == ("COMPLETED", 1)
    assert await bodies(broker, "other") == ["a"]


async def test_a_second_upkeep_takes_over_when_the_first_is_stopped(broker: Broker, clock: Clock) -> None:
    await broker.queue("other").create()
    await broker.queue("dead").create()
    await broker.queue("dead").send_many([str(number) for number in range(8)])
    await start_move(broker.core, of(broker, "dead"), destination=of(broker, "other"), max_per_s=5)
    async with upkeep(broker) as first:
        await moving(broker, "dead", clock, first)
    async with upkeep(broker) as second:
        for _ in range(3):
            await moving(broker, "dead", clock, second)
        task = await ended(broker, "dead")
    assert (task.status, task.moved) == ("COMPLETED", 8)
