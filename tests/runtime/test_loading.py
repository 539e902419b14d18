"""`module:attribute` to an App, and what is said when that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.errors import InvalidOption
from runtime import App
from runtime.loading import load_app

pytestmark = pytest.mark.usefixtures("folder")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def refused(reference: str) -> str:
    with pytest.raises(InvalidOption) as error:
        load_app(reference)
    return str(error.value)


def test_an_app_is_loaded_from_the_current_folder(folder: Path) -> None:
    write(folder / "loadable.py", "from runtime import App\napp = App()\n")
    assert isinstance(load_app("loadable:app"), App)


def test_an_app_in_a_package_is_loaded(folder: Path) -> None:
    write(folder / "shop" / "__init__.py", "")
    write(folder / "shop" / "events.py", "from runtime import App\nmain = App()\n")
    assert isinstance(load_app("shop.events:main"), App)


@pytest.mark.parametrize("reference", ["app", "app:", ":app", "app.py", "app:a b", "app:app.x", "a/b:app", ""])
def test_another_form_is_refused_with_the_right_one(reference: str) -> None:
    assert 'must be "module:attribute"' in refused(reference)


def test_a_missing_module_is_named_with_where_it_was_looked_for(folder: Path) -> None:
    message = refused("absent_module:app")
    assert 'there is no module "absent_module"' in message
    assert str(folder) in message
    write(folder / "shop2" / "__init__.py", "")
    assert 'there is no module "shop2.absent"' in refused("shop2.absent:app")
    assert 'there is no module "absent_package"' in refused("absent_package.events:app")


def test_an_import_that_is_missing_in_the_module_is_shown_where_it_stands(folder: Path) -> None:
    write(folder / "importing.py", "import os\nimport not_installed_at_all\n")
    message = refused("importing:app")
    assert 'importing module "importing" failed' in message
    assert "importing.py" in message
    assert "line 2" in message
    assert "No module named 'not_installed_at_all'" in message


def test_an_import_that_raises_shows_its_last_frames_and_nothing_of_ours(folder: Path) -> None:
    write(folder / "raising.py", "def deep():\n    raise RuntimeError('no configuration')\n\ndeep()\n")
    message = refused("raising:app")
    assert "RuntimeError: no configuration" in message
    assert "in deep" in message
    assert "loading.py" not in message
    assert "importlib" not in message


@pytest.mark.parametrize(
    ("text", "shown"), [("def broken(:\n", "SyntaxError"), ("raise SystemExit(3)\n", "SystemExit")]
)
def test_a_module_that_is_no_python_or_exits_is_an_error_too(folder: Path, text: str, shown: str) -> None:
    write(folder / "wrong.py", text)
    assert shown in refused("wrong:app")


def test_a_missing_attribute_names_the_apps_that_are_there(folder: Path) -> None:
    write(folder / "named.py", "from runtime import App\nfirst = App()\nsecond = App()\nother = 1\n")
    message = refused("named:app")
    assert 'has no attribute "app"' in message
    assert message.endswith("Apps there: named:first, named:second")
    assert '"other" of module "named" is \'int\', not an App' in refused("named:other")


def test_a_module_without_any_app_says_how_to_make_one(folder: Path) -> None:
    write(folder / "empty.py", "")
    assert "app = App()" in refused("empty:app")
