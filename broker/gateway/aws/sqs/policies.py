"""Policies of queues: what AddPermission writes and RemovePermission takes out, and what they allow. Pure.

Of the language of policies we know Effect, Principal, Action and Resource with their Not forms. A statement with a
Condition never allows; one that denies does so whatever its Condition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeAlias

from broker.errors import PayloadNotJson
from broker.gateway.aws.service import ServiceError
from broker.gateway.aws.sqs.errors import invalid_attribute, invalid_value
from broker.records import decode_json, encode_json

Judgement: TypeAlias = Literal["allowed", "denied", "not said"]
Statement: TypeAlias = dict[str, Any]

MAX_POLICY_BYTES: Final = 8_192
_MAX_STATEMENTS: Final = 20
_VERSION: Final = "2008-10-17"
_DEFAULT_ID: Final = "SQSDefaultPolicy"
_EFFECTS: Final = ("Allow", "Deny")


def check_policy_text(text: str) -> str:
    """The text, if it is a policy; '' clears. Raises InvalidAttributeValue, OverLimit."""
    if not text:
        return text
    policy = _read(text)
    statements = _statements(policy)
    if len(text.encode()) > MAX_POLICY_BYTES or not statements or not all(map(_is_statement, statements)):
        raise invalid_attribute("Policy")
    _check_number(statements)
    return text


def _check_number(statements: Sequence[Statement]) -> None:
    if len(statements) > _MAX_STATEMENTS:
        raise ServiceError(
            "OverLimit",
            f"{len(statements)} statements were found in the submitted policy, max allowed is {_MAX_STATEMENTS}",
        )


def _read(text: str) -> dict[str, Any]:
    try:
        policy = decode_json("Policy", text)
    except PayloadNotJson:
        raise invalid_attribute("Policy") from None
    if not isinstance(policy, dict):
        raise invalid_attribute("Policy")
    return policy


def _statements(policy: dict[str, Any]) -> list[Statement]:
    found = policy.get("Statement", [])
    return found if isinstance(found, list) else [found]


def _is_statement(found: object) -> bool:
    if not isinstance(found, dict) or found.get("Effect") not in _EFFECTS:
        return False
    return ("Action" in found or "NotAction" in found) and ("Principal" in found or "NotPrincipal" in found)


# -- adding and removing ----------------------------------------------------------------------------------------------


def with_permission(text: str, *, arn: str, label: str, accounts: Sequence[str], actions: Sequence[str]) -> str:
    """The policy with one more statement. Raises InvalidParameterValue for a label that it has, OverLimit."""
    policy: dict[str, Any] = _read(text) if text else {"Version": _VERSION, "Id": f"{arn}/{_DEFAULT_ID}"}
    statements = _statements(policy)
    if any(statement.get("Sid") == label for statement in statements):
        raise invalid_value("Label", label, "Already exists.")
    statement = {
        "Sid": label,
        "Effect": "Allow",
        "Principal": {"AWS": _single_or_list([f"arn:aws:iam::{account}:root" for account in accounts])},
        "Action": _single_or_list([f"SQS:{action}" for action in actions]),
        "Resource": arn,
    }
    policy["Statement"] = [*statements, statement]
    _check_number(policy["Statement"])
    written = encode_json("Policy", policy)
    if len(written) > MAX_POLICY_BYTES:
        raise ServiceError("OverLimit", f"The policy would have more than {MAX_POLICY_BYTES} bytes.")
    return written.decode()


def without_permission(text: str, label: str) -> str:
    """The policy without the statement; '' when none is left. Raises InvalidParameterValue for an unknown label."""
    policy = _read(text) if text else {}
    statements = _statements(policy)
    kept = [statement for statement in statements if statement.get("Sid") != label]
    if len(kept) == len(statements):
        raise invalid_value("Label", label, "can't find label.")
    if not kept:
        return ""
    policy["Statement"] = kept
    return encode_json("Policy", policy).decode()


def _single_or_list(values: list[str]) -> str | list[str]:
    return values[0] if len(values) == 1 else values


# -- judging ----------------------------------------------------------------------------------------------------------


def judge(text: str, *, account: str, key_id: str, action: str, arn: str) -> Judgement:
    """What a policy says about an account's key doing an action on the queue of that ARN. A Deny wins."""
    if not text:
        return "not said"
    said: Judgement = "not said"
    for statement in _statements(_read(text)):
        if not _applies(statement, account=account, key_id=key_id, action=action, arn=arn):
            continue
        if statement["Effect"] == "Deny":
            return "denied"
        if "Condition" not in statement:
            said = "allowed"
    return said


def _applies(statement: Statement, *, account: str, key_id: str, action: str, arn: str) -> bool:
    wanted = f"sqs:{action}".lower()
    # Of an account's users and roles we know those that are keys. Whoever denies others may well mean a key of ours.
    broadly = statement["Effect"] == "Deny" and "Principal" in statement
    return (
        _element(statement, "Principal", lambda value: _names(value, account, key_id, broadly=broadly))
        and _element(statement, "Action", lambda value: any(_matches(each.lower(), wanted) for each in _texts(value)))
        and _element(statement, "Resource", lambda value: any(_matches(each, arn) for each in _texts(value)))
    )


def _element(statement: Statement, name: str, fits: Callable[[Any], bool]) -> bool:
    if name in statement:
        return fits(statement[name])
    if f"Not{name}" in statement:
        # Only for denying: an Allow for everybody but somebody is more than anybody should write.
        return statement["Effect"] == "Deny" and not fits(statement[f"Not{name}"])
    return name == "Resource"  # the policy is the queue's


def _names(principal: Any, account: str, key_id: str, *, broadly: bool) -> bool:
    """Whether a principal is the account or the key's user; ``broadly`` also anybody else of the account."""
    found = principal.get("AWS", []) if isinstance(principal, dict) else principal
    named = {"*", account, f"arn:aws:iam::{account}:root", f"arn:aws:iam::{account}:user/{key_id}"}
    return any(each in named or (broadly and _account_of(each) == account) for each in _texts(found))


def _account_of(arn: str) -> str:
    parts = arn.split(":", 5)
    return parts[4] if len(parts) > 5 and parts[0] == "arn" else ""  # noqa: PLR2004 - arn:aws:iam::ACCOUNT:user/NAME


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, str)]


def _matches(pattern: str, text: str) -> bool:
    """Whether a text fits a pattern of ``*`` and ``?``; not by ``re``, which patterns can keep busy for ever."""
    at = position = resume = 0
    star = -1
    while position < len(text):
        if pattern[at : at + 1] == "*":
            star, resume, at = at, position, at + 1
        elif pattern[at : at + 1] in {text[position], "?"}:
            at, position = at + 1, position + 1
        elif star >= 0:
            resume += 1
            at, position = star + 1, resume
        else:
            return False
    return not pattern[at:].strip("*")
