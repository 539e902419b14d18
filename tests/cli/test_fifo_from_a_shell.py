"""FIFO queues, tags, who may redrive, and typed attributes, as a shell uses them."""

from __future__ import annotations

import pytest

from broker import Broker, Queue
from tests.cli.shell import Shell

FIFO = "orders.fifo"


async def test_a_fifo_queue_is_created_filled_and_received_from_in_order(shell: Shell, broker: Broker) -> None:
    await shell.run("create", FIFO)
    first = await shell.run("send", FIFO, "one", "--group", "g", "--deduplication-id", "a")
    again = await shell.run("send", FIFO, "one once more", "--group", "g", "--deduplication-id", "a")
    assert first.out == again.out
    await shell.run("send", FIFO, "two", "--group", "g", "--deduplication-id", "b")
    one, two = (await shell.run("receive", FIFO, "--count", "10", "--json")).json_lines
    assert (one["body"], two["body"]) == ("one", "two")
    assert (one["group"], one["deduplication_id"]) == ("g", "a")
    assert one["sequence_number"] < two["sequence_number"]
    blocked = await shell.run("receive", FIFO)
    assert (blocked.out, blocked.err) == ("", f'no message in queue "{FIFO}"\n')


async def test_group_and_sequence_are_shown_to_a_person(shell: Shell, broker: Broker) -> None:
    await broker.queue(FIFO).create()
    await broker.queue(FIFO).send("body", group="g", deduplication_id="a")
    shown = await shell.run("receive", FIFO)
    (message,) = await broker.queue(FIFO).peek()
    assert f"  group g  sequence {message.sequence_number}\nbody\n" in shown.out


async def test_one_attempt_gives_the_same_messages_again(shell: Shell, broker: Broker) -> None:
    await broker.queue(FIFO).create(content_deduplication=True)
    await broker.queue(FIFO).send_many(["one", "two"], group="g")
    first = await shell.run("receive", FIFO, "--count", "2", "--attempt", "try-1", "--json")
    again = await shell.run("receive", FIFO, "--count", "2", "--attempt", "try-1", "--json")
    assert [line["body"] for line in first.json_lines] == ["one", "two"]
    assert [line["id"] for line in again.json_lines] == [line["id"] for line in first.json_lines]
    other = await shell.run("receive", FIFO, "--attempt", "try-2", "--json")
    assert other.out == ""


async def test_settings_of_a_fifo_queue_are_created_changed_and_listed(shell: Shell, broker: Broker) -> None:
    await shell.run(
        *("create", FIFO, "--content-deduplication", "--deduplication-scope", "messageGroup"),
        *("--throughput-limit", "perMessageGroupId", "--tag", "team=shop", "--tag", "empty="),
    )
    settings = await broker.queue(FIFO).settings()
    assert (settings.fifo, settings.content_deduplication) == (True, True)
    assert (settings.deduplication_scope, settings.throughput_limit) == ("messageGroup", "perMessageGroupId")
    assert settings.tags == {"team": "shop", "empty": ""}
    await shell.run("create", "letters")
    shown = await shell.run("queues")
    assert shown.cells("queue")[-1] == "kind"
    assert shown.cells(FIFO)[-5:] == ["FIFO", "by", "content,", "each", "group"]
    assert shown.cells("letters")[-1] == "standard"
    changed = await shell.run("configure", FIFO, "--no-content-deduplication", "--tag", "team=post", "--json")
    assert changed.json["settings"]["content_deduplication"] is False
    assert changed.json["settings"]["tags"] == {"team": "post"}
    assert changed.json["settings"]["deduplication_scope"] == "messageGroup"


async def test_many_lines_go_into_one_group(shell: Shell, broker: Broker) -> None:
    await broker.queue(FIFO).create(content_deduplication=True)
    await shell.run("send", FIFO, "-", "--lines", "--group", "g", stdin=b"a\nb\nc\n")
    messages = await broker.queue(FIFO).receive(10)
    assert [(message.group, message.body) for message in messages] == [("g", "a"), ("g", "b"), ("g", "c")]


