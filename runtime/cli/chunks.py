"""What a function yields, on standard output as it comes."""

from __future__ import annotations

import codecs
import sys

from broker import Broker, FunctionError
from runtime.cli.options import Common
from runtime.cli.output import printable


async def print_chunks(common: Common, function: str, event: bytes, *, timeout_s: float) -> int:
    """The exit status. A terminal is given text that cannot steer it; anything else the bytes as they are."""
    terminal = sys.stdout.isatty()
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    async with Broker(common.url) as broker:
        try:
            async with broker.call_stream(function, event, timeout=timeout_s) as chunks:
                async for chunk in chunks:
                    sys.stdout.buffer.write(printable(decode(chunk)).encode() if terminal else chunk)
                    sys.stdout.buffer.flush()
        except FunctionError as error:
            common.output.note(f'penstock: function "{function}" failed: {error}')
            return 1
    if terminal:
        print()  # noqa: T201 - the prompt on a line of its own
    return 0
