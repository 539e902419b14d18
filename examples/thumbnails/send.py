"""Sends the photographs of the repository to the function `thumbnail` of a Penstock that runs already.

    python -m examples.thumbnails.send --target-dir /out

The folder, and the photographs, must be there for the workers under the same names, as they are in one container image.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from broker import Broker, PenstockError
from broker.errors import FunctionNotFound
from examples.thumbnails.pictures import CONTACT_SHEET_NAME, photos_in

PHOTOS: Final = Path(__file__).resolve().parent / "photos"
WAIT_S: Final = 60.0
LOOK_EVERY_S: Final = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """Sends them and waits for their thumbnails; answers 0 when all are made, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="send", description="Sends the example's photographs to its function.")
    parser.add_argument("--target-dir", required=True, help="folder for the thumbnails, where the workers see it")
    options = parser.parse_args(arguments)
    try:
        return asyncio.run(_send(options.target_dir))
    except PenstockError as error:
        print(f"send: {error}", file=sys.stderr)
        return 1


async def _send(target_dir: str) -> int:
    async with Broker() as broker:
        await _await_function(broker)
        events = [{"source": str(photo), "target_dir": target_dir} for photo in photos_in(PHOTOS)]
        identities = await broker.invoke_many("thumbnail", events)
        print(f"{len(identities)} photographs are sent", flush=True)
        ended = [await broker.status(identity, wait=WAIT_S) for identity in identities]
    made = sum(status.state == "succeeded" for status in ended)
    print(f"{made} thumbnails are made; the contact sheet follows: {target_dir}/{CONTACT_SHEET_NAME}", flush=True)
    return 0 if made == len(identities) else 1


async def _await_function(broker: Broker) -> None:
    """A worker registers it when it starts."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            await broker.function("thumbnail").settings()
        except FunctionNotFound:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(LOOK_EVERY_S)
        else:
            return


if __name__ == "__main__":
    sys.exit(main())
