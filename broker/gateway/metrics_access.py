"""Who may see metrics and backlogs: whoever has the token, or, where there is none, programs of this machine alone.

They tell names of queues and functions and how much goes on in them. A gateway with access keys says nothing of that to
somebody without a token; that a connection comes from this machine proves nothing there, as a proxy may stand between.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from broker.errors import InvalidOption
from broker.gateway.hosts import HostRefused, Hosts

TOKEN_VARIABLE: Final = "PENSTOCK_METRICS_TOKEN"  # noqa: S105 - its name
_TOKEN: Final = re.compile(r"[!-~]{16,1024}")
_RULE: Final = "must be 16 to 1024 visible ASCII characters without spaces"
_SCHEME: Final = b"bearer "


class MetricsToken:
    """The secret; it does not show in logs."""

    def __init__(self, text: str) -> None:
        self._text: Final = text.encode()

    def __repr__(self) -> str:
        return "MetricsToken(...)"

    def is_in(self, authorization: bytes) -> bool:
        """Whether an Authorization header carries it."""
        scheme, given = authorization[: len(_SCHEME)].lower(), authorization[len(_SCHEME) :].strip()
        return scheme == _SCHEME and hmac.compare_digest(given, self._text)


class MetricsAccess:
    """Decides over one request. ``open_to_machine`` says that only this machine's programs reach the port."""

    def __init__(self, token: MetricsToken | None, hosts: Hosts, *, open_to_machine: bool) -> None:
        self._token: Final = token
        self._hosts: Final = hosts
        self._open: Final = open_to_machine

    def refusal(self, headers: Mapping[bytes, bytes], scheme: str) -> tuple[int, str] | None:
        """Status and reason; None for whoever may see."""
        if self._token is not None:
            is_known = self._token.is_in(headers.get(b"authorization", b""))
            return None if is_known else (401, "the token is missing, or another one (Authorization: Bearer ...)")
        if not self._open:
            return 403, f"closed as long as {TOKEN_VARIABLE} is not set"
        try:
            self._hosts.check_not_from_a_page(headers)
            self._hosts.base_url(headers.get(b"host"), scheme)
        except HostRefused as error:
            return 403, str(error)
        return None


def read_metrics_token(environment: Mapping[str, str]) -> MetricsToken | None:
    """The token in ``PENSTOCK_METRICS_TOKEN``, or in the file that it names as ``@FILE``; None where it is empty.
    Raises InvalidOption, which does not tell the token."""
    text = environment.get(TOKEN_VARIABLE, "")
    if text.startswith("@"):
        try:
            text = Path(text[1:]).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise InvalidOption(TOKEN_VARIABLE, text, f"the file cannot be read: {reason}") from None
    elif not text:
        return None
    if not _TOKEN.fullmatch(text):
        raise InvalidOption(TOKEN_VARIABLE, "...", _RULE)
    return MetricsToken(text)
