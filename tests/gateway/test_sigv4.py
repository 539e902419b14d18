"""Signatures: what botocore's own signer makes is accepted, and nothing that differs from it in a signed part."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from broker.gateway.access import Access, AccessKey, Caller
from broker.gateway.sigv4 import (
    Request,
    SignatureRefused,
    canonical_path,
    canonical_query,
    claim_of,
    joined,
    signing_key,
    string_to_sign,
)

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
KEY = AccessKey("AKIDEXAMPLE", SECRET, "123456789012")
TEMPORARY = AccessKey("ASIAEXAMPLE", SECRET, "123456789012", "the/session+token==")


class Sent(msgspec.Struct, frozen=True):
    """A request as it goes over the wire."""

    method: str
    raw_path: bytes
    raw_query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


NOW = datetime(2026, 11, 21, 20, 30, tzinfo=UTC)
FORM = b"Action=SendMessage&QueueUrl=http%3A%2F%2Fx&MessageBody=a+b"
JSON = b'{"QueueUrl":"http://localhost:4566/123456789012/q","MessageBody":"\xc3\xa4"}'


@pytest.fixture(autouse=True)
def _botocores_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_, **__: NOW.replace(tzinfo=None))


def signed(
    *,
    method: str = "POST",
    url: str = "http://localhost:4566/",
    body: bytes = JSON,
    key: AccessKey = KEY,
    presigned: bool = False,
    headers: dict[str, str] | None = None,
    expires: int = 3600,
) -> Sent:
    """What a client that signs with botocore sends."""
    credentials = Credentials(key.id, key.secret, key.token)
    asked = AWSRequest(method, url, headers=headers or {}, data=body)
    if presigned:
        SigV4QueryAuth(credentials, "sqs", "us-east-1", expires=expires).add_auth(asked)
    else:
        SigV4Auth(credentials, "sqs", "us-east-1").add_auth(asked)
    parts = urlsplit(asked.url)
    sent = [(b"host", parts.netloc.encode()), (b"user-agent", b"unsigned")]
    sent += [(name.lower().encode(), as_bytes(value)) for name, value in asked.headers.items()]
    return Sent(method, parts.path.encode() or b"/", parts.query.encode(), sent, b"" if presigned else body)


def as_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def json_call(**changes: Any) -> Sent:
    headers = {
        "Content-Type": "application/x-amz-json-1.0",
        "X-Amz-Target": "AmazonSQS.SendMessage",
        "x-amzn-query-mode": "true",
    }
    return signed(headers=headers, **changes)


def judged(request: Sent, *keys: AccessKey, now: datetime = NOW) -> Caller:
    """Who signed it; raises SignatureRefused."""
    access = Access(keys or (KEY, TEMPORARY), now=lambda: now)
    parameters = dict(parse_qsl(request.raw_query.decode("latin-1"), keep_blank_values=True))
    sent = Request(request.method, request.raw_path, request.raw_query, joined(request.headers))
    return access.verify(sent, *access.examine(sent, parameters), request.body)


def refusal(request: Sent, *keys: AccessKey, now: datetime = NOW) -> str:
    with pytest.raises(SignatureRefused) as refused:
        judged(request, *keys, now=now)
    assert SECRET not in refused.value.message
    return refused.value.name


def json_dated() -> Sent:
    return signed(headers={"Date": "now", "X-Amz-Target": "AmazonSQS.ListQueues"})


PATH = "http://localhost:4566/123456789012/orders%20x/../q.fifo?b=2&a=%C3%A4%2B&a=1&empty="
ORIGINALS: dict[str, Callable[[], Sent]] = {
    "json": json_call,
    "json, session token": lambda: json_call(key=TEMPORARY),
    "form": lambda: signed(body=FORM, headers={"Content-Type": "application/x-www-form-urlencoded"}),
    "path and query": lambda: signed(url=PATH, headers={"X-Amz-Meta": "  two   spaces "}),
    "date header": json_dated,
    "content hash": lambda: signed(headers={"X-Amz-Content-SHA256": hashlib.sha256(JSON).hexdigest()}),
    "presigned": lambda: signed(method="GET", url=f"{PATH}&Action=ListQueues", body=b"", presigned=True),
    "presigned, session token": lambda: signed(
        method="GET", url=f"{PATH}&Action=ListQueues", body=b"", key=TEMPORARY, presigned=True
    ),
}


@pytest.mark.parametrize("name", ORIGINALS)
def test_what_botocore_signs_is_accepted(name: str) -> None:
    caller = judged(ORIGINALS[name]())
    assert (caller.account, caller.region, caller.service) == ("123456789012", "us-east-1", "sqs")
    assert caller.key_id in {KEY.id, TEMPORARY.id}


def flipped(text: bytes, at: int) -> bytes:
    """One character is another one of its kind."""
    other = {48 <= text[at] <= 57: b"0123456789", 65 <= text[at] <= 90: b"ABCDEFGHIJ", 97 <= text[at] <= 122: b"abcde"}
    pool = other.get(True, b"-_")
    return text[:at] + bytes([pool[0] if text[at] != pool[0] else pool[1]]) + text[at + 1 :]


def replaced(headers: list[tuple[bytes, bytes]], index: int, value: bytes) -> list[tuple[bytes, bytes]]:
    return [*headers[:index], (headers[index][0], value), *headers[index + 1 :]]


def mutations(request: Sent) -> list[tuple[str, Sent]]:
    """The request with one signed part changed, in every way."""
    change = msgspec.structs.replace
    headers = list(request.headers)
    made = [
        ("method", change(request, method="PUT")),
        ("path", change(request, raw_path=request.raw_path + b"x")),
        ("body", change(request, body=bytes(request.body) + b" ")),
        ("query added", change(request, raw_query=request.raw_query + b"&z=1" if request.raw_query else b"z=1")),
        ("target added", change(request, headers=[*headers, (b"x-amz-target", b"AmazonSQS.PurgeQueue")])),
    ]
    for index, (name, value) in enumerate(headers):
        if name == b"user-agent":
            continue
        made += [
            (f"{name!r} at {at}", change(request, headers=replaced(headers, index, flipped(value, at))))
            for at in {0, len(value) // 2, len(value) - 1}
        ]
        made.append((f"{name!r} gone", change(request, headers=headers[:index] + headers[index + 1 :])))
    for index, pair in enumerate(parts := request.raw_query.split(b"&") if request.raw_query else []):
        rest = [*parts[:index], *parts[index + 1 :]]
        made.append((f"{pair!r} gone", change(request, raw_query=b"&".join(rest))))
        made.append((f"{pair!r} changed", change(request, raw_query=b"&".join([*rest, flipped(pair, len(pair) - 1)]))))
    return made


@pytest.mark.parametrize("name", ORIGINALS)
def test_every_change_of_a_signed_part_is_refused(name: str) -> None:
    original = ORIGINALS[name]()
    judged(original)
    changed = mutations(original)
    assert len(changed) > 15
    for what, request in changed:
        assert refusal(request), what


@pytest.mark.parametrize(
    ("find", "put", "name"),
    [
        (b"/20261121/", b"/20261120/", "SignatureDoesNotMatch"),
        (b"/us-east-1/", b"/us-east-2/", "SignatureDoesNotMatch"),
        (b"/us-east-1/", b"/US EAST/", "SignatureDoesNotMatch"),
        (b"/sqs/", b"/sns/", "SignatureDoesNotMatch"),
        (b"/aws4_request", b"/aws4_other", "SignatureDoesNotMatch"),
        (b"AKIDEXAMPLE/", b"AKIDUNKNOWN/", "InvalidClientTokenId"),
        (b"AKIDEXAMPLE/", b"", "IncompleteSignature"),
        (b"AWS4-HMAC-SHA256", b"AWS4-ECDSA-P256-SHA256", "IncompleteSignature"),
        (b"AWS4-HMAC-SHA256", b"Basic", "IncompleteSignature"),
        (b"Signature=", b"Nothing=", "IncompleteSignature"),
        (b"SignedHeaders=", b"Nothing=", "IncompleteSignature"),
        (b"Credential=", b"Nothing=", "IncompleteSignature"),
        (b"host;", b"", "SignatureDoesNotMatch"),
        (b";x-amz-date", b"", "SignatureDoesNotMatch"),
        (b";x-amz-target", b"", "SignatureDoesNotMatch"),
        (b"host;", b"host;host;", "IncompleteSignature"),
        (b"host;", b"Host;", "IncompleteSignature"),
    ],
)
def test_a_changed_authorization_header_has_aws_own_error(find: bytes, put: bytes, name: str) -> None:
    original = json_call()
    headers = [
        (each, value.replace(find, put) if each == b"authorization" else value) for each, value in original.headers
    ]
    assert headers != list(original.headers)
    assert refusal(msgspec.structs.replace(original, headers=headers)) == name


def dated(text: str) -> Sent:
    """A request whose time stands in another form than the one that is signed."""
    original = json_dated()
    where = [name for name, _ in original.headers].index(b"date")
    headers = replaced(original.headers, where, text.encode())
    sent = Request(original.method, original.raw_path, original.raw_query, joined(headers))
    claim = claim_of(sent, {})
    assert claim is not None
    key = signing_key(SECRET, claim.credential.day, claim.credential.region, claim.credential.service)
    signature = hmac.new(key, string_to_sign(sent, claim, original.body), hashlib.sha256).hexdigest()
    where = [name for name, _ in headers].index(b"authorization")
    authorization = headers[where][1].replace(claim.signature.encode(), signature.encode())
    return msgspec.structs.replace(original, headers=replaced(headers, where, authorization))


@pytest.mark.parametrize("text", ["Sat, 21 Nov 2026 20:30:00 GMT", "Sat, 21 Nov 2026 22:30:00 +0200"])
def test_a_date_header_says_the_time_in_its_zone(text: str) -> None:
    assert judged(dated(text)).key_id == KEY.id


@pytest.mark.parametrize(
    "text",
    [
        "Mon, 1 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 1 Jan 2026 00:00:00 +99999999999999999",
        "Fri, 31 Dec 9999 23:59:59 -2300",
        "Mon, 1 Jan 0001 00:00:00 +0100",
        "",
    ],
)
def test_a_date_that_is_none_is_refused(text: str) -> None:
    original = json_dated()
    where = [name for name, _ in original.headers].index(b"date")
    headers = replaced(original.headers, where, text.encode())
    assert refusal(msgspec.structs.replace(original, headers=headers)) in {
        "IncompleteSignature",
        "SignatureDoesNotMatch",
    }


@pytest.mark.parametrize(
    ("find", "put", "said"),
    [
        (b"Credential=", b"Credential=" + b"x" * 512, "Credential must have at most 512 characters"),
        (b"/sqs/", b"/" + b"s" * 512 + b"/", "Credential must have at most 512 characters"),
        (b"SignedHeaders=", b"SignedHeaders=" + b"a" * 8_192 + b";", "SignedHeaders must have at most 8192 characters"),
    ],
)
def test_a_claim_is_short(find: bytes, put: bytes, said: str) -> None:
    original = json_call()
    headers = [(name, value.replace(find, put)) for name, value in original.headers]
    with pytest.raises(SignatureRefused, match=said) as refused:
        judged(msgspec.structs.replace(original, headers=headers))
    assert refused.value.name == "IncompleteSignature"


def test_an_unsigned_request_is_told_so() -> None:
    assert refusal(Sent("POST", b"/", b"", [(b"host", b"x")], b"")) == "MissingAuthenticationToken"


def test_tokens_and_keys_belong_together() -> None:
    without_token = AccessKey(TEMPORARY.id, SECRET)
    assert refusal(json_call(key=TEMPORARY), without_token) == "InvalidClientTokenId"
    assert refusal(json_call(key=without_token), TEMPORARY) == "InvalidClientTokenId"
    other = AccessKey(TEMPORARY.id, SECRET, token="another")
    assert refusal(json_call(key=other), TEMPORARY) == "InvalidClientTokenId"


def test_another_secret_does_not_match() -> None:
    with pytest.raises(SignatureRefused, match="does not match the signature you provided") as refused:
        judged(json_call(), AccessKey(KEY.id, "another"))
    assert refused.value.name == "SignatureDoesNotMatch"


@pytest.mark.parametrize(("minutes", "good"), [(-16, False), (-14, True), (14, True), (16, False)])
def test_the_clock_may_differ_by_fifteen_minutes(minutes: int, *, good: bool) -> None:
    now = NOW + timedelta(minutes=minutes)
    if good:
        judged(json_call(), now=now)
        return
    with pytest.raises(SignatureRefused, match="not yet current" if minutes < 0 else "Signature expired: 20261121T"):
        judged(json_call(), now=now)


def test_a_presigned_request_holds_for_as_long_as_it_says() -> None:
    request = signed(method="GET", body=b"", presigned=True, expires=7200)
    judged(request, now=NOW + timedelta(seconds=7200))
    assert refusal(request, now=NOW + timedelta(seconds=7201)) == "RequestExpired"
    assert refusal(request, now=NOW - timedelta(minutes=16)) == "SignatureDoesNotMatch"


@pytest.mark.parametrize(("expires", "good"), [(1, True), (604_800, True), (604_801, False), (0, False)])
def test_a_presigned_request_holds_for_a_week_at_most(expires: int, *, good: bool) -> None:
    request = signed(method="GET", body=b"", presigned=True, expires=expires)
    if good:
        judged(request)
    else:
        assert refusal(request) == "IncompleteSignature"


def test_a_stated_body_hash_must_be_the_bodys() -> None:
    for stated in (hashlib.sha256(b"other").hexdigest(), "UNSIGNED-PAYLOAD"):
        assert refusal(signed(headers={"X-Amz-Content-SHA256": stated})) == "SignatureDoesNotMatch"


def test_two_signatures_are_refused() -> None:
    presigned = signed(method="GET", body=b"", presigned=True)
    both = msgspec.structs.replace(presigned, headers=[*presigned.headers, (b"authorization", b"AWS4-HMAC-SHA256 x")])
    assert refusal(both) == "IncompleteSignature"


def test_hostile_claims_are_refused_by_name() -> None:
    for query in (b"X-Amz-Credential=\xff", b"X-Amz-Signature=1&X-Amz-Date=\xe2\x82\xac"):
        assert refusal(Sent("GET", b"/", query, [(b"host", b"x")], b"")) == "IncompleteSignature"
    presigned = signed(method="GET", body=b"", presigned=True)
    for find, put in ((b"SignedHeaders=host", b"SignedHeaders=%E2%82%AC"), (b"20261121T203000Z", b"20269999T999999Z")):
        changed = msgspec.structs.replace(presigned, raw_query=presigned.raw_query.replace(find, put))
        assert changed != presigned
        assert refusal(changed) in {"IncompleteSignature", "SignatureDoesNotMatch"}


def test_a_header_that_comes_twice_counts_with_both_values() -> None:
    original = json_call()
    twice = [*original.headers, (b"x-amz-target", b"AmazonSQS.PurgeQueue")]
    assert joined(twice)[b"x-amz-target"] == b"AmazonSQS.SendMessage,AmazonSQS.PurgeQueue"
    assert refusal(msgspec.structs.replace(original, headers=twice)) == "SignatureDoesNotMatch"


def test_paths_and_queries_have_one_form() -> None:
    assert canonical_path(b"/a//b/./c/../d%20e/") == b"/a/b/d%2520e/"
    assert canonical_path(b"/..") == b"/"
    assert canonical_query(b"b=2&a=1+1&a=1&X-Amz-Signature=0&c&%7E=~") == b"a=1&a=1%201&b=2&c=&~=~"
