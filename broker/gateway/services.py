"""The services that the gateway offers."""

from __future__ import annotations

from typing import Final

from broker.gateway.aws.lambda_.dispatch import LAMBDA
from broker.gateway.aws.service import Service
from broker.gateway.aws.sqs.dispatch import SQS
from broker.gateway.aws.sts import STS

SERVICES: Final[tuple[Service, ...]] = (SQS, STS, LAMBDA)
"""The first one is that of requests which say nothing of theirs."""
