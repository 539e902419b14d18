"""TLS to Redis, with a certificate authority made for the test."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis, EmbeddedRedisFailed
from broker.errors import StoreUnavailable
from runtime import App, Context
from tests.runtime.scene import serving

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="the program openssl makes the certificates; there is none")


def certified(folder: Path, name: str) -> Path:
    """A folder with an authority `ca.crt`, and `server.crt` and `server.key` that it has signed for that name."""
    folder.mkdir()

    def run(*words: str) -> None:
        subprocess.run([str(OPENSSL), *words], cwd=folder, check=True, capture_output=True)

    (folder / "ext").write_text(f"subjectAltName=DNS:{name}")
    run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test-ca")
    run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "server.key", "-out", "server.csr", "-subj", f"/CN={name}")
    signing = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "ext")
    run("x509", "-req", "-in", "server.csr", "-out", "server.crt", *signing)
    return folder


def started(folder: Path, certificates: Path) -> tuple[EmbeddedRedis, int]:
    """A server that speaks TLS on a free port; the test is skipped where the program cannot."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    options = {
        "tls-port": str(port),
        "bind": "127.0.0.1",
        "tls-cert-file": str(certificates / "server.crt"),
        "tls-key-file": str(certificates / "server.key"),
        "tls-ca-cert-file": str(certificates / "ca.crt"),
        "tls-auth-clients": "no",
    }
    server = EmbeddedRedis(folder / "redis", append_only=False, options=options)
    try:
        server.start()
    except EmbeddedRedisFailed as error:
        if "tls-port" in error.log_tail or "Failed finding TLS support" in error.log_tail:
            pytest.skip("this server program was built without TLS")
        raise
    return server, port


async def test_everything_goes_over_tls(tmp_path: Path) -> None:
    app = App()

    @app.function()
    async def double(event: int, _: Context) -> int:
        return 2 * event

    certificates = certified(tmp_path / "good", "localhost")
    server, port = started(tmp_path, certificates)
    with server:
        url = f"rediss://localhost:{port}?ssl_ca_certs={certificates / 'ca.crt'}"
        async with Broker(url) as broker, serving(app, url, broker.core.settings):
            assert await broker.call("double", 21, timeout=10) == 42
            await broker.queue("orders").create()
            await broker.queue("orders").send("x")
            assert [message.body for message in await broker.queue("orders").receive()] == ["x"]


async def test_a_server_with_another_s_certificate_is_refused(tmp_path: Path) -> None:
    server, port = started(tmp_path, certified(tmp_path / "other", "elsewhere.example"))
    authority = tmp_path / "other" / "ca.crt"
    with server:
        for url in (f"rediss://localhost:{port}", f"rediss://localhost:{port}?ssl_ca_certs={authority}"):
            with pytest.raises(StoreUnavailable, match="certificate"):
                async with Broker(url):
                    pass
