"""The reference pages against the code: options and bounds, errors, commands, environment variables, log events."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest

import broker
import broker.sync
import runtime
from broker import Broker, InvalidInput, Message, PenstockError, Status
from broker.functions import FunctionClient
from broker.gateway.aws.errors import COMMON
from broker.gateway.aws.sqs.attributes import KNOWN
from broker.gateway.aws.sqs.dispatch import SQS
from broker.invocation_records import Condition
from broker.moves import MoveTask
from broker.queues import QueueClient
from broker.records import QueueSettings, StreamSettings
from broker.store.values import Counts
from broker.streams import StreamClient, StreamRecord
from runtime import App, Context, Record
from runtime.idempotency import idempotent
from tests.docs.command_page import PAGE, command_page
from tests.docs.lambda_page import PAGE as LAMBDA_PAGE
from tests.docs.lambda_page import lambda_page
from tests.docs.pages import ROOT, code, page, section, table
from tests.docs.sqs_page import PAGE as SQS_PAGE
from tests.docs.sqs_page import raised, sqs_page

FUNCTIONS = page("reference/functions.md")
QUEUES = page("reference/queues.md")
SETTINGS = page("reference/settings.md")


async def a_handler(event: Any, context: Context) -> None:
    """Any handler."""


def make_function(**options: Any) -> None:
    App().function(**options)(a_handler)


def make_mapping(**options: Any) -> None:
    App().queue("orders", **options)(a_handler)


# -- options of functions, mappings, queues ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "method"),
    [("## App.function", App.function), ("## App.queue", App.queue), ("## idempotent", idempotent)],
    ids=["function", "queue", "idempotent"],
)
def test_every_option_is_listed_with_its_default(heading: str, method: Callable[..., Any]) -> None:
    rows = {code(row["option"]): row["default"] for row in table(section(FUNCTIONS, heading))}
    parameters = [
        parameter
        for parameter in inspect.signature(method).parameters.values()
        if parameter.name not in {"self", "without_parentheses"}
    ]
    assert list(rows) == [parameter.name for parameter in parameters]
    for parameter in parameters:
        assert rows[parameter.name] == shown_default(parameter), parameter.name


def shown_default(parameter: inspect.Parameter) -> str:
    default = parameter.default
    if default is inspect.Parameter.empty:
        return "required"
    if parameter.name == "name":
        return "the handler's `__name__`"
    if isinstance(default, tuple):
        return f"({', '.join(f'{item:g}' for item in default)})"
    return f"{default:g}" if isinstance(default, float) else str(default)


@pytest.mark.parametrize(
    ("heading", "make"), [("## App.function", make_function), ("## App.queue", make_mapping)], ids=["function", "queue"]
)
def test_options_hold_the_bounds_that_are_listed(heading: str, make: Callable[..., None]) -> None:
    probed = 0
    for row in table(section(FUNCTIONS, heading)):
        option = code(row["option"])
        bounds = re.match(r"(each )?([\d.]+) to ([\d.]+)(?:$|, whole)", row["bounds"])
        if bounds:
            probed += 1
            probe(make, option, bounds[2], bounds[3], several=bool(bounds[1]), whole="whole" in row["bounds"])
        if row["bounds"].endswith("or None"):
            make(**{option: None})
    assert probed >= 5


def probe(make: Callable[..., None], option: str, low: str, high: str, *, several: bool, whole: bool) -> None:
    """The bounds are taken, what is just outside is not; half a number only where it need not be whole."""
    step = Decimal(1) if whole else Decimal("0.0001")

    def give(value: Decimal) -> None:
        number = int(value) if value == value.to_integral_value() else float(value)
        make(**{option: (number,) if several else number})

    give(Decimal(low))
    give(Decimal(high))
    for outside in (Decimal(low) - step, Decimal(high) + step):
        with pytest.raises(InvalidInput, match=option):
            give(outside)
    between = (Decimal(low) + Decimal(high)) / 2 + Decimal("0.25")
    if whole:
        with pytest.raises(InvalidInput, match=option):
            give(between)
    else:
        give(between)


def test_settings_of_a_queue_are_listed_with_their_bounds_and_defaults() -> None:
    rows = table(section(QUEUES, "## QueueClient"), after="say what it is.")
    create = inspect.signature(QueueClient.create).parameters
    assert [code(row["setting"]) for row in rows] == [name for name in create if name != "self"]
    for row in rows:
        name = code(row["setting"])
        default = create[name].default
        assert row["default"] == str(default), name
        unit = {"seconds": "_s"}.get(row["unit"], "")
        others = {"dead_letter": "dead"} if name == "max_receives" else {}
        if bounds := re.fullmatch(r"(\d+) to (\d+)", row["bounds"]):
            check_settings(partial(queue_settings_with, name + unit, others), bounds[1], bounds[2])
        elif words := re.findall(r"`(\w+)` or `(\w+)`", row["bounds"]):
            check_words(name, *words[0])
    assert sum(bool(re.match(r"\d", row["bounds"])) for row in rows) == 7


def check_words(name: str, usual: str, other: str) -> None:
    """Both words are taken by a FIFO queue, nothing else is, and a standard queue takes the usual one alone."""
    scope: dict[str, Any] = {"deduplication_scope": "messageGroup", "fifo": True}
    for word in (usual, other):
        QueueSettings(**{**scope, name: word})
    refused: tuple[dict[str, Any], ...] = ({**scope, name: "other"}, {name: other})
    for settings in refused:
        with pytest.raises(InvalidInput, match=name):
            QueueSettings(**settings)


def queue_settings_with(field: str, others: dict[str, Any], value: object) -> QueueSettings:
    return QueueSettings(**{field: value, **others})


def check_settings(make: Callable[[Any], object], low: str, high: str) -> None:
    make(int(low))
    make(int(high))
    for outside in (int(low) - 1, int(high) + 1):
        with pytest.raises(InvalidInput):
            make(outside)


def test_settings_of_a_stream_are_those_of_the_page() -> None:
    text = section(QUEUES, "## StreamClient")
    create = inspect.signature(StreamClient.create).parameters
    stated = ", ".join(f"{name}={create[name].default}" for name in ("max_length", "retention", "durability"))
    assert f"create(*, {stated})" in text
    length, age = (re.search(rf"`{name}` \((\d+) to (\d+)", text) for name in ("max_length", "retention"))
    assert length
    assert age
    check_settings(lambda value: StreamSettings(max_length=value), length[1], length[2])
    check_settings(lambda value: StreamSettings(retention_s=value), age[1], age[2])


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "heading", "of"),
    [
        (QUEUES, "## Broker", Broker),
        (QUEUES, "## QueueClient", QueueClient),
        (QUEUES, "## Message", Message),
        (QUEUES, "## FunctionClient", FunctionClient),
        (QUEUES, "## StreamClient", StreamClient),
        (QUEUES, "## StreamClient", StreamRecord),
        (QUEUES, "## Move tasks", MoveTask),
        (QUEUES, "## Counts", Counts),
        (FUNCTIONS, "## Context", Context),
        (FUNCTIONS, "## Status", Status),
        (FUNCTIONS, "## The batch event", Record),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_public_name_is_on_its_page(place: Path, heading: str, of: type) -> None:
    text = section(place, heading)
    said = set(re.findall(r"`(\w+)(?:`|\()", text)) | set(re.findall(r"`[^`]*?, (\w+)\(", text))
    assert {name for name in public_names(of) if name not in said} == set()


def public_names(of: type) -> Iterator[str]:
    own = set(vars(of)) | set(getattr(of, "__struct_fields__", ())) | assigned_in_init(of)
    yield from (name for name in own if not name.startswith("_"))


def assigned_in_init(of: type) -> set[str]:
    init = vars(of).get("__init__")
    source = inspect.getsource(init) if inspect.isfunction(init) else ""
    return set(re.findall(r"self\.(\w+)\s*[:=]", source))


def test_methods_are_shown_with_their_signatures() -> None:
    for heading, of in (("## Broker", Broker), ("## QueueClient", QueueClient), ("## Message", Message)):
        for shown in re.findall(r"`(\w+)\(([^`)]*)\)`", section(QUEUES, heading).partition("\n\n`core`")[0]):
            name, arguments = shown
            if "..." in arguments or not hasattr(of, name):
                continue
            assert arguments == spelled_arguments(getattr(of, name)), name


def spelled_arguments(method: Callable[..., Any]) -> str:
    signature = inspect.signature(method)
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    text = str(inspect.Signature(bare)).strip("()")
    return re.sub(r"=(\d+)\.0\b", r"=\1", text)


def test_the_same_methods_are_there_without_an_event_loop() -> None:
    for of in (Broker, QueueClient, FunctionClient, StreamClient):
        missing = {name for name, value in vars(of).items() if inspect.iscoroutinefunction(value)} - set(
            vars(getattr(broker.sync, of.__name__))
        )
        assert {name for name in missing if not name.startswith("_")} <= {"deliver"}, of.__name__


def test_every_condition_of_an_invocation_record_is_listed() -> None:
    rows = table(section(FUNCTIONS, "## The invocation record"))
    assert {code(row["condition"]) for row in rows} == set(get_args(Condition))


# -- errors -----------------------------------------------------------------------------------------------------------


def test_every_error_is_listed_with_what_to_do() -> None:
    for package in (broker, runtime):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    errors: list[type[PenstockError]] = [PenstockError, *descendants(PenstockError)]
    codes = {error.code for error in errors}
    rows = table(page("reference/errors.md").read_text(encoding="utf-8"))
    assert sorted(code(row["code"]) for row in rows) == sorted(codes)
    assert [row["code"] for row in rows if not row["meaning"]] == []
    families = {code(row["code"]) for row in rows if "family" in row["meaning"]}
    assert [code(row["code"]) for row in rows if not row["what to do"] and code(row["code"]) not in families] == []


def descendants(error: type[PenstockError]) -> Iterator[type[PenstockError]]:
    for child in error.__subclasses__():
        if child.__module__.partition(".")[0] in {"broker", "runtime"}:
            yield child
        yield from descendants(child)


# -- command, environment, log ----------------------------------------------------------------------------------------


def test_the_page_of_the_command_is_what_its_help_says() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert written == command_page(), "run `python -m tests.docs.command_page`"
    assert "` |  |" not in written, "an option without a meaning"


def test_the_page_of_the_wire_is_what_the_gateway_s_tables_say() -> None:
    written = SQS_PAGE.read_text(encoding="utf-8")
    assert written == sqs_page(), "run `python -m tests.docs.sqs_page`"


def test_the_page_of_the_wire_has_every_attribute_of_a_queue_and_no_unknown_error() -> None:
    listed = table(section(SQS_PAGE, "## Attributes of a queue"))
    assert {code(row["attribute"]) for row in listed} == KNOWN - {"All"}
    assert set(raised()) <= SQS.errors.keys() | COMMON.keys()


def test_the_page_of_lambda_is_what_the_gateway_s_tables_say() -> None:
    written = LAMBDA_PAGE.read_text(encoding="utf-8")
    assert written == lambda_page(), "run `python -m tests.docs.lambda_page`"


def sources() -> Iterator[str]:
    for package in ("broker", "runtime"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.read_text(encoding="utf-8")


def test_every_environment_variable_is_listed() -> None:
    read = {name for text in sources() for name in re.findall(r"\bPENSTOCK_[A-Z_]*[A-Z]\b", text)}
    rows = table(section(SETTINGS, "## Environment variables"))
    assert {code(row["variable"]) for row in rows} == read


def test_every_log_event_is_listed_with_its_level_and_fields() -> None:
    rows = {code(row["event"]): row for row in table(section(SETTINGS, "## Log lines"))}
    written = set(log_events())
    assert set(rows) == {event for event, _, _ in written}
    for event, level, fields in written:
        assert rows[event]["level"] == level, event
        listed = {field.strip() for field in rows[event]["fields"].split(",")}
        assert fields <= listed, f"{event}: {fields - listed}"


_WRITTEN = re.compile(r"\blog\.(debug|info|warning|error|exception)\(\s*(.+?)\)\n", re.DOTALL)
_SPREAD = {"what": ("function", "mapping")}
"""What stands for names in `f"{what}_changed"`."""


def log_events() -> Iterator[tuple[str, str, frozenset[str]]]:
    """Event, level and fields of every line that the source writes."""
    for text in sources():
        for method, arguments in _WRITTEN.findall(text):
            level = "error" if method == "exception" else method
            fields = frozenset(re.findall(r"(?<![\w.(])(\w+)=(?!=)", outermost(arguments)))
            for event in event_names(arguments, text):
                yield event, level, fields


def event_names(arguments: str, text: str) -> list[str]:
    first = arguments.partition(",")[0].strip()
    if first == "self._event":  # the sums of a second
        return re.findall(r'_Sums\("(\w+)"', text)
    if first == 'f"{self._what}_unread"':  # a look at the directory
        return [f"{what}_unread" for other in sources() for what in re.findall(r'Lookout\(.*what="(\w+)"', other)]
    if first == "what":  # a report of the lease keeper
        return re.findall(r'self\._report\("(\w+)"', text)
    names = re.findall(r'"([^"]+)"', first)
    return [name.replace("{what}", word) for name in names for word in (_SPREAD["what"] if "{what}" in name else ("",))]


def outermost(arguments: str) -> str:
    """The arguments without what stands in inner parentheses: keywords of other calls."""
    while (shorter := re.sub(r"\([^()]*\)", "", arguments)) != arguments:
        arguments = shorter
    return arguments
