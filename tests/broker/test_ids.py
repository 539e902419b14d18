"""Ids: a message id says where its entry is, sorts by time and belongs to one resource; tokens are never repeated."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.ids import (
    TokenSource,
    entry_of,
    id_mark,
    mark_of,
    message_id,
    message_ids,
    new_nonce,
    nonce_of,
    partition_of,
    random_token,
)

MILLISECONDS = st.integers(0, 2**48 - 1)
SEQUENCES = st.integers(0, 2**32 - 1)
NONCES = st.integers(0, 2**32 - 1)


@given(MILLISECONDS, SEQUENCES, NONCES)
def test_an_id_names_its_entry(milliseconds: int, sequence: int, nonce: int) -> None:
    entry = f"{milliseconds}-{sequence}"
    assert entry_of(message_id(entry, nonce), nonce) == entry


@given(MILLISECONDS, SEQUENCES, st.integers(0, 200), NONCES, st.integers(0, 1_023))
@example(0, 2**20 - 100, 200, 0, 0)
def test_ids_in_a_row_are_those_made_one_by_one(
    milliseconds: int, sequence: int, count: int, nonce: int, partition: int
) -> None:
    mark = mark_of(nonce, partition)
    row = message_ids(str(milliseconds), sequence, count, mark)
    assert row == [message_id(f"{milliseconds}-{sequence + n}", mark) for n in range(count)]


@given(MILLISECONDS, SEQUENCES, NONCES)
def test_an_id_is_a_uuid_of_version_8(milliseconds: int, sequence: int, nonce: int) -> None:
    identity = uuid.UUID(message_id(f"{milliseconds}-{sequence}", nonce))
    assert (identity.version, identity.variant) == (8, uuid.RFC_4122)


@given(st.tuples(MILLISECONDS, SEQUENCES), st.tuples(MILLISECONDS, SEQUENCES), NONCES)
def test_ids_sort_as_their_entries_do(one: tuple[int, int], other: tuple[int, int], nonce: int) -> None:
    first, second = (message_id(f"{ms}-{seq}", nonce) for ms, seq in (one, other))
    assert (first < second) == (one < other)


@given(MILLISECONDS, SEQUENCES, NONCES, NONCES)
def test_another_resource_s_id_names_no_entry(milliseconds: int, sequence: int, own: int, other: int) -> None:
    found = entry_of(message_id(f"{milliseconds}-{sequence}", other), own)
    assert (found is None) == (own != other)


@pytest.mark.parametrize("text", ["", "order-1", "x" * 36, str(uuid.UUID(int=0)), str(uuid.UUID(int=2**100))])
def test_a_caller_s_own_id_names_no_entry(text: str) -> None:
    assert entry_of(text, 0) is None


@given(MILLISECONDS, SEQUENCES, NONCES, st.integers(0, 1_023))
def test_an_id_tells_its_partition(milliseconds: int, sequence: int, nonce: int, partition: int) -> None:
    entry, mark = f"{milliseconds}-{sequence}", mark_of(nonce, partition)
    identity = message_id(entry, mark)
    assert id_mark(identity) == mark
    assert (partition_of(mark), nonce_of(mark)) == (partition, nonce)
    assert entry_of(identity, mark) == entry
    assert (entry_of(identity, nonce) is None) == (partition > 0)


def test_partitions_keep_ids_apart() -> None:
    assert message_id("1-1", mark_of(7, 0)) != message_id("1-1", mark_of(7, 1))


def test_nonces_and_tokens_differ() -> None:
    assert len({new_nonce() for _ in range(100)}) > 95
    assert len({random_token() for _ in range(1_000)}) == 1_000
    sources = [TokenSource() for _ in range(50)]
    assert len({source.next() for source in sources for _ in range(50)}) == 2_500
