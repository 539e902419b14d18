"""Existing handlers named by `module.function`: how they are found, and Lambda's errors where they are not."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from broker.errors import InvalidName, InvalidOption, PayloadNotJson
from broker.records import FunctionSettings, MappingSettings
from runtime.handlers import encode_as_lambda
from runtime.lambda_handler import HandlerNotLoaded, LambdaHandler, load_handler

HANDLER = "def handler(event, context):\n    return event\n"

pytestmark = pytest.mark.usefixtures("folder")


def write(path: Path, text: str = HANDLER) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def refused(reference: str) -> HandlerNotLoaded:
    with pytest.raises(HandlerNotLoaded) as error:
        load_handler(reference)
    return error.value


@pytest.mark.parametrize(
    ("file", "reference"),
    [
        ("found_here.py", "found_here.handler"),
        ("found_pack/app.py", "found_pack.app.handler"),
        ("found_dir/src/app.py", "found_dir/src/app.handler"),
    ],
)
def test_a_handler_is_loaded_from_the_current_folder(folder: Path, file: str, reference: str) -> None:
    write(folder / file)
    assert load_handler(reference)({"a": 1}, None) == {"a": 1}


@pytest.mark.parametrize(
    ("reference", "error_type", "message"),
    [
        ("x", "Runtime.MalformedHandlerName", "Bad handler 'x': not enough values to unpack (expected 2, got 1)"),
        ("", "Runtime.MalformedHandlerName", "Bad handler '': not enough values to unpack (expected 2, got 1)"),
        ("sys.exit", "Runtime.BuiltInModuleConflict", "Cannot use built-in module sys as a handler module"),
        ("time/x.y", "Runtime.BuiltInModuleConflict", "Cannot use built-in module time/x as a handler module"),
        # Two that this process has already, whatever the folder holds.
        (
            "runtime.app.run",
            "Runtime.BuiltInModuleConflict",
            "Cannot use built-in module runtime.app as a handler module",
        ),
        ("broker.run", "Runtime.BuiltInModuleConflict", "Cannot use built-in module broker as a handler module"),
        ("absent_m.f", "Runtime.ImportModuleError", "Unable to import module 'absent_m': No module named 'absent_m'"),
        ("a/b_m.f", "Runtime.ImportModuleError", "Unable to import module 'a/b_m': No module named 'a'"),
        (".handler", "ValueError", "Empty module name"),
    ],
)
def test_what_cannot_be_loaded_is_told_in_lambdas_words(reference: str, error_type: str, message: str) -> None:
    error = refused(reference)
    assert (error.error_type, error.message) == (error_type, message)
    assert str(error).startswith(f"{error_type}: {message}")


def test_a_missing_function_is_named_with_its_module(folder: Path) -> None:
    write(folder / "without_it.py")
    error = refused("without_it.main")
    assert error.error_type == "Runtime.HandlerNotFound"
    assert error.message == "Handler 'main' missing on module 'without_it'"


def test_what_cannot_be_called_is_refused_in_pythons_words(folder: Path) -> None:
    write(folder / "no_code.py", "handler = 6\n")
    assert str(refused("no_code.handler")) == "TypeError: 'int' object is not callable (handler 'no_code.handler')"


def test_an_import_that_is_missing_in_the_module_is_shown_where_it_stands(folder: Path) -> None:
    write(folder / "importing_m.py", "import os\nimport not_installed_at_all\n")
    error = refused("importing_m.handler")
    assert error.error_type == "Runtime.ImportModuleError"
    assert error.message == "Unable to import module 'importing_m': No module named 'not_installed_at_all'"
    assert "line 2" in error.trace
    assert "lambda_handler.py" not in error.trace


def test_a_syntax_error_shows_its_line_as_lambda_does(folder: Path) -> None:
    write(folder / "broken_m.py", "import os\ndef handler(:\n")
    error = refused("broken_m.handler")
    assert error.error_type == "Runtime.UserCodeSyntaxError"
    assert error.message.startswith("Syntax error in module 'broken_m': ")
    assert error.trace == f'  File "{folder / "broken_m.py"}" Line 2\n    def handler(:'


@pytest.mark.parametrize(
    ("text", "error_type", "message"),
    [
        ("raise RuntimeError('no configuration')\n", "RuntimeError", "no configuration"),
        ("raise SystemExit(3)\n", "Runtime.ExitError", "sys.exit(3)"),
    ],
)
def test_whatever_a_module_raises_keeps_its_own_name(folder: Path, text: str, error_type: str, message: str) -> None:
    write(folder / "raising_m.py", text)
    error = refused("raising_m.handler")
    assert (error.error_type, error.message) == (error_type, message)
    assert "raising_m.py" in error.trace


def test_it_becomes_an_app_of_one_function_with_its_settings(folder: Path) -> None:
    write(folder / "taken.py", "def handler(event: list[int], context: 'LambdaContext'):\n    return event\n")
    settings, mapping = FunctionSettings(timeout_s=9), MappingSettings(queue="orders-in", function="orders")
    source = LambdaHandler(handler="taken.handler", function="orders", settings=settings, mapping=mapping)
    (function,) = source.app().functions.values()
    assert (function.name, function.settings, function.mapping) == ("orders", settings, mapping)
    # Annotations of an existing handler are for those who check types.
    assert function.decode(b'{"a": "no list"}') == {"a": "no list"}
    assert function.typed({"Records": []}) == {"Records": []}


def test_what_yields_and_bad_names_are_refused(folder: Path) -> None:
    write(folder / "yielding.py", "def handler(event, context):\n    yield event\n")
    with pytest.raises(InvalidOption, match="not yield"):
        LambdaHandler(handler="yielding.handler", function="orders").app()
    with pytest.raises(InvalidName, match="or ders"):
        LambdaHandler(handler="yielding.handler", function="or ders")
    with pytest.raises(HandlerNotLoaded, match="MalformedHandlerName"):
        LambdaHandler(handler="yielding", function="orders")


class Text(str):
    """A subclass, as libraries have them."""

    __slots__ = ()


@pytest.mark.parametrize(
    ("result", "encoded"),
    [
        (None, "null"),
        ({"total": Decimal("1.50"), None: True, 1: Text("ü")}, '{"total":1.5,"null":true,"1":"ü"}'),
        ((1, "two"), '[1,"two"]'),
    ],
)
def test_results_become_json_as_in_lambda(result: Any, encoded: str) -> None:
    assert encode_as_lambda(result).decode() == encoded


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({1, 2}, "Object of type set is not JSON serializable"),
        (b"bytes", "Object of type bytes is not JSON serializable"),
        (float("nan"), "Out of range float values are not JSON compliant"),
        ("\ud800", "surrogates not allowed"),
    ],
)
def test_results_that_lambda_cannot_send_are_refused_in_its_words(result: Any, reason: str) -> None:
    with pytest.raises(PayloadNotJson, match=reason):
        encode_as_lambda(result)
