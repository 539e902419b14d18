"""Reserved concurrency, which is a limit and nothing else here, and the limits of an account."""

from __future__ import annotations

from typing import Final

from broker import limits
from broker.gateway.aws.lambda_.errors import invalid
from broker.gateway.aws.lambda_.failures import UNQUALIFIED_ONLY
from broker.gateway.aws.lambda_.function_shapes import (
    AccountLimit,
    AccountSettings,
    AccountUsage,
    Concurrency,
    FunctionRequest,
    NoInput,
    PutConcurrencyRequest,
)
from broker.gateway.aws.lambda_.functions import changed, settings_of
from broker.gateway.aws.lambda_.members import described_function
from broker.gateway.aws.lambda_.names import read_name
from broker.gateway.aws.service import Call

_UNRESERVED_AT_LEAST: Final = 100
_TOO_MUCH: Final = (
    "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its "
    f"minimum value of [{_UNRESERVED_AT_LEAST}]."
)
_CODE_BYTES: Final = 80_530_636_800  # what AWS tells by default; no code is stored here
_UNZIPPED_BYTES: Final = 262_144_000
_ZIPPED_BYTES: Final = 52_428_800


async def put(call: Call, given: PutConcurrencyRequest) -> Concurrency:
    """PutFunctionConcurrency."""
    _check_unqualified(call, given.function_name)
    name, resource, _ = await described_function(call, given.function_name)
    limit = given.reserved_concurrent_executions
    if limit > limits.MAX_CONCURRENCY - _UNRESERVED_AT_LEAST:
        raise invalid(_TOO_MUCH)
    await changed(call, name, resource, {"concurrency": limit})
    return Concurrency(limit)


async def get(call: Call, given: FunctionRequest) -> Concurrency:
    """GetFunctionConcurrency."""
    _, _, described = await described_function(call, given.function_name)
    return Concurrency(settings_of(described).concurrency)


async def delete(call: Call, given: FunctionRequest) -> None:
    """DeleteFunctionConcurrency."""
    _check_unqualified(call, given.function_name)
    name, resource, _ = await described_function(call, given.function_name)
    await changed(call, name, resource, {"concurrency": None})


async def account_settings(call: Call, _: NoInput) -> AccountSettings:
    """GetAccountSettings."""
    names = await call.broker.functions()
    return AccountSettings(
        account_limit=AccountLimit(
            total_code_size=_CODE_BYTES,
            code_size_unzipped=_UNZIPPED_BYTES,
            code_size_zipped=_ZIPPED_BYTES,
            concurrent_executions=limits.MAX_CONCURRENCY,
            unreserved_concurrent_executions=limits.MAX_CONCURRENCY,
        ),
        account_usage=AccountUsage(total_code_size=0, function_count=len(names)),
    )


def _check_unqualified(call: Call, given: str) -> None:
    if read_name(call, given).qualifier is not None:
        raise invalid(UNQUALIFIED_ONLY)
