"""Redis as a cluster and as a primary with Sentinels, on loopback ports, for tests that need more than one server."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import redis

from broker.embedded import EmbeddedRedis, EmbeddedRedisFailed

NODE_TIMEOUT_MS: Final = 1_500
_SLOTS: Final = 16_384
_READY_S: Final = 30.0
_LOOK_S: Final = 0.02
_PORTS: Final = (11_000, 22_000)  # a node's bus is at 10,000 more; both lie below the ports that clients are given
_TRIES: Final = 5
_ASK_S: Final = 10.0


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens at, nor at those 10,000 above."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(*_PORTS)
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 10_000))
            found += [port] if port not in found else []
    return found


def ask(server: EmbeddedRedis, *command: str | int | bytes, password: str | None = None) -> Any:
    """The reply of one server to one command, over its unix socket."""
    client = redis.Redis.from_url(server.url, socket_timeout=_ASK_S, protocol=2, password=password)
    client.response_callbacks.clear()
    try:
        return client.execute_command(*command)  # type: ignore[no-untyped-call]
    finally:
        client.close()


def until(done: Callable[[], bool], what: str) -> None:
    """Waits until it is so."""
    deadline = time.monotonic() + _READY_S
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not in {_READY_S:.0f} s: {what}")
        time.sleep(_LOOK_S)


class Member(EmbeddedRedis):
    """One server of several, also at a port."""

    def __init__(self, directory: Path, port: int, options: Mapping[str, str], *, host: str = "127.0.0.1") -> None:
        always = {"port": str(port), "bind": host, "protected-mode": "no", "repl-diskless-sync-delay": "0"}
        super().__init__(directory, append_only=False, options={**always, **options})
        self.host = host
        self.port = port
        self._password = options.get("requirepass")

    def ask(self, *command: str | int | bytes) -> Any:
        """The reply to one command, over its own unix socket."""
        return ask(self, *command, password=self._password)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the server itself, which must be this one."""
        os.kill(self.pid, number)


