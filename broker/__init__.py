"""Penstock's broker: everything an event passes through. Public names only; all else may change freely."""

from __future__ import annotations

from broker.client import Broker
from broker.errors import (
    CallError,
    CallThrottled,
    CallTimeout,
    FunctionError,
    InvalidInput,
    LeaseLost,
    NoLiveWorker,
    NotFound,
    PenstockError,
    StoreError,
)
from broker.message import Message
from broker.names import Function, Queue, Stream
from broker.statuses import Status
from broker.tracing import traced

__all__ = [
    "Broker",
    "CallError",
    "CallThrottled",
    "CallTimeout",
    "Function",
    "FunctionError",
    "InvalidInput",
    "LeaseLost",
    "Message",
    "NoLiveWorker",
    "NotFound",
    "PenstockError",
    "Queue",
    "Status",
    "StoreError",
    "Stream",
    "traced",
]
