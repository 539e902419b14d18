"""Two sides of a network that can be cut apart: Linux network namespaces with a bridge between them.

Nobody hears of a cut: the links stay up and packets get lost on the way. A thread that has entered a side makes its
sockets there, and so do the threads and processes that it starts. All of it ends with this process.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, Self, TypeVar

T = TypeVar("T")

_NEW_NETWORK: Final = 0x40000000  # CLONE_NEWNET
_WITHIN_S: Final = 10.0


@functools.cache
def why_not() -> str:
    """Why there can be no such network here; '' when there can."""
    missing = [name for name in ("unshare", "nsenter", "ip") if not shutil.which(name)]
    if missing:
        return f"no {', '.join(missing)} (Debian, Ubuntu: apt install util-linux iproute2)"
    script = "ip link add type bridge && ip link add type veth"
    probe = subprocess.run(["unshare", "-n", "sh", "-c", script], capture_output=True, text=True, check=False)
    if probe.returncode == 0:
        return ""
    return f"network namespaces, with a bridge, need root and a kernel that has them: {probe.stderr.strip()}"


class SplitNetwork:
    """Sides with addresses of their own; a context manager."""

    def __init__(self, sides: Mapping[str, Sequence[str]]) -> None:
        self._sides: Final = sides
        self._holders: Final[dict[str, subprocess.Popen[bytes]]] = {}

    def __enter__(self) -> Self:
        try:
            self._hold(_BETWEEN)
            self._within(_BETWEEN, "ip link add between type bridge")
            self._within(_BETWEEN, "ip link set between up")
            for side, addresses in self._sides.items():
                self._add(side, addresses)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def cut(self, side: str) -> None:
        """What one side sends to the others, and they to it, gets lost from now on."""
        self._within(_BETWEEN, f"ip link set {side} nomaster")

    def join(self, side: str) -> None:
        """Packets arrive again."""
        self._within(_BETWEEN, f"ip link set {side} master between")

    def call(self, side: str, work: Callable[[], T]) -> T:
        """The answer of a function that runs in a thread on one side."""
        return self.start(side, work).result()

    def start(self, side: str, work: Callable[[], T]) -> Future[T]:
        """The same, without waiting for it."""
        answer: Future[T] = Future()

        def run() -> None:
            try:
                self._enter(side)
                answer.set_result(work())
            except BaseException as error:  # noqa: BLE001 - whoever asked gets it
                answer.set_exception(error)

        threading.Thread(target=run, name=f"on the {side} side", daemon=True).start()
        return answer

    def start_loop(self, side: str, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """The answer of a coroutine function that runs in an event loop of its own on one side."""
        return self.start(side, lambda: asyncio.run(work()))

    def _hold(self, name: str) -> None:
        """A namespace lives as long as a process in it: one that ends when its input does."""
        holder = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._holders[name] = holder
        assert holder.stdout is not None
        holder.stdout.readline()  # it is there

    def _add(self, side: str, addresses: Sequence[str]) -> None:
        self._hold(side)
        self._within(_BETWEEN, f"ip link add {side} type veth peer name {side} netns {self._holders[side].pid}")
        self._within(_BETWEEN, f"ip link set {side} up master between")
        self._within(side, "ip link set lo up")
        for address in addresses:
            self._within(side, f"ip address add {address}/24 dev {side}")
        self._within(side, f"ip link set {side} up")

    def _within(self, name: str, command: str) -> None:
        pid = str(self._holders[name].pid)
        subprocess.run(["nsenter", "-t", pid, "-n", *command.split()], check=True, timeout=_WITHIN_S)

    def _enter(self, side: str) -> None:
        """Moves the thread that calls this."""
        libc = ctypes.CDLL(None, use_errno=True)
        namespace = os.open(f"/proc/{self._holders[side].pid}/ns/net", os.O_RDONLY)
        try:
            if libc.setns(namespace, _NEW_NETWORK) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(namespace)

    def _end(self) -> None:
        for holder in self._holders.values():
            holder.communicate()  # closes its input
        self._holders.clear()


_BETWEEN: Final = "between"
