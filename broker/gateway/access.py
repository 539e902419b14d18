"""Who may call: access keys and the accounts that they belong to, and what a request is to us without any."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from broker.errors import InvalidOption
from broker.gateway.sigv4 import (
    Claim,
    Credential,
    Request,
    SignatureRefused,
    check_signature,
    check_time,
    claim_of,
    read_credential,
)
from broker.settings import DEFAULT_ACCOUNT, DEFAULT_REGION

KEYS_VARIABLE: Final = "PENSTOCK_ACCESS_KEYS"
KEYS_FILE_VARIABLE: Final = "PENSTOCK_ACCESS_KEYS_FILE"
_KEY_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_ACCOUNT: Final = re.compile(r"[0-9]{12}")
_MAX_PARTS: Final = 4
_CREDENTIAL: Final = b"Credential="
_NOT_KNOWN: Final = "The security token included in the request is invalid."


class AccessKey(msgspec.Struct, frozen=True):
    """One key: its id, secret, the account that it belongs to, and a session token that must come with it."""

    id: str
    secret: str
    account: str = DEFAULT_ACCOUNT
    token: str | None = None

    def __repr__(self) -> str:
        return f"AccessKey({self.id!r}, account={self.account!r})"


class Caller(msgspec.Struct, frozen=True):
    """Who asks, and for which account, region and (as far as the request says) service."""

    account: str
    region: str
    service: str | None = None
    key_id: str = ""
    """The access key's id where its signature was verified; else ''."""


