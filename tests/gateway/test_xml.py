"""Text in XML: what a parser reads is what was written, whatever it was."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from broker.gateway.aws.xml import escaped


@pytest.mark.parametrize(
    "text", ["", "plain", "<a b=\"c\" d='e'>&amp;</a>", "a\rb\r\nc\td", "é\U0001f600 & <é>", "&" * 9]
)
def test_what_is_escaped_is_read_as_it_was(text: str) -> None:
    assert ET.fromstring(f"<t>{escaped(text)}</t>").text == (text or None)  # noqa: S314 - our own text
    assert ET.fromstring(f'<t a="{escaped(text)}"/>').get("a", "").split() == text.split()  # noqa: S314 - same


def test_what_xml_cannot_say_is_replaced_one_by_one() -> None:
    assert escaped("a\x00\x01<\x0bb\ud800\uffff") == "a\ufffd\ufffd&lt;\ufffdb\ufffd\ufffd"
