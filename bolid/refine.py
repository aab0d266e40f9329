"""A second pass over the head: small faces of full-body pictures, drawn again at the model's own size."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageFilter

import bolid.inputs as inputs
from bolid.pictures import Frame, PictureSource, load_picture
from bolid.pose import Pose
from bolid.regions import head_circle

VIEW = 1.6  # half the height of the view around the head, over the head's radius
FEATHER = 0.15  # of the view's height: the border over which the new head fades into the picture
FAR = 1.5  # joints further out of the view than this are as good as unknown
STRENGTH = 0.45  # of the second pass: keeps where the head looks, redraws its features


class RefineMixin:
    """`refine_head`, for pipelines."""

    find_person: Any
    picture_size: tuple[int, int]

    def refine_head(
        self,
        picture: PictureSource,
        prompt: str,
        reference: Any,
        pose: Any = None,
        *,
        strength: float = STRENGTH,
        id_strength: Any = 1.0,
        enlarge: int = 1,
        **kwargs: Any,
    ) -> Image.Image:
        """Draw the head of a picture again, at the model's own size, with the identity in it.

        A view around the head is cut out, enlarged to the size the model draws at, redrawn by img2img with
        the reference's tokens and appearance map in that view, and laid back with a soft border.

        picture: what was drawn, PIL or path; reference: as of the call; pose: of the person in `picture` (the
        one it was drawn with), None finds it there.
        strength: in (0, 1], how far the head may change. id_strength: as of the call.
        enlarge: the result is this many times larger (1, 2, ...), so that the new detail is not lost.
        kwargs: further arguments of the call (generator, guidance_scale, ...); detail_strength is 0 unless
            given.
        Returns the picture, PIL RGB. Raises ValueError where no head is seen, or as the call.
        """
        whole = load_picture(picture, "picture")
        times = inputs.count(enlarge, "enlarge")
        whole = whole.resize((whole.width * times, whole.height * times), Image.Resampling.LANCZOS)
        size = (whole.height, whole.width)
        points = inputs.read_pose(pose, *size, lambda other: self.find_person(other, "pose picture"))
        if points is None:
            found = self.find_person(whole, "picture")
            points = found.keypoints.copy()
            if found.frame is not None:
                points[:, :2] = found.frame.to_source(points[:, :2], size)
        view = head_view(points, size, self.picture_size)
        if view is None:
            raise ValueError("the pose shows no head (nose, eyes, ears); there is nothing to draw again")
        height, width = self.picture_size
        box = (view.left, view.top, view.left + view.width, view.top + view.height)
        closer = whole.transform((width, height), Image.Transform.EXTENT, box, Image.Resampling.BICUBIC)
        call: Any = self
        kwargs.setdefault("detail_strength", 0.0)  # DetailNet was taught on whole people
        drawn = call(
            prompt, reference, Pose(in_view(points, view, size)), image=closer, strength=strength,
            id_strength=id_strength, retarget=False, **kwargs,
        ).images[0]  # fmt: skip
        return laid_back(whole, drawn, view)


def head_view(points: np.ndarray, size: tuple[int, int], shape: tuple[int, int]) -> Frame | None:
    """The window around the head of a pose [18, 3] in a picture of `size`, of the proportions of `shape`.

    size, shape: (height, width) in pixels. None where no joint of the head is known.
    """
    head = head_circle(points, size[1] / size[0])
    if head is None:
        return None
    (x, y), radius = head
    tall = 2 * VIEW * radius * size[0] * max(1, shape[0] / shape[1])
    wide = tall * shape[1] / shape[0]
    return Frame(x * size[1] - wide / 2, y * size[0] - tall / 2, wide, tall)


def in_view(points: np.ndarray, view: Frame, size: tuple[int, int]) -> np.ndarray:
    """Key-points [18, 3] of the picture -> of the view; those far outside of it are unknown (zeros)."""
    seen = points.copy()
    seen[:, :2] = view.to_frame(points[:, :2], size)
    seen[(np.abs(seen[:, :2] - 0.5) > FAR).any(axis=1) | (points[:, 2] <= 0)] = 0
    return seen


def laid_back(whole: Image.Image, drawn: Image.Image, view: Frame) -> Image.Image:
    """The view's new picture in the whole one, with a soft border."""
    left, top = round(view.left), round(view.top)
    size = (max(1, round(view.width)), max(1, round(view.height)))
    border = max(1, round(FEATHER * size[1] / 2))
    mask = Image.new("L", size, 0)
    mask.paste(255, (2 * border, 2 * border, max(size[0] - 2 * border, 0), max(size[1] - 2 * border, 0)))
    result = whole.copy()
    result.paste(
        drawn.resize(size, Image.Resampling.LANCZOS),
        (left, top),
        mask.filter(ImageFilter.GaussianBlur(border)),
    )
    return result
