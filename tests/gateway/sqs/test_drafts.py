"""Messages on their way in, batches and pages: the rules that need no Redis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from broker.errors import InvalidOption, StoreFault, StoreFull, StoreUnavailable
from broker.gateway.aws.service import ServiceError
from broker.gateway.aws.sqs.batches import check_entries
from broker.gateway.aws.sqs.errors import from_broker, invalid_value, unknown_attribute
from broker.gateway.aws.sqs.message_shapes import (
    DeleteMessageBatchRequestEntry,
    MessageAttributeValue,
    MessageSystemAttributeValue,
    ReceiveMessageRequest,
    SendMessageBatchRequestEntry,
    SendMessageRequest,
)
from broker.gateway.aws.sqs.messages import MAX_TRACE_BYTES, Draft, draft, size_of
from broker.gateway.aws.sqs.paging import page_of
from broker.gateway.aws.sqs.receiving import MAX_NAMES, chosen, read_receive, selection_of, system_names
from broker.gateway.aws.sqs.redrive import read_redrive
from broker.gateway.aws.sqs.sending import batch_result
from broker.gateway.aws.sqs.settling import problem_error
from broker.message_attributes import Attribute
from broker.names import Resource
from broker.records import pack, unpack
from broker.store.values import Accepted

STANDARD = Resource("queue", "000000000000", "us-east-1", "orders")
FIFO = Resource("queue", "000000000000", "us-east-1", "orders.fifo")
QUEUE_ARN = "arn:aws:sqs:us-east-1:000000000000:dead"
NOT_FOR_KIND = "is invalid. Reason: The request include parameter that is not valid for this queue type."
BAD_ID = "is invalid. Reason: {0} can only include alphanumeric and punctuation characters. 1 to 128 in length."


def made(queue: Resource, body: str = "x", *, sender: str = "", **options: Any) -> Draft:
    return draft(queue, SendMessageRequest(queue_url="", message_body=body, **options), sender=sender)


def text(value: str, kind: str = "String") -> MessageAttributeValue:
    return MessageAttributeValue(data_type=kind, string_value=value)


# -- messages ---------------------------------------------------------------------------------------------------------


def test_a_message_without_anything_besides_its_body_is_plain() -> None:
    assert made(STANDARD, "é").message.blob == pack("é".encode())
    assert made(STANDARD, "é").message.plain


def test_what_travels_with_a_body_is_in_its_header() -> None:
    trace = MessageSystemAttributeValue(data_type="String", string_value="Root=1")
    drafted = made(
        FIFO,
        "body",
        sender="111122223333",
        message_group_id="g",
        message_deduplication_id="d",
        message_attributes={"k": text("vv")},
        message_system_attributes={"AWSTraceHeader": trace},
    )
    header, body = unpack(drafted.message.blob)
    assert body == b"body"
    assert (header.group, header.deduplication_id, header.trace, header.sender) == ("g", "d", "Root=1", "111122223333")
    assert header.attributes == {"k": Attribute("String", b"vv")}
    assert (drafted.message.group, drafted.message.deduplication_id) == ("g", "d")
    assert drafted.message.size == len("body") + len("k") + len("String") + len("vv")


@pytest.mark.parametrize(
    ("queue", "options", "expected"),
    [
        (STANDARD, {"delay_seconds": 0}, 0),
        (STANDARD, {"delay_seconds": 900}, 900_000),
        (STANDARD, {}, None),
        (FIFO, {"delay_seconds": 0, "message_group_id": "g"}, None),
    ],
)
def test_a_delay_is_in_milliseconds_and_none_is_the_queues(
    queue: Resource, options: dict[str, Any], expected: int | None
) -> None:
    assert made(queue, **options).message.delay_ms == expected


@pytest.mark.parametrize(
    ("queue", "options", "name", "message"),
    [
        (STANDARD, {"body": ""}, "MissingParameter", "The request must contain the parameter MessageBody."),
        (FIFO, {}, "MissingParameter", "The request must contain the parameter MessageGroupId."),
        (
            FIFO,
            {"message_group_id": "a b"},
            "InvalidParameterValue",
            f"Value a b for parameter MessageGroupId {BAD_ID.format('MessageGroupId')}",
        ),
        (
            FIFO,
            {"message_group_id": "g", "delay_seconds": 2},
            "InvalidParameterValue",
            f"Value 2 for parameter DelaySeconds {NOT_FOR_KIND}",
        ),
        (
            STANDARD,
            {"message_deduplication_id": "d"},
            "InvalidParameterValue",
            f"Value d for parameter MessageDeduplicationId {NOT_FOR_KIND}",
        ),
        (
            STANDARD,
            {"message_attributes": {"K": text("")}},
            "InvalidParameterValue",
            "Message (user) attribute 'K' must contain a non-empty value of type 'String'.",
        ),
        (
            STANDARD,
            {"message_attributes": {"K": text("many", "Number")}},
            "InvalidParameterValue",
            "Can't cast the value of message (user) attribute 'K' to a number.",
        ),
        (
            STANDARD,
            {"message_attributes": {"K": MessageAttributeValue(data_type="String", string_list_values=["a"])}},
            "UnsupportedOperation",
            "Message attribute list values in SendMessage operation are not supported.",
        ),
    ],
)
def test_what_is_refused_is_refused_in_sqss_words(
    queue: Resource, options: dict[str, Any], name: str, message: str
) -> None:
    with pytest.raises(ServiceError) as caught:
        made(queue, **options)
    assert (caught.value.name, caught.value.message) == (name, message)


@pytest.mark.parametrize("character", ["\x00", "\x0b", "\ud800", "\ufffe", "\uffff"])
def test_a_character_that_sqs_does_not_know_is_refused(character: str) -> None:
    with pytest.raises(ServiceError, match=f"found #x{ord(character):X}") as caught:
        made(STANDARD, f"a\t\n\r{character}")
    assert caught.value.name == "InvalidMessageContents"


def test_the_size_is_the_same_for_a_message_that_breaks_a_rule() -> None:
    attributes = {"k": text("vv"), "b": MessageAttributeValue(data_type="Binary", binary_value=b"123")}
    good = SendMessageBatchRequestEntry(id="a", message_body="é", message_attributes=attributes)
    assert size_of(good) == draft(STANDARD, good, sender="").message.size == 2 + 9 + 10
    assert size_of(SendMessageBatchRequestEntry(id="a", message_body="\ud800")) == 1


# -- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "name"),
    [
        ([], "EmptyBatchRequest"),
        (["a b"] * 11, "TooManyEntriesInBatchRequest"),
        (["a b", "a b"], "InvalidBatchEntryId"),
        (["a", "a", "a b"], "BatchEntryIdsNotDistinct"),
    ],
)
def test_the_first_thing_that_is_wrong_with_a_batch_is_told(ids: list[str], name: str) -> None:
    entries = [DeleteMessageBatchRequestEntry(id=each, receipt_handle="h") for each in ids]
    with pytest.raises(ServiceError) as caught:
        check_entries(entries, "DeleteMessageBatchRequestEntry")
    assert caught.value.name == name


# -- receiving --------------------------------------------------------------------------------------------------------


def test_a_receive_without_options_takes_one_and_leaves_times_to_the_queue() -> None:
    asked = read_receive(ReceiveMessageRequest(queue_url=""), STANDARD)
    assert (asked.count, asked.wait_s, asked.visibility_s, asked.attempt) == (1, None, None, None)


@pytest.mark.parametrize("attempt", ["", "a b", "a" * 129])
def test_an_attempt_has_a_form(attempt: str) -> None:
    with pytest.raises(ServiceError, match="for parameter ReceiveRequestAttemptId is invalid"):
        read_receive(ReceiveMessageRequest(queue_url="", receive_request_attempt_id=attempt), FIFO)


def test_an_attempt_is_for_fifo_queues() -> None:
    with pytest.raises(ServiceError, match="not valid for this queue type"):
        read_receive(ReceiveMessageRequest(queue_url="", receive_request_attempt_id="a"), STANDARD)


@pytest.mark.parametrize(("size", "good"), [(MAX_TRACE_BYTES, True), (MAX_TRACE_BYTES + 1, False)])
def test_a_trace_header_has_a_size(size: int, *, good: bool) -> None:
    trace = MessageSystemAttributeValue(data_type="String", string_value="é" * (size // 2) + "x" * (size % 2))
    if good:
        assert unpack(made(STANDARD, message_system_attributes={"AWSTraceHeader": trace}).message.blob)[0].trace
        return
    with pytest.raises(ServiceError, match="'AWSTraceHeader' must be shorter than 4097 bytes") as caught:
        made(STANDARD, message_system_attributes={"AWSTraceHeader": trace})
    assert caught.value.name == "InvalidParameterValue"


def test_both_lists_of_system_attributes_are_united() -> None:
    assert system_names(["SenderId"], None, ["SentTimestamp", "SenderId"]) == ("SenderId", "SentTimestamp")
    assert len(system_names(["All"])) == 9
    assert system_names(None, []) == ()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, ""),
        ([], ""),
        (["All"], "a a.b b"),
        ([".*"], "a a.b b"),
        (["a"], "a"),
        (["a.*"], "a a.b"),
        (["a.", "B"], ""),
    ],
)
def test_attributes_are_chosen_by_name_or_prefix(asked: list[str] | None, expected: str) -> None:
    attributes = {name: Attribute("String", b"x") for name in ("a", "a.b", "b")}
    assert " ".join(chosen(attributes, selection_of(asked))) == expected


def test_as_many_names_of_attributes_as_a_program_needs_can_be_asked_for() -> None:
    assert len(selection_of([f"n{number}.*" for number in range(MAX_NAMES)]).prefixes) == MAX_NAMES
    with pytest.raises(ServiceError, match=r"names \[257\] exceeds the allowed maximum \[256\]") as caught:
        selection_of(["a"] * 257)
    assert caught.value.name == "InvalidParameterValue"


# -- errors ---------------------------------------------------------------------------------------------------------


LONG = "<" * 100_000
SYSTEM = {LONG: MessageSystemAttributeValue(data_type="String", string_value="x")}
TOLD: dict[str, Callable[[], object]] = {
    "value": lambda: invalid_value("MessageGroupId", LONG, "No."),
    "attribute": lambda: unknown_attribute(LONG),
    "invalid handle": lambda: problem_error("invalid", LONG),
    "expired handle": lambda: problem_error("expired", LONG),
    "broker's": lambda: from_broker(InvalidOption("x", LONG, "no"), "json"),
    "policy": lambda: read_redrive(f'{{"a":"{LONG}"}}', STANDARD),
    "count": lambda: read_redrive(f'{{"deadLetterTargetArn":"{QUEUE_ARN}","maxReceiveCount":"{LONG}"}}', STANDARD),
    "name": lambda: made(STANDARD, message_attributes={LONG: text("x")}),
    "system name": lambda: made(STANDARD, message_system_attributes=SYSTEM),
}


@pytest.mark.parametrize("which", TOLD)
def test_an_error_tells_the_beginning_of_a_long_value(which: str) -> None:
    try:
        error = TOLD[which]()
    except ServiceError as raised:
        error = raised
    assert isinstance(error, ServiceError)
    assert "…" in error.message
    assert len(error.message) < 1_500


def drafted(*bodies: str) -> tuple[list[SendMessageBatchRequestEntry], list[Draft | ServiceError]]:
    entries = [
        SendMessageBatchRequestEntry(id=f"i{number}", message_body=body) for number, body in enumerate(bodies, start=1)
    ]
    return entries, [made(STANDARD, body) for body in bodies]


def test_entries_that_the_store_did_not_take_are_told_where_it_took_others() -> None:
    stored = Accepted(id="id", entry="1-1")
    outcomes: list[Accepted | BaseException] = [StoreUnavailable("gone"), stored, StoreFull("full"), StoreFault("ERR")]
    result = batch_result(STANDARD, *drafted("a", "b", "c", "d"), outcomes)
    assert [each.id for each in result.successful or ()] == ["i2"]
    assert [(each.id, each.code, each.sender_fault) for each in result.failed or ()] == [
        ("i1", "ServiceUnavailable", False),
        ("i3", "RequestThrottled", False),
        ("i4", "InternalFailure", False),
    ]


def test_a_batch_of_which_the_store_took_nothing_fails_as_a_whole() -> None:
    with pytest.raises(StoreUnavailable):
        batch_result(STANDARD, *drafted("a", "b"), [StoreUnavailable("gone"), StoreUnavailable("gone")])


# -- pages ------------------------------------------------------------------------------------------------------------


def test_pages_follow_each_other_until_there_is_no_more() -> None:
    names = [f"q{number}" for number in range(5)]
    first = page_of(names, scope="s", max_results=2, token=None)
    second = page_of(names, scope="s", max_results=2, token=first.next_token)
    third = page_of(names, scope="s", max_results=2, token=second.next_token)
    assert [*first.names, *second.names, *third.names] == names
    assert third.next_token is None


def test_a_name_that_goes_meanwhile_leaves_the_next_page_whole() -> None:
    first = page_of(["a", "b", "c", "d"], scope="s", max_results=2, token=None)
    assert page_of(["c", "d"], scope="s", max_results=2, token=first.next_token).names == ["c", "d"]


@pytest.mark.parametrize("token", ["garbage", "é", "AAAA", "AAAAAAAA"])
def test_a_token_that_is_none_is_refused(token: str) -> None:
    with pytest.raises(ServiceError, match="next token"):
        page_of(["a"], scope="s", max_results=1, token=token)


def test_a_token_is_good_for_its_own_list_alone() -> None:
    token = page_of(["a", "b"], scope="s", max_results=1, token=None).next_token
    with pytest.raises(ServiceError, match="next token"):
        page_of(["a", "b"], scope="other", max_results=1, token=token)


@pytest.mark.parametrize("count", [0, -1, 1_001])
def test_a_page_has_a_size(count: int) -> None:
    with pytest.raises(ServiceError, match=f"Value {count} for parameter MaxResults is invalid."):
        page_of([], scope="s", max_results=count, token=None)
