from __future__ import annotations

from benchmarks.records import Round, figure
from benchmarks.sizing import HANDLED_US, QUEUED, SPREAD_US, STORED_US, WORKER_RATE, sizing

FIGURES = [
    figure("memory", QUEUED, unit="bytes", aof=False, rounds=[Round(120)]),
    figure("scaling", STORED_US, unit="us", aof=False, rounds=[Round(2)]),
    figure("scaling", HANDLED_US, unit="us", aof=False, rounds=[Round(8)]),
    figure("scaling", WORKER_RATE, unit="events/s", aof=False, rounds=[Round(35_000)]),
]


def test_a_node_is_what_a_core_can_do_and_its_memory_what_events_take() -> None:
    text = " ".join(sizing(FIGURES).split())

    assert "70% of it / (2.0 us to store an event + 8.0 us to claim and finish it) = **70,000 events/s**" in text
    assert "so 2.0 of them keep a node busy" in text
    assert "takes its own bytes and 20 more" in text
    assert "| 100 bytes | 0.12 GB | 60.00 million | 14.3 min |" in text


def test_three_nodes_are_three_times_one_by_what_an_event_costs_there() -> None:
    spread = figure("cluster", SPREAD_US, unit="us", aof=False, rounds=[Round(10.5, 10)])

    text = " ".join(sizing([*FIGURES, spread]).split())

    assert "3 x 70,000 / 1.05 (what an event costs there, beside one node) = **200,000 events/s**" in text


def test_a_run_that_did_not_measure_it_says_nothing() -> None:
    assert sizing(FIGURES[:2]) == ""
