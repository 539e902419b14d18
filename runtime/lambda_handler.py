"""Existing Lambda handlers: ``def handler(event, context)`` named by ``module.function``, without an app.

They become an App of one function, so that everything behind it is the same. What differs is what Lambda's Python
runtime does otherwise: how the handler is found, that its event is never typed, and how its result becomes JSON.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec

from broker.errors import PenstockError
from broker.names import check_name
from broker.records import FunctionSettings, MappingSettings
from broker.settings import Settings
from runtime.app import App
from runtime.handlers import Handler, HandlerFunction
from runtime.lambda_environment import lambda_variables, set_lambda_variables, set_own_variables

_FRAMES_SHOWN: Final = 5
_OURS: Final = ("broker", "runtime")


class HandlerNotLoaded(PenstockError):
    """A handler's module or function cannot be had; ``error_type`` and ``message`` are those of Lambda's runtime."""

    code = "HandlerNotLoaded"

    def __init__(self, error_type: str, message: str, *, trace: str = "") -> None:
        super().__init__(f"{error_type}: {message}{trace and f'{os.linesep}{trace}'}")
        self.error_type, self.message, self.trace = error_type, message, trace


class LambdaHandler(msgspec.Struct, frozen=True, kw_only=True):
    """One existing handler with what it is registered as. Raises InvalidName for the function's, HandlerNotLoaded for
    a handler without a dot."""

    handler: str
    function: str
    settings: FunctionSettings = FunctionSettings()
    mapping: MappingSettings | None = None

    def __post_init__(self) -> None:
        check_name("function", self.function)
        split_handler(self.handler)

    def __str__(self) -> str:
        return self.handler

    def prepare(self, log_stream: str, settings: FunctionSettings) -> None:
        """Sets Lambda's environment variables, and the function's own: what the module reads when it is imported."""
        variables = lambda_variables(
            self.function,
            handler=self.handler,
            settings=Settings.from_environment(),
            log_stream=log_stream,
            folder=str(Path.cwd()),
            of=settings,
        )
        set_own_variables(settings.environment)  # before Lambda's, which may rest on them: the time zone
        set_lambda_variables(variables)

    def app(self) -> App:
        """An App of this one function. Raises HandlerNotLoaded, and InvalidOption for what takes no two arguments."""
        app = App()
        app.functions[self.function] = HandlerFunction(
            load_handler(self.handler),
            name=self.function,
            settings=self.settings,
            mapping_of=self.mapping,
            as_lambda=True,
        )
        return app


def split_handler(reference: str) -> tuple[str, str]:
    """Module and function, split at the last dot. Raises HandlerNotLoaded where there is none."""
    module_name, dot, function = reference.rpartition(".")
    if not dot:
        problem = f"Bad handler '{reference}': not enough values to unpack (expected 2, got 1)"
        raise HandlerNotLoaded("Runtime.MalformedHandlerName", problem)
    return module_name, function


def load_handler(reference: str) -> Handler:
    """What ``module.function``, ``folder/module.function`` or ``package.module.function`` names; modules are looked for
    in the current folder first. Raises HandlerNotLoaded with Lambda's error types and texts.
    """
    module_name, function = split_handler(reference)
    if module_name.replace("/", ".").partition(".")[0] in {*sys.builtin_module_names, *_OURS}:
        problem = f"Cannot use built-in module {module_name} as a handler module"
        raise HandlerNotLoaded("Runtime.BuiltInModuleConflict", problem)
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = _import(module_name)
    try:
        found: Any = getattr(module, function)
    except AttributeError:
        problem = f"Handler '{function}' missing on module '{module_name}'"
        raise HandlerNotLoaded("Runtime.HandlerNotFound", problem) from None
    if not callable(found):
        # Lambda finds out when it calls it; the words are Python's.
        raise HandlerNotLoaded("TypeError", f"{type(found).__name__!r} object is not callable (handler '{reference}')")
    handler: Handler = found
    return handler


def _import(module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name.replace("/", "."))
    except ImportError as error:
        problem = f"Unable to import module '{module_name}': {error}"
        raise HandlerNotLoaded("Runtime.ImportModuleError", problem, trace=_trace(error)) from error
    except SyntaxError as error:
        problem = f"Syntax error in module '{module_name}': {error}"
        trace = f'  File "{error.filename}" Line {error.lineno}\n    {(error.text or "").rstrip()}'
        raise HandlerNotLoaded("Runtime.UserCodeSyntaxError", problem, trace=trace) from error
    except SystemExit as error:
        raise HandlerNotLoaded("Runtime.ExitError", f"sys.exit({error.code!r})", trace=_trace(error)) from error
    except Exception as error:
        # Whatever the module raises, under its own name.
        raise HandlerNotLoaded(type(error).__name__, str(error), trace=_trace(error)) from error


def _trace(error: BaseException) -> str:
    """The last frames of the user's own: the first ones are ours and the import system's."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__ and "importlib" not in frame.filename]
    return "".join(traceback.format_list(own[-_FRAMES_SHOWN:])).rstrip()
