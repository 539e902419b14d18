"""By which names the gateway is reached: what queue URLs begin with, and what a browser may not make it do.

Without access keys everybody on the machine may call, and so might every web page that somebody on it looks at: by a
plain request across origins, or by a name of its own that it lets point to 127.0.0.1 (DNS rebinding). Requests that
a browser made for a page carry ``Origin`` or ``Sec-Fetch-Site``; rebinding needs a name, which is then in ``Host``.
Addresses, ``localhost`` and names under ``.localhost`` cannot be rebound.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from broker.errors import InvalidOption

PUBLIC_URL_VARIABLE: Final = "PENSTOCK_PUBLIC_URL"
_HOST: Final = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?P<port>:[0-9]{1,5})?")
_OWN_PAGES: Final = frozenset({b"none", b"same-origin"})
_CACHED_HOSTS: Final = 1_024


class HostRefused(Exception):
    """A request that must not be served; the message says why."""


class Hosts:
    """Which Host headers are taken, and the base of queue URLs for each."""

    def __init__(self, *, public_url: str | None = None, known: Iterable[str] = (), guarded: bool = True) -> None:
        self._public_url: Final = None if public_url is None else check_public_url(public_url)
        self._guarded: Final = guarded
        names = [*known, *([urlsplit(public_url).hostname or ""] if public_url else [])]
        self._known: Final = frozenset(name.lower() for name in names)
        self._bases: Final[dict[bytes | None, str]] = {}

    def base_url(self, host: bytes | None, scheme: str) -> str:
        """What queue URLs begin with for a client that asked for this host; no slash at the end. Raises HostRefused."""
        found = self._bases.get(host)
        if found is None:
            found = self._base(host, scheme)
            if len(self._bases) >= _CACHED_HOSTS:
                self._bases.clear()
            self._bases[host] = found
        return found

    def _base(self, host: bytes | None, scheme: str) -> str:
        # HTTP/1.0 has no Host, and no browser speaks it.
        text = "localhost" if host is None else host.decode("latin-1")
        parts = _HOST.fullmatch(text)
        if parts is None:
            raise HostRefused("The Host header is not a host name or address with an optional port.")
        if self._guarded and not self._cannot_be_rebound(parts["name"].lower().rstrip(".")):
            raise HostRefused(
                "Without access keys the gateway answers to localhost, to addresses and to the host of its public "
                f"URL, not to {text}: give it --public-url, or access keys."
            )
        return self._public_url or f"{scheme}://{text}"

    def _cannot_be_rebound(self, name: str) -> bool:
        if name in self._known or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def check_not_from_a_page(self, headers: Mapping[bytes, bytes]) -> None:
        """Raises HostRefused for what a browser sent on behalf of a web page."""
        if self._guarded and (
            b"origin" in headers or headers.get(b"sec-fetch-site", b"none").lower() not in _OWN_PAGES
        ):
            raise HostRefused("Without access keys the gateway does not serve web pages (Origin, Sec-Fetch-Site).")


def check_public_url(url: str) -> str:
    """The URL without a slash at the end; raises InvalidOption for what cannot be the base of queue URLs."""
    rule = "must be http://HOST or https://HOST, with a port where needed and nothing behind it"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidOption("public-url", url, rule) from None
    plain = parts.scheme in {"http", "https"} and parts.hostname and parts.path in {"", "/"}
    netloc = parts.netloc
    if not plain or parts.query or parts.fragment or not _HOST.fullmatch(netloc) or port == 0:
        raise InvalidOption("public-url", url, rule)
    return f"{parts.scheme}://{netloc}"
