"""Pictures in and out: whatever file a user has becomes RGB, and what we make is written whole or not at
all.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError

MAX_SIDE = 16_384  # pixels; read from the header, before anything is decoded
MAX_PIXELS = 64_000_000  # pixels; 200 MB once decoded to RGB, above any telephone's usual picture
MIN_SIDE = 16  # pixels; less shows nobody
NEUTRAL = (127, 127, 127)  # what shows through transparency: the grey that the encoders take for "nothing"

# Only formats with a decoder inside Pillow; EPS, for example, would start Ghostscript on a stranger's file.
READ_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "TGA", "ICO")
WRITE_FORMATS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        ".png": ("PNG", {"compress_level": 6}),
        ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
        ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
        ".webp": ("WEBP", {"quality": 95}),
    }
)
# What Pillow's decoders raise on damaged data, besides UnidentifiedImageError (an OSError).
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
)

PictureSource = str | os.PathLike[str] | Image.Image | np.ndarray


def load_picture(source: PictureSource, what: str = "picture") -> Image.Image:
    """Any still picture as 8-bit RGB, upright.

    source: a path, a PIL picture or a uint8 array [H, W, 3]; `what` is the picture's name in error messages.
    EXIF rotation is applied, transparency is laid on neutral grey, CMYK, palette, grey and 16-bit are
    converted, a colour profile is brought to sRGB; the file's extension does not matter.
    Raises ValueError for what is no picture, is damaged, is larger than 16,384 pixels a side or 64
    megapixels (known from the header, before decoding), smaller than 16 pixels a side, or animated (a person
    must choose the frame).
    """
    if isinstance(source, np.ndarray):
        source = _from_array(source, what)
    if not isinstance(source, str | os.PathLike | Image.Image):
        raise PictureError(
            f"{what}: got {type(source).__name__}; give a path, a PIL picture or a uint8 array [H, W, 3]"
        )
    if not isinstance(source, Image.Image):
        source = Path(os.fspath(source))  # pyright: ignore[reportArgumentType] - an array is a picture by now
        if not source.is_file():
            state = "is a folder" if source.is_dir() else "does not exist"
            raise PictureError(f"{what} {str(source)!r} {state}; give the path of a picture file")
        what = f"{what} {source.name!r}"
    try:
        return _decode(source, what)
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(_too_large(what, "it unpacks to far too many pixels")) from error
    except UnidentifiedImageError as error:
        raise PictureError(
            f"{what} is not a picture, or is damaged; give a PNG, JPEG, WebP, BMP, GIF or TIFF file"
        ) from error
    except PermissionError as error:
        raise PictureError(f"{what} may not be read; change its permissions or give another file") from error
    except _DECODING_ERRORS as error:
        raise PictureError(f"{what} is damaged ({error}); save it anew as PNG or JPEG") from error


class PictureError(ValueError):
    """A sentence for the user: what came, what is valid, what to do."""


def _from_array(array: np.ndarray, what: str) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise PictureError(
            f"{what}: got an array {array.dtype} {list(array.shape)}; it must be uint8 RGB [H, W, 3]"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _decode(source: Path | Image.Image, what: str) -> Image.Image:
    """Check what the header tells, then decode and convert."""
    if isinstance(source, Path):
        Image.init()  # fills the table of formats, which leaves out those that this Pillow was built without
        with Image.open(source, formats=[name for name in READ_FORMATS if name in Image.OPEN]) as opened:
            return _decode(opened, what)
    _check_header(source, what)
    source.load()
    return _convert(ImageOps.exif_transpose(source), what)


def _check_header(image: Image.Image, what: str) -> None:
    width, height = image.size
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise PictureError(_too_large(what, f"it is {width} x {height} pixels"))
    if min(width, height) < MIN_SIDE:
        raise PictureError(
            f"{what} is too small: {width} x {height} pixels; at least {MIN_SIDE} pixels a side are needed"
        )
    # MPO is a JPEG with a second view (depth, thumbnail) behind it: its first picture is the picture
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise PictureError(
            f"{what} is animated or has several pages ({getattr(image, 'n_frames', 0)}); "
            "save the one you mean as a PNG or JPEG and give that"
        )


def _too_large(what: str, size: str) -> str:
    return (
        f"{what} is too large: {size}; at most {MAX_SIDE:,} pixels a side and {MAX_PIXELS // 1_000_000} "
        "megapixels are taken: make it smaller (1,000 pixels a side are plenty)"
    )


def _convert(image: Image.Image, what: str) -> Image.Image:
    """A decoded picture of any mode -> RGB."""
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips it to white
        values = np.asarray(image).astype(np.float64)
        if values.min() < 0 or values.max() > 65_535:
            raise PictureError(f"{what} has 32-bit values; save it as an 8-bit or 16-bit picture")
        return Image.fromarray(np.round(values / 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise PictureError(f"{what} has floating-point values of unknown range; save it as an 8-bit picture")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (*NEUTRAL, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("RGB", "CMYK"):
        return _to_srgb(image, profile)
    return image.convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Colours by the picture's own profile; a profile that cannot be used is left aside, as viewers do."""
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return image.convert("RGB")
    return converted if converted is not None else image.convert("RGB")


