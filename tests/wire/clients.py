"""SQS clients as programs have them: boto3 of today, which speaks JSON, and a botocore that still speaks query."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol, Self, TypeAlias

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

WireProtocol: TypeAlias = Literal["json", "query"]
REGION: Final = "us-east-1"
SECRET: Final = "secret"
QUERY_BOTOCORE: Final = Path(sys.prefix) / "query-botocore"
CALL_TIMEOUT_S: Final = 60.0


class Refusal(NamedTuple):
    """What a client tells its program about an error."""

    code: str
    message: str
    status: int


class Refused(Exception):
    """The service answered with an error."""

    def __init__(self, response: Mapping[str, Any]) -> None:
        error = response["Error"]
        status = response["ResponseMetadata"]["HTTPStatusCode"]
        self.refusal: Final = Refusal(error["Code"], error.get("Message", ""), status)
        self.response: Final = response
        super().__init__(str(self.refusal))


class Caller(Protocol):
    """Makes one call: the method's name as in boto3, and its parameters; raises Refused."""

    def __call__(self, method: str, parameters: dict[str, Any], /) -> dict[str, Any]: ...


# Bad values must reach the gateway, and a refusal must be told at once.
_CONFIG: Final = Config(
    parameter_validation=False, retries={"total_max_attempts": 1}, proxies={}, max_pool_connections=32
)
_session = threading.local()


class Boto3(AbstractContextManager["Boto3"]):
    """A client of the boto3 that is installed."""

    def __init__(
        self, endpoint: str, access_key: str, region: str = REGION, *, service: str = "sqs", secret: str = SECRET
    ) -> None:
        if not hasattr(_session, "boto3"):
            _session.boto3 = boto3.Session()  # one, because it takes most of the time that a client takes
        self.client: Final = _session.boto3.client(
            service,
            region_name=region,
            endpoint_url=endpoint,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret,
            config=_CONFIG,
        )

    def __call__(self, method: str, parameters: dict[str, Any], /) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self.client, method)(**parameters)
        except ClientError as error:
            raise Refused(error.response) from error
        return answer

    def __exit__(self, *_: object) -> None:
        self.client.close()


class QueryBotocore(AbstractContextManager["QueryBotocore"]):
    """A process with a botocore that speaks the query protocol; calls may be made from several threads at once."""

    def __init__(self) -> None:
        if not list(QUERY_BOTOCORE.glob("botocore==*")):
            pytest.fail(
                f"the botocore that speaks the query protocol is not in {QUERY_BOTOCORE}: tools/provide_query_client.py"
            )
        self._connection, theirs = Pipe()
        script = Path(__file__).with_name("query_client.py")
        environment = os.environ | {"PYTHONPATH": str(QUERY_BOTOCORE)}
        with theirs:
            # -P, so that the modules beside the script hide none of botocore's; it warns of what Python 3.12 dislikes.
            command = [sys.executable, "-P", "-W", "ignore", str(script), str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[tuple[Any, bool]]] = {}
        self._one_at_a_time = threading.Lock()
        self._reader = threading.Thread(target=self._read, name="query-botocore", daemon=True)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        # The process ends by what it reads: closing alone would leave our reader in its read.
        self._process.terminate()
        self._process.wait(10)
        self._reader.join(10)
        self._connection.close()

    def _read(self) -> None:
        while True:
            try:
                number, answer, refused = self._connection.recv()
            except (EOFError, OSError):
                break
            self._waiting.pop(number).set_result((answer, refused))
        for future in self._waiting.values():
            future.set_exception(ConnectionError("the process with the older botocore has ended"))

    def client(self, endpoint: str, access_key: str, region: str = REGION, *, secret: str = SECRET) -> Caller:
        """A client for one account."""

        def call(method: str, parameters: dict[str, Any], /) -> dict[str, Any]:
            future: Future[tuple[Any, bool]] = Future()
            with self._one_at_a_time:
                number = next(self._numbers)
                self._waiting[number] = future
                self._connection.send((number, (endpoint, access_key, region, secret), method, parameters))
            answer, refused = future.result(CALL_TIMEOUT_S)
            if refused:
                raise Refused(answer) if isinstance(answer, dict) else RuntimeError(answer)
            found: dict[str, Any] = answer
            return found

        return call


