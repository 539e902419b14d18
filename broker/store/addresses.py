"""The forms of a Redis's address: one server, a cluster by some of its nodes, a primary that Sentinels know."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

import msgspec

from broker.errors import InvalidOption

Place: TypeAlias = tuple[str, int]
"""Host and port of one server."""

_DEFAULT_PORTS: Final = {"cluster": 6379, "sentinel": 26379}
_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^\[\]:,@/]+)(?::(\d{1,5}))?")
_SCHEMES: Final = frozenset({"redis", "rediss"})
_RULE: Final = "begins with redis:// or rediss://, each also as redis+cluster:// or redis+sentinel://, or with unix://"
_DATABASE: Final = re.compile(r"[0-9]*")
_MAX_PORT: Final = 65_535
_SENTINEL_OPTION: Final = "sentinel_"


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What an address means. ``single``: the client library reads ``url`` itself, and ``places`` is empty."""

    kind: Literal["single", "cluster", "sentinel"]
    url: str
    places: tuple[Place, ...] = ()
    """Nodes to ask first, or the Sentinels."""
    service: str = ""
    """The name under which Sentinels know the primary."""
    node_form: str = ""
    sentinel_form: str = ""

    def node_url(self, place: Place) -> str:
        """The address of one server of it, with its user, password and options."""
        return self.node_form.format(place=written(place))

    def sentinel_url(self, place: Place) -> str:
        """The same of one Sentinel, which has a user and a password of its own."""
        return self.sentinel_form.format(place=written(place))


def written(place: Place) -> str:
    """``host:port`` as URLs have it."""
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def hidden(url: str) -> str:
    """A URL without its passwords, for messages."""
    return re.sub(r"([?&]\w*password=)[^&]*", r"\1***", re.sub(r"(//[^:/@]*):[^@/]*@", r"\1:***@", url))


def read_address(url: str) -> Target:
    """What a URL means: ``redis+cluster://host:port,…`` and ``redis+sentinel://host:port,…/service``, both also with
    ``rediss``, and what the client library reads: ``redis``, ``rediss`` and ``unix``. Raises InvalidOption.
    """
    scheme, _, kind = url.partition("://")[0].partition("+")
    if not kind and scheme in {*_SCHEMES, "unix"}:
        _check_database(url, _split(url).path.removeprefix("/") if scheme in _SCHEMES else "")
        return Target(kind="single", url=url)
    if scheme not in _SCHEMES or kind not in {"cluster", "sentinel"}:
        raise InvalidOption("url", hidden(url), _RULE)
    return _cluster(url, scheme) if kind == "cluster" else _sentinel(url, scheme)


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise InvalidOption("url", hidden(url), str(error)) from error


def _check_database(url: str, path: str) -> None:
    """The client library takes the digits that it finds, and database 0 where it finds none."""
    named = [path, *(value for name, value in parse_qsl(_split(url).query) if name == "db")]
    if not all(_DATABASE.fullmatch(each) for each in named):
        raise InvalidOption("url", hidden(url), "the database is a number: redis://host:6379/0")


def _cluster(url: str, scheme: str) -> Target:
    parts = _split(url)
    options = parse_qsl(parts.query)
    if parts.path not in {"", "/", "/0"} or any(name == "db" and value != "0" for name, value in options):
        raise InvalidOption("url", hidden(url), "a cluster has only database 0: leave the path and db= out")
    user, hosts = _split_user(parts.netloc)
    places = _places(url, hosts, _DEFAULT_PORTS["cluster"])
    return Target(kind="cluster", url=url, places=places, node_form=_form(scheme, user, "", options))


def _sentinel(url: str, scheme: str) -> Target:
    parts = _split(url)
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        rule = "ends with the name under which the Sentinels know the primary: redis+sentinel://host:26379/service"
        raise InvalidOption("url", hidden(url), rule)
    _check_database(url, database)
    user, hosts = _split_user(parts.netloc)
    options = parse_qsl(parts.query)
    own = [(name.removeprefix(_SENTINEL_OPTION), value) for name, value in options if name.startswith(_SENTINEL_OPTION)]
    shared = [(name, value) for name, value in options if not name.startswith(_SENTINEL_OPTION) and name != "db"]
    return Target(
        kind="sentinel",
        url=url,
        places=_places(url, hosts, _DEFAULT_PORTS["sentinel"]),
        service=unquote(service),
        node_form=_form(scheme, user, database, [pair for pair in options if pair not in _named(own)]),
        sentinel_form=_form(scheme, "", "", shared + own),
    )


def _named(own: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    return {(_SENTINEL_OPTION + name, value) for name, value in own}


def _split_user(netloc: str) -> tuple[str, str]:
    user, at, hosts = netloc.rpartition("@")
    return user + at, hosts


def _places(url: str, hosts: str, default_port: int) -> tuple[Place, ...]:
    places: list[Place] = []
    for text in hosts.split(","):
        found = _HOST.fullmatch(text)
        port = int(found[2] or default_port) if found else 0
        if found is None or not 0 < port <= _MAX_PORT:
            raise InvalidOption("url", hidden(url), f'hosts are host:port, separated by commas; "{text}" is none')
        places.append((unquote(found[1].strip("[]")), port))
    return tuple(places)


def _form(scheme: str, user: str, database: str, options: Sequence[tuple[str, str]]) -> str:
    query = f"?{urlencode(options)}" if options else ""
    braces_kept = (text.replace("{", "{{").replace("}", "}}") for text in (user, database, query))
    user, database, query = braces_kept
    return f"{scheme}://{user}{{place}}/{database}{query}"