class RedisCluster:
    """Primaries with all slots between them, and so many replicas of each; a context manager.

    Each node has an address of ``hosts``, all of them loopback's if there are none, and is started by ``start``.
    """

    def __init__(
        self,
        directory: Path,
        *,
        primaries: int = 3,
        replicas: int = 1,
        options: Mapping[str, str] | None = None,
        slots: int = _SLOTS,
        hosts: Sequence[str] = (),
        start: Callable[[Member], None] = Member.start,
    ) -> None:
        self._directory = directory
        self._primaries = primaries
        self._replicas = replicas
        self._options = dict(options or {})
        self._slots = slots
        self._hosts = hosts or ["127.0.0.1"] * (primaries * (1 + replicas))
        self._start_member = start
        self.members: list[Member] = []

    @property
    def url(self) -> str:
        """Its address, by all nodes."""
        return f"redis+cluster://{','.join(f'{member.host}:{member.port}' for member in self.members)}"

    def __enter__(self) -> Self:
        for attempt in range(1, _TRIES + 1):
            try:
                self._start(self._directory / str(attempt))
            except EmbeddedRedisFailed:  # somebody else took a port meanwhile
                self._stop()
                if attempt == _TRIES:
                    raise
            else:
                break
        try:
            until(lambda: all(self._is_ready(member) for member in self.members), "the cluster is whole")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self, directory: Path) -> None:
        """Every node knows the others from the first moment, by the file that it would have written itself."""
        ports = free_ports(self._primaries * (1 + self._replicas))
        ids = [hashlib.sha1(str(port).encode(), usedforsecurity=False).hexdigest() for port in ports]
        for index, port in enumerate(ports):
            folder = directory / str(port)
            folder.mkdir(parents=True)
            lines = [self._line(ids, ports, other, myself=other == index) for other in range(len(ports))]
            epochs = f"vars currentEpoch {len(ports)} lastVoteEpoch 0"
            (folder / "nodes.conf").write_text("\n".join([*lines, epochs, ""]))
            options = {
                "cluster-enabled": "yes",
                "cluster-config-file": "nodes.conf",
                "cluster-node-timeout": str(NODE_TIMEOUT_MS),
                "cluster-replica-validity-factor": "0",
                "cluster-announce-ip": self._hosts[index],
                **self._options,
            }
            member = Member(folder, port, options, host=self._hosts[index])
            self.members.append(member)
            self._start_member(member)

    def _line(self, ids: list[str], ports: list[int], index: int, *, myself: bool) -> str:
        port, me = ports[index], "myself," if myself else ""
        place = f"{ids[index]} {self._hosts[index]}:{port}@{port + 10_000}"
        if index >= self._primaries:
            of = ids[index % self._primaries]
            return f"{place} {me}slave {of} 0 0 {index % self._primaries + 1} connected"
        first = self._slots * index // self._primaries
        last = self._slots * (index + 1) // self._primaries - 1
        return f"{place} {me}master - 0 0 {index + 1} connected {first}-{last}"

    def _stop(self) -> None:
        for member in self.members:
            if member.running:
                member.kill()
            member.stop()
        self.members.clear()

    def _is_ready(self, member: Member) -> bool:
        if self._slots == _SLOTS and b"cluster_state:ok" not in member.ask("CLUSTER", "INFO"):
            return False
        role = member.ask("ROLE")
        return bool(role[0] == b"master" and len(role[2]) == self._replicas) or bool(role[3:4] == [b"connected"])

    def heal(self) -> None:
        """Brings back what was killed or stopped, and waits until the cluster is whole."""
        for member in self.members:
            if member.running:
                member.signal(signal.SIGCONT)
            else:
                self._start_member(member)
        self.until_whole()

    def until_whole(self) -> None:
        """Waits until every node knows that all slots are served, and every replica follows its primary."""
        until(lambda: all(self._is_ready(member) for member in self.members), "the cluster is whole again")

    # -- who is what ---------------------------------------------------------------------------------------------------

    def primary_of(self, slot: int, *, without: Member | None = None) -> Member:
        """Who serves a slot, as a running node says; another than ``without``, which may be stopped."""
        for first, last, primary, *_ in self._running(without=without).ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return self.at(primary[1])
        raise LookupError(f"nobody serves slot {slot}")

    def replica_of(self, primary: Member) -> Member:
        """A replica of a primary, once the others know one that is well."""
        found: list[Member] = []

        def look() -> bool:
            for _, _, main, *replicas in self._running(without=primary).ask("CLUSTER", "SLOTS"):
                if main[1] == primary.port and replicas:
                    found.append(self.at(replicas[0][1]))
            return bool(found)

        until(look, f"the node at port {primary.port} has a replica")
        return found[0]

    def at(self, port: int) -> Member:
        """The node at a port."""
        return next(member for member in self.members if member.port == port)

    def serving(self) -> list[Member]:
        """The primaries that have slots."""
        return [self.at(port) for port in {shard[2][1] for shard in self._running().ask("CLUSTER", "SLOTS")}]

    def _running(self, *, without: Member | None = None) -> Member:
        return next(member for member in self.members if member.running and member is not without)

    # -- resharding ----------------------------------------------------------------------------------------------------

    def move_slot(self, slot: int, target: Member, *, keys_at_once: int = 10) -> Iterator[int]:
        """Moves a slot as ``redis-cli --cluster reshard`` does; yields the keys moved so far, before each step."""
        source = self.primary_of(slot)
        source_id, target_id = source.ask("CLUSTER", "MYID").decode(), target.ask("CLUSTER", "MYID").decode()
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        moved = 0
        while True:
            yield moved
            names = source.ask("CLUSTER", "GETKEYSINSLOT", slot, keys_at_once)
            if not names:
                break
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "KEYS", *names)
            moved += len(names)
        for member in (target, source, *self.serving()):
            member.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)
        self._agreed(slot, target)

    def _agreed(self, slot: int, target: Member) -> None:
        """Returns when all nodes say that this one serves a slot. Who moved another one before then could lose this one
        for good: a replica that has not heard of it tells its new owner what the old one has, under its new epoch.
        """
        for member in filter(lambda member: member.running, self.members):
            until(lambda of=member: _serves(of, slot, target), f"slot {slot} is at port {target.port}")  # type: ignore[misc]

    def moves_whole_slots(self) -> bool:
        """Whether the server can move a slot by itself, all of it at one moment: Valkey from 9 on."""
        return b"MIGRATESLOTS" in b" ".join(self._running().ask("CLUSTER", "HELP"))

    def move_whole_slot(self, slot: int, target: Member) -> None:
        """Moves a slot in that way."""
        target_id = target.ask("CLUSTER", "MYID").decode()
        self.primary_of(slot).ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target_id)
        self._agreed(slot, target)


