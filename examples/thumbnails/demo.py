"""`make demo`: real photographs and one corrupt file through a real worker, with a table of what became of them.

It has a Redis of its own in a temporary directory and the command `penstock runtime` as a child process, so it
disturbs no `penstock dev`. What it leaves behind lies in one folder: thumbnails, contact sheet, the worker's log.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from broker import Broker, Message, PenstockError
from broker.embedded import EmbeddedRedis
from examples.thumbnails.pictures import CONTACT_SHEET_NAME, THUMBNAIL_SUFFIX, corrupt_copy, photos_in

HERE: Final = Path(__file__).resolve().parent
PROJECT: Final = HERE.parent.parent
LOG_NAME: Final = "runtime.log"

LOOK_EVERY_S: Final = 0.1
START_WITHIN_S: Final = 30.0
BASE_TIME_S: Final = 60.0
TIME_A_PHOTO_S: Final = 1.0
STOP_WITHIN_S: Final = 15.0
LOG_LINES_SHOWN: Final = 5


class DemoError(Exception):
    """The demo did not end as it should; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Where the events are at one moment."""

    sent: int
    succeeded: int
    failed: int
    retried: int
    dead: int
    records: int
    on_the_way: int
    """Records and dead letters between their function and their queue, and thumbnails not on the sheet yet."""

    @property
    def ended(self) -> int:
        """Events that succeeded or were given up."""
        return self.succeeded + self.failed

    @property
    def finished(self) -> bool:
        """Whether nothing is left to be done, the sheet and the dead letters included."""
        settled = self.ended == self.sent and self.dead == self.failed and self.records == self.failed
        return settled and self.on_the_way == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; answers 0 when everything ended as it should, 1 otherwise."""
    options = _parser().parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    try:
        photos, out = _checked(options.photos.expanduser(), options.out.expanduser())
        with (
            tempfile.TemporaryDirectory(prefix="penstock-demo-") as scratch,
            EmbeddedRedis(Path(scratch) / "redis") as redis,
            _worker(redis.url, out / LOG_NAME) as worker,
        ):
            broken = corrupt_copy(HERE / "photos" / "cat.jpg", Path(scratch) / "corrupt.jpg")
            asyncio.run(_Demo(console, redis.url, worker=worker, out=out).run([*photos, broken]))
    except (DemoError, PenstockError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: stopped", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="demo", description="Thumbnails of photographs, made by Penstock.")
    parser.add_argument("--photos", type=Path, default=HERE / "photos", help="folder with photographs")
    parser.add_argument(
        "--out", type=Path, default=HERE / "out", help="folder for thumbnails, contact sheet and log of this run"
    )
    return parser


def _checked(folder: Path, out: Path) -> tuple[list[Path], Path]:
    """The photographs, and the folder for what is made of them, without the thumbnails of an earlier run."""
    if not folder.is_dir():
        raise DemoError(f"photos folder {folder}: there is no such folder")
    photos = [photo.resolve() for photo in photos_in(folder)]
    if not photos:
        raise DemoError(f"photos folder {folder}: no photographs lie in it (.jpg, .png, .webp, .tif, .gif, .bmp)")
    if out.resolve() == folder.resolve():
        raise DemoError(f"out folder {out}: it must not be the folder of the photographs")
    out.mkdir(parents=True, exist_ok=True)
    for old in (*out.glob(f"*{THUMBNAIL_SUFFIX}"), out / CONTACT_SHEET_NAME, out / LOG_NAME):
        old.unlink(missing_ok=True)
    return photos, out.resolve()


@contextmanager
def _worker(url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`penstock runtime` as a child process, its JSON log in a file; drained at the end."""
    command = [sys.executable, "-m", "runtime", "runtime", "examples.thumbnails.app:app", "--url", url, "--grace", "5"]
    with log.open("wb") as lines:
        process = subprocess.Popen(
            [*command, "--log-format", "json"],
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=lines,
            stderr=lines,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            start_new_session=True,  # Ctrl-C is for the demo, which ends the worker after its own work
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class _Demo:
    """One run: start, send, watch, tell."""

    def __init__(self, console: Console, url: str, *, worker: subprocess.Popen[bytes], out: Path) -> None:
        self._console: Final = console
        self._url: Final = url
        self._worker: Final = worker
        self._out: Final = out
        self._started = self._last_success = 0.0

    async def run(self, photos: Sequence[Path]) -> None:
        """Raises DemoError when it does not end in time, or the worker dies."""
        async with Broker(self._url) as broker:
            await self._await_worker(broker)
            self._console.print(f"{len(photos) - 1} photographs and a corrupt file go to the function thumbnail")
            self._started = self._last_success = time.monotonic()
            await broker.invoke_many("thumbnail", [{"source": str(p), "target_dir": str(self._out)} for p in photos])
            tally = await self._watch(broker, len(photos), BASE_TIME_S + TIME_A_PHOTO_S * len(photos))
            self._tell(tally)
            await self._tell_of_failure(broker)
        sheet = self._out / CONTACT_SHEET_NAME
        if not sheet.is_file():
            raise DemoError(f"no contact sheet was made{self._log_tail()}")
        self._console.print(f"\nContact sheet: {sheet}", soft_wrap=True)
        self._console.print(f"Worker's log:  {self._out / LOG_NAME}", soft_wrap=True)

    async def _await_worker(self, broker: Broker) -> None:
        deadline = time.monotonic() + START_WITHIN_S
        while not await broker.core.directory.live_workers():
            self._check_worker()
            if time.monotonic() > deadline:
                raise DemoError(f"the worker was not ready within {START_WITHIN_S:g} s{self._log_tail()}")
            await asyncio.sleep(LOOK_EVERY_S)

    async def _watch(self, broker: Broker, sent: int, within_s: float) -> Tally:
        deadline = time.monotonic() + within_s
        with self._progress() as progress:
            task, succeeded = progress.add_task("thumbnails", total=sent), 0
            while True:
                tally = await _count(broker, sent)
                if tally.succeeded > succeeded:
                    succeeded, self._last_success = tally.succeeded, time.monotonic()
                progress.update(task, completed=tally.ended, description=_stage(tally))
                if tally.finished:
                    return tally
                self._check_worker()
                if time.monotonic() > deadline:
                    raise DemoError(
                        f"{tally.ended} of {sent} events had ended within {within_s:g} s, {tally.on_the_way} results "
                        f"were on the way{self._log_tail()}"
                    )
                await asyncio.sleep(LOOK_EVERY_S)

    def _progress(self) -> Progress:
        columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        return Progress(*columns, console=self._console, disable=not self._console.is_terminal)

    def _check_worker(self) -> None:
        if self._worker.poll() is not None:
            raise DemoError(f"the worker ended with status {self._worker.returncode}{self._log_tail()}")

    def _log_tail(self) -> str:
        log = self._out / LOG_NAME
        lines = log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        return f"; its log {log} ends with:\n" + "\n".join(lines)

    def _tell(self, tally: Tally) -> None:
        until_success_s = max(0.001, self._last_success - self._started)
        table = Table(title="What happened", title_justify="left", show_header=False)
        table.add_column()
        table.add_column(justify="right")
        rows = {
            "sent": tally.sent,
            "succeeded": tally.succeeded,
            "retried": tally.retried,
            "dead-lettered": tally.dead,
            "records in the failure queue": tally.records,
            "seconds, with the waits for retries": f"{time.monotonic() - self._started:.1f}",
            "events a second, up to the last success": f"{tally.succeeded / until_success_s:.1f}",
        }
        for name, value in rows.items():
            table.add_row(name, str(value))
        self._console.print(table)

    async def _tell_of_failure(self, broker: Broker) -> None:
        for record in await broker.queue("failed").peek(1):
            context, response = record.json()["requestContext"], record.json()["responsePayload"]
            self._console.print("\nThe failure record, in the queue failed:")
            self._fact("condition", context["condition"])
            self._fact("approximateInvokeCount", context["approximateInvokeCount"])
            self._fact("errorType", response["errorType"])
            self._fact("errorMessage", response["errorMessage"])
        for letter in await broker.queue("dead").peek(1):
            self._console.print("\nThe dead letter, in the queue dead: the bare event, with the attributes")
            for name, value in letter.attributes.items():
                self._fact(name, value)
            self._fact("event", _short(letter))

    def _fact(self, name: str, value: object) -> None:
        self._console.print(f"  {name}: {value}", markup=False, soft_wrap=True)


def _short(letter: Message) -> str:
    event: dict[str, Any] = letter.json()
    return f'"source" is {Path(event["source"]).name}'


def _stage(tally: Tally) -> str:
    if tally.ended < tally.sent:
        return "waiting for retries" if tally.sent - tally.ended == 1 and tally.retried else "making thumbnails"
    return "laying out the sheet"


async def _count(broker: Broker, sent: int) -> Tally:
    """Exact numbers from Redis; the same few commands however many photographs there are."""
    function, sheet = broker.core.resource("function", "thumbnail"), broker.core.resource("queue", "thumbnails")
    described = await broker.core.directory.describe(function)
    counts = await broker.core.messages.counts(function)
    waiting = await broker.core.messages.counts(sheet)
    if described is None or counts is None or waiting is None:
        raise DemoError("the function thumbnail, or its queue, has vanished from Redis")
    failed, dead = await broker.queue("failed").counts(), await broker.queue("dead").counts()
    return Tally(
        sent=sent,
        succeeded=described.counters["done"],
        failed=described.counters["failed"] + described.counters["expired"],
        retried=described.counters["retried"],
        dead=dead.total,
        records=failed.total,
        on_the_way=counts.outbox + waiting.total,
    )


if __name__ == "__main__":
    sys.exit(main())
