"""Message attributes as SQS types them, and what Python makes of their values."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Final, TypeAlias

import msgspec

from broker.errors import InvalidOption


def encodable(text: str) -> bool:
    """Whether text can be stored: lone halves of surrogate pairs cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


ATTRIBUTE_TYPE: Final = re.compile(r"(?=.{1,256}$)(String|Number|Binary)(\..+)?", re.DOTALL)
"""What SQS allows as the type of a message attribute."""
_NUMBER: Final = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?\s*", re.ASCII)
_NUMBER_DIGITS: Final = 38
_NUMBER_EXPONENTS: Final = (-128, 126)


def is_number(text: str) -> bool:
    """Whether SQS takes it as the value of a Number: up to 38 digits, from 10^-128 to 10^126."""
    if not _NUMBER.fullmatch(text):
        return False
    # By the text: arithmetic on a Decimal rounds to 28 digits, and its tuple of digits is slow to make.
    mantissa = re.split("[eE]", text.strip().lstrip("+-"), maxsplit=1)[0]
    significant = mantissa.replace(".", "").strip("0")
    if not significant or len(significant) > _NUMBER_DIGITS:
        return not significant
    low, high = _NUMBER_EXPONENTS
    return low <= Decimal(text.strip()).adjusted() <= high


class Attribute(msgspec.Struct, frozen=True, array_like=True):
    """One message attribute as SQS types it; String and Number are kept as UTF-8 text."""

    data_type: str
    data: bytes

    @classmethod
    def of(cls, name: str, value: AttributeValue) -> Attribute:
        """The typed form of a Python value. Raises InvalidOption for anything but text, numbers and bytes."""
        match value:
            case Attribute():
                return value.checked(name)
            case (str(data_type), bytes(data)):
                return cls(data_type, data).checked(name)
            case (str(data_type), str() | int() | float() | Decimal() as plain):
                return cls(data_type, str(plain).encode()).checked(name)
            case str() if value and encodable(value):
                return cls("String", value.encode())
            case bytes() if value:
                return cls("Binary", value)
            case int() | float() | Decimal() if not isinstance(value, bool) and math.isfinite(value):
                return cls("Number", str(value).encode())
            case _:
                raise InvalidOption(f"attributes[{name!r}]", value, "text, a finite number or bytes, and not empty")

    def checked(self, name: str) -> Attribute:
        """Itself. Raises InvalidOption for a type that SQS does not know, or a value that is not of the type."""
        option = f"attributes[{name!r}]"
        data_type: object = self.data_type
        if not isinstance(data_type, str) or not ATTRIBUTE_TYPE.fullmatch(data_type):
            raise InvalidOption(option, data_type, "type String, Number or Binary, perhaps with .label, up to 256")
        data: object = self.data
        if not isinstance(data, bytes) or not data:
            raise InvalidOption(option, data, "bytes (text and numbers as UTF-8), and not empty")
        if not self.binary:
            try:
                text = self.data.decode()
            except UnicodeDecodeError:
                raise InvalidOption(option, self.data, f"UTF-8, as its type is {self.data_type}") from None
            if self.data_type.startswith("Number") and not is_number(text):
                raise InvalidOption(option, text, "a number of up to 38 digits from 1e-128 to 1e126, as its type says")
        return self

    @property
    def binary(self) -> bool:
        """Whether the value is bytes rather than text."""
        return self.data_type.startswith("Binary")

    @property
    def python(self) -> PlainValue:
        """The value as Python has it; a Number is an int where it is whole, else a Decimal."""
        if self.binary:
            return self.data
        text = self.data.decode()
        if not self.data_type.startswith("Number"):
            return text
        return int(text) if text.lstrip("+-").isdigit() else Decimal(text)


PlainValue: TypeAlias = str | int | float | Decimal | bytes
"""The value of an attribute as Python has it."""
AttributeValue: TypeAlias = PlainValue | tuple[str, PlainValue] | Attribute
"""What can be given as the value of an attribute; with its type before it where that needs a label."""
