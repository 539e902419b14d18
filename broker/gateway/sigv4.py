"""AWS Signature Version 4: what a request claims about its signer, and whether the signature is right.

Pure. The rules are those of AWS's "Create a signed AWS API request" for services other than S3: the path is encoded a
second time, dot segments are resolved, the body's hash is always part of what is signed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec

ALGORITHM: Final = "AWS4-HMAC-SHA256"
CLOCK_WINDOW: Final = timedelta(minutes=15)
MAX_EXPIRES_S: Final = 604_800
_TERMINATOR: Final = "aws4_request"
_DATE_FORMAT: Final = "%Y%m%dT%H%M%SZ"
_DATE: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_EXPIRES: Final = re.compile(r"[0-9]{1,6}")
_REGION: Final = re.compile(r"[a-z0-9-]{1,32}")
_SCOPE_PARTS: Final = 5
_MAX_SIGNED_HEADERS: Final = 200
_MAX_SIGNED_HEADERS_CHARACTERS: Final = 8_192
MAX_CREDENTIAL: Final = 512
"""Characters of a credential scope; what is cached must be short."""
_CACHED: Final = 1_024

MISMATCH: Final = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method. Consult the service documentation for details."
)


class SignatureRefused(Exception):
    """Why a request is not let in; ``name`` is AWS's name of the error."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name, self.message = name, message


class Credential(msgspec.Struct, frozen=True):
    """A credential scope: who signed, and for which day, region and service."""

    key_id: str
    day: str
    region: str
    service: str

    @property
    def scope(self) -> str:
        """The scope without the key, as the string to sign has it."""
        return f"{self.day}/{self.region}/{self.service}/{_TERMINATOR}"


class Claim(msgspec.Struct, frozen=True):
    """What a request says of its signature."""

    credential: Credential
    signed_headers: tuple[bytes, ...]
    signature: str
    date: str
    """As signed: ``20261121T203000Z``."""
    expires_s: int | None
    """Of a presigned request; None where the signature is in the Authorization header."""
    token: str | None


class Request(msgspec.Struct, frozen=True):
    """What is signed beside the body, as it came over the wire."""

    method: str
    raw_path: bytes
    raw_query: bytes
    headers: Mapping[bytes, bytes]
    """See :func:`joined`."""


