"""A display list of flat shapes, and its two rasters: the picture and the labels.

Coordinates are frame units: the frame is FRAME_HEIGHT high whatever the picture's size, x grows to the right,
y grows downwards, and (0, 0) is the upper left *corner* of the upper left pixel.
Each shape carries a tag (part, attribute, item), so that the same list tells what is seen where.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import cv2
import numpy as np

from .shapes import Colour

FRAME_HEIGHT = 192.0  # frame units from the upper to the lower edge
SUPERSAMPLING = 2  # the picture is drawn this many times larger and averaged down
SHIFT = 4  # OpenCV takes fixed-point coordinates with this many fractional bits
SHADOW_OPACITY = 0.235

Tag = tuple[int, int, int]  # (part, attribute, item): the channels of the label raster


class Shape(NamedTuple):
    """One operation. `points`: [N,2] frame units, or [K,N,2] for K alike. Fill or outline None: not drawn."""

    kind: str  # polygon, circle, line, gradient, shadow, clip, unclip
    points: np.ndarray | None
    fill: Colour | None
    outline: Colour | None
    width: float  # outline: how far it reaches outside; line: full width; frame units
    radius: float  # circle only
    tag: Tag


class Canvas:
    """Collects shapes; `paint` and `labels` draw them at any size of the canvas's aspect."""

    def __init__(self, width: float) -> None:
        self.width = width  # of the frame, frame units
        self.shapes: list[Shape] = []
        self.tag: Tag = (0, 0, 0)
        self._clipped = False

    def polygon(
        self, points: np.ndarray, fill: Colour | None, outline: Colour | None = None, width: float = 0.8
    ) -> None:
        """Adds filled polygons, [N,2] or [K,N,2], with outlines that reach `width` beyond their edges."""
        self.shapes.append(Shape("polygon", np.asarray(points), fill, outline, width, 0.0, self.tag))

    def circle(
        self,
        centre: np.ndarray,
        radius: float,
        fill: Colour | None,
        outline: Colour | None = None,
        width: float = 0.8,
    ) -> None:
        """Adds a filled circle about a point [2]."""
        self.shapes.append(Shape("circle", np.asarray(centre), fill, outline, width, radius, self.tag))

    def line(self, points: np.ndarray, colour: Colour, width: float) -> None:
        """Adds an open line [N,2], or K of them [K,N,2], with round ends."""
        self.shapes.append(Shape("line", np.asarray(points), colour, None, width, 0.0, self.tag))

    def gradient(self, top: Colour, bottom: Colour) -> None:
        """Fills the whole frame from one colour at its top to another at its bottom."""
        self.shapes.append(Shape("gradient", None, top, bottom, 0.0, 0.0, self.tag))

    def shadow(self, points: np.ndarray) -> None:
        """Darkens a polygon [N,2]; leaves the labels alone."""
        self.shapes.append(Shape("shadow", np.asarray(points), None, None, 0.0, 0.0, self.tag))

    @contextmanager
    def clip(self, points: np.ndarray) -> Iterator[None]:
        """Within the block only what falls into the polygon [N,2] is drawn. Blocks do not nest."""
        assert not self._clipped, "clips do not nest"
        self._clipped = True
        self.shapes.append(Shape("clip", np.asarray(points), None, None, 0.0, 0.0, self.tag))
        yield
        self.shapes.append(Shape("unclip", None, None, None, 0.0, 0.0, self.tag))
        self._clipped = False

    @contextmanager
    def tagged(
        self, part: int | None = None, attribute: int | None = None, item: int | None = None
    ) -> Iterator[None]:
        """Within the block shapes carry these labels; None keeps the one in force."""
        before = self.tag
        new = (part, attribute, item)
        self.tag = tuple(old if value is None else int(value) for old, value in zip(before, new, strict=True))  # type: ignore[assignment]
        yield
        self.tag = before

    @contextmanager
    def merged(self) -> Iterator[None]:
        """The block's shapes get one common outline: all outlines are drawn before all fills."""
        start = len(self.shapes)
        yield
        block = self.shapes[start:]
        outlines, fills, depth = [], [], 0
        for shape in block:
            depth += (shape.kind == "clip") - (shape.kind == "unclip")
            if depth == 0 and shape.outline is not None and shape.kind in ("polygon", "circle"):
                outlines.append(shape._replace(fill=None))
                shape = shape._replace(outline=None)
            fills.append(shape)
        self.shapes[start:] = outlines + fills

    def paint(self, height: int, width: int) -> np.ndarray:
        """The picture, uint8 [height,width,3] RGB."""
        scale = height * SUPERSAMPLING / FRAME_HEIGHT
        image = np.empty((height * SUPERSAMPLING, width * SUPERSAMPLING, 3), np.uint8)
        raster = _Raster(image, scale, cv2.LINE_AA)
        for shape in self.shapes:
            raster.draw(shape, shape.fill, shape.outline)
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)

    def labels(self, height: int, width: int) -> np.ndarray:
        """The tags of what is seen, uint8 [height,width,3]: part, attribute, item; no mixing at edges."""
        raster = _Raster(np.zeros((height, width, 3), np.uint8), height / FRAME_HEIGHT, cv2.LINE_8)
        for shape in self.shapes:
            if shape.kind not in ("gradient", "shadow"):
                outline = None if shape.outline is None else shape.tag
                raster.draw(shape, None if shape.fill is None else shape.tag, outline)
        return raster.image