def _serves(says: Member, slot: int, primary: Member) -> bool:
    shards = says.ask("CLUSTER", "SLOTS")
    return any(first <= slot <= last and found[1] == primary.port for first, last, found, *_ in shards)


class Sentinel(EmbeddedRedis):
    """One Sentinel that watches a primary."""

    def __init__(self, directory: Path, port: int, *, service: str, primary: int, quorum: int) -> None:
        super().__init__(directory, append_only=False)
        self.port = port
        self._watched = (
            f"sentinel monitor {service} 127.0.0.1 {primary} {quorum}",
            f"sentinel down-after-milliseconds {service} {NODE_TIMEOUT_MS}",
            f"sentinel failover-timeout {service} 5000",
        )

    def _arguments(self) -> list[str]:
        """A Sentinel wants a file that it can write."""
        own = {"port": str(self.port), "bind": "127.0.0.1", "unixsocket": str(self._socket), "logfile": '""'}
        own |= {"dir": str(self.directory), "pidfile": str(self._pid_file)}
        file = self.directory / "sentinel.conf"
        if not file.exists():
            lines = [*(f"{name} {value}" for name, value in own.items()), *self._watched, ""]
            file.write_text("\n".join(lines))
        return [str(file), "--sentinel"]


class SentinelGroup:
    """One primary, replicas and Sentinels that watch them; a context manager."""

    SERVICE: Final = "events"

    def __init__(
        self,
        directory: Path,
        *,
        replicas: int = 2,
        sentinels: int = 3,
        first_primary_options: Mapping[str, str] | None = None,
    ) -> None:
        self._directory = directory
        self._first_primary_options = dict(first_primary_options or {})
        self._replicas = replicas
        self._sentinels = sentinels
        self.members: list[Member] = []
        self.sentinels: list[Sentinel] = []

    @property
    def url(self) -> str:
        """Its address, by all Sentinels."""
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{places}/{self.SERVICE}"

    def __enter__(self) -> Self:
        ports = free_ports(1 + self._replicas + self._sentinels)
        members, sentinels = ports[: 1 + self._replicas], ports[1 + self._replicas :]
        for port in members:
            is_first = port == members[0]
            options = self._first_primary_options if is_first else {"replicaof": f"127.0.0.1 {members[0]}"}
            self.members.append(Member(self._directory / str(port), port, options))
        for port in sentinels:
            folder, quorum = self._directory / str(port), self._sentinels // 2 + 1
            found = Sentinel(folder, port, service=self.SERVICE, primary=members[0], quorum=quorum)
            self.sentinels.append(found)
        for server in (*self.members, *self.sentinels):
            server.start()
        until(self._is_whole, "the Sentinels know the replicas and each other")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in (*self.sentinels, *self.members):
            if server.running:
                server.kill()
            server.stop()

    def _is_whole(self) -> bool:
        return all(
            (fields := self._seen_by(sentinel)).get("num-slaves") == str(self._replicas)
            and fields.get("num-other-sentinels") == str(self._sentinels - 1)
            for sentinel in self.sentinels
        )

    def _seen_by(self, sentinel: Sentinel) -> dict[str, str]:
        flat = ask(sentinel, "SENTINEL", "MASTER", self.SERVICE)
        return {flat[i].decode(): flat[i + 1].decode() for i in range(0, len(flat), 2)}

    def fail_over(self) -> None:
        """Has the Sentinels replace the primary."""
        ask(self.sentinels[0], "SENTINEL", "FAILOVER", self.SERVICE)

    def heal(self) -> None:
        """Brings back what was killed or stopped, as a replica of who is the primary by now, and waits for it."""
        for member in self.members:
            if not member.running:
                member.start()
            member.signal(signal.SIGCONT)
        primary = self.primary()
        for member in self.members:
            if member is not primary:
                member.ask("REPLICAOF", "127.0.0.1", primary.port)
        until(lambda: self._follow(primary), "all replicas follow the primary")
        until(lambda: all(self._seen_by(each)["flags"] == "master" for each in self.sentinels), "it is seen well")

    def _follow(self, primary: Member) -> bool:
        return len(primary.ask("ROLE")[2]) == self._replicas and all(
            member is primary or member.ask("ROLE")[3] == b"connected" for member in self.members
        )

    def primary(self) -> Member:
        """Who is the primary, as the first Sentinel says."""
        _, port = ask(self.sentinels[0], "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.SERVICE)
        return next(member for member in self.members if member.port == int(port))
