"""What a stop of `penstock broker` does to a request that is under way."""

from __future__ import annotations

import signal
import socket

import anyio.to_thread

from tests.cli.shell import Running, Shell, started

BODY = b"Action=CreateQueue&QueueName=letters"


async def half_sent(running: Running) -> socket.socket:
    """A connection with a request whose body has not all come."""
    screen = await running.said("Ctrl-C")
    port = int(screen.partition("http://127.0.0.1:")[2].split()[0])
    connection = socket.create_connection(("127.0.0.1", port), timeout=15)
    head = (
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        f"Expect: 100-continue\r\nContent-Length: {len(BODY)}\r\n\r\n"
    )
    connection.sendall(head.encode())
    assert await anyio.to_thread.run_sync(connection.recv, 64) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(BODY[:10])
    return connection


async def stopping(running: Running) -> None:
    """Told once; its port is closed."""
    screen = await running.said("Ctrl-C")
    port = int(screen.partition("http://127.0.0.1:")[2].split()[0])
    running.process.send_signal(signal.SIGTERM)
    with anyio.fail_after(15):
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
            except OSError:
                return
            await anyio.sleep(0.02)


async def test_an_open_request_is_answered_before_the_process_ends(shell: Shell) -> None:
    with started(shell, "broker", "--port", "0") as running:
        with await half_sent(running) as connection:
            await stopping(running)
            connection.sendall(BODY[10:])
            answer = await anyio.to_thread.run_sync(connection.recv, 4096)
        assert answer.startswith(b"HTTP/1.1 200")
        assert await running.ended() == 0


async def test_a_second_signal_cuts_it_off_and_that_is_status_0_too(shell: Shell) -> None:
    with started(shell, "broker", "--port", "0", "--grace", "3600") as running:
        with await half_sent(running):
            await stopping(running)
            assert await running.ended(signal.SIGTERM) == 0
        assert "Traceback" not in running.err.read_text()


async def test_the_end_of_the_grace_period_cuts_it_off_too(shell: Shell) -> None:
    with started(shell, "broker", "--port", "0", "--grace", "0.1") as running:
        with await half_sent(running):
            assert await running.ended(signal.SIGTERM) == 0
        assert '"gateway_stopped"' in running.err.read_text()
        assert '"cut_off":1' in running.err.read_text()
