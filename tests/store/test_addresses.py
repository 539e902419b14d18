"""The forms of an address: what each means, and by what rule others are refused."""

from __future__ import annotations

import pytest

from broker.errors import InvalidOption
from broker.store.addresses import hidden, read_address


def test_a_plain_url_is_left_to_the_client_library() -> None:
    for url in ("redis://h:1/3", "redis://h/", "redis://h?db=2", "rediss://h", "unix:///run/redis.sock?db=1"):
        target = read_address(url)
        assert (target.kind, target.url, target.places) == ("single", url, ())


def test_a_cluster_is_named_by_some_of_its_nodes() -> None:
    target = read_address("redis+cluster://a:7000,b,[::1]:7002/")
    assert target.kind == "cluster"
    assert target.places == (("a", 7000), ("b", 6379), ("::1", 7002))
    assert target.node_url(("c", 7009)) == "redis://c:7009/"
    assert target.node_url(("::1", 7002)) == "redis://[::1]:7002/"


def test_user_password_tls_and_options_hold_for_every_node() -> None:
    target = read_address("rediss+cluster://me:se%40cr{e}t@a:7000,b:7001?ssl_ca_certs=/etc/ca.pem")
    assert target.node_url(("c", 1)) == "rediss://me:se%40cr{e}t@c:1/?ssl_ca_certs=%2Fetc%2Fca.pem"


def test_sentinels_have_a_user_and_a_password_of_their_own() -> None:
    target = read_address(
        "rediss+sentinel://me:secret@a,b:26380/events/2?sentinel_username=s&sentinel_password=p&ssl_ca_certs=/ca"
    )
    assert (target.kind, target.service) == ("sentinel", "events")
    assert target.places == (("a", 26379), ("b", 26380))
    assert target.node_url(("c", 1)) == "rediss://me:secret@c:1/2?ssl_ca_certs=%2Fca"
    assert target.sentinel_url(("a", 26379)) == "rediss://a:26379/?ssl_ca_certs=%2Fca&username=s&password=p"


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("redis+cluster://a:1/3", "only database 0"),
        ("redis+cluster://a:1?db=1", "only database 0"),
        ("redis+cluster://a:1,,b:2", '"" is none'),
        ("redis+cluster://a:70000", '"a:70000" is none'),
        ("redis+cluster://a:port", '"a:port" is none'),
        ("redis+cluster://", '"" is none'),
        ("redis+sentinel://a:1", "the name under which the Sentinels know the primary"),
        ("redis+sentinel://a:1/name/db", "the database is a number"),
        ("redis+sentinel://a:1/name?db=x", "the database is a number"),
        ("redis://a:1/abc", "the database is a number"),
        ("rediss://a:1/1/2", "the database is a number"),
        ("redis://a:1/-1", "the database is a number"),
        ("redis://a:1/\u0663", "the database is a number"),
        ("redis://a:1?db=abc", "the database is a number"),
        ("redis://a:1/1?db=-1", "the database is a number"),
        ("unix:///run/redis.sock?db=abc", "the database is a number"),
        ("redis://[::1:6379/0", "Invalid IPv6 URL"),
        ("redis+cluster://[::1:6379", "Invalid IPv6 URL"),
        ("unix+cluster:///a", "begins with redis:// or rediss://"),
        ("redis+ring://a", "begins with redis:// or rediss://"),
        ("http://a:6379", "redis+cluster:// or redis+sentinel://, or with unix://"),
        ("localhost:6379", "begins with redis:// or rediss://"),
    ],
)
def test_what_is_no_address_is_refused_by_the_rule(url: str, rule: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        read_address(url)
    assert rule in str(caught.value)
    assert url in str(caught.value)


def test_passwords_are_hidden_wherever_they_stand() -> None:
    url = "redis+sentinel://me:one@a,b/events?sentinel_password=two&password=three&db=1"
    assert hidden(url) == "redis+sentinel://me:***@a,b/events?sentinel_password=***&password=***&db=1"
    with pytest.raises(InvalidOption) as caught:
        read_address("redis+cluster://me:hunter2@a:x")
    assert "hunter2" not in str(caught.value)
