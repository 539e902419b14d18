"""Move tasks from a shell: redrive with a rate, moves, cancel."""

from __future__ import annotations

import signal

import anyio.to_thread

from broker import Broker, Queue
from tests.cli.shell import Shell, eventually, on_terminal, started


async def dead_letters(broker: Broker, *bodies: str) -> None:
    """Messages of "orders" that have gone to "dead"."""
    source = broker.queue("orders")
    await source.create(dead_letter=Queue("dead"), max_receives=1)
    await source.send_many(bodies)
    await source.receive(len(bodies), visibility_timeout=0)
    assert await source.receive(len(bodies)) == []
    await broker.deliver(source.resource)
    assert (await broker.queue("dead").counts()).visible == len(bodies)


async def test_a_redrive_with_a_rate_moves_all_by_itself_and_says_how_many(shell: Shell, broker: Broker) -> None:
    await dead_letters(broker, "a", "b", "c")
    done = await shell.run("redrive", "dead", "--rate", "500")
    assert done.out == '3 messages sent back, 0 left in queue "dead"\n'
    assert done.err == ""  # the progress bar is for terminals
    assert (await broker.queue("orders").counts()).visible == 3
    listed = await shell.run("moves", "dead", "--json")
    assert (listed.json["status"], listed.json["moved"], listed.json["rate"]) == ("COMPLETED", 3, 500)


async def test_a_redrive_with_a_rate_can_be_told_where_to(shell: Shell, broker: Broker) -> None:
    await dead_letters(broker, "a", "b")
    await broker.queue("other").create()
    done = await shell.run("redrive", "dead", "--to", "other", "--rate", "500", "--json")
    assert (done.json["status"], done.json["moved"], done.json["left"]) == ("COMPLETED", 2, 0)
    assert done.json["to"] == "arn:aws:sqs:us-east-1:000000000000:other"
    assert (await broker.queue("other").counts()).visible == 2


async def test_what_has_no_known_source_stays_and_the_move_fails(shell: Shell, broker: Broker) -> None:
    await dead_letters(broker, "a")
    await broker.queue("dead").send("of nobody")
    done = await shell.run("redrive", "dead", "--rate", "500", status=1)
    assert done.out == '1 message sent back, 1 left in queue "dead"\n'
    assert done.err == "penstock: the move ended as FAILED CouldNotDetermineMessageSource\n"
    listed = await shell.run("moves", "dead")
    assert "FAILED: CouldNotDetermineMessageSource" in listed.out


async def test_a_rate_out_of_bounds_is_refused_under_the_name_that_was_typed(shell: Shell, broker: Broker) -> None:
    await dead_letters(broker, "a")
    done = await shell.run("redrive", "dead", "--rate", "501", status=1)
    assert done.err == "penstock: rate=501: must be a whole number from 1 to 500\n"


async def test_a_detached_move_is_listed_and_cancelled_by_its_handle(shell: Shell, broker: Broker) -> None:
    await dead_letters(broker, "a", "b")
    started = await shell.run("redrive", "dead", "--rate", "1", "--detach")
    handle = started.out.strip()
    shown = await shell.run("moves", "dead")
    assert shown.cells("started")[:4] == ["started", "status", "moved", "of"]
    assert shown.out.splitlines()[1].split()[1:] == ["RUNNING", "0", "2", "1", "their", "sources", handle]
    second = await shell.run("redrive", "dead", "--rate", "1", status=1)
    assert "a move task runs already" in second.err
    cancelled = await shell.run("moves", "dead", "--cancel", handle)
    assert cancelled.out == "CANCELLED; 0 messages moved before\n"
    again = await shell.run("moves", "dead", "--cancel", handle, "--json", status=1)
    assert again.json["error"] == "MoveNotFound"
    listed = await shell.run("moves", "dead", "--json")
    assert (listed.json["handle"], listed.json["status"], listed.json["to"]) == (handle, "CANCELLED", None)


async def test_a_handle_is_cancelled_only_on_its_own_queue(shell: Shell, broker: Broker) -> None:
    await dead_letters(broker, "a")
    started = await shell.run("redrive", "dead", "--detach", "--json")
    handle = started.json["handle"]
    refused = await shell.run("moves", "orders", "--cancel", handle, status=1)
    assert "does not exist" in refused.err
    (task,) = await broker.queue("dead").moves()
    assert (task.handle, task.status) == (handle, "RUNNING")


async def test_a_queue_without_moves_says_how_to_start_one(shell: Shell, broker: Broker) -> None:
    await broker.queue("dead").create()
    shown = await shell.run("moves", "dead")
    assert (shown.out, "penstock redrive dead --rate" in shown.err) == ("", True)


async def test_options_that_do_not_go_together_are_refused(shell: Shell, broker: Broker) -> None:
    await broker.queue("dead").create()
    refused = await shell.run("redrive", "dead", "--rate", "5", "--count", "1", status=1)
    assert "goes without --rate" in refused.err
    too_fast = await shell.run("redrive", "dead", "--rate", "501", status=1)
    assert "from 1 to 500" in too_fast.err
    missing = await shell.run("redrive", "dead", "--rate", "5", "--to", "nowhere", "--json", status=1)
    assert missing.json["error"] == "QueueNotFound"
    assert await broker.queue("dead").moves() == []


async def moving(broker: Broker) -> bool:
    """Whether a task has begun to move dead letters."""
    return any(task.moved for task in await broker.queue("dead").moves())


async def test_a_move_that_is_left_goes_on_elsewhere_and_says_how_to_end_it(shell: Shell, broker: Broker) -> None:
    await dead_letters(broker, *map(str, range(100)))  # far more than it moves before it hears the signal
    with started(shell, "redrive", "dead", "--rate", "1") as redrive:
        await eventually(lambda: moving(broker))
        status = await redrive.ended(signal.SIGINT)
    (task,) = await broker.queue("dead").moves()
    assert (status, task.status) == (130, "RUNNING")
    assert redrive.out.read_text() == ""
    said = redrive.err.read_text()
    assert said.startswith("the move goes on where a worker or gateway runs")
    assert said.endswith(f"`penstock moves dead --cancel {task.handle}`\n")


async def test_how_far_a_move_is_can_be_seen_on_a_terminal(shell: Shell, broker: Broker) -> None:
    await dead_letters(broker, *"abc")
    words = ("redrive", "dead", "--rate", "3")
    status, said = await anyio.to_thread.run_sync(on_terminal, shell, words, b"")
    assert status == 0
    assert "moving" in said
    assert '3 messages sent back, 0 left in queue "dead"' in said


async def test_a_move_whose_queue_is_deleted_ends_with_an_error_that_says_so(shell: Shell, broker: Broker) -> None:
    await dead_letters(broker, *"abcdef")
    with started(shell, "redrive", "dead", "--rate", "1") as redrive:
        await eventually(lambda: moving(broker))
        await broker.queue("dead").delete(force=True)
        status = await redrive.ended()
    assert (status, redrive.out.read_text()) == (1, "")
    assert redrive.err.read_text().startswith('penstock: queue "dead" does not exist')