async def test_a_group_marks_a_message_of_a_standard_queue(shell: Shell, broker: Broker) -> None:
    await broker.queue("letters").create()
    await shell.run("send", "letters", "x", "--group", "tenant-1")
    (message,) = (await shell.run("receive", "letters", "--json")).json_lines
    assert (message["group"], message["sequence_number"]) == ("tenant-1", None)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("send", FIFO, "x"), "a FIFO queue needs one"),
        (("send", FIFO, "x", "--group", "g"), "content_deduplication"),
        (("send", FIFO, "x", "--group", "g", "--delay", "5"), "no delay of its own"),
        (("send", FIFO, "x", "--group", "a b"), "letters, digits and punctuation"),
        (("send", FIFO, "-", "--lines", "--deduplication-id", "x"), "is for one, not for --lines"),
        (("send", "letters", "x", "--deduplication-id", "x"), "only for FIFO queues"),
        (("receive", "letters", "--attempt", "x"), "only for FIFO queues"),
        (("receive", FIFO, "--peek", "--attempt", "x"), "not with --peek"),
        (("create", "other", "--content-deduplication"), "only for a FIFO queue"),
        (("create", "other.fifo", "--throughput-limit", "perMessageGroupId"), "deduplication_scope='messageGroup'"),
        (("create", "other", "--dead-letter", FIFO, "--max-receives", "1"), "that of a standard queue a standard one"),
        (("create", "other", "--tag", "novalue"), "KEY=VALUE"),
        (("create", "other", "--tag", "a=1", "--tag", "a=2"), "given twice"),
        (("create", "other", "--redrive-from", "none", "--redrive-from", "a"), "goes alone"),
    ],
)
async def test_what_breaks_a_rule_of_queues_is_named_and_nothing_is_done(
    shell: Shell, broker: Broker, words: tuple[str, ...], expected: str
) -> None:
    await broker.queue(FIFO).create()
    await broker.queue("letters").create()
    done = await shell.run(*words, stdin=b"a\n", status=1)
    assert expected in done.err
    assert done.out == ""
    assert await broker.queues() == ["letters", FIFO]
    assert [(await broker.queue(name).counts()).total for name in ("letters", FIFO)] == [0, 0]


async def test_a_dead_letter_queue_may_say_whose_it_is(shell: Shell, broker: Broker) -> None:
    await shell.run("create", "dead", "--redrive-from", "orders", "--redrive-from", "mails")
    await shell.run("create", "orders", "--dead-letter", "dead", "--max-receives", "3")
    refused = await shell.run("create", "others", "--dead-letter", "dead", "--max-receives", "3", status=1)
    assert 'does not allow "others"' in refused.err
    shown = await shell.run("configure", "dead", "--retention", "60")
    assert "redrive_sources orders mails" in shown.out
    await shell.run("configure", "dead", "--redrive-from", "none")
    refused = await shell.run("create", "mails", "--dead-letter", "dead", "--max-receives", "3", status=1)
    assert 'does not allow "mails"' in refused.err
    assert (await broker.queue("orders").settings()).dead_letter == "dead"


async def test_attributes_have_types_with_labels(shell: Shell, broker: Broker) -> None:
    await broker.queue("letters").create()
    sent = ("kind=a=b", "size:=3", "price:Number.eur=12.50", "icon:Binary.png=iVBORw==", "note:String.x:y=z")
    await shell.run("send", "letters", "x", *(word for pair in sent for word in ("--attribute", pair)))
    shown = await shell.run("receive", "letters", "--visibility-timeout", "0")
    for pair in sent:
        assert f"  {pair}" in shown.out, pair
    (message,) = (await shell.run("receive", "letters", "--json")).json_lines
    assert message["attributes"] == {"kind": "a=b", "size": 3, "price": 12.50, "icon": "iVBORw==", "note": "z"}
    assert message["types"]["price"] == "Number.eur"
    (same,) = await broker.queue("letters").peek()
    assert same.attributes["icon"] == b"\x89PNG"


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("price:Float=1", "type String, Number or Binary"),
        ("price:Number.eur=cheap", "a number of up to 38 digits"),
        ("icon:Binary=no base64!", "the value of a Binary is base64"),
        (":Number=1", "NAME:TYPE=VALUE"),
        ("name:Number", "NAME:TYPE=VALUE"),
    ],
)
async def test_a_wrong_type_is_named(shell: Shell, broker: Broker, pair: str, expected: str) -> None:
    await broker.queue("letters").create()
    done = await shell.run("send", "letters", "x", "--attribute", pair, status=1)
    assert expected in done.err
    assert (await broker.queue("letters").counts()).total == 0


async def test_the_same_attribute_twice_is_a_mistake(shell: Shell, broker: Broker) -> None:
    await broker.queue("letters").create()
    done = await shell.run("send", "letters", "x", "--attribute", "a=1", "--attribute", "a:=2", status=1)
    assert "a is given twice" in done.err


async def test_a_fifo_redrive_keeps_groups(shell: Shell, broker: Broker) -> None:
    queue = broker.queue(FIFO)
    await queue.create(dead_letter=Queue("dead.fifo"), max_receives=1, content_deduplication=True)
    await queue.send_many(["one", "two"], group="g")
    await queue.receive(2, visibility_timeout=0)
    await queue.receive(2)
    await broker.deliver(queue.resource)
    assert (await broker.queue("dead.fifo").counts()).visible == 2
    done = await shell.run("redrive", "dead.fifo", "--json")
    assert done.json == {"queue": "dead.fifo", "redriven": 2, "left": 0}
    assert [(each.group, each.body) for each in await queue.receive(2)] == [("g", "one"), ("g", "two")]