class _Raster:
    """Draws shapes into an image [H,W,3]. A clip is a layer that is cut out by its polygon when it ends."""

    def __init__(self, image: np.ndarray, scale: float, line_type: int) -> None:
        self.image = image
        self.scale, self.line_type = scale, line_type
        self._base: np.ndarray | None = None  # the view that the open layer will be put into
        self._mask: np.ndarray | None = None
        self._target = image
        self._origin = np.zeros(2, np.int64)  # upper left pixel of the target in the image

    def draw(self, shape: Shape, fill: Colour | None, outline: Colour | None) -> None:
        """Draws one shape with these colours (the picture's, or tags)."""
        points = shape.points
        if points is None:
            self._whole(shape.kind, fill, outline)
        elif shape.kind == "polygon":
            self._polygon(shape, points, fill, outline)
        elif shape.kind == "circle":
            self._circle(shape, points, fill, outline)
        elif shape.kind == "line":
            assert fill is not None
            thickness = max(1, round(shape.width * self.scale))
            cv2.polylines(self._target, self._fixed(points), False, fill, thickness, self.line_type, SHIFT)
        elif shape.kind == "clip":
            self._open_layer(points)
        elif shape.kind == "shadow":
            self._shadow(points)

    def _whole(self, kind: str, fill: Colour | None, outline: Colour | None) -> None:
        """The operations without points: the end of a clip, and the gradient over the frame."""
        if kind == "unclip":
            assert self._base is not None
            assert self._mask is not None
            cv2.copyTo(self._target, self._mask, self._base)
            self._target, self._origin = self.image, np.zeros(2, np.int64)
        elif kind == "gradient":
            amount = np.linspace(0, 1, self.image.shape[0])[:, None]
            self.image[:] = (np.array(fill) * (1 - amount) + np.array(outline) * amount)[:, None]

    def _fixed(self, points: np.ndarray) -> list[np.ndarray]:
        """Frame units -> fixed-point pixels, int32 [N,2]; OpenCV's (0, 0) is a pixel's centre, hence 0.5."""
        pixels = np.rint((points * self.scale - 0.5 - self._origin) * (1 << SHIFT)).astype(
            np.int32, order="C"
        )
        return list(pixels) if pixels.ndim == 3 else [pixels]

    def _polygon(self, shape: Shape, places: np.ndarray, fill: Colour | None, outline: Colour | None) -> None:
        points = self._fixed(places)
        if outline is not None:
            thickness = max(1, round(shape.width * 2 * self.scale))
            cv2.polylines(self._target, points, True, outline, thickness, self.line_type, SHIFT)
        if fill is not None:
            cv2.fillPoly(self._target, points, fill, self.line_type, SHIFT)

    def _circle(self, shape: Shape, place: np.ndarray, fill: Colour | None, outline: Colour | None) -> None:
        centre = self._fixed(place)[0].tolist()
        unit = self.scale * (1 << SHIFT)
        if outline is not None:
            radius = int((shape.radius + shape.width) * unit)
            cv2.circle(self._target, centre, radius, outline, -1, self.line_type, SHIFT)
        if fill is not None:
            cv2.circle(self._target, centre, int(shape.radius * unit), fill, -1, self.line_type, SHIFT)

    def _box(self, points: np.ndarray) -> tuple[slice, slice] | None:
        """The image's rows and columns around a polygon, None if it lies outside."""
        height, width = self.image.shape[:2]
        left, top = np.maximum(np.floor(points.min(0) * self.scale).astype(int) - 1, 0).tolist()
        right, bottom = (np.ceil(points.max(0) * self.scale).astype(int) + 2).tolist()
        if left >= min(right, width) or top >= min(bottom, height):
            return None
        return slice(top, min(bottom, height)), slice(left, min(right, width))

    def _mask_of(self, points: np.ndarray, box: tuple[slice, slice], line_type: int) -> np.ndarray:
        rows, columns = box
        self._origin = np.array([columns.start, rows.start])
        mask = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        cv2.fillPoly(mask, self._fixed(points), 255, line_type, SHIFT)
        return mask

    def _open_layer(self, points: np.ndarray) -> None:
        box = self._box(points) or (slice(0, 1), slice(0, 1))
        self._mask = self._mask_of(points, box, cv2.LINE_8)
        self._base = self.image[box]
        self._target = self._base.copy()

    def _shadow(self, points: np.ndarray) -> None:
        box = self._box(points)
        if box is None:
            return
        mask = self._mask_of(points, box, cv2.LINE_AA)
        self._origin = np.zeros(2, np.int64)
        keep = 1 - mask[..., None].astype(np.float32) * (SHADOW_OPACITY / 255)
        self.image[box] = (self.image[box] * keep).astype(np.uint8)
