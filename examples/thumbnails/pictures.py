"""Thumbnails and contact sheets with Pillow; knows nothing of Penstock.

Every file is written under a passing name and then renamed, so that whoever looks sees all of it or nothing, and
doing the same thing twice ends in the same file.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import TypeAlias
from uuid import uuid4

from PIL import Image, ImageDraw, ImageFont, ImageOps

THUMBNAIL_SUFFIX = ".thumb.jpg"
CONTACT_SHEET_NAME = "contact-sheet.jpg"
PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp"})

MAX_CELLS = 240  # at ten in a row some 8,000 px high: still a picture that viewers open at once

_JPEG_QUALITY = 88

_PICTURE_PX = 256
_MAT_PX = 14
_CAPTION_PX = 34
_GAP_PX = 22
_MARGIN_PX = 36
_TITLE_PX = 84
_CARD_WIDTH_PX = _PICTURE_PX + 2 * _MAT_PX
_CARD_HEIGHT_PX = _PICTURE_PX + _MAT_PX + _CAPTION_PX

_BACKGROUND = (226, 224, 220)
_TITLE_BACKGROUND = (44, 46, 50)
_TITLE_INK = (246, 244, 240)
_TITLE_FAINT_INK = (168, 168, 168)
_CARD = (252, 251, 249)
_CARD_EDGE = (206, 203, 197)
_CAPTION_INK = (84, 84, 84)

_CAPTION_FONT_PX = 16
_WIDER_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")

_Font: TypeAlias = ImageFont.ImageFont | ImageFont.FreeTypeFont


class UnreadablePhotoError(Exception):
    """A file is not a picture that Pillow can decode, or only the beginning of one."""

    def __init__(self, source: Path, reason: str) -> None:
        super().__init__(f'photo "{source.name}": can\'t be decoded: {reason}')
        self.source = source
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture file that was written, and its size in pixels."""

    path: Path
    width_px: int
    height_px: int


def photos_in(folder: Path) -> list[Path]:
    """The photographs that lie directly in `folder`, known by their suffix, in the order of their names."""
    photos = (p for p in folder.iterdir() if p.suffix.lower() in PHOTO_SUFFIXES and not p.name.startswith("."))
    return sorted(p for p in photos if p.is_file())


def make_thumbnail(source: Path, target_dir: Path, *, size_px: int = _PICTURE_PX) -> Picture:
    """Write `<target_dir>/<name of source>.thumb.jpg`, upright, neither side longer than `size_px`, and say what it is.

    A picture that is smaller already keeps its size; transparency becomes white. The folder is made if it is missing.
    Raises `UnreadablePhotoError` for a file that is no whole picture, and OSError where reading or writing fails.
    """
    thumbnail = _decode_small(source, size_px)
    target_dir.mkdir(parents=True, exist_ok=True)
    return _write_jpeg(thumbnail, target_dir / f"{source.name}{THUMBNAIL_SUFFIX}")


def lay_out_contact_sheet(folder: Path, title: str = "Contact sheet") -> Picture:
    """Write `<folder>/contact-sheet.jpg` with all the thumbnails of `folder` under their photographs' names.

    The first `MAX_CELLS` are shown, and the title strip says of how many. The same thumbnails give the same sheet.
    Raises OSError where reading or writing fails, and `UnreadablePhotoError` for a broken thumbnail.
    """
    thumbnails = sorted(folder.glob(f"*{THUMBNAIL_SUFFIX}"), key=lambda path: path.name.lower())
    shown = thumbnails[:MAX_CELLS]
    columns = _columns_for(len(shown))
    rows = max(1, ceil(len(shown) / columns))
    sheet = Image.new("RGB", (_span(columns, _CARD_WIDTH_PX), _TITLE_PX + _span(rows, _CARD_HEIGHT_PX)), _BACKGROUND)
    _draw_title(sheet, title, _count_text(len(shown), len(thumbnails)))
    _draw_cards(sheet, shown, columns)
    return _write_jpeg(sheet, folder / CONTACT_SHEET_NAME)


