"""Which operation a request asks for, of all that the services have; what each needs is made ready once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from broker.gateway.aws.errors import unknown_action
from broker.gateway.aws.service import Operation, Service, ServiceError
from broker.gateway.aws.wire import form_of

_QUEUE_PATH: Final = re.compile(r"/[^/]+/[^/]+/?")


class Prepared(msgspec.Struct, frozen=True):
    """An operation with what decodes its input."""

    service: Service
    operation: Operation
    decoder: msgspec.json.Decoder[Any]
    takes_queue_url: bool


class Catalogue:
    """The services; the first one is that of requests which say nothing of theirs."""

    def __init__(self, services: Sequence[Service]) -> None:
        self.default: Final = services[0]
        self._services: Final = {service.name: service for service in services}
        self._prepared: Final = {
            (service.name, name): _prepare(service, operation)
            for service in services
            for name, operation in service.operations.items()
        }
        self._targets: Final = dict(self._all_targets())

    def _all_targets(self) -> Iterator[tuple[tuple[str | None, bytes], Prepared]]:
        """A target names its operation alone as well as beside the service of its credential scope."""
        for (service, name), prepared in self._prepared.items():
            if prefix := prepared.service.target_prefix:
                target = f"{prefix}.{name}".encode()
                yield (service, target), prepared
                yield (None, target), prepared

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
            known = " and ".join(self._services)
            raise ServiceError("InvalidAction", f"The service of this request is not available here; {known} are.")
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


def check_path(path: str) -> bool:
    """Whether it is a queue's path; False for the root. Raises ServiceError for any other."""
    if path == "/":
        return False
    if not _QUEUE_PATH.fullmatch(path):
        raise ServiceError("InvalidAddress", "The address of this request is not valid for this endpoint.")
    return True
