"""docs/reference/sqs.md, made of the gateway's own tables: `python -m tests.docs.sqs_page` writes it anew."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from broker.gateway.aws.errors import COMMON
from broker.gateway.aws.service import ErrorKind, Operation
from broker.gateway.aws.sqs import attributes
from broker.gateway.aws.sqs.dispatch import SQS
from broker.gateway.aws.sts import STS
from broker.records import QueueSettings
from tests.docs.pages import ROOT, page

PAGE: Final = page("reference/sqs.md")
_GATEWAY: Final = ROOT / "broker/gateway"

_INTRODUCTION: Final = """\
# SQS over the AWS wire

What the gateway (`penstock broker`, and `penstock dev` with it) serves, and where it differs from Amazon SQS. How to
run a program against it: [from SQS](../guides/from-sqs.md). Its settings, access keys and limits:
[the gateway](gateway.md). The same queues from Python without HTTP: [queues](queues.md). This page is made of the
gateway's own tables, and a test holds it to them.

All {actions} actions of SQS, version {version}, are there, in AWS JSON 1.0 and in the older query form (GET and POST,
answered in XML). {identity} of STS is there too, because most tools ask it first. Nothing is created
implicitly: a queue that does not exist is `QueueDoesNotExist`, also for a send.

## What differs everywhere

