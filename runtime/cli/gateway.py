"""`penstock broker`, and what it shares with `penstock dev`: the gateway's options and its screen."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import anyio
import anyio.abc
from cyclopts import Parameter

from broker import Broker
from broker.errors import PenstockError
from broker.gateway.options import DEFAULT_HOST, DEFAULT_PORT, GatewayOptions
from broker.gateway.running import run_gateway
from broker.gateway.server import DEFAULT_GRACE_S, Bound
from broker.log import log
from broker.records import check_range
from runtime.cli.options import COMMON, Common
from runtime.cli.output import Output
from runtime.cli.serving import Form, Level, first_error, set_logs, stop_signals
from runtime.collecting import collect_seldom

Port: TypeAlias = Annotated[
    int | None, Parameter(help=f"Port of the gateway, 0 for any free one; or PENSTOCK_PORT, else {DEFAULT_PORT}.")
]


def broker(
    *,
    host: Annotated[str | None, Parameter(help=f"Address to listen on; or PENSTOCK_HOST, else {DEFAULT_HOST}.")] = None,
    port: Port = None,
    public_url: Annotated[
        str | None,
        Parameter(help="How clients reach the gateway, where queue URLs must say it; or PENSTOCK_PUBLIC_URL."),
    ] = None,
    access_keys: Annotated[
        Path | None,
        Parameter(help="File of access keys, KEYID:SECRET[:ACCOUNT] a line; or PENSTOCK_ACCESS_KEYS."),
    ] = None,
    create_access_keys: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Make that file, with a random key, where it is missing.")
    ] = False,
    grace: Annotated[float, Parameter(help="Seconds that open requests get after a stop.")] = DEFAULT_GRACE_S,
    log_level: Level = None,
    log_format: Form = None,
    common: Common = COMMON,
) -> int:
    """Serve Amazon SQS and AWS Lambda over HTTP, for boto3 and the aws command.

    Set AWS_ENDPOINT_URL to its address, and a region and credentials as for
    AWS. Without access keys any credentials will do, and it listens for
    programs of this machine only. Any number may run on one Redis. SIGTERM or
    Ctrl-C lets open requests end; a second one ends them now.
    """
    check_range("grace", grace, 0, 86_400)
    options = GatewayOptions.read(
        host=host, port=port, public_url=public_url, access_keys=access_keys, create_keys=create_access_keys
    )
    set_logs(log_level, "json" if common.json else log_format)
    if options.made is not None:
        _tell_of_keys(options.made, options.keys[0].id)
    backend: dict[str, Any] = {"use_uvloop": _has_uvloop()}
    return anyio.run(_serve, common, options, grace, backend_options=backend)


async def _serve(common: Common, options: GatewayOptions, grace_s: float) -> int:
    stopped = anyio.Event()
    try:
        async with anyio.create_task_group() as group:
            await group.start(_obey_signals, stopped, group.cancel_scope, grace_s)
            async with Broker(common.url) as opened, run_gateway(opened, options, grace_s=grace_s) as bound:
                _welcome(common.output, options, bound, opened.core.settings.region)
                collect_seldom()
                await stopped.wait()
            group.cancel_scope.cancel()
    except* PenstockError as errors:
        raise first_error(errors) from None
    return 0


async def _obey_signals(
    stopped: anyio.Event,
    everything: anyio.CancelScope,
    grace_s: float,
    *,
    task_status: anyio.abc.TaskStatus[None],
) -> None:
    with stop_signals() as received:
        task_status.started()
        async for _ in received:
            if stopped.is_set():
                everything.cancel()
                return
            if sys.stderr.isatty():
                sys.stderr.write(f"\nstopping: open requests get {grace_s:g} s to end; Ctrl-C again ends them now\n")
            stopped.set()


def _tell_of_keys(path: Path, key_id: str) -> None:
    how = f"its secret is in the file; in a container: docker compose exec broker cat {path}"
    log.warning("access_keys_made", path=str(path), key_id=key_id, reason=how)


def _welcome(output: Output, options: GatewayOptions, bound: Bound, region: str) -> None:
    if output.as_json:
        output.emit({"url": bound.url, "host": bound.host, "port": bound.port, "access_keys": bool(options.keys)})
        return
    lines = [f"The gateway listens on {bound.url}", "", *setting_lines(options, bound, region), "", "Ctrl-C stops it."]
    print("\n".join(lines), flush=True)  # noqa: T201 - the command's output


def setting_lines(options: GatewayOptions, bound: Bound, region: str) -> list[str]:
    """What a program needs to find the gateway and what workers of the region do, as lines of a screen."""
    lines = [f"  export AWS_ENDPOINT_URL={options.public_url or bound.url} AWS_DEFAULT_REGION={region}"]
    if options.keys:
        return [*lines, f"  export AWS_ACCESS_KEY_ID={options.keys[0].id}   # and its secret; requests must be signed"]
    return [
        *lines,
        "  export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test   # any will do",
        "",
        "There are no access keys: every program on this machine may call, and no other machine can.",
    ]


def _has_uvloop() -> bool:
    try:
        import uvloop  # noqa: F401 - only whether it is there
    except ImportError:
        return False
    return True
