"""The gateway as an ASGI application: one request of the AWS wire, from its headers to its answer."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any, Final, TypeAlias

import msgspec

from broker import tracing
from broker.client import Broker
from broker.errors import InvalidInput, StoreError
from broker.gateway.access import Access, AccessKey, Caller, credential_text, unverified_credential
from broker.gateway.asgi import AsgiApp, Receive, Scope, Send, respond
from broker.gateway.aws import errors, json, query, rest
from broker.gateway.aws.protocols import REST, Answer, Speech, speech_of
from broker.gateway.aws.service import Call, Operation, Protocol, Service, ServiceError, Streamed
from broker.gateway.bodies import (
    MAX_BODY_BYTES,
    MAX_WAITING_BODY_BYTES,
    Body,
    BodyTooLarge,
    ByteBudget,
    ClientGone,
    discard_body,
    read_body,
)
from broker.gateway.catalogue import Catalogue, Prepared, Routed, check_path
from broker.gateway.health import PATH_PREFIX, Health
from broker.gateway.hosts import HostRefused, Hosts
from broker.gateway.metrics_access import MetricsAccess, MetricsToken
from broker.gateway.monitoring import METRICS_PATH, SCALING_PREFIX, Asked, GatewayFigures, Monitoring
from broker.gateway.pieces import StreamedAnswer
from broker.gateway.protocol import Ending, GuardedProtocol, connection_of
from broker.gateway.services import SERVICES
from broker.gateway.sigv4 import Claim, Request, SignatureRefused, check_credential_size, joined
from broker.log import log

_CACHED_SCOPES: Final = 1_024
_CACHED_CALLERS: Final = 4_096
_STOPPING: Final = ServiceError("ServiceUnavailable", "The gateway stops; what became of the request is not known.")
_RoutedPath: TypeAlias = tuple[Routed, dict[str, str]]
_REFUSALS: Final = (ServiceError, SignatureRefused, HostRefused, BodyTooLarge, StoreError, InvalidInput)


def gateway_app(
    broker: Broker,
    access: Access,
    *,
    services: Sequence[Service] = SERVICES,
    hosts: Hosts | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    budget: ByteBudget | None = None,
    metrics_token: MetricsToken | None = None,
) -> AsgiApp:
    """The application, on an open broker. The first service is that of requests which say nothing of theirs.

    ``hosts`` says by which names it is reached; by default localhost and addresses, and any name where requests have
    to be signed. ``budget`` is for the bodies of all requests together; by default 256 MiB. Metrics are for those who
    have ``metrics_token``; without one for everybody where nothing has to be signed, else for nobody.
    """
    hosts = hosts or Hosts(guarded=not access.verified)
    watchers = MetricsAccess(metrics_token, hosts, open_to_machine=not access.verified)
    return _Gateway(broker, access, Catalogue(services), hosts, max_body_bytes, budget or ByteBudget(), watchers)


class _Gateway:
    def __init__(
        self,
        broker: Broker,
        access: Access,
        catalogue: Catalogue,
        hosts: Hosts,
        max_body_bytes: int,
        budget: ByteBudget,
        watchers: MetricsAccess,
    ) -> None:
        self._access: Final = access
        self._catalogue: Final = catalogue
        self._hosts: Final = hosts
        self._max_body_bytes: Final = max_body_bytes
        self._health: Final = Health(broker)
        self._budget: Final = budget
        self._figures: Final = GatewayFigures()
        self._monitoring: Final = Monitoring(broker, self._figures, watchers)
        self._within: Final = lru_cache(maxsize=_CACHED_SCOPES)(broker.within)
        self._call: Final = lru_cache(maxsize=_CACHED_CALLERS)(self._new_call)
        self._claimed: Final = lru_cache(maxsize=_CACHED_CALLERS)(self._new_caller)
        self._request_ids: Final = _RequestIds()
        self._store_lost_at_s: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"].startswith(PATH_PREFIX):
            await self._health(scope, send)
            return
        if scope["path"] == METRICS_PATH or scope["path"].startswith(SCALING_PREFIX):
            await self._monitoring(scope, send)
            return
        asked = Asked()
        try:
            answer = await self._answer(scope, receive, asked)
        except ClientGone:
            asked.code = "ClientGone"
            return
        finally:
            self._figures.answered(asked)
        if isinstance(answer, StreamedAnswer):
            await answer.send(send, connection_of(scope))
        else:
            await respond(send, *answer)

    async def _answer(self, scope: Scope, receive: Receive, asked: Asked) -> Answer | StreamedAnswer:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id, routes = self._request_ids.next(), self._catalogue.with_routes(scope["path"], headers)
        speech: Speech = speech_of(headers) if routes is None else REST
        service, routed = routes or self._catalogue.default, None
        held_bytes: int | None = None  # until the body is there
        try:
            self._hosts.check_not_from_a_page(headers)
            base_url = self._hosts.base_url(headers.get(b"host"), scope["scheme"])
            signed = self._examined(scope) if self._access.verified else None
            if routes is not None:
                routed = self._catalogue.by_route(routes, scope["method"], scope["raw_path"])
            body, held_bytes = await read_body(receive, headers, self._budget, max_bytes=self._max_body_bytes)
            caller = self._caller(scope, headers) if signed is None else self._access.verify(*signed, body)
            call = _traced(self._call(caller, base_url, speech.name), headers)
            if routed is None:
                service = self._catalogue.named(caller.service)
                prepared, given = self._read(scope, headers, body, speech, caller, base_url)
                service, operation = prepared.service, prepared.operation
            else:
                operation, given = _read_routed(service, routed, scope, headers, body, caller)
                call = msgspec.structs.replace(call, request_id=request_id)
            asked.service, asked.operation = service.name, operation.name
            del body  # an operation may take its time
            result = await self._run(operation, call, given, scope)
            if self._store_lost_at_s is not None:
                self._store_is_back()
            return _success(speech, service, operation, result, request_id)
        except _REFUSALS as error:
            translated = asked.failed(self._translated(error, service, request_id, routed))
            answer = speech.failure(service, translated, headers, request_id)
            all_read = held_bytes is not None or (isinstance(error, BodyTooLarge) and error.all_read)
            return answer if all_read else await _without_body(answer, receive, headers)
        except ClientGone:
            raise
        except asyncio.CancelledError:  # the grace period of a stop is over; the task ends with this answer
            return speech.failure(service, asked.failed(_STOPPING), headers, request_id)
        except Exception:  # noqa: BLE001 - the outermost frame of a request: it is answered, and logged with its stack
            log.exception(
                "request_failed", service=service.name, target=_asked(headers) or scope["path"], request_id=request_id
            )
            return speech.failure(service, asked.failed(errors.INTERNAL), headers, request_id)
        finally:
            if held_bytes:
                self._budget.give_back(held_bytes)

    # -- who asks -----------------------------------------------------------------------------------------------------

    def _caller(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Caller:
        authorization = headers.get(b"authorization")
        if authorization is not None:
            credential = credential_text(authorization)
        elif b"X-Amz-Credential" in scope["query_string"]:
            credential = query.read_form(scope["query_string"]).get("X-Amz-Credential", "").encode()
        else:
            return self._access.anonymous
        check_credential_size(credential)
        return self._claimed(credential)

    def _new_caller(self, credential: bytes) -> Caller:
        if not credential:
            return self._access.anonymous
        return self._access.claimed(unverified_credential(credential.decode("latin-1")))

    def _examined(self, scope: Scope) -> tuple[Request, Claim, AccessKey]:
        """Whoever has no key is told before its body is read."""
        presigned = b"X-Amz-" in scope["query_string"]
        parameters = query.read_form(scope["query_string"]) if presigned else {}
        request = Request(scope["method"], scope["raw_path"], scope["query_string"], joined(scope["headers"]))
        return request, *self._access.examine(request, parameters)

    def _new_call(self, caller: Caller, base_url: str, protocol: Protocol) -> Call:
        broker = self._within(caller.account, caller.region)
        return Call(broker, caller.account, caller.region, base_url, protocol, caller.account, caller.key_id)

    # -- what is asked ------------------------------------------------------------------------------------------------

    def _read(
        self,
        scope: Scope,
        headers: Mapping[bytes, bytes],
        body: Body,
        speech: Speech,
        caller: Caller,
        base_url: str,
    ) -> tuple[Prepared, Any]:
        """The operation and its input. Raises ServiceError."""
        path, method = scope["path"], scope["method"]
        names_queue = check_path(path)
        if speech.name == "json":
            _check_method(method, ("POST",))
            prepared = self._catalogue.by_target(caller.service, headers.get(b"x-amz-target", b""))
            _check_may_wait(prepared, body)
            return prepared, json.read_input(prepared.decoder, body)
        _check_method(method, ("GET", "POST"))
        parameters = query.read_form(scope["query_string"], body if method == "POST" else b"")
        prepared = self._catalogue.by_action(caller.service, parameters)
        _check_may_wait(prepared, body)
        if names_queue and prepared.takes_queue_url:
            parameters.setdefault("QueueUrl", f"{base_url}{path}")
        return prepared, query.read_input(parameters, prepared.operation.input)

    # -- doing it -----------------------------------------------------------------------------------------------------

    def _run(self, operation: Operation, call: Call, given: Any, scope: Scope) -> Awaitable[Any]:
        watched = operation.ends_with_client or operation.when_ended is not None
        connection = connection_of(scope) if watched else None
        return operation.run(call, given) if connection is None else _watched(connection, operation, call, given)

    # -- what went wrong ----------------------------------------------------------------------------------------------

    def _translated(
        self, error: Exception, service: Service, request_id: str, routed: _RoutedPath | None
    ) -> ServiceError:
        match error:
            case ServiceError() if not errors.is_named(service, error.name):
                log.exception("request_failed", service=service.name, request_id=request_id)
                found = errors.INTERNAL
            case ServiceError():
                found = error
            case SignatureRefused():
                found = ServiceError(error.name, error.message)
            case HostRefused():
                found = ServiceError("AccessDenied", str(error))
            case BodyTooLarge():
                own_words = "" if routed is None else routed[0].route.too_large
                message = own_words or errors.TOO_LARGE.format(limit=error.limit_bytes)
                found = ServiceError("RequestEntityTooLarge", message)
            case StoreError():
                found = self._from_store(error, request_id)
            case _:
                found = ServiceError("InvalidParameterValue", str(error))
        return found

    def _from_store(self, error: StoreError, request_id: str) -> ServiceError:
        translated = errors.from_store(error)
        if translated is None:
            log.exception("request_failed", request_id=request_id)
            return errors.INTERNAL
        if self._store_lost_at_s is None:
            self._store_lost_at_s = time.monotonic()
            log.warning("store_lost", code=error.code, reason=str(error))
        return translated

    def _store_is_back(self) -> None:
        lost_at_s, self._store_lost_at_s = self._store_lost_at_s, None
        if lost_at_s is not None:
            log.info("store_back", after_s=round(time.monotonic() - lost_at_s, 1))


async def _watched(connection: GuardedProtocol, operation: Operation, call: Call, given: Any) -> Any:
    """What the operation answers, unless the client goes away meanwhile, or the gateway stops. Raises ClientGone."""
    task = asyncio.current_task()
    if task is None:
        return await operation.run(call, given)
    if connection.stopping and operation.when_ended is not None:
        return operation.when_ended
    watch = _Watch(connection, task, waits=operation.when_ended is not None)
    connection.watch(watch.end)
    try:
        return await operation.run(call, given)
    except asyncio.CancelledError:
        if watch.ended is None:
            raise
        task.uncancel()
        if watch.ended == "gone":
            raise ClientGone from None
        return operation.when_ended
    finally:
        connection.watch(None)


class _Watch:
    """Cancels the task that runs an operation, when nobody is going to have its answer. An object, as a function that
    watches again by its own name would be left to the garbage collector by each request."""

    __slots__ = ("_connection", "_task", "_waits", "ended")

    def __init__(self, connection: GuardedProtocol, task: asyncio.Task[Any], *, waits: bool) -> None:
        self._connection = connection
        self._task = task
        self._waits = waits
        self.ended: Ending | None = None

    def end(self, why: Ending) -> None:
        """Told by the connection."""
        if why == "stopping" and not self._waits:
            self._connection.watch(self.end)  # it may end by itself; its client may still go away
            return
        self.ended = why
        self._task.cancel()


class _RequestIds:
    """UUIDs of one process: its own random beginning and a counter."""

    def __init__(self) -> None:
        text = os.urandom(8).hex()
        self._begin: Final = f"{text[:8]}-{text[8:12]}-4{text[12:15]}-8{text[13:16]}-"
        self._counter: Final = count(int.from_bytes(os.urandom(4), "big"))

    def next(self) -> str:
        return f"{self._begin}{next(self._counter):012x}"


def _traced(call: Call, headers: Mapping[bytes, bytes]) -> Call:
    """The same, with what the request belongs to."""
    if tracing.X_RAY in headers or tracing.PARENT in headers:
        return msgspec.structs.replace(call, trace=tracing.of_request(headers))
    return call


def _success(
    speech: Speech, service: Service, operation: Operation, result: Any, request_id: str
) -> Answer | StreamedAnswer:
    """The answer of an operation, with what is streamed behind its head."""
    if isinstance(result, Streamed):
        status, head, _ = speech.success(service, operation.name, result.head, request_id)
        return StreamedAnswer(status, head, result.frames)
    return speech.success(service, operation.name, result, request_id)


def _check_method(method: str, allowed: tuple[str, ...]) -> None:
    if method not in allowed:
        raise ServiceError("MethodNotAllowed", f"The method must be {' or '.join(allowed)}.")


def _check_may_wait(prepared: Prepared, body: Body) -> None:
    if len(body) > MAX_WAITING_BODY_BYTES and prepared.operation.when_ended is not None:
        raise BodyTooLarge(MAX_WAITING_BODY_BYTES, all_read=True)


def _asked(headers: Mapping[bytes, bytes]) -> str:
    return headers.get(b"x-amz-target", b"").decode("latin-1")


def _read_routed(
    service: Service,
    routed: _RoutedPath,
    scope: Scope,
    headers: Mapping[bytes, bytes],
    body: bytes | bytearray,
    caller: Caller,
) -> tuple[Operation, Any]:
    """The operation of a route and its input. Raises ServiceError."""
    if caller.service is not None and caller.service != service.name:
        raise errors.wrong_service(service.name)
    found, parameters = routed
    return found.operation, rest.read_input(found.input, parameters, scope["query_string"], headers, body)


async def _without_body(answer: Answer, receive: Receive, headers: Mapping[bytes, bytes]) -> Answer:
    """An answer that was found without reading the body; what is not read to its end ends the connection."""
    if not await discard_body(receive, headers):
        answer[1].append((b"connection", b"close"))
    return answer
