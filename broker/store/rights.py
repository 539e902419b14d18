"""Which rights of Redis's ACL Penstock needs, and which it should not have."""

from __future__ import annotations

from typing import Final

from broker.errors import StoreDenied, StoreFault, StoreUnavailable
from broker.store.scripts import ScriptRunner
from broker.store.server import CANNOT_SAVE

COMMANDS: Final = (
    *("del", "eval", "evalsha", "exists", "expire", "get", "getdel", "hdel", "hexists", "hget", "hgetall", "hincrby"),
    *("hkeys", "hlen", "hmget", "hscan", "hset", "info", "ping", "publish", "set", "subscribe", "time", "type"),
    *(
        "unlink",
        "unsubscribe",
        "wait",
        "xadd",
        "xdel",
        "xlen",
        "xrange",
        "xtrim",
        "zadd",
        "zcard",
        "zcount",
        "zmscore",
        "zrange",
    ),
    *("zrangebylex", "zrangebyscore", "zrank", "zrem", "zremrangebyscore", "zscan", "zscore"),
)
"""Whole commands, those that scripts call among them."""
SUBCOMMANDS: Final = ("config|get", "pubsub|numsub", "script|exists")
"""Of commands whose other parts administer the server."""
SINCE_7_2: Final = ("waitaof",)
"""Only for ``replica-fsync:N``; older servers refuse a rule that names it."""

_NOTHING: Final = "nothing"
_HARMLESS: Final[dict[str, tuple[str | int, ...]]] = {
    "exists": ("EXISTS", _NOTHING),
    "hdel": ("HDEL", _NOTHING, "x"),
    "hgetall": ("HGETALL", _NOTHING),
    "hkeys": ("HKEYS", _NOTHING),
    "hscan": ("HSCAN", _NOTHING, 0),
    "publish": ("PUBLISH", _NOTHING, ""),
    "unlink": ("UNLINK", _NOTHING),
    "zrem": ("ZREM", _NOTHING, "x"),
    "xrange": ("XRANGE", _NOTHING, "-", "+", "COUNT", 1),
    "zrange": ("ZRANGE", _NOTHING, 0, 0),
    "zscan": ("ZSCAN", _NOTHING, 0),
    "eval": ("EVAL", "return 1", 0),
    "ping": ("PING",),
    "time": ("TIME",),
    "config|get": ("CONFIG", "GET", "appendfsync"),
    "pubsub|numsub": ("PUBSUB", "NUMSUB", _NOTHING),
    "wait": ("WAIT", 0, 1),
}
_TOO_MUCH: Final[dict[str, tuple[str | int, ...]]] = {
    "acl": ("ACL", "LIST"),
    "client": ("CLIENT", "LIST", "ID", 0),
    "scan": ("SCAN", 0, "COUNT", 1),
    "slowlog": ("SLOWLOG", "LEN"),
}


def acl_rule(prefix: str, *, waitaof: bool = False) -> str:
    """The least user, as ACL SETUSER takes it, without name and password."""
    allowed = [*COMMANDS, *SUBCOMMANDS, *(SINCE_7_2 if waitaof else ())]
    return " ".join(("resetchannels", f"~{prefix}:*", f"&{prefix}:*", "-@all", *(f"+{command}" for command in allowed)))


async def may(runner: ScriptRunner, command: tuple[str | int, ...]) -> bool:
    """Whether our user may send a command; it is sent, so it must be harmless."""
    try:
        await runner.fetch(*command)
    except StoreDenied:
        return False
    except StoreFault:  # known to the ACL, and not to this server
        return True
    except StoreUnavailable as error:
        if CANNOT_SAVE not in str(error):
            raise
        return True  # else it would have been denied
    return True


async def lacking(runner: ScriptRunner, prefix: str) -> list[str]:
    """What our user may not do and should: a sample of what is needed, on a key that is not there."""
    found = []
    for name, words in _HARMLESS.items():
        command = tuple(f"{prefix}:{_NOTHING}" if word == _NOTHING else word for word in words)
        if not await may(runner, command):
            found.append(name)
    return found


async def too_much(runner: ScriptRunner) -> list[str]:
    """What our user may do and need not."""
    return [name for name, command in _TOO_MUCH.items() if await may(runner, command)]
