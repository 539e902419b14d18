"""The operations of configuration - functions, their settings, tags, mappings - for the service's list."""

from __future__ import annotations

from typing import Final

import msgspec

from broker.gateway.aws.lambda_ import (
    concurrency,
    event_invoke,
    function_shapes,
    functions,
    mapping_shapes,
    recursion,
    tags,
    version_shapes,
    versions,
)
from broker.gateway.aws.lambda_ import mappings as event_sources
from broker.gateway.aws.lambda_.errors import Action, translated
from broker.gateway.aws.service import Operation, Route

_FUNCTIONS: Final = "/2015-03-31/functions"
_FUNCTION: Final = f"{_FUNCTIONS}/{{FunctionName}}"
_MAPPINGS: Final = "/2015-03-31/event-source-mappings"
_MAPPING: Final = f"{_MAPPINGS}/{{UUID}}"
_CONCURRENCY: Final = "functions/{FunctionName}/concurrency"
_INVOKE_CONFIG: Final = "/2019-09-25/functions/{FunctionName}/event-invoke-config"
_RECURSION: Final = "/2024-08-31/functions/{FunctionName}/recursion-config"
_TAGS: Final = "/2017-03-31/tags/{Resource}"
_VERSIONS: Final = f"{_FUNCTION}/versions"
_ALIASES: Final = f"{_FUNCTION}/aliases"
_ALIAS: Final = f"{_ALIASES}/{{Name}}"
_AT_ONCE: Final = (
    "It holds for all running workers within a second; the answer tells of the transition, the next look of its end."
)
_OVERRULES: Final = "It overrules what the code declares, until that declares something else."


def _operation(
    name: str, wanted: type[msgspec.Struct], run: Action, route: tuple[str, str, int], differs: str = ""
) -> Operation:
    method, path, status = route
    return Operation(name, wanted, translated(run), differs, route=Route(method, path, status))


