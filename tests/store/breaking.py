"""Breaks scripts off after each of their writes.

Redis does not roll a script back. A prelude before the script's text counts its writing commands and raises an error
after the one asked for, for 1, 2, … until the script runs through.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from broker.errors import StoreFault
from broker.store.scripts import Script
from tests.store.operations import WRITES, Operation
from tests.store.situation import Situation

_PRELUDE = """
local server, left, writes = redis, %d, { %s }
local redis = setmetatable({ call = function(name, ...)
  local reply = server.call(name, ...)
  if writes[name] then
    left = left - 1
    if left == 0 then error('broken off by the test') end
  end
  return reply
end }, { __index = server })
"""
_NAMES = ", ".join(f"{name} = true" for name in sorted(WRITES))
_MOST_WRITES = 200


async def broken_off_after_each_write(
    situation: Situation, operation: Operation, *, limit: int | None = None
) -> AsyncIterator[int]:
    """Runs the operation on the situation, broken off after its first write, its second, …; until it runs through."""
    for after in range(1, _MOST_WRITES):
        await situation.go_back()
        if limit is not None:
            await situation.core.runner.fetch("DEL", situation.keys.permits)
            await situation.core.runner.fetch("HSET", situation.keys.meta, "limit", limit)
        if operation.command in {"restore", "fifo_restore"}:
            await situation.strand()
        with _breaking(situation, operation, after):
            try:
                await operation.run(situation)
            except StoreFault as error:
                assert "broken off by the test" in str(error)  # noqa: PT017 - anything else is an error of the script
            else:
                return
        await situation.core.runner.fetch("DEL", situation.keys.repair_lock)
        yield after
    raise AssertionError("the script never ran through")


@contextmanager
def _breaking(situation: Situation, operation: Operation, after: int) -> Iterator[None]:
    scripts = situation.core.scripts
    whole = scripts[operation.command]
    text = _PRELUDE % (after, _NAMES) + whole.text
    scripts[operation.command] = Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
    try:
        yield
    finally:
        scripts[operation.command] = whole