| | SQS | the gateway |
|---|---|---|
| time until a change holds | up to 60 s for attributes, deletions and purges | at once |
| numbers of messages | approximate | exact |
| a short poll | may miss messages | sees all of them |
| throttling | requests a second are limited | sends, when Redis is [nearly full](../operations/redis.md#memory) |
| encryption | of all that is stored | none by Penstock: the attributes are kept and answered, and change nothing |
| regions | places | names: `a-z`, `0-9` and `-`; their queues are kept apart on one Redis |
| accounts | looked up | any twelve digits |
| IAM | evaluated | a key may do everything in its own account; a queue's Policy decides what others may do there |
| an unsigned request | refused | refused where there are access keys; else the default account's |
| queues | are created | are there too because a function or mapping names them |

Batches, long polls, checksums of messages and attributes, receipt handles with their rules for old ones, FIFO queues,
and the texts of the errors are as in SQS. Without access keys everybody who reaches the gateway may use every
account's queues.

## Actions

Members that must be there stand first, in bold. An empty last column: no difference is known.
"""

_ATTRIBUTES: Final = """\

## Attributes of a queue

All values are texts. CreateQueue and SetQueueAttributes take those that are settable; GetQueueAttributes answers those
that are asked for, and `All`. `penstock queues NAME --json` shows what they have become.
"""

_ERRORS: Final = """\

## Errors

JSON clients get the type in `__type` and the code in the header `x-amzn-query-error`, query clients the code in XML.
The status is that of the query form and of clients that say `x-amzn-query-mode: true`, as SDKs do; other JSON clients
get 400 for all of this table.
"""

_AROUND: Final = """\

Errors around the actions, of signatures, requests and the store; [what they mean](gateway.md#protocols):
"""

_NOT_KEPT: Final = "differs: kept and answered, but Penstock encrypts nothing"
_DIFFERS: Final[Mapping[str, str]] = {
    "KmsMasterKeyId": _NOT_KEPT,
    "KmsDataKeyReusePeriodSeconds": _NOT_KEPT,
    "SqsManagedSseEnabled": _NOT_KEPT,
    "Policy": "differs: Principal, Action and Resource are judged, for keys of other accounts alone: the queue's own "
    "account may do everything, whatever is denied. A key is `arn:aws:iam::ACCOUNT:user/KEYID`; a Deny for any user or "
    "role of an account is one for all of its keys. A statement with a Condition allows nobody",
    "FifoThroughputLimit": "differs: kept and answered; there is no limit to choose",
    "ApproximateNumberOfMessages": "differs: exact; with what is set apart after a crash of a worker",
    "ApproximateNumberOfMessagesNotVisible": "differs: exact; with what failed in a mapping and is not due yet",
    "ApproximateNumberOfMessagesDelayed": "differs: exact",
}
_RANGES: Final[Mapping[str, str]] = {
    "FifoQueue": "`true`",
    "KmsMasterKeyId": "up to 2048 characters",
    "Policy": "a policy in JSON, up to 8192 bytes and 20 statements; empty clears",
    "RedrivePolicy": "`deadLetterTargetArn` and `maxReceiveCount`, 1 to 1000, in JSON; empty clears",
    "RedriveAllowPolicy": "`redrivePermission`: `allowAll`, `denyAll`, `byQueue`; up to 10 `sourceQueueArns`; in JSON",
    "QueueArn": "an ARN",
    "CreatedTimestamp": "seconds",
    "LastModifiedTimestamp": "seconds",
}
_SETTABLE: Final[Mapping[str, str]] = {"FifoQueue": "at creation"}


def sqs_page() -> str:
    """The whole page."""
    introduction = _INTRODUCTION.format(
        actions=len(SQS.operations), version=SQS.version, identity=", ".join(STS.operations)
    )
    never = set(SQS.errors) - set(raised())
    parts = [
        introduction,
        _table(("action", "input", "what differs, and why"), map(_action_row, _by_name(SQS.operations))),
        _ATTRIBUTES,
        _table(("attribute", "values", "default", "settable", "here"), map(_attribute_row, _attributes())),
        _ERRORS,
        _table(
            ("error", "JSON type", "code", "status", "here"),
            (_error_row(name, kind, never) for name, kind in SQS.errors.items()),
        ),
        _AROUND,
        _table(("error", "JSON type", "code", "status"), (_error_row(*item) for item in COMMON.items())),
    ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts))


def raised() -> Iterator[str]:
    """The names of all errors that some line of the gateway raises."""
    for path in _GATEWAY.rglob("*.py"):
        if "lambda_" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ServiceError":
                yield from (str(each.value) for each in node.args[:1] if isinstance(each, ast.Constant))


# -- rows -------------------------------------------------------------------------------------------------------------


def _by_name(operations: Mapping[str, Operation]) -> list[Operation]:
    return [operations[name] for name in sorted(operations)]


def _action_row(operation: Operation) -> tuple[str, ...]:
    members = sorted(msgspec.structs.fields(operation.input), key=lambda member: not member.required)
    listed = ", ".join(f"**`{each.encode_name}`**" if each.required else f"`{each.encode_name}`" for each in members)
    return (f"`{operation.name}`", listed, operation.differs)


def _attributes() -> list[str]:
    settable = [*attributes._RANGES, *attributes._WORDS, *attributes._FLAGS]
    others = [name for name in attributes._FIELDS if name not in settable]
    return [*settable, *others, *attributes._COUNTED, *attributes._TOLD]


def _attribute_row(name: str) -> tuple[str, ...]:
    settable = _SETTABLE.get(name, "yes" if name in attributes._FIELDS else "no")
    if name in attributes._ONLY_FIFO and name != "FifoQueue":
        settable = "FIFO queues"
    return (f"`{name}`", _values(name), _default(name), settable, _DIFFERS.get(name, "to the letter"))


def _values(name: str) -> str:
    if name in attributes._RANGES:
        _, low, high = attributes._RANGES[name]
        return f"{low} to {high}"
    if name in attributes._WORDS:
        return ", ".join(f"`{word}`" for word in attributes._WORDS[name][1])
    if name in attributes._FLAGS:
        return "`true`, `false`"
    return "a number" if name in attributes._COUNTED else _RANGES[name]


def _default(name: str) -> str:
    fields = attributes._FIELDS.get(name, ())
    if not fields or name == "FifoQueue":
        return ""
    match getattr(QueueSettings(), fields[0]):
        case None | "":
            return "unset"
        case bool(flag):
            return f"`{str(flag).lower()}`"
        case str(word):
            return f"`{word}`"
        case number:
            return str(int(number))


def _error_row(name: str, kind: ErrorKind, never: set[str] | None = None) -> tuple[str, ...]:
    row = (f"`{name}`", f"`{kind.json_type}`", f"`{kind.code}`", str(kind.status))
    return row if never is None else (*row, "never answered" if name in never else "")


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(sqs_page(), encoding="utf-8")
