"""Whatever file a user has, and nothing half written."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from bolid.pictures import (
    MAX_SIDE,
    NEUTRAL,
    Frame,
    check_output,
    cut,
    load_picture,
    save_picture,
    whole_frame,
)


def gradient(height: int = 48, width: int = 32) -> Image.Image:
    """A picture whose every corner differs."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([rows * 5, columns * 7, rows + columns], -1).astype(np.uint8))


def header_only_png(path: Path, width: int, height: int) -> Path:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b""))
    return path


def test_path_picture_and_array_agree(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.png")
    expected = np.asarray(gradient())
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), gradient(), expected):
        assert np.array_equal(np.asarray(load_picture(source)), expected)


def test_a_wrong_extension_does_not_matter(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.txt")
    assert load_picture(tmp_path / "a.txt").size == (32, 48)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = gradient()
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # transposition that the viewer's rotation takes back
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[274] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(load_picture(tmp_path / "a.png")), np.asarray(upright))


def test_transparency_is_laid_on_grey(tmp_path: Path) -> None:
    layer = gradient().convert("RGBA")
    layer.putalpha(Image.fromarray(np.where(np.arange(32) < 16, 0, 255)[None].repeat(48, 0).astype(np.uint8)))
    layer.save(tmp_path / "a.png")
    palette = gradient().quantize(8)
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((0, 0)))
    loaded = np.asarray(load_picture(tmp_path / "a.png"))
    assert (loaded[:, :16] == NEUTRAL).all()
    assert np.array_equal(loaded[:, 16:], np.asarray(gradient())[:, 16:])
    assert tuple(np.asarray(load_picture(tmp_path / "p.png"))[0, 0]) == NEUTRAL


def test_sixteen_bit_grey_keeps_its_tones(tmp_path: Path) -> None:
    tones = (np.linspace(0, 65535, 48 * 32).reshape(48, 32)).astype(np.uint16)
    Image.fromarray(tones).save(tmp_path / "a.png")
    loaded = np.asarray(load_picture(tmp_path / "a.png"))
    assert np.abs(loaded[..., 0] - tones / 257).max() <= 1
    assert loaded.shape == (48, 32, 3)


@pytest.mark.parametrize("mode", ["CMYK", "L", "1", "P", "LA"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    name = "a.tiff" if mode == "CMYK" else "a.png"
    gradient().convert(mode).save(tmp_path / name)
    assert load_picture(tmp_path / name).mode == "RGB"


def test_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), (200, 30, 30)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    red, green, blue = np.asarray(load_picture(tmp_path / "a.jpg")).reshape(-1, 3).mean(0)
    assert red > 150 > 90 > max(green, blue)


def test_a_colour_profile_is_honoured_and_a_broken_one_left_aside() -> None:
    image = Image.new("RGB", (32, 32), (200, 30, 30))
    image.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.abs(np.asarray(load_picture(image)).astype(int) - (200, 30, 30)).max() <= 1
    image.info["icc_profile"] = b"no profile at all"
    assert np.array_equal(np.asarray(load_picture(image)), np.asarray(image))


def test_animated_pictures_are_refused(tmp_path: Path) -> None:
    frames = [gradient(), gradient().rotate(180)]
    for name in ("a.gif", "a.webp", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(ValueError, match=r"animated.*\(2\).*save the one you mean"):
            load_picture(tmp_path / name)
    gradient().save(tmp_path / "still.gif")
    assert load_picture(tmp_path / "still.gif").size == (32, 48)


@pytest.mark.parametrize("size", [(30_000, 20), (20, 30_000), (16_000, 16_000), (60_000, 60_000)])
def test_huge_pictures_are_refused_from_the_header(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"too large.*make it smaller"):
        load_picture(header_only_png(tmp_path / "a.png", *size))


def test_a_huge_picture_object_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        load_picture(Image.new("1", (MAX_SIDE + 1, 16)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a picture"),
        (b"hello, world" * 100, "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n", "not a picture"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "not a picture|damaged"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_picture(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_truncated_pictures_are_refused_or_whole(tmp_path: Path, kind: str) -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, kind)
    for share in (0.1, 0.5, 0.9):
        (tmp_path / "a").write_bytes(file.getvalue()[: int(len(file.getvalue()) * share)])
        with pytest.raises(ValueError, match=r"damaged|not a picture"):
            load_picture(tmp_path / "a")


@pytest.mark.parametrize(
    "source",
    ["missing.png", ".", 7, np.zeros((9, 9)), np.zeros((40, 40, 4), np.uint8), Image.new("RGB", (8, 40))],
)
def test_other_mistakes_name_the_cure(source: object) -> None:
    with pytest.raises(ValueError, match=r"give|must be|needed"):
        load_picture(source)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "A.PNG"])
def test_saving(tmp_path: Path, name: str) -> None:
    save_picture(gradient(), tmp_path / name)
    assert load_picture(tmp_path / name).size == (32, 48)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_settings_are_kept_and_files_repeat(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_picture(gradient(), tmp_path / name, {"seed": 7, "prompt": "ä beach"})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert json.loads(image.info["bolid"]) == {"seed": 7, "prompt": "ä beach"}


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_picture(gradient(), tmp_path / "a.png")
    before = path.read_bytes()
    broken = Image.new("RGB", (20, 20))

    def fail(file: io.BytesIO, **_: object) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(broken, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_picture(broken, path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["a.png"]


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    for name, message in (
        ("a.xyz", "must end in"),
        ("none/a.png", "does not exist"),
        ("folder.png", "is a folder"),
    ):
        with pytest.raises(ValueError, match=message):
            check_output(tmp_path / name)


def test_cutting_the_whole_picture_at_its_own_size_changes_nothing() -> None:
    image = np.asarray(gradient())
    assert np.array_equal(cut(image, whole_frame((48, 32), 48, 32), 48, 32), image)


@pytest.mark.parametrize("size", [(48, 32), (30, 90), (200, 20), (16, 4000), (333, 217)])
def test_a_frame_holds_the_whole_picture_in_its_proportions(size: tuple[int, int]) -> None:
    image = np.asarray(gradient().resize((size[1], size[0])))
    frame = whole_frame(size, 48, 32)
    assert frame.height / frame.width == pytest.approx(1.5)
    assert cut(image, frame, 48, 32).shape == (48, 32, 3)
    corners = np.array([[0, 0], [1, 1], [0.25, 0.5]])
    inside = frame.to_frame(corners, size)
    assert inside.min() >= -1e-9
    assert inside.max() <= 1 + 1e-9
    np.testing.assert_allclose(frame.to_source(inside, size), corners, atol=1e-9)


def test_places_follow_the_pixels() -> None:
    image = np.zeros((60, 100, 3), np.uint8)
    image[18:22, 68:72] = 255  # about (0.7, 1/3)
    for frame in (whole_frame((60, 100), 48, 32), Frame(50, 0, 40, 60), Frame(60, 5, 20, 30)):
        rows, columns = np.nonzero(cut(image, frame, 48, 32)[..., 0] > 100)
        centre = np.array([(columns.mean() + 0.5) / 32, (rows.mean() + 0.5) / 48])
        np.testing.assert_allclose(centre, frame.to_frame(np.array([0.7, 20 / 60]), (60, 100)), atol=0.02)


def test_labels_stay_labels() -> None:
    labels = np.zeros((60, 100), np.uint8)
    labels[:, :50] = 3
    out = cut(labels, whole_frame((60, 100), 48, 32), 48, 32, labels=True)
    assert set(np.unique(out)) == {0, 3}
    assert (out[:10] == 0).all()  # beside the picture: background, not the border continued