def corrupt_copy(source: Path, target: Path) -> Path:
    """Write to `target` the first two fifths of `source`, as a broken transfer leaves it behind, and return `target`.

    Its header is whole, so it opens as a picture and fails while it is decoded.
    """
    whole = source.read_bytes()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(whole[: len(whole) * 2 // 5])
    return target


def _decode_small(source: Path, size_px: int) -> Image.Image:
    with source.open("rb") as file:  # outside of the try: a missing file is not a corrupt one
        try:
            with Image.open(file) as image:
                # Shrinking comes first: a JPEG is then decoded at a fraction of its size.
                image.thumbnail((size_px, size_px), Image.Resampling.LANCZOS)
                return _opaque(ImageOps.exif_transpose(image))
        # Pillow's decoders report broken data by any of these.
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise UnreadablePhotoError(source, str(error)) from error


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    ground = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(ground, layer).convert("RGB")


def _write_jpeg(image: Image.Image, target: Path) -> Picture:
    passing = target.with_name(f".{uuid4().hex}.part")
    try:
        image.save(passing, "JPEG", quality=_JPEG_QUALITY, optimize=True)
        passing.replace(target)
    finally:
        passing.unlink(missing_ok=True)
    return Picture(path=target, width_px=image.width, height_px=image.height)


def _columns_for(count: int) -> int:
    """Columns that make the sheet somewhat wider than high, and a title strip that fits its text."""
    return min(10, max(3, ceil(sqrt(count * 1.5))))


def _span(cards: int, card_px: int) -> int:
    return 2 * _MARGIN_PX + cards * card_px + (cards - 1) * _GAP_PX


def _count_text(shown: int, total: int) -> str:
    noun = "photograph" if total == 1 else "photographs"
    return f"{total:,} {noun}" if shown == total else f"{shown:,} of {total:,} {noun}"


def _draw_title(sheet: Image.Image, title: str, count: str) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((0, 0, sheet.width, _TITLE_PX - 1), fill=_TITLE_BACKGROUND)
    middle = _TITLE_PX // 2
    draw.text((_MARGIN_PX, middle), title, font=ImageFont.load_default(32), fill=_TITLE_INK, anchor="lm")
    right = sheet.width - _MARGIN_PX
    draw.text((right, middle), count, font=ImageFont.load_default(19), fill=_TITLE_FAINT_INK, anchor="rm")


def _draw_cards(sheet: Image.Image, thumbnails: Sequence[Path], columns: int) -> None:
    for index, path in enumerate(thumbnails):
        row, column = divmod(index, columns)
        left = _MARGIN_PX + column * (_CARD_WIDTH_PX + _GAP_PX)
        top = _TITLE_PX + _MARGIN_PX + row * (_CARD_HEIGHT_PX + _GAP_PX)
        _draw_card(sheet, path, corner=(left, top))


def _draw_card(sheet: Image.Image, path: Path, *, corner: tuple[int, int]) -> None:
    left, top = corner
    draw = ImageDraw.Draw(sheet)
    draw.rectangle(
        (left, top, left + _CARD_WIDTH_PX - 1, top + _CARD_HEIGHT_PX - 1), fill=_CARD, outline=_CARD_EDGE, width=1
    )
    picture = _decode_small(path, _PICTURE_PX)
    beside = _MAT_PX + (_PICTURE_PX - picture.width) // 2
    above = _MAT_PX + (_PICTURE_PX - picture.height) // 2
    sheet.paste(picture, (left + beside, top + above))
    name = path.name.removesuffix(THUMBNAIL_SUFFIX)
    font = _caption_font_for(name)
    caption = _shortened(name, font, width_px=_PICTURE_PX)
    centre = (left + _CARD_WIDTH_PX // 2, top + _CARD_HEIGHT_PX - _CAPTION_PX // 2)
    draw.text(centre, caption, font=font, fill=_CAPTION_INK, anchor="mm")


def _caption_font_for(text: str) -> _Font:
    """Pillow's own font for ASCII, which is all that it has; else a usual one of the system, where there is one."""
    if not text.isascii():
        for name in _WIDER_FONTS:
            with suppress(OSError):
                return ImageFont.truetype(name, _CAPTION_FONT_PX)
    return ImageFont.load_default(_CAPTION_FONT_PX)


def _shortened(text: str, font: _Font, *, width_px: int) -> str:
    """`text`, or its beginning and its end around an ellipsis where it is too wide: the suffix stays readable."""
    shortened, keep = text, len(text)
    while font.getlength(shortened) > width_px:
        keep -= 1
        shortened = f"{text[: ceil(keep / 2)]}…{text[len(text) - keep // 2 :]}"
    return shortened
