"""Lambda's configuration as the programs of one account see it, and functions that need no worker."""

from __future__ import annotations

from typing import Any, Final

from broker.functions import register_function
from broker.mappings import register_mapping
from broker.records import FunctionSettings, MappingSettings
from tests.wire.clients import REGION, Boto3, Service
from tests.wire.gateway import Gateway


class LambdaClient(Service):
    """Methods as in boto3, and what an app would have registered."""

    def __init__(self, call: Boto3, gateway: Gateway, account: str) -> None:
        super().__init__(call)
        self._gateway: Final = gateway
        self.account: Final = account

    def register(self, name: str = "work", **settings: Any) -> str:
        """Registers a function as the worker of an app does; its ARN."""
        found = FunctionSettings(**settings)
        self._gateway.run(lambda broker: register_function(broker.core, name, found), account=self.account)
        return self.function_arn(name)

    def declare(self, queue: str = "orders", function: str = "work", **settings: Any) -> None:
        """Declares a mapping as the worker of an app does."""
        found = MappingSettings(queue=queue, function=function, **settings)
        self._gateway.run(lambda broker: register_mapping(broker.core, found), account=self.account)

    def queue(self, name: str = "orders", **options: Any) -> str:
        """Creates a queue; its ARN."""
        self._gateway.run(lambda broker: broker.queue(name).create(**options), account=self.account)
        return self.queue_arn(name)

    def send(self, body: str, queue: str = "orders") -> None:
        """Sends a message to a queue."""
        self._gateway.run(lambda broker: broker.queue(queue).send(body), account=self.account)

    def settings(self, name: str = "work") -> FunctionSettings:
        """What is in force."""
        return self._gateway.run(lambda broker: broker.function(name).settings(), account=self.account)

    def function_arn(self, name: str = "work") -> str:
        """The ARN of a function of this account."""
        return f"arn:aws:lambda:{REGION}:{self.account}:function:{name}"

    def queue_arn(self, name: str = "orders") -> str:
        """The ARN of a queue of this account."""
        return f"arn:aws:sqs:{REGION}:{self.account}:{name}"
