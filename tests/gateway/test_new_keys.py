"""A first start makes an access key, and only one."""

from __future__ import annotations

import signal
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio.to_thread
import pytest

from broker.errors import InvalidOption
from broker.gateway.access import read_access_keys
from broker.gateway.new_keys import create_access_keys
from broker.gateway.options import GatewayOptions
from tests.cli.shell import Shell, started
from tests.gateway.test_command import client

OPTION = "--access-keys"


async def test_the_first_start_makes_a_key_that_works_and_the_second_keeps_it(shell: Shell) -> None:
    keys = shell.folder / "keys"
    words = ("broker", "--port", "0", "--access-keys", str(keys), "--create-access-keys")
    made = ""
    for start in range(2):
        with started(shell, *words) as running:
            screen = await running.said("Ctrl-C")
            said = running.err.read_text()
            (line,) = keys.read_text().splitlines()[1:]
            key_id, secret = line.split(":")
            assert (f'"access_keys_made","path":"{keys}","key_id":"{key_id}"' in said) == (start == 0)
            assert secret not in screen + said
            assert line == made or start == 0
            made = line
            url = screen.partition("AWS_ENDPOINT_URL=")[2].split()[0]
            sts = client("sts", url, key_id, secret)
            identity = await anyio.to_thread.run_sync(sts.get_caller_identity)
            assert identity["Account"] == "000000000000"
            assert await running.ended(signal.SIGTERM) == 0


def test_many_gateways_at_once_agree_on_one_key(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: create_access_keys(path, OPTION), range(32)))
    (key,) = [each for each in made if each is not None]
    assert read_access_keys(path, {}) == [key]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_keys_that_stand_in_the_environment_are_taken_and_no_file_is_made(tmp_path: Path) -> None:
    environment = {
        "PENSTOCK_ACCESS_KEYS": "AKIDMINE:secret",
        "PENSTOCK_ACCESS_KEYS_FILE": str(tmp_path / "keys"),
    }
    options = GatewayOptions.read(create_keys=True, environment=environment)
    assert [key.id for key in options.keys] == ["AKIDMINE"]
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays_as_it_is_even_when_it_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("")
    with pytest.raises(InvalidOption, match="there is no key in the file"):
        GatewayOptions.read(access_keys=path, create_keys=True, environment={})
    assert path.read_text() == ""


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (None, "needs the file to make"),
        (Path("/nowhere/keys"), "the file cannot be made: No such file or directory"),
        (Path("/" + "x" * 300), "the file cannot be made: File name too long"),
    ],
)
def test_what_cannot_be_made_is_named(path: Path | None, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        GatewayOptions.read(access_keys=path, create_keys=True, environment={})