CONFIGURATION: Final = (
    _operation(
        "CreateEventSourceMapping",
        mapping_shapes.CreateMappingRequest,
        event_sources.create,
        ("POST", _MAPPINGS, 202),
        f"{_AT_ONCE} Only queues of the same account and region. ProvisionedPollerConfig, "
        "MetricsConfig and KMSKeyArn are kept and do nothing.",
    ),
    _operation(
        "GetEventSourceMapping",
        mapping_shapes.MappingRequest,
        event_sources.get,
        ("GET", _MAPPING, 200),
        "One that no live worker declares any more is Disabled, where any is alive to notice; StateTransitionReason "
        "says so. Windows are whole seconds.",
    ),
    _operation(
        "UpdateEventSourceMapping",
        mapping_shapes.UpdateMappingRequest,
        event_sources.update,
        ("PUT", _MAPPING, 202),
        f"{_AT_ONCE} {_OVERRULES} The function of a mapping that code declares cannot be changed.",
    ),
    _operation(
        "DeleteEventSourceMapping",
        mapping_shapes.MappingRequest,
        event_sources.delete,
        ("DELETE", _MAPPING, 202),
        "It is gone at once, so it is never in use. One that code declares comes back when a worker that declares it "
        "starts: disable it instead.",
    ),
    _operation(
        "ListEventSourceMappings",
        mapping_shapes.ListMappingsRequest,
        event_sources.list_all,
        ("GET", _MAPPINGS, 200),
        "Sorted by queue and function; also those that code declares.",
    ),
    _operation(
        "ListFunctions",
        function_shapes.ListFunctionsRequest,
        functions.list_all,
        ("GET", _FUNCTIONS, 200),
        "Sorted by name.",
    ),
    _operation(
        "GetFunction",
        function_shapes.QualifiedRequest,
        functions.get,
        ("GET", _FUNCTION, 200),
        "Code is empty, as code is where the workers are.",
    ),
    _operation(
        "GetFunctionConfiguration",
        function_shapes.QualifiedRequest,
        functions.get_configuration,
        ("GET", f"{_FUNCTION}/configuration", 200),
        "State is Active where a live worker serves the function or version, else Inactive. Runtime, Handler and Role "
        "are not there. A Timeout with a fraction is rounded up.",
    ),
    _operation(
        "UpdateFunctionConfiguration",
        function_shapes.UpdateFunctionRequest,
        functions.update_configuration,
        ("PUT", f"{_FUNCTION}/configuration", 200),
        f"Timeout, Description, MemorySize, Environment and DeadLetterConfig; all else is refused. {_OVERRULES}",
    ),
    _operation(
        "DeleteFunction",
        version_shapes.DeleteFunctionRequest,
        versions.delete_function,
        ("DELETE", _FUNCTION, 200),
        "204. With all events that it holds; it is registered again when a worker that has it starts. A version that "
        "aliases name, or that holds events: 409.",
    ),
    _operation(
        "PublishVersion",
        version_shapes.PublishVersionRequest,
        versions.publish,
        ("POST", _VERSIONS, 201),
        "Of the build that is registered, which must have a name. CodeSha256 is the digest of that name.",
    ),
    _operation(
        "ListVersionsByFunction",
        version_shapes.ListVersionsRequest,
        versions.list_versions,
        ("GET", _VERSIONS, 200),
    ),
    _operation(
        "CreateAlias",
        version_shapes.CreateAliasRequest,
        versions.create,
        ("POST", _ALIASES, 201),
    ),
    _operation("GetAlias", version_shapes.AliasRequest, versions.get, ("GET", _ALIAS, 200)),
    _operation(
        "UpdateAlias",
        version_shapes.UpdateAliasRequest,
        versions.update,
        ("PUT", _ALIAS, 200),
        "Events that wait for the alias run as the version that it names by then.",
    ),
    _operation(
        "DeleteAlias",
        version_shapes.AliasRequest,
        versions.delete,
        ("DELETE", _ALIAS, 204),
        "While events wait for it: 409.",
    ),
    _operation("ListAliases", version_shapes.ListAliasesRequest, versions.list_all, ("GET", _ALIASES, 200)),
    _operation(
        "PutFunctionConcurrency",
        function_shapes.PutConcurrencyRequest,
        concurrency.put,
        ("PUT", f"/2017-10-31/{_CONCURRENCY}", 200),
        f"A limit only, nothing is reserved: up to 99,900, whatever others have. {_OVERRULES}",
    ),
    _operation(
        "GetFunctionConcurrency",
        function_shapes.FunctionRequest,
        concurrency.get,
        ("GET", f"/2019-09-30/{_CONCURRENCY}", 200),
    ),
    _operation(
        "DeleteFunctionConcurrency",
        function_shapes.FunctionRequest,
        concurrency.delete,
        ("DELETE", f"/2017-10-31/{_CONCURRENCY}", 204),
        _OVERRULES,
    ),
    _operation(
        "PutFunctionEventInvokeConfig",
        function_shapes.InvokeConfigRequest,
        event_invoke.put,
        ("PUT", _INVOKE_CONFIG, 200),
        f"Destinations are queues, functions and streams (Kinesis ARNs) of the same account and region. {_OVERRULES}",
    ),
    _operation(
        "UpdateFunctionEventInvokeConfig",
        function_shapes.InvokeConfigRequest,
        event_invoke.update,
        ("POST", _INVOKE_CONFIG, 200),
        "As PutFunctionEventInvokeConfig.",
    ),
    _operation(
        "GetFunctionEventInvokeConfig",
        function_shapes.QualifiedRequest,
        event_invoke.get,
        ("GET", _INVOKE_CONFIG, 200),
        "What code declares is there too, with its values, be they wider than Lambda's.",
    ),
    _operation(
        "DeleteFunctionEventInvokeConfig",
        function_shapes.QualifiedRequest,
        event_invoke.delete,
        ("DELETE", _INVOKE_CONFIG, 204),
        "Of $LATEST: Lambda's defaults hold afterwards, also against the code. Of a version or alias: what its code "
        f"declares. {_OVERRULES}",
    ),
    _operation(
        "ListFunctionEventInvokeConfigs",
        function_shapes.ListInvokeConfigsRequest,
        event_invoke.list_all,
        ("GET", f"{_INVOKE_CONFIG}/list", 200),
        "Sorted: $LATEST, versions, aliases.",
    ),
    _operation(
        "PutFunctionRecursionConfig",
        function_shapes.PutRecursionRequest,
        recursion.put,
        ("PUT", _RECURSION, 200),
        f"It holds for all running workers with their next claim. {_OVERRULES}",
    ),
    _operation("GetFunctionRecursionConfig", function_shapes.RecursionRequest, recursion.get, ("GET", _RECURSION, 200)),
    _operation("TagResource", function_shapes.TagResourceRequest, tags.tag, ("POST", _TAGS, 204)),
    _operation("UntagResource", function_shapes.UntagResourceRequest, tags.untag, ("DELETE", _TAGS, 204)),
    _operation("ListTags", function_shapes.ListTagsRequest, tags.list_tags, ("GET", _TAGS, 200)),
    _operation(
        "GetAccountSettings",
        function_shapes.NoInput,
        concurrency.account_settings,
        ("GET", "/2016-08-19/account-settings", 200),
        "ConcurrentExecutions is the highest limit that one function can have; nothing is reserved from it.",
    ),
)
"""To be listed beside the operations that run functions; their errors are in ``failures.FAILURES`` too."""
