"""Variables of a function: which names may be used, and how much they may be together.

Source: Lambda Developer Guide, "Working with Lambda environment variables".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

from broker import limits
from broker.errors import InvalidOption

VARIABLE_PATTERN: Final = "[a-zA-Z]([a-zA-Z0-9_])+"
RESERVED: Final = frozenset(
    {
        "_HANDLER",
        "_X_AMZN_TRACE_ID",
        "AWS_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_DEFAULT_REGION",
        "AWS_EXECUTION_ENV",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_VERSION",
        "AWS_LAMBDA_INITIALIZATION_TYPE",
        "AWS_LAMBDA_LOG_GROUP_NAME",
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "AWS_LAMBDA_RUNTIME_API",
        "AWS_REGION",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "LAMBDA_RUNTIME_DIR",
        "LAMBDA_TASK_ROOT",
    }
)
"""What Lambda sets itself, and nobody else may."""
_NAME: Final = re.compile(VARIABLE_PATTERN)
_OPTION: Final = "environment"


def measured(variables: Mapping[str, str]) -> str:
    """The text whose bytes count, as Lambda measures them: names, values, quotes, commas and brackets."""
    return json.dumps(dict(variables), separators=(",", ":"), ensure_ascii=False)


def too_much(variables: Mapping[str, str]) -> bool:
    """Whether they are over 4 KB together."""
    return len(measured(variables).encode("utf-8", "surrogatepass")) > limits.MAX_ENVIRONMENT_BYTES


def badly_named(variables: Mapping[str, str]) -> list[str]:
    """The names that no variable may have, sorted."""
    return sorted(name for name in variables if not _NAME.fullmatch(name))


def check_environment(variables: object) -> None:
    """Raises InvalidOption, which names variables and never says what is in them."""
    if not isinstance(variables, Mapping) or not all(
        isinstance(name, str) and _is_text(value) for name, value in variables.items()
    ):
        raise InvalidOption(_OPTION, type(variables).__name__, "must be a dict of text to text, without NUL")
    if reserved := sorted(RESERVED & variables.keys()):
        raise InvalidOption(_OPTION, reserved, "reserved: Lambda sets them itself")
    if wrong := badly_named(variables):
        raise InvalidOption(_OPTION, wrong, "names are a letter, then letters, digits and _, two at least")
    if too_much(variables):
        raise InvalidOption(_OPTION, sorted(variables), f"at most {limits.MAX_ENVIRONMENT_BYTES} bytes together")


def _is_text(value: object) -> bool:
    """Text that a process's environment can hold."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
