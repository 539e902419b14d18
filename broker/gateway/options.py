"""What a gateway is told by options and environment, checked before anything is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from broker.errors import InvalidOption
from broker.gateway.access import KEYS_FILE_VARIABLE, KEYS_VARIABLE, AccessKey, access_keys_file, read_access_keys
from broker.gateway.hosts import PUBLIC_URL_VARIABLE, check_public_url
from broker.gateway.metrics_access import MetricsToken, read_metrics_token
from broker.gateway.new_keys import create_access_keys
from broker.gateway.server import is_loopback

HOST_VARIABLE: Final = "PENSTOCK_HOST"
PORT_VARIABLE: Final = "PENSTOCK_PORT"
DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 4566
_PORT: Final = re.compile(r"[0-9]{1,5}")
_LAST_PORT: Final = 65_535


class GatewayOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where the gateway listens, how clients reach it, and who may call."""

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    """0 is any free one."""
    public_url: str | None = None
    keys: tuple[AccessKey, ...] = ()
    metrics_token: MetricsToken | None = None
    """Who has it may see metrics and backlogs."""
    made: Path | None = None
    """The file of access keys, where this start has made it."""

    @classmethod
    def read(
        cls,
        *,
        host: str | None = None,
        port: int | None = None,
        public_url: str | None = None,
        access_keys: Path | None = None,
        create_keys: bool = False,
        environment: Mapping[str, str] = os.environ,
    ) -> GatewayOptions:
        """What is given, else what the environment says (``PENSTOCK_HOST``, ``_PORT``, ``_PUBLIC_URL``,
        ``_ACCESS_KEYS``, ``_ACCESS_KEYS_FILE``, ``_METRICS_TOKEN``), else the defaults.
        Raises InvalidOption; also for an address that other machines reach when there are no access keys.
        ``create_keys`` makes the file of keys where it is missing, with a random key.
        """
        chosen = cls(
            host=host or environment.get(HOST_VARIABLE) or DEFAULT_HOST,
            port=_port(port, environment),
            public_url=_public_url(public_url or environment.get(PUBLIC_URL_VARIABLE) or None),
            made=_made_keys(access_keys, environment) if create_keys else None,
            metrics_token=read_metrics_token(environment),
            keys=tuple(read_access_keys(access_keys, environment)),
        )
        if not chosen.keys and not is_loopback(chosen.host):
            raise InvalidOption(
                "host",
                chosen.host,
                "without access keys the gateway listens on loopback addresses only, or everybody who reaches it could "
                "do everything; set PENSTOCK_ACCESS_KEYS=KEYID:SECRET, or give --access-keys FILE",
            )
        return chosen


def port_is_chosen(port: int | None, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether somebody asked for a certain port, rather than taking the default."""
    return port is not None or bool(environment.get(PORT_VARIABLE))


def _port(given: int | None, environment: Mapping[str, str]) -> int:
    option, text = ("port", str(given)) if given is not None else (PORT_VARIABLE, environment.get(PORT_VARIABLE) or "")
    if not text:
        return DEFAULT_PORT
    if not _PORT.fullmatch(text) or int(text) > _LAST_PORT:
        raise InvalidOption(option, text, f"must be a port from 0 (any free one) to {_LAST_PORT}")
    return int(text)


def _made_keys(option: Path | None, environment: Mapping[str, str]) -> Path | None:
    """The file that was made, if it was. Keys that stand in the environment need none."""
    named = access_keys_file(option, environment)
    if named is not None:
        return named[0] if create_access_keys(*named) is not None else None
    if environment.get(KEYS_VARIABLE, "").strip():
        return None
    raise InvalidOption(
        "create-access-keys", "true", f"needs the file to make: give --access-keys FILE, or set {KEYS_FILE_VARIABLE}"
    )


def _public_url(url: str | None) -> str | None:
    return None if url is None else check_public_url(url)
