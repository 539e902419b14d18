"""Access keys: how they are read, that errors name place and rule and no secret, and who may call over the wire."""

from __future__ import annotations

from pathlib import Path

import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from broker import Broker
from broker.errors import InvalidOption
from broker.gateway.access import Access, AccessKey, read_access_keys
from broker.gateway.hosts import check_public_url
from broker.gateway.options import GatewayOptions
from tests.gateway.tiny import asked, json_request, request, serving, tiny, tiny_app

KEY = AccessKey("AKIDEXAMPLE", "secret/one+", "123456789012")


def read(text: str) -> list[AccessKey]:
    return read_access_keys(None, {"PENSTOCK_ACCESS_KEYS": text})


def test_keys_are_separated_by_commas_or_lines() -> None:
    assert read("a:b") == [AccessKey("a", "b")]
    assert read(" a:b ,c:d:123456789012,,\n e:f::token\n# no key\n") == [
        AccessKey("a", "b"),
        AccessKey("c", "d", "123456789012"),
        AccessKey("e", "f", "000000000000", "token"),
    ]
    assert read("") == read(" \n") == []


def test_keys_are_read_from_files(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\na:b,c\n\nd:e:123456789012\n")
    expected = [AccessKey("a", "b,c"), AccessKey("d", "e", "123456789012")]
    assert read(f"@{file}") == expected
    assert read_access_keys(None, {"PENSTOCK_ACCESS_KEYS_FILE": str(file)}) == expected
    assert read_access_keys(file, {"PENSTOCK_ACCESS_KEYS": "x:y"}) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a:b,c", "entry 2': must be KEYID:SECRET"),
        ("a:b:c:d:hidden", "must be KEYID:SECRET"),
        (":hidden", "the key id has"),
        ("a b:hidden", "the key id has"),
        ("a:", "the secret is missing"),
        ("a:hidden:12", "the account has twelve digits"),
        ("a:hidden:123456789012:", "the session token is missing"),
        ("a:hidden,b:hidden,a:hidden", "entry 3': the key a is there twice"),
        (",", "there is no key in it"),
        ("# a:hidden", "there is no key in it"),
        ("@/nowhere/keys", "cannot be read: No such file"),
    ],
)
def test_a_bad_entry_is_named_by_its_place_and_rule_and_no_secret_is_told(text: str, said: str) -> None:
    with pytest.raises(InvalidOption) as refused:
        read(text)
    assert said in str(refused.value)
    assert "PENSTOCK_ACCESS_KEYS" in str(refused.value)
    assert "hidden" not in str(refused.value)


def test_a_file_without_a_key_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# none\n")
    with pytest.raises(InvalidOption, match="there is no key in the file"):
        read_access_keys(tmp_path / "keys", {})
    (tmp_path / "keys").write_text("a:b\n\nhidden\n")
    with pytest.raises(InvalidOption, match="line 3") as refused:
        read_access_keys(tmp_path / "keys", {})
    assert "hidden" not in str(refused.value)


def test_a_key_does_not_print_its_secret() -> None:
    assert "secret" not in repr(KEY)
    assert "secret" not in repr(GatewayOptions(keys=(KEY,)))


# -- options ----------------------------------------------------------------------------------------------------------


def test_options_come_from_the_environment_or_are_given() -> None:
    environment = {
        "PENSTOCK_HOST": "0.0.0.0",  # noqa: S104 - with keys
        "PENSTOCK_PORT": "8080",
        "PENSTOCK_PUBLIC_URL": "https://sqs.example/",
        "PENSTOCK_ACCESS_KEYS": "a:b",
    }
    read_ = GatewayOptions.read(environment=environment)
    assert (read_.host, read_.port, read_.public_url, len(read_.keys)) == (
        "0.0.0.0",  # noqa: S104 - same
        8080,
        "https://sqs.example",
        1,
    )
    given = GatewayOptions.read(host="::1", port=0, environment=environment)
    assert (given.host, given.port) == ("::1", 0)
    assert GatewayOptions.read(environment={}) == GatewayOptions()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"PENSTOCK_HOST": "0.0.0.0"}, "without access keys the gateway listens on loopback"),  # noqa: S104 - refused
        ({"PENSTOCK_HOST": "192.0.2.1"}, "without access keys"),
        ({"PENSTOCK_PORT": "http"}, "must be a port"),
        ({"PENSTOCK_PORT": "65536"}, "must be a port"),
        ({"PENSTOCK_PUBLIC_URL": "sqs.example"}, "must be http"),
    ],
)
def test_options_that_cannot_be_are_refused(environment: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        GatewayOptions.read(environment=environment)


@pytest.mark.parametrize(
    "url", ["ftp://x", "http://", "http://x/path", "http://x?q", "http://user@x", "http://x:99999", "http://x y", "x"]
)
def test_a_public_url_is_a_scheme_a_host_and_a_port(url: str) -> None:
    with pytest.raises(InvalidOption):
        check_public_url(url)


# -- over the wire ----------------------------------------------------------------------------------------------------


def header_signed(url: str, key: AccessKey) -> bytes:
    sent = AWSRequest(
        "POST",
        url,
        headers={"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": "AmazonSQS.Echo"},
        data=b'{"QueueUrl":"q"}',
    )
    SigV4Auth(Credentials(key.id, key.secret), "sqs", "eu-west-1").add_auth(sent)
    headers = {name: value if isinstance(value, str) else value.decode() for name, value in sent.headers.items()}
    return request(headers={**headers, "Host": url.removeprefix("http://")}, body=b'{"QueueUrl":"q"}')


def presigned(url: str, key: AccessKey) -> bytes:
    sent = AWSRequest("GET", f"{url}/?Action=GetCallerIdentity&Version=2011-06-15")
    SigV4QueryAuth(Credentials(key.id, key.secret), "sts", "us-east-1", expires=60).add_auth(sent)
    return request("GET", sent.url.removeprefix(url), {"Host": url.removeprefix("http://")})


async def test_with_keys_only_signed_requests_are_served_in_the_keys_account(broker: Broker) -> None:
    given = tiny()
    async with serving(tiny_app(broker, given, Access([KEY]))) as bound:
        echo = await asked(bound, header_signed(bound.url, KEY))
        identity = await asked(bound, presigned(bound.url, KEY))
        wrong = await asked(bound, header_signed(bound.url, AccessKey(KEY.id, "wrong")))
        unknown = await asked(bound, header_signed(bound.url, AccessKey("OTHER", "x")))
        unsigned = await asked(bound, json_request("Echo", {"QueueUrl": "q"}))
        page = await asked(bound, request("GET", "/?Action=Nothing", {"Origin": "http://x", "Host": "any.example"}))
    assert (echo.json["Account"], echo.json["Region"]) == ("123456789012", "eu-west-1")
    assert identity.text("GetCallerIdentityResult/Arn") == f"arn:aws:iam::123456789012:user/{KEY.id}"
    assert identity.text("GetCallerIdentityResult/UserId") == KEY.id
    assert [(each.status, each.code) for each in (wrong, unknown, unsigned, page)] == [
        (403, "SignatureDoesNotMatch"),
        (403, "InvalidClientTokenId"),
        (403, "MissingAuthenticationToken"),
        (403, "MissingAuthenticationToken"),
    ]
    assert unknown.json["message"] == "The security token included in the request is invalid."
    assert len(given.calls) == 1