class Service:
    """A service of AWS as a program sees it; methods as in boto3."""

    def __init__(self, call: Caller) -> None:
        self._call: Final = call

    def __getattr__(self, method: str) -> Callable[..., dict[str, Any]]:
        """Any of boto3's methods; raises Refused."""
        if method.startswith("_"):
            raise AttributeError(method)
        return lambda **parameters: self._call(method, parameters)

    def refusal(self, method: str, **parameters: Any) -> Refusal:
        """The error that a call must end with."""
        with pytest.raises(Refused) as caught:
            self._call(method, parameters)
        return caught.value.refusal


class Sqs(Service):
    """SQS as the programs of one account see it, over one protocol; methods as in boto3, and a few short ways."""

    def __init__(self, call: Caller, protocol: WireProtocol, *, account: str, endpoint: str) -> None:
        super().__init__(call)
        self.protocol: Final = protocol
        self.account: Final = account
        self.endpoint: Final = endpoint

    @property
    def no_queue(self) -> Refusal:
        """What is said about a queue that does not exist."""
        words = "does not exist." if self.protocol == "json" else "does not exist for this wsdl version."
        return Refusal("AWS.SimpleQueueService.NonExistentQueue", f"The specified queue {words}", 400)

    # -- short ways ---------------------------------------------------------------------------------------------------

    def queue(self, name: str = "orders", **attributes: str) -> str:
        """Creates a queue and answers its URL; a name that ends in .fifo makes a FIFO queue."""
        if name.endswith(".fifo"):
            attributes["FifoQueue"] = "true"
        url: str = self.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        return url

    def send(self, url: str, body: str = "x", **options: Any) -> dict[str, Any]:
        """Sends a message and answers what the service says about it."""
        return self.send_message(QueueUrl=url, MessageBody=body, **options)

    def receive(self, url: str, count: int = 10, **options: Any) -> list[dict[str, Any]]:
        """One receive call's messages."""
        options = {"MaxNumberOfMessages": count, "AttributeNames": ["All"], **options}
        messages: list[dict[str, Any]] = self.receive_message(QueueUrl=url, **options).get("Messages", [])
        return messages

    def bodies(self, url: str, count: int = 10, **options: Any) -> list[str]:
        """The bodies of one receive call's messages."""
        return [message["Body"] for message in self.receive(url, count, **options)]

    def delete(self, url: str, message: Mapping[str, Any]) -> None:
        """Deletes what was received."""
        self.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])

    def hide(self, url: str, message: Mapping[str, Any], seconds: int) -> None:
        """Changes the visibility timeout of what was received."""
        handle = message["ReceiptHandle"]
        self.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=seconds)

    def attributes(self, url: str, *names: str) -> dict[str, str]:
        """The attributes named, or all."""
        answer = self.get_queue_attributes(QueueUrl=url, AttributeNames=list(names or ["All"]))
        attributes: dict[str, str] = answer.get("Attributes", {})
        return attributes

    def configure(self, url: str, **attributes: str) -> None:
        """Sets attributes."""
        self.set_queue_attributes(QueueUrl=url, Attributes=attributes)

    def counts(self, url: str) -> tuple[int, int, int]:
        """How many messages are visible, in flight, and delayed."""
        found = self.attributes(url)
        visible, hidden, delayed = (f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed"))
        return int(found[visible]), int(found[hidden]), int(found[delayed])

    def arn(self, url: str) -> str:
        """The ARN of a queue of this account."""
        return f"arn:aws:sqs:{REGION}:{self.account}:{url.rsplit('/', 1)[1]}"
