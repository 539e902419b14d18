"""AWS Lambda as a service of the gateway."""

from __future__ import annotations

from typing import Final

from broker.gateway.aws.lambda_.configuration import CONFIGURATION
from broker.gateway.aws.lambda_.errors import ERRORS
from broker.gateway.aws.lambda_.failures import FAILURES
from broker.gateway.aws.service import Service

LAMBDA: Final = Service(
    name="lambda",
    target_prefix="",
    version="2015-03-31",
    xml_namespace="",
    operations={operation.name: operation for operation in CONFIGURATION},
    errors={**ERRORS, **FAILURES},
)
"""The service."""