def joined(headers: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by name (which is in lower case), those that come more than once as a signature joins them."""
    found = dict(headers)
    if len(found) != len(headers):
        found = {name: b",".join(value for each, value in headers if each == name) for name in found}
    return found


def read_credential(text: str) -> Credential:
    """A credential scope, as ``KEY/20261121/us-east-1/sqs/aws4_request``. Raises SignatureRefused."""
    check_credential_size(text)
    return _credential(text)


def check_credential_size(text: str | bytes) -> None:
    """Raises SignatureRefused for what is longer than any credential scope."""
    if len(text) > MAX_CREDENTIAL:
        raise SignatureRefused("IncompleteSignature", f"Credential must have at most {MAX_CREDENTIAL} characters.")


@lru_cache(maxsize=_CACHED)
def _credential(text: str) -> Credential:
    parts = text.rsplit("/", _SCOPE_PARTS - 1)
    if len(parts) != _SCOPE_PARTS or not parts[0]:
        raise SignatureRefused(
            "IncompleteSignature",
            "Credential must have at least 5 slash-delimited elements, e.g. keyid/date/region/service/term.",
        )
    key_id, day, region, service, terminator = parts
    if terminator != _TERMINATOR:
        raise SignatureRefused(
            "SignatureDoesNotMatch", f"Credential should be scoped with a valid terminator: '{_TERMINATOR}'."
        )
    check_region(region)
    return Credential(key_id, day, region, service)


def check_region(region: str) -> None:
    """Raises SignatureRefused for what is no region's name."""
    if not _REGION.fullmatch(region):
        raise SignatureRefused("SignatureDoesNotMatch", "Credential should be scoped to a valid region.")


def claim_of(request: Request, parameters: Mapping[str, str]) -> Claim | None:
    """What the Authorization header or the query (``parameters``) claims; None for an unsigned request.

    Raises SignatureRefused for a malformed claim.
    """
    authorization = request.headers.get(b"authorization")
    presigned = "X-Amz-Signature" in parameters or "X-Amz-Credential" in parameters
    if authorization is not None and presigned:
        raise SignatureRefused("IncompleteSignature", "Only one of header and query may carry a signature.")
    if presigned:
        return _from_query(parameters)
    return None if authorization is None else _from_header(request, authorization.decode("latin-1"))


def _from_header(request: Request, authorization: str) -> Claim:
    algorithm, _, rest = authorization.partition(" ")
    if algorithm != ALGORITHM:
        raise SignatureRefused("IncompleteSignature", f"Unsupported AWS 'algorithm'; it must be {ALGORITHM}.")
    given = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    missing = [name for name in ("Credential", "Signature", "SignedHeaders") if not given.get(name)]
    date = _header_date(request)
    if date is None:
        missing.append("existence of either a 'X-Amz-Date' or a 'Date' header")
    if missing or date is None:
        said = " ".join(
            f"Authorization header requires {name if ' ' in name else f'{name!r} parameter'}." for name in missing
        )
        raise SignatureRefused("IncompleteSignature", said)
    token = request.headers.get(b"x-amz-security-token")
    return Claim(
        read_credential(given["Credential"]),
        _signed_headers(given["SignedHeaders"]),
        given["Signature"],
        date,
        None,
        None if token is None else token.decode("latin-1"),
    )


def _header_date(request: Request) -> str | None:
    stated = request.headers.get(b"x-amz-date")
    if stated is not None:
        return stated.decode("latin-1")
    other = request.headers.get(b"date")
    if other is None:
        return None
    text = other.decode("latin-1")
    try:
        return text if _DATE.fullmatch(text) else _basic_format(parsedate_to_datetime(text))
    except (ValueError, OverflowError):
        return text  # not a date: refused with the others that are none


def _basic_format(stated: datetime) -> str:
    return (stated if stated.tzinfo is None else stated.astimezone(UTC)).strftime(_DATE_FORMAT)


def _from_query(parameters: Mapping[str, str]) -> Claim:
    names = ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature", "X-Amz-SignedHeaders", "X-Amz-Date")
    missing = [name for name in (*names, "X-Amz-Expires") if not parameters.get(name)]
    if missing:
        said = " ".join(f"AWS query-string parameters must include '{name}'." for name in missing)
        raise SignatureRefused("IncompleteSignature", f"{said} Re-examine the query-string parameters.")
    if parameters["X-Amz-Algorithm"] != ALGORITHM:
        raise SignatureRefused("IncompleteSignature", f"X-Amz-Algorithm must be {ALGORITHM}.")
    expires = parameters["X-Amz-Expires"]
    if not _EXPIRES.fullmatch(expires) or not 1 <= int(expires) <= MAX_EXPIRES_S:
        raise SignatureRefused("IncompleteSignature", f"X-Amz-Expires must be from 1 to {MAX_EXPIRES_S} seconds.")
    return Claim(
        read_credential(parameters["X-Amz-Credential"]),
        _signed_headers(parameters["X-Amz-SignedHeaders"]),
        parameters["X-Amz-Signature"],
        parameters["X-Amz-Date"],
        int(expires),
        parameters.get("X-Amz-Security-Token"),
    )


def _signed_headers(text: str) -> tuple[bytes, ...]:
    if len(text) > _MAX_SIGNED_HEADERS_CHARACTERS:
        said = f"SignedHeaders must have at most {_MAX_SIGNED_HEADERS_CHARACTERS} characters."
        raise SignatureRefused("IncompleteSignature", said)
    return _names(text)


@lru_cache(maxsize=_CACHED)
def _names(text: str) -> tuple[bytes, ...]:
    names = tuple(text.split(";"))
    proper = text.isascii() and text == text.lower() and list(names) == sorted(set(names))
    if not proper or len(names) > _MAX_SIGNED_HEADERS:
        raise SignatureRefused("IncompleteSignature", "SignedHeaders must be sorted, in lower case and not repeated.")
    return tuple(name.encode() for name in names)


def check_time(claim: Claim, now: datetime) -> None:
    """Raises SignatureRefused when the claim's date is not within 15 minutes, or a presigned request has expired."""
    signed_at = _time(claim.date)
    if claim.credential.day != claim.date[:8]:
        raise SignatureRefused(
            "SignatureDoesNotMatch",
            f"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            f"'{printable(claim.credential.day)}' != '{claim.date[:8]}'.",
        )
    _check_window(claim, signed_at, now)


@lru_cache(maxsize=_CACHED)
def _time(text: str) -> datetime:
    try:
        if not _DATE.fullmatch(text):
            raise ValueError(text)
        return datetime.strptime(text, _DATE_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        raise SignatureRefused(
            "IncompleteSignature", f"Date must be in ISO-8601 'basic format'. Got '{printable(text)}'."
        ) from None


def _check_window(claim: Claim, signed_at: datetime, now: datetime) -> None:
    if signed_at > now + CLOCK_WINDOW:
        latest, now_text = _text(now + CLOCK_WINDOW), _text(now)
        raise SignatureRefused(
            "SignatureDoesNotMatch",
            f"Signature not yet current: {claim.date} is still later than {latest} ({now_text} + 15 min.)",
        )
    if claim.expires_s is not None:
        if now > signed_at + timedelta(seconds=claim.expires_s):
            raise SignatureRefused("RequestExpired", "Request has expired.")
    elif signed_at < now - CLOCK_WINDOW:
        earliest, now_text = _text(now - CLOCK_WINDOW), _text(now)
        raise SignatureRefused(
            "SignatureDoesNotMatch",
            f"Signature expired: {claim.date} is now earlier than {earliest} ({now_text} - 15 min.)",
        )


def _text(time: datetime) -> str:
    return time.strftime(_DATE_FORMAT)


def check_signature(request: Request, claim: Claim, secret: str, *, body: bytes | bytearray) -> None:
    """Raises SignatureRefused unless the secret's owner has signed exactly this request with this body."""
    _check_what_is_signed(request, claim)
    key = signing_key(secret, claim.credential.day, claim.credential.region, claim.credential.service)
    expected = hmac.new(key, string_to_sign(request, claim, body), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), claim.signature.encode("latin-1", "replace")):
        raise SignatureRefused("SignatureDoesNotMatch", MISMATCH)


def _check_what_is_signed(request: Request, claim: Claim) -> None:
    """What changes the meaning of a request must be signed: the host, and every X-Amz- header."""
    must = [name for name in request.headers if name.startswith(b"x-amz-")]
    must.append(b"host")
    if claim.expires_s is None and b"x-amz-date" not in request.headers:
        must.append(b"date")
    left_out = [name for name in must if name not in claim.signed_headers]
    if left_out:
        names = ", ".join(f"'{printable(name.decode('latin-1'))}'" for name in sorted(left_out))
        raise SignatureRefused(
            "SignatureDoesNotMatch",
            f"{names} must be a 'SignedHeader' in the AWS Authorization; it is part of the request.",
        )


def string_to_sign(request: Request, claim: Claim, body: bytes | bytearray) -> bytes:
    """What the signature is made of. Raises SignatureRefused for a stated body hash that is not the body's."""
    digest = hashlib.sha256(canonical_request(request, claim, body)).hexdigest()
    return f"{ALGORITHM}\n{claim.date}\n{claim.credential.scope}\n{digest}".encode()


def canonical_request(request: Request, claim: Claim, body: bytes | bytearray) -> bytes:
    """The request in the one form that both sides can make of it."""
    given = request.headers
    headers = b"".join([b"%b:%b\n" % (name, _trimmed(given.get(name, b""))) for name in claim.signed_headers])
    return b"\n".join(
        (
            request.method.encode(),
            canonical_path(request.raw_path),
            canonical_query(request.raw_query),
            headers,
            b";".join(claim.signed_headers),
            _body_hash(request, body),
        )
    )


def _trimmed(value: bytes) -> bytes:
    if b"  " in value or b"\t" in value or value[:1] == b" " or value[-1:] == b" ":
        return b" ".join(value.split())
    return value


def _body_hash(request: Request, body: bytes | bytearray) -> bytes:
    digest = hashlib.sha256(body).hexdigest().encode()
    stated = request.headers.get(b"x-amz-content-sha256")
    if stated is not None and not hmac.compare_digest(stated, digest):
        raise SignatureRefused(
            "SignatureDoesNotMatch", "The provided 'x-amz-content-sha256' header does not match what was computed."
        )
    return digest


def canonical_path(raw_path: bytes) -> bytes:
    """Dot segments resolved, empty ones left out, and all encoded once more."""
    if raw_path == b"/":
        return raw_path
    kept: list[bytes] = []
    for segment in raw_path.split(b"/"):
        if segment == b"..":
            if kept:
                kept.pop()
        elif segment not in {b"", b"."}:
            kept.append(segment)
    closing = b"/" if kept and raw_path.endswith(b"/") else b""
    return quote_from_bytes(b"/" + b"/".join(kept) + closing, safe="/~").encode()


def canonical_query(raw_query: bytes) -> bytes:
    """Every parameter but the signature, decoded as the service decodes it, encoded in one way, and sorted."""
    if not raw_query:
        return b""
    pairs = []
    for part in raw_query.split(b"&"):
        name, _, value = part.partition(b"=")
        pair = (_encoded(name), _encoded(value))
        if pair[0] != b"X-Amz-Signature":
            pairs.append(pair)
    return b"&".join(b"%b=%b" % pair for pair in sorted(pairs))


def _encoded(text: bytes) -> bytes:
    return quote_from_bytes(unquote_to_bytes(text.replace(b"+", b" ")), safe="-_.~").encode()


@lru_cache(maxsize=_CACHED)
def signing_key(secret: str, day: str, region: str, service: str) -> bytes:
    """The key that a secret becomes for one day, region and service."""
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, _TERMINATOR):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def printable(text: str) -> str:
    """What a client sent, short and harmless enough to be told back."""
    return "".join(character if character.isprintable() else "?" for character in text[:80])
