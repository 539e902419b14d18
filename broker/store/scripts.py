"""The Lua commands: loaded by content hash, run with reload when the server has forgotten them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec
from redis.exceptions import NoScriptError

from broker.errors import StoreReadOnly
from broker.store.addresses import Place
from broker.store.connection import Execute, server_at, translated
from broker.store.keys import CLOCK_OFFSET_KEYS
from broker.store.links import Link, ThreadLink

Command: TypeAlias = Literal[
    "adopt", "append", "await_end", "begin_once", "call", "cancel", "cancel_move", "claim", "configure", "counts",
    "defer", "delete", "delist", "discard", "end_move", "end_once", "enlist", "expire", "extend", "fifo_claim",
    "fifo_counts", "fifo_defer", "fifo_expire", "fifo_extend", "fifo_finish", "fifo_peek", "fifo_release_claim",
    "fifo_restore", "fifo_send", "finish", "forget_ends", "heartbeat", "hold", "lead_move", "live_workers", "mark",
    "moves", "names", "now", "peek", "purge", "release_claim", "release_permits", "rename", "renew_permits",
    "restore", "send", "settle_outbox", "start_move", "status", "take_outbox", "take_permits", "take_turn",
]  # fmt: skip
Argument: TypeAlias = str | bytes | int

_TEST_CLOCK: Final = f"""
for _, key in ipairs({{ '{"', '".join(CLOCK_OFFSET_KEYS)}' }}) do
  local offset = redis.pcall('GET', key) -- on a cluster, an error for what is not on this node
  if type(offset) ~= 'table' then
    now = tonumber(string.match(offset or '', '^=(%d+)$')) or now + tonumber(offset or 0)
    break
  end
end
"""


class Script(msgspec.Struct, frozen=True):
    """One command: its whole text and the hash under which the server knows it."""

    text: str
    sha: str


def load_scripts(*, test_clock: bool = False) -> dict[Command, Script]:
    """All commands. With ``test_clock`` their time can be moved by the keys that tests set."""
    folder = resources.files(__package__) / "lua"
    clock = (folder / "_clock.lua").read_text() + (_TEST_CLOCK if test_clock else "")
    facts = (folder / "_facts.lua").read_text()
    groups = (folder / "_groups.lua").read_text()
    ends = (folder / "_ends.lua").read_text()
    leases = (folder / "_leases.lua").read_text()
    scripts: dict[Command, Script] = {}
    for name in get_args(Command):
        body = (folder / f"{name}.lua").read_text()
        text = clock + (facts if "_facts" in body or "entry_ms" in body else "")
        text += (groups if "groups_of" in body else "") + (ends if "ends_of" in body or "is_behind" in body else "")
        text += (leases if "release_page" in body else "") + body
        scripts[name] = Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
    return scripts


class ScriptRunner:
    """Runs commands on the event loop's connections. Errors: the StoreError family."""

    def __init__(self, link: Link, scripts: dict[Command, Script], *, url: str, chosen_by: str) -> None:
        self.link: Final = link
        self.url: Final = url
        self.chosen_by: Final = chosen_by
        self.place: Final = server_at(url)
        """The server as messages name it."""
        self.on_demoted: Callable[[], None] | None = None
        """Called when the server has turned out to be a replica."""
        self._scripts: Final = scripts
        self._execute: Final = link.execute

    async def run(self, command: Command, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """The reply of one command, as the client decodes it: bytes, integers and lists of them."""
        script = self._scripts[command]
        try:
            with translated(self.url, self.chosen_by):
                try:
                    return await self._execute("EVALSHA", script.sha, len(keys), *keys, *arguments)
                except NoScriptError:
                    return await self._execute("EVAL", script.text, len(keys), *keys, *arguments)
        except StoreReadOnly:
            self._leave()
            raise

    def _leave(self) -> None:
        """After a failover: a new connection may lead to the new primary, those that are there never will."""
        self.link.leave()
        if self.on_demoted is not None:
            self.on_demoted()

    async def fetch(self, *command: Argument) -> Any:
        """The reply of one of Redis's own commands, raw. Where it writes, a repetition must do no harm; all else is a
        script."""
        try:
            with translated(self.url, self.chosen_by):
                return await self._execute(*command)
        except StoreReadOnly:
            self._leave()
            raise

    def servers(self) -> list[tuple[str, Execute]]:
        """Every server that has keys, as messages name it, and what :meth:`fetch` is for it alone."""
        return [(name, self._asking(execute)) for name, execute in self.link.servers()]

    def _asking(self, execute: Execute) -> Execute:
        async def fetch(*command: Argument) -> Any:
            with translated(self.url, self.chosen_by):
                return await execute(*command)

        return fetch

    async def fetch_at(self, place: Place, *command: Argument) -> list[Any]:
        """The same from one node of a cluster, alone in a list."""
        with translated(self.url, self.chosen_by):
            return [await self.link.execute_at(place, *command)]

    async def fetch_everywhere(self, *command: Argument) -> list[Any]:
        """The same from every server that has keys, as far as it answers."""
        with translated(self.url, self.chosen_by):
            return await self.link.everywhere(*command)


class ThreadScriptRunner:
    """The same for a thread with a blocking connection of its own."""

    def __init__(self, link: ThreadLink, scripts: dict[Command, Script], *, url: str, chosen_by: str) -> None:
        self.link: Final = link
        self._scripts: Final = scripts
        self._url: Final = url
        self._chosen_by: Final = chosen_by
        self._execute: Final[Callable[..., Any]] = link.execute

    def run(self, command: Command, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """The reply of one command. Errors: the StoreError family."""
        script = self._scripts[command]
        try:
            with translated(self._url, self._chosen_by):
                try:
                    return self._execute("EVALSHA", script.sha, len(keys), *keys, *arguments)
                except NoScriptError:
                    return self._execute("EVAL", script.text, len(keys), *keys, *arguments)
        except StoreReadOnly:
            self.link.leave()  # see ScriptRunner
            raise

    def close(self) -> None:
        """Ends the connection."""
        self.link.close()