def check_output(path: str | os.PathLike[str]) -> Path:
    """The path, if a picture can be written there. To be asked before the work begins.

    Raises ValueError for an unknown extension, a missing or read-only folder, or a folder of that name.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITE_FORMATS:
        raise ValueError(f"output {path.name!r}: the name must end in one of {', '.join(WRITE_FORMATS)}")
    if path.is_dir():
        raise ValueError(f"output {str(path)!r} is a folder; give the name of a picture file in it")
    if not path.parent.is_dir():
        raise ValueError(
            f"output folder {str(path.parent)!r} does not exist; make it first, or give another one"
        )
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"output folder {str(path.parent)!r} may not be written; give another one")
    return path


def save_picture(
    image: Image.Image, path: str | os.PathLike[str], settings: Mapping[str, object] | None = None
) -> Path:
    """Write a picture whole or not at all: a temporary file in the same folder takes the name at the end.

    The extension chooses PNG, JPEG or WebP. `settings` (what it was made with) goes into a PNG's text as
    JSON under "bolid"; nothing that changes from run to run is written, so the same picture gives the same
    file.
    Raises ValueError as `check_output`.
    """
    path = check_output(path)
    kind, options = WRITE_FORMATS[path.suffix.lower()]
    extra = dict(options)
    if settings is not None and kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("bolid", json.dumps(dict(settings), sort_keys=True))
        extra["pnginfo"] = text
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            image.save(file, format=kind, **extra)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


@dataclass(frozen=True)
class Frame:
    """The window of a source picture that a working picture shows.

    left, top, width, height: in source pixels; the window may reach beyond the picture.
    """

    left: float
    top: float
    width: float
    height: float

    def to_frame(self, places: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """x, y in [0, 1] of a source picture of `size` (height, width) -> x, y in [0, 1] of this frame.
        [..., 2].
        """
        return (places * (size[1], size[0]) - (self.left, self.top)) / (self.width, self.height)

    def to_source(self, places: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The way back: x, y in [0, 1] of this frame -> x, y in [0, 1] of the source picture of `size`."""
        return (places * (self.width, self.height) + (self.left, self.top)) / (size[1], size[0])


def whole_frame(size: tuple[int, int], height: int, width: int) -> Frame:
    """The smallest frame of the proportions height : width that holds a whole picture of `size` (height,
    width).
    """
    scale = max(size[0] / height, size[1] / width)
    tall, wide = height * scale, width * scale
    return Frame((size[1] - wide) / 2, (size[0] - tall) / 2, wide, tall)


def cut(image: np.ndarray, frame: Frame, height: int, width: int, *, labels: bool = False) -> np.ndarray:
    """The frame of a picture, resized to height x width.

    image: uint8 [H, W, 3] RGB, or a label map [H, W] with labels=True. Outside the picture its border is
    continued (labels: 0 background). A frame that is the whole picture at its own size gives the picture
    back unchanged.
    """
    tall, wide = image.shape[:2]
    x = np.clip((frame.left, frame.left + frame.width), 0, wide).round().astype(int)
    y = np.clip((frame.top, frame.top + frame.height), 0, tall).round().astype(int)
    inner = image[y[0] : max(y[1], y[0] + 1), x[0] : max(x[1], x[0] + 1)]
    # shrink before padding: a panorama's full-size frame would be gigabytes
    across = np.clip(((x - frame.left) / frame.width * width).round().astype(int), 0, width)
    down = np.clip(((y - frame.top) / frame.height * height).round().astype(int), 0, height)
    size = (max(1, across[1] - across[0]), max(1, down[1] - down[0]))
    edges = (min(down[0], height - size[1]), max(0, height - down[0] - size[1]))
    sides = (min(across[0], width - size[0]), max(0, width - across[0] - size[0]))
    if labels:
        scaled = cv2.resize(inner, size, interpolation=cv2.INTER_NEAREST_EXACT)
        return cv2.copyMakeBorder(scaled, *edges, *sides, cv2.BORDER_CONSTANT, value=0)
    shrinks = inner.shape[0] > size[1]
    scaled = cv2.resize(inner, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return cv2.copyMakeBorder(scaled, *edges, *sides, cv2.BORDER_REPLICATE)
