"""Which operation a request asks for, of all that the services have; what each needs is made ready once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

import msgspec

from broker.gateway.aws.errors import unknown_action, unknown_path
from broker.gateway.aws.rest import Input, input_of
from broker.gateway.aws.service import Operation, Route, Service, ServiceError
from broker.gateway.aws.wire import form_of

_QUEUE_PATH: Final = re.compile(r"/[^/]+/[^/]+/?")
_MAX_SEGMENTS: Final = 16
_KNOWN_PATHS: Final = 4_096
_MAX_KNOWN_PATH: Final = 256
_Spot: TypeAlias = tuple[str, str, int]
"""Service, method and number of segments: where the routes are few."""


class Prepared(msgspec.Struct, frozen=True):
    """An operation with what decodes its input."""

    service: Service
    operation: Operation
    decoder: msgspec.json.Decoder[Any]
    takes_queue_url: bool


class Routed(msgspec.Struct, frozen=True):
    """An operation with its path in segments, and how its input is read from a request."""

    operation: Operation
    route: Route
    segments: tuple[str | None, ...]
    """None where a parameter stands."""
    parameters: tuple[str, ...]
    """Their names, in order."""
    input: Input

    def match(self, segments: Sequence[str]) -> dict[str, str] | None:
        """The path's parameters; None for another path of as many segments."""
        values = []
        for ours, theirs in zip(self.segments, segments, strict=True):
            if ours is None:
                values.append(theirs)
            elif ours != theirs:
                return None
        return dict(zip(self.parameters, values, strict=True))


class Catalogue:
    """The services; the first one is that of requests which say nothing of theirs."""

    def __init__(self, services: Sequence[Service]) -> None:
        self.default: Final = services[0]
        self._services: Final = {service.name: service for service in services}
        self._prepared: Final = {
            (service.name, name): _prepare(service, operation)
            for service in services
            for name, operation in service.operations.items()
            if operation.route is None
        }
        self._routes: Final[dict[_Spot, list[Routed]]] = {}
        self._scopes: Final[dict[bytes, Service]] = {}
        self._versions: Final[dict[str, Service]] = {}
        for service in services:
            for operation in service.operations.values():
                self._add_route(service, operation)
        self._targets: Final = dict(self._all_targets())
        self._known_route: Final = lru_cache(maxsize=_KNOWN_PATHS)(self._find_route)

    def _all_targets(self) -> Iterator[tuple[tuple[str | None, bytes], Prepared]]:
        """A target names its operation alone as well as beside the service of its credential scope."""
        for (service, name), prepared in self._prepared.items():
            if prefix := prepared.service.target_prefix:
                target = f"{prefix}.{name}".encode()
                yield (service, target), prepared
                yield (None, target), prepared

    def _add_route(self, service: Service, operation: Operation) -> None:
        if operation.route is None:
            return
        routed = _routed(operation, operation.route)
        found = self._routes.setdefault((service.name, operation.route.method, len(routed.segments)), [])
        found.append(routed)
        found.sort(key=lambda each: len(each.parameters))
        self._scopes[f"/{service.name}/aws4_request".encode()] = service
        self._versions[routed.segments[0] or ""] = service

    def with_routes(self, path: str, headers: Mapping[bytes, bytes]) -> Service | None:
        """The service whose routes a request must take, by its credential scope or its path; None for all others."""
        if b"x-amz-target" in headers or not self._scopes:
            return None
        authorization = headers.get(b"authorization")
        if authorization is not None:
            for scope, service in self._scopes.items():
                if scope in authorization:
                    return service
        return None if path == "/" else self._versions.get(path[1:].partition("/")[0])

    def by_route(self, service: Service, method: str, raw_path: bytes) -> tuple[Routed, dict[str, str]]:
        """The operation of a REST request, and its path's parameters, decoded; not to be changed.

        Raises ServiceError.
        """
        find = self._known_route if len(raw_path) <= _MAX_KNOWN_PATH else self._find_route
        return find(service.name, method, raw_path)

    def _find_route(self, service: str, method: str, raw_path: bytes) -> tuple[Routed, dict[str, str]]:
        text = raw_path.decode("latin-1").removeprefix("/").removesuffix("/")
        segments = [unquote(segment, errors="replace") for segment in text.split("/", _MAX_SEGMENTS)]
        for routed in self._routes.get((service, method, len(segments)), ()):
            parameters = routed.match(segments)
            if parameters is not None:
                return routed, parameters
        raise unknown_path()

    def by_target(self, service: str | None, target: bytes) -> Prepared:
        """The operation of a JSON request. Raises ServiceError."""
        found = self._targets.get((service, target))
        if found is None:
            self.named(service)
            raise unknown_action(target.decode("latin-1").rpartition(".")[2])
        return found

    def by_action(self, service: str | None, parameters: Mapping[str, str]) -> Prepared:
        """The operation of a query request. Raises ServiceError."""
        action = parameters.get("Action")
        if not action:
            raise ServiceError("MissingAction", "The request is missing an action or a required parameter.")
        found = self._prepared.get((self._service_of(service, parameters, action).name, action))
        if found is None:
            raise unknown_action(action)
        return found

    def named(self, service: str | None) -> Service:
        """The service of a credential scope; the default one for None. Raises ServiceError."""
        if service is None:
            return self.default
        found = self._services.get(service)
        if found is None:
            known = ", ".join(self._services)
            raise ServiceError(
                "InvalidAction", f"The service of this request is not available here; there are: {known}."
            )
        return found

    def _service_of(self, service: str | None, parameters: Mapping[str, str], action: str) -> Service:
        if service is not None:
            return self.named(service)
        version = parameters.get("Version")
        for each in self._services.values():
            if each.version == version or (version is None and action in each.operations):
                return each
        return self.default


def _prepare(service: Service, operation: Operation) -> Prepared:
    takes_queue_url = any(member.query_name == "QueueUrl" for member in form_of(operation.input).members)
    return Prepared(service, operation, msgspec.json.Decoder(operation.input), takes_queue_url)


def _routed(operation: Operation, route: Route) -> Routed:
    segments = route.path.removeprefix("/").split("/")
    parameters = tuple(segment[1:-1] for segment in segments if segment.startswith("{"))
    literal = tuple(None if segment.startswith("{") else segment for segment in segments)
    return Routed(operation, route, literal, parameters, input_of(operation.input))


def check_path(path: str) -> bool:
    """Whether it is a queue's path; False for the root. Raises ServiceError for any other."""
    if path == "/":
        return False
    if not _QUEUE_PATH.fullmatch(path):
        raise ServiceError("InvalidAddress", "The address of this request is not valid for this endpoint.")
    return True
