"""The command `penstock`. Each subcommand is imported when it is asked for, so that --help and the others are quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Coroutine, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cyclopts import App, CycloptsError, Group, Parameter

from runtime.cli.options import STANDARD_INPUT

if TYPE_CHECKING:
    from broker.errors import PenstockError

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
_EXIT_INTERRUPTED: Final = 130
_EXIT_PIPE: Final = 141


class _Command(NamedTuple):
    """What `penstock --help` says of a subcommand, and where it is; its own help is its docstring and the examples."""

    group: str
    place: str
    summary: str
    examples: tuple[str, ...]


_RUN, _SEND, _LOOK, _CHANGE = _GROUPS = ("Run", "Send and receive", "Look", "Change")
_COMMANDS: Final[dict[str, _Command]] = {
    "dev": _Command(
        _RUN,
        "dev:dev",
        "Run everything for the app of this folder: Redis, a worker, reload.",
        (
            "penstock dev app:app",
            "penstock dev app:app --processes 2 --no-reload",
            "penstock dev --handler orders.app.handler --function orders --queue orders-in",
        ),
    ),
    "runtime": _Command(
        _RUN,
        "serving:runtime",
        "Run the functions of an app.",
        (
            "penstock runtime app:app --processes 2",
            "penstock runtime app:app --url redis://redis:6379 --grace 60 --build 7f3a2c",
            "penstock runtime --handler orders.app.handler --function orders --queue orders-in --partial-failures",
        ),
    ),
    "broker": _Command(
        _RUN,
        "gateway:broker",
        "Serve Amazon SQS and AWS Lambda over HTTP, for boto3 and others.",
        (
            "penstock broker",
            "penstock broker --host 0.0.0.0 --access-keys keys.txt --public-url https://sqs.example.com",
        ),
    ),
    "invoke": _Command(
        _SEND,
        "sending:invoke",
        "Store an event for a function, to run asynchronously.",
        (
            """penstock invoke thumbnail '{"path": "cat.jpg"}'""",
            "penstock invoke thumbnail @event.json --id upload-17",
            "penstock invoke thumbnail @events.jsonl --lines",
            "jq -c '.[]' all.json | penstock invoke thumbnail - --lines",
        ),
    ),
    "call": _Command(
        _SEND,
        "sending:call",
        "Run a function and wait for its result.",
        (
            """penstock call thumbnail '{"path": "cat.jpg"}' --timeout 10""",
            "penstock call thumbnail @event.json",
            """penstock call tell '{"about": "cats"}' --stream""",
        ),
    ),
    "send": _Command(
        _SEND,
        "sending:send",
        "Send a message to a queue.",
        (
            """penstock send orders '{"id": 1}' --delay 5 --attribute kind=new""",
            "penstock send orders @order.json --id order-17",
            "penstock send orders - --lines < orders.jsonl",
            "penstock send orders.fifo '{\"id\": 1}' --group customer-7 --deduplication-id order-1",
            "penstock send orders x --attribute note=new --attribute size:=3 --attribute price:Number.eur=12.50",
        ),
    ),
    "receive": _Command(
        _SEND,
        "queues:receive",
        "Receive messages from a queue, or look at them.",
        (
            "penstock receive orders --count 10 --wait 5 --delete",
            "penstock receive orders --peek --count 100 --json",
        ),
    ),
    "queues": _Command(
        _LOOK, "queues:queues", "Show queues and what lies in them.", ("penstock queues orders --json",)
    ),
    "functions": _Command(
        _LOOK,
        "functions:functions",
        "Show functions: queued, running, workers, mappings.",
        ("penstock functions", "penstock functions thumbnail --json"),
    ),
    "status": _Command(
        _LOOK,
        "statuses:status",
        "Say where an event is, or how it ended.",
        (
            "penstock status 01a20061-4078-8000-8000-0000dae205bb",
            "penstock status upload-17 --function thumbnail --wait 30 --json",
        ),
    ),
    "result": _Command(
        _LOOK,
        "statuses:result",
        "Print what a handler answered to an event.",
        (
            "penstock result 01a20061-4078-8000-8000-0000dae205bb",
            "penstock result upload-17 --function thumbnail --wait 30",
        ),
    ),
    "doctor": _Command(
        _LOOK,
        "doctor:doctor",
        "Look for what is wrong with Redis and what is in it.",
        ("penstock doctor", "penstock doctor --json", "penstock doctor --watch 10 --repair"),
    ),
    "stream": _Command(
        _LOOK,
        "streams:stream",
        "Read or follow a stream; without a name, list them.",
        ("penstock stream done --follow", "penstock stream done --after 1700000000000-0 --count 10 --json"),
    ),
    "create": _Command(
        _CHANGE,
        "queues:create",
        "Create a queue.",
        (
            "penstock create orders --visibility-timeout 30 --dead-letter orders-dead --max-receives 5",
            "penstock create orders.fifo --content-deduplication --tag team=shop",
            "penstock create orders-dead --redrive-from orders",
        ),
    ),
    "configure": _Command(
        _CHANGE,
        "queues:configure",
        "Change settings of a queue.",
        ("penstock configure orders --visibility-timeout 60", "penstock configure orders-dead --redrive-from all"),
    ),
    "delete": _Command(
        _CHANGE,
        "removing:delete",
        "Delete a queue, function, stream or mapping.",
        ("penstock delete queue orders", "penstock delete function thumbnail --force --yes"),
    ),
    "purge": _Command(
        _CHANGE,
        "removing:purge",
        "Throw away all that a queue or function holds.",
        ("penstock purge queue orders", "penstock purge function thumbnail --yes"),
    ),
    "redrive": _Command(
        _CHANGE,
        "redriving:redrive",
        "Send dead letters back to where they came from.",
        (
            "penstock redrive dead",
            "penstock redrive dead --to orders --count 10",
            "penstock redrive dead --rate 50 --detach",
        ),
    ),
    "moves": _Command(
        _CHANGE,
        "redriving:moves",
        "Show or cancel the move tasks of a queue.",
        ("penstock moves dead", "penstock moves dead --cancel HANDLE"),
    ),
    "cancel": _Command(
        _CHANGE,
        "statuses:cancel",
        "Take an event out; end its running call.",
        ("penstock cancel 01a20061-4078-8000-8000-0000dae205bb", "penstock cancel upload-17 --function thumbnail"),
    ),
    "publish": _Command(
        _CHANGE,
        "versions:publish",
        "Publish a function's build as a version.",
        ("penstock publish thumbnail", 'penstock publish thumbnail --description "release 7"'),
    ),
    "alias": _Command(
        _CHANGE,
        "versions:alias",
        "Let an alias name a version.",
        ("penstock alias thumbnail live 2", "penstock alias thumbnail live 2 --weight 3=0.1"),
    ),
    "pause": _Command(_CHANGE, "functions:pause", "Pause a function; its events wait.", ("penstock pause thumbnail",)),
    "resume": _Command(_CHANGE, "functions:resume", "End a pause.", ("penstock resume thumbnail",)),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and ends the process: status 0, 1 for what failed, 2 for what was typed wrongly."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _run(given)
    except KeyboardInterrupt:
        status = _EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does; and Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = _EXIT_PIPE
    sys.exit(status)


def _run(given: list[str]) -> int:
    as_json = "--json" in _options_of(given)
    app = _build(given)
    try:
        command, bound, _ = app.parse_args(_without_bare_hyphens(given), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        name = given[0] if given and given[0] in _COMMANDS else ""
        message = f"{' '.join(str(error).split())} (see `penstock {name + ' ' if name else ''}--help`)"
        _report("Usage", message, as_json=as_json)
        return EXIT_USAGE
    if not command.__module__.startswith(f"{__name__}."):
        command(*bound.args, **bound.kwargs)  # the parser's own: --help, --version
        return 0
    from broker.errors import PenstockError
    from runtime.logs import configure_logs

    try:
        configure_logs()
        return _perform(command(*bound.args, **bound.kwargs))
    except PenstockError as error:
        _report(error.code, _with_advice(error), as_json=as_json)
        return EXIT_FAILED


def _perform(result: object) -> int:
    if isinstance(result, Coroutine):
        import anyio

        work: Coroutine[Any, Any, object] = result
        result = anyio.run(_awaited, work)
    return result if isinstance(result, int) else 0


async def _awaited(work: Coroutine[Any, Any, object]) -> object:
    return await work


def _build(given: Sequence[str]) -> App:
    app = App(
        name="penstock",
        help="Self-hosted Lambda for events: kept in Redis, run by your handlers.",
        help_format="plaintext",
        help_epilogue="`penstock COMMAND --help` tells more, with examples.",
        version=_version,
        group_commands=Group("Other", sort_key=len(_GROUPS)),
        default_parameter=Parameter(negative_iterable=()),
        group_parameters="Options",
    )
    groups = {name: Group(name, sort_key=place) for place, name in enumerate(_GROUPS)}
    asked_for = next((word for word in given if word in _COMMANDS), "")
    for name, command in _COMMANDS.items():
        app.command(
            f"runtime.cli.{command.place}",
            name=name,
            group=groups[command.group],
            # With a help text here, the docstring would not be shown.
            help=None if name == asked_for else command.summary,
            help_epilogue="\n".join(["For example:", *(f"  {example}" for example in command.examples)]),
        )
    return app


def _version() -> str:
    try:
        return version("penstock")
    except PackageNotFoundError:
        return "not installed"


def _options_of(given: Sequence[str]) -> Sequence[str]:
    return given[: given.index("--")] if "--" in given else given


def _without_bare_hyphens(given: Sequence[str]) -> list[str]:
    """A single ``-`` is standard input, which the parser would take for an option without a name."""
    return [STANDARD_INPUT if word == "-" else word for word in given]


_ADVICE: Final = {
    "PayloadNotJson": """; quote it for the shell, as '{"id": 1}', or give @FILE""",
    "FunctionNotFound": "; `penstock functions` lists those that are there",
    "QueueNotFound": "; `penstock queues` lists those that are there",
    "QueueExists": " (here: `penstock configure`)",
    "MoveInProgress": " (here: `penstock moves`)",
    "ResourceBusy": " (here: --force)",
    "CallThrottled": "; try again later",
    "CallTimeout": "; --timeout gives it longer",
    "StoreUnavailable": "; see that it runs, and that --url or PENSTOCK_REDIS_URL is its address",
    "StoreDenied": "; give a user and password that may, in the URL: redis://USER:PASSWORD@HOST:6379",
}

_CANNOT_SAVE: Final = "MISCONF"
_IS_BUSY: Final = " cannot serve at the moment: "


def _with_advice(error: PenstockError) -> str:
    if options := getattr(error, "options", ""):  # of AddressUnusable, whose module costs a start of each command
        return f"{error}; choose another with {options}"
    if _CANNOT_SAVE in str(error):
        advice = "; make room on its disk, or look into its log"
    else:
        advice = "; try again in a moment" if _IS_BUSY in str(error) else _ADVICE.get(error.code, "")
    text = str(error)
    if error.code == "InvalidOption" and getattr(error, "value", "") is None:
        text = text.replace("=None:", ":", 1)  # whoever typed nothing reads no None
    # A remark by Redis or the system may end as sentences do.
    return f"{text.rstrip('.')}{advice}" if advice else text


def _report(code: str, message: str, *, as_json: bool) -> None:
    from runtime.cli.output import Output, printable

    if as_json:
        Output(as_json=True).emit({"error": code, "message": message})
    else:
        print(printable(f"penstock: {message}"), file=sys.stderr, flush=True)  # noqa: T201 - the command's output
