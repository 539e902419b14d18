"""Functions from a shell: what each one holds and who serves it; pause and resume."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from broker import Broker
from broker.errors import FunctionNotFound
from broker.mappings import list_mappings
from broker.names import Target
from broker.partitions import counters
from broker.records import FunctionSettings, MappingSettings
from broker.workers import Serves, live_workers
from runtime.cli.options import COMMON, Common
from runtime.cli.output import Output, builtin, duration
from runtime.cli.versions import described_versions, print_versions

_NOBODY: Final = "no live worker"


async def functions(name: str | None = None, /, *, common: Common = COMMON) -> None:
    """Show all functions, or one: queued, running, retrying, workers, destinations.

    With their versions and aliases, and who serves those. With --json one object
    a function, with its settings, counters and mappings.
    """
    async with Broker(common.url) as broker:
        live = await live_workers(broker.core)
        mappings = await _mappings(broker, live)
        names = await broker.functions() if name is None else [name]
        described = [await _described(broker, each, live, mappings) for each in names]
    found = [function for function in described if function is not None]
    if name is not None and not found:
        raise FunctionNotFound(name)
    if common.json:
        for function in found:
            common.output.emit(function)
        return
    if not found:
        common.output.note("no worker has registered a function yet; `penstock dev app:app` or `penstock runtime` does")
        return
    _print_functions(common.output, found)
    versions = [version for function in found for version in function["versions"]]
    if versions:
        print_versions(common.output, versions)
    shown = mappings if name is None else found[0]["mappings"]
    if shown:
        _print_mappings(common.output, shown)
        _print_what_to_do(common.output, [mapping["name"] for mapping in shown if mapping["state"] == _NOBODY])


async def pause(function: str, /, *, common: Common = COMMON) -> None:
    """Pause a function: its events stay queued, nothing runs, nothing expires."""
    async with Broker(common.url) as broker:
        await broker.function(function).pause()
    common.output.answer({"function": function, "paused": True}, f'function "{function}" is paused')


async def resume(function: str, /, *, common: Common = COMMON) -> None:
    """End a pause made by `penstock pause`; one that the code declares goes on."""
    async with Broker(common.url) as broker:
        await broker.function(function).resume()
        declared = (await broker.function(function).settings()).paused
    text = f'function "{function}" goes on'
    if declared:
        text = f'function "{function}" stays paused: its code says paused=True'
    common.output.answer({"function": function, "paused": declared}, text)


async def _described(
    broker: Broker, name: str, live: list[Serves], mappings: list[dict[str, Any]]
) -> dict[str, Any] | None:
    function = broker.function(name)
    found = await broker.core.directory.describe(function.resource)
    if found is None:
        return None
    settings = msgspec.json.decode(found.settings, type=FunctionSettings)
    counts = await function.counts()
    workers = [worker for worker in live if name in worker.functions and not worker.alone]
    return {
        "function": name,
        "queued": counts.visible,
        "in_flight": counts.in_flight,
        "running": counts.running if settings.concurrency is not None else None,
        "retrying": counts.retrying,
        "set_apart": counts.set_apart,
        "sending_on": counts.outbox,
        "live_workers": len(workers),
        "paused": found.held or settings.paused,
        "durability_in_force": await broker.durability(),
        "counters": await counters(broker.core, function.resource, found.counters),
        "settings": _shown(settings),
        "versions": await described_versions(broker, name, live),
        "mappings": [mapping for mapping in mappings if mapping["function"] == name],
    }


async def _mappings(broker: Broker, live: list[Serves]) -> list[dict[str, Any]]:
    return [
        {**builtin(settings), "name": settings.name, "state": _state(settings, live)}
        for settings in await list_mappings(broker.core)
    ]


def _shown(settings: FunctionSettings) -> dict[str, Any]:
    """The settings; of variables, which may be secret, the names alone."""
    declared = None if settings.declared is None else _shown(settings.declared)
    return {**builtin(settings), "environment": sorted(settings.environment), "declared": declared}


def _state(settings: MappingSettings, live: list[Serves]) -> str:
    if not settings.enabled:
        return "disabled"
    return "enabled" if any(worker.polls(settings) for worker in live) else _NOBODY


def _print_functions(output: Output, found: list[dict[str, Any]]) -> None:
    counted = ("queued", "in_flight", "retrying", "set_apart")
    rows = [
        (
            function["function"],
            *(function[column] for column in counted),
            function["live_workers"],
            _concurrency(function),
            "yes" if function["paused"] else "no",
            _destinations(function["settings"]),
        )
        for function in found
    ]
    columns = (
        "function",
        "queued",
        "in flight",
        "retrying",
        "set apart",
        "workers",
        "concurrency",
        "paused",
        "sends to",
    )
    output.table(columns, rows, left=("function", "concurrency", "paused", "sends to"))


def _concurrency(function: dict[str, Any]) -> str:
    limit = function["settings"]["concurrency"]
    return "no limit" if limit is None else f"{function['running']} of {limit}"


def _destinations(settings: dict[str, Any]) -> str | None:
    words = {"on_success": "success", "on_failure": "failure", "dead_letter": "dead letters"}
    set_ones = [f"{word}: {_target(settings[option])}" for option, word in words.items() if settings[option]]
    return ", ".join(set_ones) or None


def _target(target: Target) -> str:
    return f"{type(target).__name__.lower()} {target.name}"


def _print_mappings(output: Output, mappings: list[dict[str, Any]]) -> None:
    rows = [
        (
            f"{mapping['queue']} -> {mapping['function']}",
            mapping["state"],
            mapping["batch_size"],
            duration(mapping["batch_window_s"]),
            mapping["max_concurrency"],
            "yes" if mapping["partial_failures"] else "no",
            len(mapping["filters"]) or None,
        )
        for mapping in mappings
    ]
    columns = ("queue -> function", "state", "batch size", "window", "concurrency", "partial failures", "filters")
    output.table(columns, rows, left=("queue -> function", "state", "partial failures"), below=True)


def _print_what_to_do(output: Output, unpolled: list[str]) -> None:
    for name in unpolled:
        output.note(
            f"no live worker polls for {name}: start one that serves its function (`penstock runtime`), "
            f'or `penstock delete mapping "{name}"` if it is no longer wanted'
        )
