"""create, configure, send, receive, queues, purge, delete."""

from __future__ import annotations

import anyio.to_thread
import pytest

from broker import Broker, Queue
from tests.cli.shell import Shell, on_terminal


async def test_a_queue_is_created_filled_received_from_and_deleted(shell: Shell, broker: Broker) -> None:
    made = await shell.run(
        *("create", "orders", "--visibility-timeout", "60", "--dead-letter", "orders-dead", "--max-receives", "3")
    )
    assert made.out == 'queue "orders" is there\n'
    assert (await broker.queue("orders").settings()).dead_letter == "orders-dead"

    sent = await shell.run(
        "send", "orders", "as it is ", "--attribute", "kind=new", "--attribute", "size:=3", "--id", "o1"
    )
    assert sent.out == "o1\n"
    (message,) = (await shell.run("receive", "orders", "--json")).json_lines
    assert (message["id"], message["body"], message["receives"]) == ("o1", "as it is ", 1)
    assert message["attributes"] == {"kind": "new", "size": 3}
    assert (await broker.queue("orders").counts()).in_flight == 1

    shown = await shell.run("queues")
    assert shown.cells("orders ") == ["orders", "0", "1", "0", "0", "-", "orders-dead", "after", "3"]
    one = (await shell.run("queues", "orders", "--json")).json
    assert (one["in_flight"], one["settings"]["visibility_timeout_s"]) == (1, 60)
    assert (one["counters"]["sent"], one["counters"]["filtered"]) == (1, 0)

    await shell.run("delete", "queue", "orders", "--yes", "--force")
    assert await broker.queues() == ["orders-dead"]


async def test_receive_deletes_only_when_told_and_says_which(shell: Shell, broker: Broker) -> None:
    queue = broker.queue("letters")
    await queue.create()
    await queue.send_many(["one", "two", "three"])
    first = await shell.run("receive", "letters", "--visibility-timeout", "0")
    assert "one" in first.out
    assert first.err == "received 1; visible again in 0 s, as --delete was not given\n"
    everything = await shell.run("receive", "letters", "--count", "10", "--delete", "--json")
    assert sorted(message["body"] for message in everything.json_lines) == ["one", "three", "two"]
    nothing = await shell.run("receive", "letters", "--wait", "0.2", "--json")
    assert (nothing.out, nothing.err) == ("", "")
    assert (await queue.counts()).total == 0


async def test_send_takes_files_standard_input_delays_and_many_lines(shell: Shell, broker: Broker) -> None:
    queue = broker.queue("in")
    await queue.create()
    (shell.folder / "body.txt").write_text("from a file\n")
    await shell.run("send", "in", "@body.txt")
    await shell.run("send", "in", "-", stdin="from stdin, ü".encode())
    await shell.run("send", "in", "later", "--delay", "600")
    many = await shell.run("send", "in", "-", "--lines", "--json", stdin=b"a\nb\n")
    assert [line["line"] for line in many.json_lines] == [1, 2]
    counts = await queue.counts()
    assert (counts.visible, counts.delayed) == (4, 1)
    bodies = {message.body for message in await queue.receive(10)}
    assert bodies == {"from a file\n", "from stdin, ü", "a", "b"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("send", "in", "@missing.txt"), "the file cannot be read"),
        (("send", "in", "x", "--attribute", "novalue"), "NAME=TEXT"),
        (("send", "in", "x", "--attribute", "n:=x"), "needs a number"),
        (("send", "in", "-", "--lines", "--id", "x"), "is for one, not for --lines"),
        (("send", "in", "x", "--delay", "-1"), "delay=-1.0: must be a number of seconds"),
        (("receive", "in", "--peek", "--delete"), "not with --peek"),
    ],
)
async def test_what_breaks_a_rule_is_named_and_nothing_is_stored(
    shell: Shell, broker: Broker, words: tuple[str, ...], expected: str
) -> None:
    await broker.queue("in").create()
    done = await shell.run(*words, status=1)
    assert done.err.startswith("penstock: ")
    assert expected in done.err
    assert done.out == ""
    assert (await broker.queue("in").counts()).total == 0


async def test_an_unknown_queue_is_json_for_programs(shell: Shell) -> None:
    missing = await shell.run("send", "nosuch", "x", "--json", status=1)
    assert missing.json["error"] == "QueueNotFound"
    assert missing.err == ""


