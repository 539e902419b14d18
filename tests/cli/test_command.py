"""Help, usage errors, errors of the store, and what stays off stdout."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pytest

from broker import Broker
from runtime import cli
from tests.cli.shell import COMMAND, Shell


def test_help_lists_every_command_and_imports_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for name, command in cli._COMMANDS.items():
        assert name in shown
        assert command.summary in " ".join(shown.split())


@pytest.mark.parametrize("name", list(cli._COMMANDS))
def test_each_command_has_help_with_examples_that_it_understands(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"Usage: penstock {name}" in shown
    assert f"  penstock {name}" in shown.partition("For example:")[2]
    assert "--json" in shown


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sned", "q", "x"], 'Did you mean "send"?'),
        (["send", "q"], "BODY"),
        (["send", "q", "x", "--dleay", "5"], "--dleay"),
        (["send", "q", "x", "y"], "y"),
        (["receive", "q", "--count", "many"], "many"),
        (["delete", "topic", "x"], "topic"),
    ],
)
def test_what_is_typed_wrongly_is_named_with_status_2(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert expected in shown.err
    assert shown.err.count("\n") == 1
    assert "--help" in shown.err
    assert shown.out == ""


async def test_usage_errors_are_json_for_programs(shell: Shell) -> None:
    done = await shell.run("send", "q", "--json", status=2)
    assert done.json["error"] == "Usage"
    assert done.err == ""


async def test_an_unreachable_redis_is_named_with_why_it_was_used_and_without_its_password(tmp_path: Path) -> None:
    shell = Shell(tmp_path, url="redis://me:secret@localhost:1")
    by_variable = await shell.run("queues", status=1)
    assert "localhost:1" in by_variable.err
    assert "PENSTOCK_REDIS_URL" in by_variable.err
    assert "secret" not in by_variable.err
    by_option = await shell.run("queues", "--url", "unix:///nowhere/redis.sock", "--json", status=1)
    assert by_option.json["error"] == "StoreUnavailable"
    assert "the URL given" in by_option.json["message"]


async def test_a_reader_that_goes_away_is_no_traceback(shell: Shell, broker: Broker) -> None:
    queue = broker.queue("long")
    await queue.create()
    await queue.send_many([f"{number} {'x' * 5_000}" for number in range(200)])
    with subprocess.Popen(
        [*COMMAND, "receive", "long", "--peek", "--count", "200", "--json"],
        cwd=shell.folder,
        env=shell.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        msgspec.json.decode(process.stdout.readline())
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 141


async def test_control_characters_of_a_body_do_not_reach_the_output(shell: Shell, broker: Broker) -> None:
    queue = broker.queue("odd")
    await queue.create()
    await queue.send("red: \x9b31m")
    done = await shell.run("receive", "odd", "--delete")
    assert "red: \\x9b31m" in done.out


async def test_module_that_is_missing_ends_the_runtime_with_a_named_error(shell: Shell) -> None:
    done = await shell.run("runtime", "nosuch:app", status=1)
    assert 'there is no module "nosuch"' in done.err
    malformed = await shell.run("runtime", "nosuch", status=1)
    assert "module:attribute" in malformed.err
    assert (await shell.run("runtime", "app:app", "--processes", "0", status=1)).err.startswith("penstock: processes=0")
