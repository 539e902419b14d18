"""Signed requests made by hand, for what no client shows: headers, statuses, XML as it stands on the wire."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree as ET

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.wire.clients import REGION, SECRET

VERSION: Final = "2012-11-05"
NAMESPACE: Final = "{http://queue.amazonaws.com/doc/2012-11-05/}"
JSON_TYPE: Final = "application/x-amz-json-1.0"
FORM_TYPE: Final = "application/x-www-form-urlencoded"


class Answer(NamedTuple):
    """One response."""

    status: int
    headers: Mapping[str, str]
    """With names in small letters."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def xml(self) -> ET.Element:
        return ET.fromstring(self.body)  # noqa: S314 - it is our own


class RawClient:
    """Sends what it is given to one gateway, signed as an account."""

    def __init__(self, endpoint: str, account: str, *, service: str = "sqs") -> None:
        self.endpoint: Final = endpoint
        self.account: Final = account
        self.service: Final = service

    def request(self, method: str, path: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """The answer to one request, over a connection of its own."""
        with self.left_open(method, path, body=body, headers=headers) as connection:
            response = connection.getresponse()
            told = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, told, response.read())

    @contextmanager
    def left_open(
        self, method: str, path: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Iterator[http.client.HTTPConnection]:
        """A connection over which a request has been sent; the answer may be read, or left."""
        request = AWSRequest(method, self.endpoint + path, data=body, headers=dict(headers or {}))
        SigV4Auth(Credentials(self.account, SECRET), self.service, REGION).add_auth(request)
        connection = http.client.HTTPConnection(urlsplit(self.endpoint).netloc, timeout=30)
        try:
            connection.request(method, path, body=body, headers=dict(request.headers.items()))
            yield connection
        finally:
            connection.close()

    def json(self, action: str, parameters: object, *, path: str = "/", query_mode: bool = False) -> Answer:
        """One call in JSON."""
        headers = {"Content-Type": JSON_TYPE, "X-Amz-Target": f"AmazonSQS.{action}"}
        if query_mode:
            headers["x-amzn-query-mode"] = "true"
        return self.request("POST", path, body=json.dumps(parameters).encode(), headers=headers)

    def query(self, action: str, parameters: Mapping[str, str], *, path: str = "/", method: str = "POST") -> Answer:
        """One call in the query protocol: as a form, or in the address."""
        form = urlencode({"Action": action, "Version": VERSION, **parameters})
        if method == "GET":
            return self.request("GET", f"{path}?{form}")
        return self.request("POST", path, body=form.encode(), headers={"Content-Type": FORM_TYPE})
