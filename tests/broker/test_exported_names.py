"""What `broker` and `broker.sync` promise: everything else may change freely."""

from __future__ import annotations

import broker
import broker.sync


def test_the_public_names_are_these_and_no_others() -> None:
    assert broker.__all__ == [
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


def test_every_public_name_is_there_and_says_what_it_is() -> None:
    for name in broker.__all__:
        assert getattr(broker, name).__doc__, name


def test_the_sync_module_has_the_same_entry() -> None:
    assert broker.sync.__all__ == ["Broker", "FunctionClient", "Message", "QueueClient", "StreamClient"]
