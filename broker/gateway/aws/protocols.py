"""The three protocols of the AWS wire, as far as answers go: status, headers and body of a success and of an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol, TypeAlias

import msgspec

from broker.gateway.asgi import Headers
from broker.gateway.aws import json, rest, xml
from broker.gateway.aws import service as aws
from broker.gateway.aws.errors import kind_of
from broker.gateway.aws.service import Service, ServiceError

Answer: TypeAlias = tuple[int, Headers, bytes]
"""Status, headers without Content-Length, body."""

_JSON: Final = (b"application/x-amz-json", b"application/json")
_CLIENT_ERROR: Final = 400
_QUERY_MODE: Final = b"x-amzn-query-mode"


class Speech(Protocol):
    """How answers are written."""

    name: aws.Protocol

    def success(self, service: Service, operation: str, result: msgspec.Struct | None, request_id: str) -> Answer:
        """The answer of an operation."""
        ...

    def failure(self, service: Service, error: ServiceError, headers: Mapping[bytes, bytes], request_id: str) -> Answer:
        """The answer to a request that failed; ``headers`` are the request's."""
        ...


class JsonSpeech:
    """AWS JSON 1.0 or 1.1, whichever was asked in."""

    name: aws.Protocol = "json"

    def __init__(self, content_type: bytes) -> None:
        self._content_type: Final = content_type

    def success(self, service: Service, operation: str, result: msgspec.Struct | None, request_id: str) -> Answer:  # noqa: ARG002
        """See :class:`Speech`."""
        return 200, self._headers(request_id), json.success(result)

    def failure(self, service: Service, error: ServiceError, headers: Mapping[bytes, bytes], request_id: str) -> Answer:
        """See :class:`Speech`. A client that does not ask for the query protocol's statuses gets 400 for its errors."""
        kind = kind_of(service, error.name)
        own = error.name in service.errors and kind.sender
        status = _CLIENT_ERROR if own and headers.get(_QUERY_MODE) != b"true" else kind.status
        answered = self._headers(request_id)
        answered.append((b"x-amzn-query-error", json.query_error(kind)))
        return status, answered, json.error(kind, error.message)

    def _headers(self, request_id: str) -> Headers:
        return [(b"x-amzn-requestid", request_id.encode()), (b"content-type", self._content_type)]


class QuerySpeech:
    """The query protocol, which answers in XML."""

    name: aws.Protocol = "query"

    def success(self, service: Service, operation: str, result: msgspec.Struct | None, request_id: str) -> Answer:
        """See :class:`Speech`."""
        body = xml.success(operation, result, namespace=service.xml_namespace, request_id=request_id)
        return 200, self._headers(request_id), body

    def failure(self, service: Service, error: ServiceError, headers: Mapping[bytes, bytes], request_id: str) -> Answer:  # noqa: ARG002
        """See :class:`Speech`."""
        kind = kind_of(service, error.name)
        body = xml.error(kind, error.message, namespace=service.xml_namespace, request_id=request_id)
        return kind.status, self._headers(request_id), body

    def _headers(self, request_id: str) -> Headers:
        return [(b"x-amzn-requestid", request_id.encode()), (b"content-type", xml.CONTENT_TYPE)]


class RestSpeech:
    """REST-JSON: members in the head, in the body or as the body."""

    name: aws.Protocol = "rest"

    def success(self, service: Service, operation: str, result: msgspec.Struct | None, request_id: str) -> Answer:
        """See :class:`Speech`."""
        answer, route = rest.written(result), service.operations[operation].route
        status = answer.status or (200 if route is None else route.status)
        headers: Headers = [(b"x-amzn-requestid", (answer.request_id or request_id).encode()), *answer.headers]
        if answer.body:
            headers.append((b"content-type", rest.CONTENT_TYPE))
        return status, headers, answer.body

    def failure(self, service: Service, error: ServiceError, headers: Mapping[bytes, bytes], request_id: str) -> Answer:  # noqa: ARG002
        """See :class:`Speech`."""
        kind = kind_of(service, error.name)
        answered: Headers = [
            (b"x-amzn-requestid", request_id.encode()),
            (b"content-type", rest.CONTENT_TYPE),
            (b"x-amzn-errortype", kind.json_type.rpartition("#")[2].encode()),
        ]
        answered += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
        return kind.status, answered, rest.error(kind, error)


REST: Final = RestSpeech()
_JSON_1_0: Final = JsonSpeech(json.CONTENT_TYPE_1_0)
_JSON_1_1: Final = JsonSpeech(json.CONTENT_TYPE_1_1)
_QUERY: Final = QuerySpeech()


def speech_of(headers: Mapping[bytes, bytes]) -> Speech:
    """The protocol that a request is made in, by its headers; one for a service with routes is in :data:`REST`."""
    content_type = headers.get(b"content-type", b"")
    if b"x-amz-target" not in headers and not content_type.startswith(_JSON):
        return _QUERY
    return _JSON_1_1 if content_type.startswith(json.CONTENT_TYPE_1_1) else _JSON_1_0
