"""What servers say of themselves, in the words of each of them."""

from __future__ import annotations

import pytest

from broker.errors import StoreUnsuitable
from broker.store.connection import check_server
from broker.store.server import has_waitaof, mode_of, read_info, software_of

REDIS_6 = "redis_version:6.2.14\r\nredis_mode:{mode}\r\n"
REDIS_8 = "redis_version:8.2.3\r\nredis_mode:{mode}\r\n"
VALKEY_9 = "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\nserver_mode:{mode}\r\n"
SERVERS = {"redis 6.2.14": REDIS_6, "redis 8.2.3": REDIS_8, "valkey 9.1.2": VALKEY_9}


@pytest.mark.parametrize("software", SERVERS)
def test_a_server_is_known_by_its_own_name_and_version(software: str) -> None:
    found = software_of(read_info(SERVERS[software].format(mode="standalone").encode()))
    assert str(found) == software
    assert ".".join(map(str, found.numbers)) == found.version


def test_waitaof_is_there_from_7_2_on_and_in_valkey() -> None:
    known = {name: has_waitaof(read_info(text.encode())) for name, text in SERVERS.items()}
    assert known == {"redis 6.2.14": False, "redis 8.2.3": True, "valkey 9.1.2": True}


@pytest.mark.parametrize("software", SERVERS)
@pytest.mark.parametrize("mode", ["standalone", "cluster", "sentinel"])
def test_every_server_is_taken_for_what_it_is(software: str, mode: str) -> None:
    info = SERVERS[software].format(mode=mode).encode()
    assert mode_of(read_info(info)) == mode
    check_server(info, "redis://h", mode=mode)
    for other in {"standalone", "cluster"} - {mode}:
        with pytest.raises(StoreUnsuitable):
            check_server(info, "redis://h", mode=other)
