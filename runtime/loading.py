"""From ``module:attribute`` to the App that it names, with errors that say what is wrong with which part."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Final

from broker.errors import InvalidOption
from runtime.app import App

_FRAMES_SHOWN: Final = 5
_OPTION: Final = "app"


def load_app(reference: str) -> App:
    """The App that ``module:attribute`` names; modules are looked for in the current folder first.

    Raises InvalidOption where the reference has another form, the module is missing or cannot be imported (with the
    last frames of its traceback), or the attribute is missing or no App (naming the Apps that are there).
    """
    module_name, attribute = split_reference(reference)
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = _import(reference, module_name)
    found = getattr(module, attribute, None)
    if isinstance(found, App):
        return found
    problem = (
        f'"{attribute}" of module "{module_name}" is {type(found).__name__!r}, not an App'
        if hasattr(module, attribute)
        else f'module "{module_name}" has no attribute "{attribute}"'
    )
    raise InvalidOption(_OPTION, reference, f"{problem}; {_apps_of(module_name, module)}")


def split_reference(reference: str) -> tuple[str, str]:
    """Module and attribute of ``module:attribute``. Raises InvalidOption for any other form."""
    module_name, colon, attribute = reference.partition(":")
    parts = module_name.split(".")
    if not colon or not attribute.isidentifier() or not all(part.isidentifier() for part in parts):
        rule = 'must be "module:attribute", as "app:app" for the variable app of app.py'
        raise InvalidOption(_OPTION, reference, rule)
    return module_name, attribute


def _import(reference: str, module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            rule = f'there is no module "{error.name}" in {Path.cwd()} or on the Python path'
            raise InvalidOption(_OPTION, reference, rule) from error
        raise _failed(reference, module_name, error) from error
    except (Exception, SystemExit) as error:  # whatever the user's module raises
        raise _failed(reference, module_name, error) from error


def _failed(reference: str, module_name: str, error: BaseException) -> InvalidOption:
    frames = traceback.extract_tb(error.__traceback__)
    # The first frames are ours and the import system's.
    own = [frame for frame in frames if frame.filename != __file__ and "importlib" not in frame.filename]
    shown = traceback.format_list(own[-_FRAMES_SHOWN:]) + traceback.format_exception_only(error)
    text = "".join(shown).rstrip()
    return InvalidOption(_OPTION, reference, f'importing module "{module_name}" failed:\n{text}')


def _apps_of(module_name: str, module: ModuleType) -> str:
    names = sorted(name for name, value in vars(module).items() if isinstance(value, App))
    if not names:
        return f'"{module_name}" holds no App at all; make one: app = App()'
    return f"Apps there: {', '.join(f'{module_name}:{name}' for name in names)}"
