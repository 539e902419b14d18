"""Writes that replicas confirm: a connection of its own, on which many senders' scripts share one WAIT.

WAIT speaks of the writes of its own connection alone. Measured on 6.2.14 and 7.0.15 with a replica that stands still:
on a connection that has written nothing WAIT answers at once that all replicas have everything. So the scripts run on
the connection that waits, with a small write behind them: a script that recognises a repeat writes nothing itself, and
what it has recognised may have been written over another connection.

WAITAOF makes the primary ask its replicas once, and then they tell once a second how much is on their disks. A replica
answers before it syncs what came with the question. So a WAIT goes first, which asks, too: at the second question what
came with the first is synced where appendfsync is always, and the answer takes milliseconds instead of a second
(measured on Valkey 9.1.2 and Redis 8.2.3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec
from redis import exceptions as failures

from broker import errors
from broker.durability import Durability
from broker.store.connection import Client, translated
from broker.store.scripts import Argument, Command, Script, ScriptRunner

_MOST_SCRIPTS: Final = 256  # of one step
_STORED: Final = b"stored"
_GONE_AFTER_MS: Final = 1
_ASK_FIRST_MS: Final = 100
_PROBE_MS: Final = 5_000
"""Two seconds pass where a replica has just been synced, or syncs its file every second."""
_CANNOT: Final = {
    "unknown command": "the server has no WAITAOF, which is new in 7.2",
    "appendonly is disabled": "the primary has no append-only file any more (appendonly is no)",
}
"""What WAITAOF answers where it can confirm nothing."""


class RunsScripts(Protocol):
    """What a store sends its scripts through: the usual connections, or a lane."""

    async def run(self, command: Command, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """The reply of one command. Errors: the StoreError family."""
        ...


class _Waiting(msgspec.Struct, eq=False):
    command: Command
    words: tuple[Argument, ...]
    meta: str
    reply: asyncio.Future[Any]
    with_text: bool = False
    """The server does not know the script (any more)."""


class Lane:
    """One connection for one level. Whoever comes while a step is under way joins the next."""

    def __init__(
        self,
        runner: ScriptRunner,
        client: Client,
        scripts: dict[Command, Script],
        level: Durability,
        *,
        confirm_ms: int,
    ) -> None:
        self.client: Final = client
        """The connections to the server that it belongs to: it ends with them."""
        self._runner: Final = runner
        self._scripts: Final = scripts
        self._level: Final = level
        self._confirm_ms: Final = confirm_ms
        self._waiting: list[_Waiting] = []
        self._steps: asyncio.Task[None] | None = None
        self._pipe: Final = client.another_pipe(waits_s=confirm_ms / 1_000)

    def of(self, meta: str) -> RunsScripts:
        """What runs the scripts of the resource with this key."""
        return _Of(self, meta)

    async def run(self, command: Command, keys: Sequence[str], arguments: Sequence[Argument], *, meta: str) -> Any:
        """The reply of one command, once it is confirmed. Raises WriteNotConfirmed, and the StoreError family."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(command, (len(keys), *keys, *arguments), meta, future))
        if self._steps is None:
            self._steps = asyncio.create_task(self._run_steps(), name="penstock-lane")
        return await future

    async def probe(self, key: str) -> None:
        """Raises DurabilityNotMet unless a write is confirmed now: one to this key, which is gone at once.

        The primary's INFO does not say whether its replicas keep append-only files.
        """
        patience_ms = max(_PROBE_MS, self._confirm_ms)
        with translated(self._runner.url, self._runner.chosen_by):
            replies = await self._pipe.together([("SET", key, "", "PX", _GONE_AFTER_MS), *self._waits(patience_ms)])
        unconfirmed = self._why_unconfirmed(replies[0], replies[-1])
        if isinstance(unconfirmed, errors.WriteNotConfirmed):
            reason = f"a write was not on the primary's own disk within {patience_ms} ms"
            if unconfirmed.confirmed < self._level.replicas:
                reason = (
                    f"only {unconfirmed.confirmed} replicas have said within {patience_ms} ms that a write is on their "
                    "disks, which one whose appendonly is no never does"
                )
            raise errors.DurabilityNotMet(self._level.text, reason)
        if unconfirmed is not None:
            raise unconfirmed

    async def close(self) -> None:
        """Ends the connection; whoever still waits is told that the outcome is unknown."""
        if self._steps is not None:
            self._steps.cancel()
            await asyncio.gather(self._steps, return_exceptions=True)
        await self._pipe.close()

    async def _run_steps(self) -> None:
        step: list[_Waiting] = []
        try:
            while self._waiting:
                step, self._waiting = self._waiting[:_MOST_SCRIPTS], self._waiting[_MOST_SCRIPTS:]
                try:
                    with translated(self._runner.url, self._runner.chosen_by):
                        await self._take_step(step)
                except errors.StoreError as error:
                    _fail(step, error)
        finally:
            self._steps = None
            _fail([*step, *self._waiting], errors.StoreUnavailable("the broker was closed: outcome unknown"))
            self._waiting.clear()

    async def _take_step(self, step: list[_Waiting]) -> None:
        mark = ("EVAL", self._scripts["mark"].text, 1, step[0].meta)
        replies = await self._pipe.together(
            [*(self._call(each) for each in step), mark, *self._waits(self._confirm_ms)]
        )
        self._tell(step, replies[: len(step)], self._why_unconfirmed(replies[len(step)], replies[-1]))

    def _waits(self, patience_ms: int) -> list[tuple[Argument, ...]]:
        """The last one's reply tells what is confirmed."""
        replicas = self._level.replicas
        if self._level.replicas_on_disk:
            return [("WAIT", replicas, _ASK_FIRST_MS), ("WAITAOF", 1, replicas, patience_ms)]
        return [("WAIT", replicas, patience_ms)]

    def _call(self, each: _Waiting) -> tuple[Argument, ...]:
        script = self._scripts[each.command]
        return ("EVAL", script.text, *each.words) if each.with_text else ("EVALSHA", script.sha, *each.words)

    def _why_unconfirmed(self, marked: Any, waited: Any) -> errors.StoreError | None:
        """None when enough replicas have confirmed everything before the mark."""
        for reply in (marked, waited):
            if isinstance(reply, failures.ResponseError):
                if isinstance(reply, failures.AskError):
                    self._runner.link.doubt()
                cannot = next((why for words, why in _CANNOT.items() if words in str(reply)), None)
                if cannot is None:
                    return _translated(reply, self._runner)
                return self._unconfirmed(0, cannot)
        local, confirmed = waited if self._level.replicas_on_disk else (1, waited)
        if confirmed < self._level.replicas:
            return self._unconfirmed(int(confirmed))
        within = f"within {self._confirm_ms} ms (PENSTOCK_CONFIRM_MS)"
        return None if local else self._unconfirmed(int(confirmed), f"it is not on the primary's own disk {within}")

    def _unconfirmed(self, confirmed: int, reason: str = "") -> errors.WriteNotConfirmed:
        return errors.WriteNotConfirmed(self._level.text, confirmed, self._confirm_ms, reason=reason)

    def _tell(self, step: list[_Waiting], replies: list[Any], unconfirmed: errors.StoreError | None) -> None:
        for each, reply in zip(step, replies, strict=True):
            if each.reply.done():
                continue
            if isinstance(reply, failures.NoScriptError) and not each.with_text:
                each.with_text = True
                self._waiting.append(each)
            elif isinstance(reply, failures.ResponseError):
                if isinstance(reply, failures.AskError):  # also MOVED: it did not run, and belongs to another node
                    self._runner.link.doubt()
                each.reply.set_exception(_translated(reply, self._runner))
            elif unconfirmed is not None and reply[0] == _STORED:
                each.reply.set_exception(unconfirmed)
            else:
                each.reply.set_result(reply)
        if isinstance(unconfirmed, errors.StoreReadOnly):
            self._pipe.leave()  # the address may lead to the new primary by now


class _Of:
    def __init__(self, lane: Lane, meta: str) -> None:
        self._lane: Final = lane
        self._meta: Final = meta

    async def run(self, command: Command, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        return await self._lane.run(command, keys, arguments, meta=self._meta)


def _translated(reply: failures.ResponseError, runner: ScriptRunner) -> errors.StoreError:
    try:
        with translated(runner.url, runner.chosen_by):
            raise reply
    except errors.StoreError as error:
        return error
    except failures.NoScriptError as error:
        return errors.StoreFault(str(error))


def _fail(waiting: Sequence[_Waiting], error: errors.StoreError) -> None:
    for each in waiting:
        if not each.reply.done():
            each.reply.set_exception(error)
