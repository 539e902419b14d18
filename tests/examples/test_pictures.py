"""The picture code of the thumbnails example, on the photographs that lie beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from examples.thumbnails import pictures
from examples.thumbnails.pictures import (
    UnreadablePhotoError,
    corrupt_copy,
    lay_out_contact_sheet,
    make_thumbnail,
    photos_in,
)

PHOTO_DIR = Path(pictures.__file__).parent / "photos"
PHOTOS = photos_in(PHOTO_DIR)
CAT = PHOTO_DIR / "cat.jpg"

EXIF_ORIENTATION = 0x0112
ROTATE_90_CLOCKWISE = 6


def test_the_example_has_a_handful_of_small_photographs_and_says_where_each_is_from() -> None:
    origins = (PHOTO_DIR / "ORIGINS.md").read_text(encoding="utf-8")
    assert 5 <= len(PHOTOS) <= 8
    for photo in PHOTOS:
        assert photo.stat().st_size <= 250_000
        assert f"`{photo.name}`" in origins


def test_photos_in_a_folder_are_its_pictures_in_order_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    assert [photo.name for photo in photos_in(tmp_path)] == ["a.png", "b.JPG"]


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.name)
def test_a_thumbnail_is_a_jpeg_of_the_same_proportions_within_the_size(photo: Path, tmp_path: Path) -> None:
    made = make_thumbnail(photo, tmp_path / "new" / "folder")
    assert made.path == tmp_path / "new" / "folder" / f"{photo.name}.thumb.jpg"
    with Image.open(photo) as original, Image.open(made.path) as thumbnail:
        assert thumbnail.format == "JPEG"
        assert thumbnail.mode == "RGB"
        assert thumbnail.size == (made.width_px, made.height_px)
        assert max(thumbnail.size) == 256
        assert made.width_px / made.height_px == pytest.approx(original.width / original.height, rel=0.01)


def test_the_size_of_a_thumbnail_can_be_chosen(tmp_path: Path) -> None:
    made = make_thumbnail(CAT, tmp_path, size_px=64)
    assert (made.width_px, made.height_px) == (64, 43)


def test_a_photograph_smaller_than_a_thumbnail_keeps_its_size(tmp_path: Path) -> None:
    with Image.open(CAT) as cat:
        cat.resize((90, 60)).save(tmp_path / "small.png")
    made = make_thumbnail(tmp_path / "small.png", tmp_path)
    assert (made.width_px, made.height_px) == (90, 60)


def test_a_photograph_taken_sideways_becomes_upright(tmp_path: Path) -> None:
    sideways = tmp_path / "sideways.jpg"
    with Image.open(CAT) as cat:
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = ROTATE_90_CLOCKWISE
        cat.transpose(Image.Transpose.ROTATE_90).save(sideways, exif=exif)
    made = make_thumbnail(sideways, tmp_path)
    upright = make_thumbnail(CAT, tmp_path)
    assert (made.width_px, made.height_px) == (upright.width_px, upright.height_px)
    with Image.open(made.path) as turned, Image.open(upright.path) as straight:
        assert EXIF_ORIENTATION not in turned.getexif()
        for point in ((40, 30), (128, 85), (220, 140)):
            assert turned.getpixel(point) == pytest.approx(straight.getpixel(point), abs=40)


def test_transparency_becomes_white(tmp_path: Path) -> None:
    Image.new("RGBA", (20, 20), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    made = make_thumbnail(tmp_path / "clear.png", tmp_path)
    with Image.open(made.path) as thumbnail:
        assert thumbnail.getpixel((10, 10)) == (255, 255, 255)


def test_making_a_thumbnail_twice_gives_the_same_file_and_leaves_no_other(tmp_path: Path) -> None:
    first = make_thumbnail(CAT, tmp_path).path.read_bytes()
    second = make_thumbnail(CAT, tmp_path).path.read_bytes()
    assert first == second
    assert [path.name for path in tmp_path.iterdir()] == ["cat.jpg.thumb.jpg"]


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.name)
def test_a_corrupt_copy_opens_as_a_picture_but_has_no_thumbnail(photo: Path, tmp_path: Path) -> None:
    corrupt = corrupt_copy(photo, tmp_path / "in" / "corrupt.jpg")
    with Image.open(corrupt) as picture:
        assert picture.format == "JPEG"
    with pytest.raises(UnreadablePhotoError, match=r'photo "corrupt\.jpg": can\'t be decoded: .*truncated'):
        make_thumbnail(corrupt, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_picture_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("not a picture", encoding="utf-8")
    with pytest.raises(UnreadablePhotoError, match=r'photo "notes\.jpg"'):
        make_thumbnail(tmp_path / "notes.jpg", tmp_path)


def test_a_missing_photograph_is_not_called_unreadable(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        make_thumbnail(tmp_path / "none.jpg", tmp_path)


def test_a_contact_sheet_shows_every_thumbnail_in_the_order_of_names(tmp_path: Path) -> None:
    for photo in PHOTOS:
        make_thumbnail(photo, tmp_path)
    made = lay_out_contact_sheet(tmp_path)
    assert made.path == tmp_path / "contact-sheet.jpg"
    with Image.open(made.path) as sheet:
        assert sheet.size == (made.width_px, made.height_px)
        for index, photo in enumerate(PHOTOS):
            with Image.open(tmp_path / f"{photo.name}.thumb.jpg") as thumbnail:
                shown = sheet.getpixel(_centre_of_card(index, columns=3))
                assert shown == pytest.approx(thumbnail.getpixel((thumbnail.width // 2, thumbnail.height // 2)), abs=30)


def _centre_of_card(index: int, *, columns: int) -> tuple[int, int]:
    row, column = divmod(index, columns)
    return 36 + column * (284 + 22) + 142, 84 + 36 + row * (304 + 22) + 142


def test_the_same_thumbnails_give_the_same_contact_sheet(tmp_path: Path) -> None:
    for photo in PHOTOS:
        make_thumbnail(photo, tmp_path)
    first = lay_out_contact_sheet(tmp_path).path.read_bytes()
    assert lay_out_contact_sheet(tmp_path).path.read_bytes() == first


def test_a_contact_sheet_grows_with_its_thumbnails_and_never_shows_itself(tmp_path: Path) -> None:
    empty = lay_out_contact_sheet(tmp_path)
    make_thumbnail(CAT, tmp_path)
    one = lay_out_contact_sheet(tmp_path)
    for number in range(30):
        shutil.copy(tmp_path / "cat.jpg.thumb.jpg", tmp_path / f"cat {number}.jpg.thumb.jpg")
    many = lay_out_contact_sheet(tmp_path)
    assert (empty.width_px, empty.height_px) == (one.width_px, one.height_px)
    assert many.width_px > one.width_px
    assert many.height_px > one.height_px


def test_a_contact_sheet_of_very_many_shows_the_first_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_CELLS", 3)
    for photo in PHOTOS[:3]:
        make_thumbnail(photo, tmp_path)
    three = lay_out_contact_sheet(tmp_path)
    for photo in PHOTOS:
        make_thumbnail(photo, tmp_path)
    more = lay_out_contact_sheet(tmp_path)
    assert (more.width_px, more.height_px) == (three.width_px, three.height_px)


@pytest.mark.parametrize("name", ["a" * 120 + ".jpg", "Übermäßig schön 写真.jpg", "100%.jpg"])
def test_any_file_name_can_stand_under_a_picture(name: str, tmp_path: Path) -> None:
    shutil.copy(CAT, tmp_path / name)
    make_thumbnail(tmp_path / name, tmp_path)
    assert lay_out_contact_sheet(tmp_path).path.is_file()