class Access:
    """The keys that may be used. Without any, everybody may call who reaches the gateway."""

    def __init__(
        self,
        keys: Iterable[AccessKey] = (),
        *,
        account: str = DEFAULT_ACCOUNT,
        region: str = DEFAULT_REGION,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._keys: Final = {key.id: key for key in keys}
        self._account: Final = account
        self._region: Final = region
        self._now: Final = now

    @property
    def verified(self) -> bool:
        """Whether requests have to be signed with one of the keys."""
        return bool(self._keys)

    @property
    def anonymous(self) -> Caller:
        """Who asks without saying."""
        return Caller(self._account, self._region)

    def claimed(self, credential: Credential) -> Caller:
        """Without keys: a twelve-digit key id names its account, any other means the default one."""
        account = credential.key_id if _ACCOUNT.fullmatch(credential.key_id) else self._account
        return Caller(account, credential.region, credential.service or None)

    def examine(self, request: Request, parameters: Mapping[str, str]) -> tuple[Claim, AccessKey]:
        """What can be said before the body is there: a known key, a time that fits. Raises SignatureRefused."""
        claim = claim_of(request, parameters)
        if claim is None:
            raise SignatureRefused("MissingAuthenticationToken", "Request is missing Authentication Token")
        key = self._keys.get(claim.credential.key_id)
        if key is None or not _same_token(key.token, claim.token):
            raise SignatureRefused("InvalidClientTokenId", _NOT_KNOWN)
        check_time(claim, self._now())
        return claim, key

    def verify(self, request: Request, claim: Claim, key: AccessKey, body: bytes | bytearray) -> Caller:
        """Who signed the whole request. Raises SignatureRefused."""
        check_signature(request, claim, key.secret, body=body)
        return Caller(key.account, claim.credential.region, claim.credential.service, key.id)


def _same_token(expected: str | None, given: str | None) -> bool:
    if expected is None or given is None:
        return expected is given
    return hmac.compare_digest(expected.encode(), given.encode())


def credential_text(authorization: bytes) -> bytes:
    """The credential scope in an Authorization header, as far as there is one; '' otherwise."""
    start = authorization.find(_CREDENTIAL)
    if start < 0:
        return b""
    end = authorization.find(b",", start)
    return authorization[start + len(_CREDENTIAL) : end if end >= 0 else None].strip()


def unverified_credential(text: str) -> Credential:
    """The scope that somebody claims, where nothing is verified. Raises SignatureRefused for a bad region."""
    try:
        return read_credential(text)
    except SignatureRefused as error:
        if error.name != "IncompleteSignature":
            raise
        return Credential(text.partition("/")[0], "", DEFAULT_REGION, "")


# -- reading keys -----------------------------------------------------------------------------------------------------


def read_access_keys(option: Path | None, environment: Mapping[str, str]) -> list[AccessKey]:
    """Keys from the file given, else ``PENSTOCK_ACCESS_KEYS`` (text, or ``@FILE``), else ``PENSTOCK_ACCESS_KEYS_FILE``.

    One a line, or separated by commas: ``KEYID:SECRET``, ``KEYID:SECRET:ACCOUNT``, ``KEYID:SECRET:ACCOUNT:TOKEN``.
    Raises InvalidOption, which names place and rule, never a secret.
    """
    text = environment.get(KEYS_VARIABLE, "")
    if (file := access_keys_file(option, environment)) is not None:
        return _from_file(*file)
    return _from_text(text) if text.strip() else []


def access_keys_file(option: Path | None, environment: Mapping[str, str]) -> tuple[Path, str] | None:
    """The file that the keys are read from, and what names it; None where they stand in the environment, or nowhere."""
    text = environment.get(KEYS_VARIABLE, "")
    if option is not None:
        return option, "--access-keys"
    if text.startswith("@"):
        return Path(text[1:]), KEYS_VARIABLE
    if text.strip() or not environment.get(KEYS_FILE_VARIABLE):
        return None
    return Path(environment[KEYS_FILE_VARIABLE]), KEYS_FILE_VARIABLE


def _from_text(text: str) -> list[AccessKey]:
    keys = _parse(text.replace(",", "\n"), KEYS_VARIABLE, "entry")
    if not keys:
        # As an empty file is. What stands there may be a secret behind a #.
        raise InvalidOption(KEYS_VARIABLE, "...", "there is no key in it; leave it empty to have none")
    return keys


def _from_file(path: Path, option: str) -> list[AccessKey]:
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        if isinstance(error, FileNotFoundError):
            reason = f"{reason}; mend its name, or let --create-access-keys make it"
        raise InvalidOption(option, str(path), f"the file cannot be read: {reason}") from None
    keys = _parse(text, f"{option} {path}", "line")
    if not keys:
        # An empty file is a mistake that would open the gateway to everybody.
        raise InvalidOption(option, str(path), "there is no key in the file; write one a line, as KEYID:SECRET")
    return keys


def _parse(text: str, option: str, unit: str) -> list[AccessKey]:
    keys: dict[str, AccessKey] = {}
    for place, entry in _entries(text):
        key = _key(entry, option, f"{unit} {place}")
        if key.id in keys:
            raise InvalidOption(option, f"{unit} {place}", f"the key {key.id} is there twice")
        keys[key.id] = key
    return list(keys.values())


def _entries(text: str) -> Iterator[tuple[int, str]]:
    for place, line in enumerate(text.splitlines(), start=1):
        entry = line.strip()
        if entry and not entry.startswith("#"):
            yield place, entry


def _key(entry: str, option: str, place: str) -> AccessKey:
    parts = entry.split(":")
    if not 2 <= len(parts) <= _MAX_PARTS:  # noqa: PLR2004 - KEYID:SECRET
        raise InvalidOption(option, place, "must be KEYID:SECRET, KEYID:SECRET:ACCOUNT or KEYID:SECRET:ACCOUNT:TOKEN")
    key_id, secret = parts[0].strip(), parts[1].strip()
    account = parts[2].strip() if len(parts) > 2 and parts[2].strip() else DEFAULT_ACCOUNT  # noqa: PLR2004 - same
    token = parts[3].strip() if len(parts) == _MAX_PARTS else None
    for wrong, rule in (
        (not _KEY_ID.fullmatch(key_id), "the key id has 1 to 128 of letters, digits, -, _ and ."),
        (not secret, "the secret is missing"),
        (not _ACCOUNT.fullmatch(account), "the account has twelve digits"),
        (token == "", "the session token is missing"),
    ):
        if wrong:
            raise InvalidOption(option, place, rule)
    return AccessKey(key_id, secret, account, token)
