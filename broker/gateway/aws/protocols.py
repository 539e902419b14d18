"""The two protocols of the AWS wire, as far as answers go: status, headers and body of a success and of an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol, TypeAlias

import msgspec

from broker.gateway.asgi import Headers
from broker.gateway.aws import json, xml
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


_JSON_1_0: Final = JsonSpeech(json.CONTENT_TYPE_1_0)
_JSON_1_1: Final = JsonSpeech(json.CONTENT_TYPE_1_1)
_QUERY: Final = QuerySpeech()


def speech_of(headers: Mapping[bytes, bytes]) -> Speech:
    """The protocol that a request is made in, by its headers."""
    content_type = headers.get(b"content-type", b"")
    if b"x-amz-target" not in headers and not content_type.startswith(_JSON):
        return _QUERY
    return _JSON_1_1 if content_type.startswith(json.CONTENT_TYPE_1_1) else _JSON_1_0