async def test_create_with_other_settings_is_refused_and_configure_changes_them(shell: Shell, broker: Broker) -> None:
    await shell.run("create", "q", "--delay", "1")
    await shell.run("create", "q", "--delay", "1")
    refused = await shell.run("create", "q", "--delay", "2", status=1)
    assert "value for delay" in refused.err
    assert "penstock configure" in refused.err
    changed = await shell.run("configure", "q", "--delay", "2", "--json")
    assert changed.json["settings"]["delay_s"] == 2
    await shell.run("configure", "q", "--dead-letter", "q-dead", "--max-receives", "2")
    without = await shell.run("configure", "q", "--remove-dead-letter", "--json")
    assert (without.json["settings"]["dead_letter"], without.json["settings"]["delay_s"]) == (None, 2)


async def test_tags_and_the_right_to_redrive_are_taken_back(shell: Shell, broker: Broker) -> None:
    await shell.run("create", "dead", "--redrive-from", "a", "--redrive-from", "b", "--tag", "team=shop", "--tag", "x=")
    made = (await broker.queue("dead").settings()).redrive_sources
    assert [arn.rpartition(":")[2] for arn in made] == ["a", "b"]
    none = (await shell.run("configure", "dead", "--redrive-from", "none", "--json")).json["settings"]
    assert (none["redrive_permission"], none["redrive_sources"]) == ("denyAll", [])
    assert none["tags"] == {"team": "shop", "x": ""}
    everybody = (await shell.run("configure", "dead", "--redrive-from", "all", "--tag", "none", "--json")).json
    assert (everybody["settings"]["redrive_permission"], everybody["settings"]["redrive_sources"]) == (None, [])
    assert everybody["settings"]["tags"] == {}
    refused = await shell.run("configure", "dead", "--redrive-from", "all", "--redrive-from", "a", status=1)
    assert "all goes alone" in refused.err
    assert "KEY=VALUE" in (await shell.run("configure", "dead", "--tag", "none", "--tag", "a=b", status=1)).err


async def test_purge_needs_a_yes_where_nobody_can_be_asked(shell: Shell, broker: Broker) -> None:
    queue = broker.queue("full")
    await queue.create()
    await queue.send_many(["a", "b"])
    refused = await shell.run("purge", "queue", "full", status=1)
    assert "say --yes" in refused.err
    assert "2 messages" in refused.err
    assert (await queue.counts()).visible == 2
    assert (await shell.run("purge", "queue", "full", "--yes", "--json")).json == {"purged": 2, "queue": "full"}
    assert (await queue.counts()).visible == 0


async def test_on_a_terminal_it_asks_first(shell: Shell, broker: Broker) -> None:
    queue = broker.queue("full")
    await queue.create()
    await queue.send("a")
    status, said = await anyio.to_thread.run_sync(on_terminal, shell, ("purge", "queue", "full"), b"n\n")
    assert (status, (await queue.counts()).visible) == (1, 1)
    assert 'Purge queue "full" with 1 message? This cannot be undone. [y/N]' in said
    assert "nothing was done" in said
    status, said = await anyio.to_thread.run_sync(on_terminal, shell, ("purge", "queue", "full"), b"y\n")
    assert (status, (await queue.counts()).visible) == (0, 0)


async def test_a_redrive_goes_to_another_queue_when_asked(shell: Shell, broker: Broker) -> None:
    await broker.queue("source").create(dead_letter=Queue("source-dead"), max_receives=1)
    await broker.queue("other").create()
    await broker.queue("source").send("again")
    for _ in range(2):
        await broker.queue("source").receive(visibility_timeout=0)
    await broker.deliver(broker.queue("source").resource)
    done = await shell.run("redrive", "source-dead", "--to", "other", "--json")
    assert done.json == {"queue": "source-dead", "redriven": 1, "left": 0}
    assert (await broker.queue("other").counts()).visible == 1


@pytest.mark.parametrize("width", ["80", "20"])
async def test_no_name_is_broken_on_a_narrow_terminal(shell: Shell, broker: Broker, width: str) -> None:
    shell.environment |= {"COLUMNS": width, "NO_COLOR": "1", "TERM": "dumb"}
    await broker.queue("letters-to-ada-dead.fifo").create()
    await broker.queue("letters-to-ada.fifo").create(dead_letter=Queue("letters-to-ada-dead.fifo"), max_receives=3)
    _, said = await anyio.to_thread.run_sync(on_terminal, shell, ("queues",), b"")
    lines = said.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("letters")] == [
        "letters-to-ada-dead.fifo",
        "letters-to-ada.fifo",
    ], said
    assert any(line.startswith("letters-to-ada.fifo ") and "letters-to-ada-dead.fifo" in line for line in lines), said
