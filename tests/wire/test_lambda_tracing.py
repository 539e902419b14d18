"""Traces over HTTP: what boto3 sends by itself, W3C's headers, and loops refused in Lambda's words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from broker.errors import RECURSION_STOPPED
from broker.lineage import MAX_INVOCATIONS, hash_of, run_once_more
from runtime import App, Context
from tests.wire.clients import Sqs
from tests.wire.gateway import Gateway
from tests.wire.lambda_control import LambdaClient
from tests.wire.lambdas import Lambda, Served, posted
from tests.wire.raw import RawClient

ROOT = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def within(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], AbstractContextManager[None]]:
    """What boto3 does in a function of Lambda: it sends the trace header of the running call by itself."""

    @contextmanager
    def run(header: str) -> Iterator[None]:
        with monkeypatch.context() as patched:
            patched.setenv("AWS_LAMBDA_FUNCTION_NAME", "caller")
            patched.setenv("_X_AMZN_TRACE_ID", header)
            yield

    return run


class Traced:
    """A function that tells what its calls belong to."""

    def __init__(self) -> None:
        self.app = App()

        @self.app.function(name="work", timeout=20)
        async def work(event: Any, context: Context) -> list[str]:
            return [context.trace_header, context.traceparent, context.tracestate]


def ran(aws_lambda: Lambda, header: str, times: int = 1) -> str:
    for _ in range(times):
        header = run_once_more(header, hash_of(aws_lambda.arn("work")))
    return header


def test_a_call_belongs_to_its_callers_trace_and_the_answer_says_so(
    aws_lambda: Lambda, served: Served, within: Callable[[str], Any]
) -> None:
    with served(Traced().app), within(ROOT):
        answer = aws_lambda.run("work")
    assert answer.result == [ran(aws_lambda, ROOT), "", ""]
    assert answer.headers["x-amzn-trace-id"] == ROOT


def test_a_lineage_of_several_functions_comes_through_botocores_quoting(
    aws_lambda: Lambda, served: Served, within: Callable[[str], Any]
) -> None:
    header = run_once_more(run_once_more(ROOT, "12345678"), "87654321")
    assert "|" in header
    with served(Traced().app), within(header):
        assert aws_lambda.run("work").result[0] == ran(aws_lambda, header)


def test_without_a_header_there_is_none_in_the_answer(aws_lambda: Lambda, served: Served) -> None:
    with served(Traced().app):
        answer = aws_lambda.run("work")
    assert "x-amzn-trace-id" not in answer.headers
    assert answer.result == [ran(aws_lambda, ""), "", ""]


def test_w3cs_headers_are_carried_too(gateway: Gateway, aws_lambda: Lambda, account: str, served: Served) -> None:
    raw = RawClient(gateway.url, account, service="lambda")
    with served(Traced().app):
        answer = posted(raw, "work", traceparent=PARENT, tracestate="a=1")
        assert answer.json == [ran(aws_lambda, ""), PARENT, "a=1"]
        assert posted(raw, "work", traceparent="nonsense", X_Amzn_Trace_Id="bad%0a").json == [
            ran(aws_lambda, ""),
            "",
            "",
        ]


@pytest.mark.parametrize("form", ["Event", "InvokeAsync"])
def test_a_stored_event_carries_its_trace_to_its_records(
    aws_lambda: Lambda, control: LambdaClient, json_sqs: Sqs, served: Served, within: Callable[[str], Any], form: str
) -> None:
    queue = json_sqs.create_queue(QueueName="made")["QueueUrl"]
    app = Traced().app
    with served(app):
        control.put_function_event_invoke_config(
            FunctionName="work", DestinationConfig={"OnSuccess": {"Destination": control.queue_arn("made")}}
        )
        with within(ROOT):
            if form == "Event":
                answer = aws_lambda.run("work", 1, InvocationType="Event")
                assert answer.headers["x-amzn-trace-id"] == ROOT
            else:
                aws_lambda.invoke_async(FunctionName="work", InvokeArgs=b"1")
        made = json_sqs.receive_message(
            QueueUrl=queue, WaitTimeSeconds=20, MessageSystemAttributeNames=["AWSTraceHeader"]
        )["Messages"][0]
    assert made["Attributes"] == {"AWSTraceHeader": ran(aws_lambda, ROOT)}


def test_what_boto3_sends_to_a_queue_inside_a_function_belongs_to_its_trace(
    json_sqs: Sqs, within: Callable[[str], Any]
) -> None:
    queue = json_sqs.create_queue(QueueName="orders")["QueueUrl"]
    own = {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1-own"}}
    with within(ROOT):
        json_sqs.send_message(QueueUrl=queue, MessageBody="one")
        json_sqs.send_message(QueueUrl=queue, MessageBody="two", MessageSystemAttributes=own)
        json_sqs.send_message_batch(QueueUrl=queue, Entries=[{"Id": "a", "MessageBody": "three"}])
    json_sqs.send_message(QueueUrl=queue, MessageBody="four")
    found = json_sqs.receive_message(
        QueueUrl=queue, MaxNumberOfMessages=10, MessageSystemAttributeNames=["AWSTraceHeader"]
    )["Messages"]
    told = {message["Body"]: message.get("Attributes", {}).get("AWSTraceHeader") for message in found}
    assert told == {"one": ROOT, "two": "Root=1-own", "three": ROOT, "four": None}


# -- loops ------------------------------------------------------------------------------------------------------------


def test_a_call_in_a_loop_is_refused_in_lambdas_words(
    aws_lambda: Lambda, served: Served, within: Callable[[str], Any]
) -> None:
    with served(Traced().app):
        with within(ran(aws_lambda, ROOT, MAX_INVOCATIONS - 1)):
            assert aws_lambda.run("work").error is None
        with within(ran(aws_lambda, ROOT, MAX_INVOCATIONS)):
            answer = aws_lambda.refused("work")
    assert answer["Error"] == {"Code": "RecursiveInvocationException", "Message": RECURSION_STOPPED}
    assert (answer["ResponseMetadata"]["HTTPStatusCode"], answer["Type"]) == (400, "User")


def test_loops_are_stopped_unless_the_function_allows_them(
    aws_lambda: Lambda, control: LambdaClient, served: Served, within: Callable[[str], Any]
) -> None:
    with served(Traced().app):
        assert control.get_function_recursion_config(FunctionName="work")["RecursiveLoop"] == "Terminate"
        answer = control.put_function_recursion_config(FunctionName="work", RecursiveLoop="Allow")
        assert answer["RecursiveLoop"] == "Allow"
        arn = aws_lambda.arn("work")
        assert control.get_function_recursion_config(FunctionName=arn)["RecursiveLoop"] == "Allow"
        with within(ran(aws_lambda, ROOT, MAX_INVOCATIONS)):
            aws_lambda.run("work", InvocationType="Event")
            assert aws_lambda.run("work").error is None
        control.put_function_recursion_config(FunctionName="work", RecursiveLoop="Terminate")
        assert control.settings().recursive_loop == "Terminate"


def test_what_breaks_the_rules_of_the_recursion_config_is_refused(control: LambdaClient) -> None:
    control.register()
    unknown = control.refusal("get_function_recursion_config", FunctionName="nobody")
    assert (unknown.code, unknown.status) == ("ResourceNotFoundException", 404)
    assert unknown.message == f"Function not found: {control.function_arn('nobody')}"
    bad = control.refusal("put_function_recursion_config", FunctionName="work", RecursiveLoop="Stop")
    assert (bad.code, bad.status) == ("ValidationException", 400)
    assert "Member must satisfy enum value set: [Allow, Terminate]" in bad.message
    qualified = control.refusal("put_function_recursion_config", FunctionName="work:1", RecursiveLoop="Allow")
    assert (qualified.code, qualified.status) == ("ValidationException", 400)
