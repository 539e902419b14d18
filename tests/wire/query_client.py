"""Run with an older botocore on the path: makes the calls that arrive on a connection, each in a thread of its own.

What arrives is (number, (endpoint, access key, region, secret), method, parameters); what goes back is (number, the
answer, and whether it is that of a refusal). Nothing of Penstock is imported.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from multiprocessing.connection import Connection
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError

THREADS = 16
_session = botocore.session.Session()
_config = Config(
    parameter_validation=False, retries={"total_max_attempts": 1}, proxies={}, max_pool_connections=THREADS
)


@cache
def client(endpoint: str, access_key: str, region: str, secret: str) -> Any:
    """A client for one account; made by one thread, because botocore's session is not for several."""
    return _session.create_client(
        "sqs",
        region_name=region,
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret,
        config=_config,
    )


def answer(method: Any, parameters: dict[str, Any]) -> tuple[Any, bool]:
    """The reply and False, or the error as the service told it and True."""
    try:
        return method(**parameters), False
    except ClientError as error:
        return error.response, True
    except Exception as error:  # noqa: BLE001 - the other side shows it as a failure of the test
        return f"{type(error).__name__}: {error}", True


def main(descriptor: int) -> None:
    """Serves until the other side closes the connection."""
    connection = Connection(descriptor)
    one_at_a_time = threading.Lock()

    def serve(number: int, method: Any, parameters: dict[str, Any]) -> None:
        result = answer(method, parameters)
        with one_at_a_time:
            connection.send((number, *result))

    with ThreadPoolExecutor(THREADS) as pool:
        while True:
            try:
                number, whose, method, parameters = connection.recv()
            except EOFError:
                return
            pool.submit(serve, number, getattr(client(*whose), method), parameters)


if __name__ == "__main__":
    main(int(sys.argv[1]))
