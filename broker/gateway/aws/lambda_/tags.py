"""Tags of functions and mappings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from broker import errors
from broker.functions import change_function
from broker.gateway.aws.bounds import violation, violations
from broker.gateway.aws.lambda_.errors import invalid, not_found, unknown_function
from broker.gateway.aws.lambda_.failures import NO_MAPPING
from broker.gateway.aws.lambda_.function_shapes import (
    ListTagsRequest,
    ListTagsResponse,
    TagResourceRequest,
    UntagResourceRequest,
)
from broker.gateway.aws.lambda_.functions import settings_of
from broker.gateway.aws.lambda_.members import described_function, shown_arn
from broker.gateway.aws.lambda_.names import read_name
from broker.gateway.aws.lambda_.tag_rules import check_tags
from broker.gateway.aws.service import Call
from broker.mappings import change_mapping, find_mapping
from broker.records import FunctionSettings, MappingSettings

Tags: TypeAlias = dict[str, str]
_MAPPING: Final = ":event-source-mapping:"
_UNQUALIFIED: Final = "Tags on function aliases and versions are not supported. Please specify a function ARN."
_NOTHING: Final = "An error occurred and the request cannot be processed."


async def tag(call: Call, given: TagResourceRequest) -> None:
    """TagResource."""
    if not given.tags:
        raise invalid(_NOTHING)
    new = given.tags

    def change(tags: Tags) -> Tags:
        after = {**tags, **new}
        check_tags(after)
        return after

    await _change(call, given.resource, change)


async def untag(call: Call, given: UntagResourceRequest) -> None:
    """UntagResource."""
    if not given.tag_keys:
        raise violations([violation(None, "tagKeys", "not be null")])
    gone = set(given.tag_keys)
    await _change(call, given.resource, lambda tags: {key: value for key, value in tags.items() if key not in gone})


async def list_tags(call: Call, given: ListTagsRequest) -> ListTagsResponse:
    """ListTags."""
    if _MAPPING in given.resource:
        return ListTagsResponse(tags=(await _mapping(call, given.resource)).tags)
    _check_unqualified(call, given.resource)
    _, _, described = await described_function(call, given.resource)
    return ListTagsResponse(tags=settings_of(described).tags)


async def _change(call: Call, arn: str, change: Callable[[Tags], Tags]) -> None:
    if _MAPPING in arn:
        await _change_mapping(call, arn, change)
        return
    _check_unqualified(call, arn)
    name, resource, _ = await described_function(call, arn)

    def changed(stored: FunctionSettings) -> FunctionSettings:
        return msgspec.structs.replace(stored, tags=change(stored.tags))

    try:
        await change_function(call.broker.core, resource, changed)
    except errors.FunctionNotFound as error:
        raise unknown_function(shown_arn(call, name)) from error


async def _change_mapping(call: Call, arn: str, change: Callable[[Tags], Tags]) -> None:
    found = await _mapping(call, arn)

    def changed(stored: MappingSettings) -> MappingSettings:
        return msgspec.structs.replace(stored, tags=change(stored.tags))

    try:
        await change_mapping(call.broker.core, found.name, changed)
    except errors.MappingNotFound as error:
        raise not_found(NO_MAPPING) from error


async def _mapping(call: Call, arn: str) -> MappingSettings:
    try:
        return await find_mapping(call.broker.core, arn.rpartition(":")[2])
    except errors.MappingNotFound as error:
        raise not_found(NO_MAPPING) from error


def _check_unqualified(call: Call, arn: str) -> None:
    if ":function:" not in arn:
        raise not_found(NO_MAPPING)
    if read_name(call, arn).qualifier is not None:
        raise invalid(_UNQUALIFIED)
