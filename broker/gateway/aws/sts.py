"""STS, as far as tools ask it who they are before anything else: GetCallerIdentity."""

from __future__ import annotations

from typing import Final

import msgspec

from broker.gateway.aws.service import Call, Operation, Service


class GetCallerIdentityRequest(msgspec.Struct, frozen=True):
    """Nothing."""


class GetCallerIdentityResponse(msgspec.Struct, frozen=True):
    """Who asks."""

    user_id: str = msgspec.field(name="UserId")
    account: str = msgspec.field(name="Account")
    arn: str = msgspec.field(name="Arn")


async def get_caller_identity(call: Call, _: GetCallerIdentityRequest) -> GetCallerIdentityResponse:
    """The account and the access key; without verified keys everybody is the account's root."""
    if not call.key_id:
        return GetCallerIdentityResponse(call.account, call.account, f"arn:aws:iam::{call.account}:root")
    return GetCallerIdentityResponse(call.key_id, call.account, f"arn:aws:iam::{call.account}:user/{call.key_id}")


STS: Final = Service(
    name="sts",
    target_prefix="",
    version="2011-06-15",
    xml_namespace="https://sts.amazonaws.com/doc/2011-06-15/",
    operations={
        "GetCallerIdentity": Operation("GetCallerIdentity", GetCallerIdentityRequest, get_caller_identity),
    },
    errors={},
)
"""The service, for the gateway."""
