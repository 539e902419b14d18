"""Lambda's environment variables, for the process that runs an existing handler.

Names and values: AWS's table of reserved variables. What names a function holds for one function alone, so a process
that serves an app has none of them.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Mapping, MutableMapping
from typing import Final

from broker.log import log
from broker.records import FunctionSettings
from broker.settings import Settings
from runtime.context import FUNCTION_VERSION

_REMOVED: Final = ("_X_AMZN_TRACE_ID", "AWS_LAMBDA_RUNTIME_API")
"""Reserved, and without a value here: what the process inherited would be another function's."""

_DEFAULTS: Final = {"TZ": ":UTC", "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR"}
"""Lambda's values of variables that are not reserved: what the operator has set stays."""


def new_log_stream() -> str:
    """A log stream's name as Lambda gives them: the date, the version and 32 hexadecimal digits."""
    return f"{time.strftime('%Y/%m/%d', time.gmtime())}/[{FUNCTION_VERSION}]{uuid.uuid4().hex}"


def lambda_variables(
    function: str, *, handler: str, settings: Settings, log_stream: str, folder: str, of: FunctionSettings
) -> dict[str, str]:
    """The reserved variables that say something true here, ``of`` a function's settings. Never credentials: those are
    the operator's."""
    return {
        "AWS_DEFAULT_REGION": settings.region,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info[0]}.{sys.version_info[1]}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(of.memory_mb),
        "AWS_LAMBDA_FUNCTION_NAME": function,
        "AWS_LAMBDA_FUNCTION_VERSION": of.version,
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function}",
        "AWS_LAMBDA_LOG_STREAM_NAME": log_stream,
        "AWS_REGION": settings.region,
        "LAMBDA_TASK_ROOT": folder,
        "_HANDLER": handler,
    }


def set_lambda_variables(variables: dict[str, str], environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets the variables of this process: reserved ones whatever they were, which the log tells of, Lambda's other
    defaults where there is no value."""
    replaced = sorted(name for name, value in variables.items() if environment.get(name, value) != value)
    if replaced:
        log.warning(
            "variables_replaced", names=replaced, reason="Lambda reserves them; PENSTOCK_REGION sets the region"
        )
    environment.update(variables)
    for name in _REMOVED:
        environment.pop(name, None)
    for name, value in _DEFAULTS.items():
        environment.setdefault(name, value)
    if environment is os.environ:
        time.tzset()


def set_own_variables(variables: Mapping[str, str], environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets the function's own variables, over what the process inherited; the log tells their names alone."""
    environment.update(variables)
    if variables:
        log.info("variables_set", names=sorted(variables))
