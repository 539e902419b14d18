"""Single events from a shell: where one is, how it ended; taking one out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from cyclopts import Parameter

from broker import Broker, FunctionError, Status
from runtime.cli.options import COMMON, Common
from runtime.cli.output import builtin, error_object

Named = Annotated[str | None, Parameter(metavar="NAME", help="Whose it is; needed with an id of your own.")]


async def status(
    request_id: str,
    /,
    *,
    function: Named = None,
    wait: Annotated[float, Parameter(help="Seconds to wait for its end.")] = 0.0,
    common: Common = COMMON,
) -> int:
    """Say where an event is, or how it ended.

    How it ended is known for as long as the function's keep_status says.
    With --wait the exit status is 1 when it has not ended by then. With
    --json one object with all fields.
    """
    async with Broker(common.url) as broker:
        found = await broker.status(request_id, function=function, wait=wait)
    common.output.answer(builtin(found), _sentence(found))
    return 1 if wait and not found.ended else 0


async def result(
    request_id: str,
    /,
    *,
    function: Named = None,
    wait: Annotated[float, Parameter(help="Seconds to wait for its end.")] = 0.0,
    common: Common = COMMON,
) -> int:
    """Print what the handler answered to an event, as JSON.

    Of a function that keeps results: see keep_result. When the event failed,
    Lambda's error object is printed instead, and the exit status is 1.
    """
    output = common.output
    async with Broker(common.url) as broker:
        try:
            found = await broker.result(request_id, function=function, wait=wait)
        except FunctionError as error:
            output.emit(error_object(error))
            output.note(f"penstock: event {request_id} failed: {error}")
            return 1
    output.emit(found)
    return 0


async def cancel(request_id: str, /, *, function: Named = None, common: Common = COMMON) -> int:
    """Take an event out: it does not run (again), and a running call is cancelled."""
    async with Broker(common.url) as broker:
        done = await broker.cancel(request_id, function=function)
    text = f"event {request_id} is cancelled" if done else f"event {request_id} had ended before"
    common.output.answer({"id": request_id, "cancelled": done}, text)
    return 0 if done else 1


def _sentence(found: Status) -> str:
    parts = [f"{found.function}: {found.state}"]
    if found.attempt:
        parts.append(f"attempt {found.attempt}")
    for word, moment_ms in (("since", found.since_ms), ("next at", found.next_ms), ("at", found.ended_ms)):
        if moment_ms is not None:
            parts.append(f"{word} {datetime.fromtimestamp(moment_ms // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}")
    if found.condition not in {None, "Success", "Cancelled"}:
        parts.append(str(found.condition))
    if found.crashes:
        parts.append(f"its worker died {found.crashes} times")
    if found.error_type:
        parts.append(f"{found.error_type}: {found.error_message}")
    return ", ".join(parts)
