"""Thumbnails of photographs, and a contact sheet of them: two functions joined by a queue.

`thumbnail` is invoked once for each photograph. What it returns goes to the queue `thumbnails` (`on_success`);
`contact_sheet` takes it from there in batches. A photograph that can't be read is tried three times, then its event
lies in the queue `dead` and the record of why in the queue `failed`.

Run it with `penstock dev examples.thumbnails.app:app`, and send it a photograph from a second terminal:
`penstock invoke thumbnail '{"source": "cat.jpg", "target_dir": "out"}'`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
import msgspec
import structlog

from broker import Queue
from examples.thumbnails.pictures import lay_out_contact_sheet, make_thumbnail
from runtime import App, Context

log = structlog.get_logger(__name__)

app = App()


class ThumbnailRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The event of `thumbnail`: which photograph, and the folder to put its thumbnail into.

    Thumbnails are named after their photographs, so the photographs for one folder need different names.
    """

    source: str
    target_dir: str
    size_px: Annotated[int, msgspec.Meta(ge=16, le=256)] = 256


class Thumbnail(msgspec.Struct, frozen=True, kw_only=True):
    """What `thumbnail` returns: the file it made, its width and height in pixels, and the photograph's name."""

    made: str
    width: int
    height: int
    photo: str


class ThumbnailRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The part that we need of the invocation record (version 1.0) that `on_success` sends."""

    request_payload: ThumbnailRequest
    response_payload: Thumbnail


# A plain `def` runs in a thread: Pillow blocks. The delays are short so that a demo ends soon; (60, 120) is usual.
@app.function(
    timeout=30,
    retries=2,
    retry_delays=(1, 2),
    max_event_age=600,
    concurrency=8,
    on_success=Queue("thumbnails"),
    on_failure=Queue("failed"),
    dead_letter=Queue("dead"),
)
def thumbnail(event: ThumbnailRequest, context: Context) -> dict[str, Any]:
    """Make the thumbnail of one photograph. Running it twice writes the same file twice."""
    picture = make_thumbnail(Path(event.source), Path(event.target_dir), size_px=event.size_px)
    return {
        "made": str(picture.path),
        "width": picture.width_px,
        "height": picture.height_px,
        "photo": Path(event.source).name,
    }


# One sheet at a time: two that are drawn at once could overwrite the newer with the older.
# A full sheet takes a slow machine some seconds.
@app.queue("thumbnails", batch_size=100, batch_window=1.0, partial_failures=True, max_concurrency=1, timeout=25)
async def contact_sheet(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Lay out all the thumbnails made so far; the records it can't use stay in the queue, the others are done.

    The sheet is made from the thumbnails in the folder, not from the records, so a record that is delivered twice
    changes nothing.
    """
    folders: set[Path] = set()
    unusable: list[str] = []
    for message in event["Records"]:
        try:
            folders.add(_folder_of(message["body"]))
        except (msgspec.DecodeError, FileNotFoundError) as error:
            log.warning("thumbnail_record_refused", message_id=message["messageId"], reason=str(error))
            unusable.append(message["messageId"])
    for folder in sorted(folders):
        await anyio.to_thread.run_sync(lay_out_contact_sheet, folder)
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in unusable]}


def _folder_of(body: str) -> Path:
    record = msgspec.json.decode(body, type=ThumbnailRecord)
    if not Path(record.response_payload.made).is_file():
        raise FileNotFoundError("the thumbnail that the record names is not there")
    return Path(record.request_payload.target_dir)
