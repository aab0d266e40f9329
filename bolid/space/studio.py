"""The model behind the page: find people, fit poses, draw with progress, and stop when told."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

import bolid.inputs as inputs
from bolid.conditioning import fitted
from bolid.metrics import pck
from bolid.pictures import whole_frame
from bolid.pose import Pose, skeleton_map
from bolid.reference import Reference
from bolid.space.settings import Settings, picture_text

LEFT_ALONE = 60  # seconds after which a drawing that nobody listens to is stopped
PREVIEW_EVERY = 0.3  # seconds between live previews at least, and four times what one takes


class Stopped(Exception):
    """The user stopped the drawing."""


@dataclass(frozen=True)
class Progress:
    """Picture `picture` of `pictures` has done `step` of `steps`; preview: as it looks now, or None."""

    picture: int
    pictures: int
    step: int
    steps: int
    preview: Image.Image | None = None


@dataclass(frozen=True)
class Drawn:
    """A finished picture; its settings are in `image.info["bolid"]`. accuracy: share of the visible joints
    that the estimator finds within a tenth of the body's box of where the pose has them; None without pose.
    """

    image: Image.Image
    seed: int
    accuracy: float | None


class Studio:
    """One loaded pipeline for all users. Nothing of a request is kept here."""

    def __init__(self, pipe: Any, model: str) -> None:
        pipe.set_progress_bar_config(disable=True)  # before the first request; never changed afterwards
        self.pipe = pipe
        self.model = model
        self.size: tuple[int, int] = pipe.picture_size  # (height, width) in pixels
        self.defaults = {"steps": pipe.config.default_steps, "guidance": pipe.config.default_guidance_scale}

    def find(self, paths: Sequence[str]) -> list[Reference]:
        """The person in every picture. Raises ValueError as `find_person`."""
        several = len(paths) > 1
        return [
            self.pipe.find_person(path, f"reference {place}" if several else "reference")
            for place, path in enumerate(paths, 1)
        ]

    def pose_points(self, source: Any) -> np.ndarray | None:
        """A name, a picture's path, or key-points -> float32 [18, 3] in the model's own frame.

        Raises ValueError as `bolid.inputs.read_pose`.
        """
        return inputs.read_pose(source, *self.size, lambda path: self.pipe.find_person(path, "pose picture"))

    def fit(self, pose: np.ndarray, people: Sequence[Reference], settings: Settings) -> np.ndarray:
        """The pose [18, 3] as it will be drawn: in the picture's frame, in the reference's proportions."""
        size = (settings.height, settings.width)
        points = self.framed(pose, size)
        if settings.retarget and people and settings.uses_person:
            strength = inputs.part_strengths(settings.strengths, 1)[0]
            points = fitted(points, [person.resized(*size) for person in people], strength)
        return points

    def framed(self, pose: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Key-points [18, 3] of the model's own frame in the frame of a picture of `size`."""
        points = pose.copy()
        placed = points[:, 2] > 0
        points[placed, :2] = whole_frame(self.size, *size).to_frame(points[placed, :2], self.size)
        return points

    def skeleton(self, points: np.ndarray, size: tuple[int, int]) -> Image.Image:
        """The skeleton map that the model sees, drawn at 384 pixels of height at least."""
        scale = max(1, -(-384 // size[0]))
        return Image.fromarray(skeleton_map(points[None], size[0] * scale, size[1] * scale)[0])

    def draw(
        self,
        settings: Settings,
        people: Sequence[Reference],
        pose: dict[str, Any] | None,
        image_prompt: str | None,
        stop: threading.Event,
    ) -> Iterator[Progress | Drawn]:
        """Picture after picture, each from its own seed, with what happens in between.

        pose: {"keypoints": [18, 3] of the model's own frame, "name": str | None} or None. `stop` is heeded at
        the next step; closing the iterator sets it. Raises ValueError for what the pipeline refuses, Stopped.
        """
        news: queue.Queue[Any] = queue.Queue(maxsize=4)

        def tell(item: Any) -> None:
            try:
                news.put(item, timeout=LEFT_ALONE)
            except queue.Full:
                stop.set()

        def work() -> None:
            try:
                self._draw_all(settings, people, pose, image_prompt, stop, tell)
                tell(None)
            except Exception as error:  # handed to the listener, who raises it
                tell(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while (item := news.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            stop.set()
            while thread.is_alive():  # the next request must not share the cores with a dying one
                _drain(news)
                thread.join(timeout=0.05)

    def _draw_all(
        self, settings: Settings, people: Any, pose: Any, image_prompt: Any, stop: threading.Event, tell: Any
    ) -> None:
        points = None
        if pose is not None:
            points = self.framed(Pose(pose["keypoints"]).keypoints, (settings.height, settings.width))
        person = self.pipe.encode_identity(list(people)) if people and settings.uses_person else None
        target = None if pose is None else self.fit(Pose(pose["keypoints"]).keypoints, people, settings)
        for index in range(settings.count):
            one = replace(settings, seed=settings.seed + index)
            step = _StepCallback(self.pipe, index, one, stop, tell)
            result = self.pipe(
                one.prompt, person, points, image_prompt, one.image_prompt_strength, one.strengths,
                one.pose_strength, one.retarget, one.negative_prompt or None, one.steps, one.guidance,
                one.height, one.width, generator=one.seed, callback_on_step_end=step,
            )  # fmt: skip
            if stop.is_set():
                raise Stopped
            image = result.images[0]
            image.info["bolid"] = picture_text(one, one.seed, pose, self.model)
            tell(Drawn(image, one.seed, self._accuracy(image, target)))

    def _accuracy(self, image: Image.Image, target: np.ndarray | None) -> float | None:
        """Share of the target's visible joints that the estimator finds in the picture where they belong."""
        if target is None or self.pipe.estimator is None or image.size != self.size[::-1]:
            return None
        found = self.pipe.estimator.predict(np.array(image)).keypoints
        share = float(pck(found, target[None], self.size)[0])
        return share if np.isfinite(share) else None


class _StepCallback:
    """Tells every step, with a preview now and then; ends this call alone when asked to stop."""

    def __init__(self, pipe: Any, index: int, settings: Settings, stop: threading.Event, tell: Any) -> None:
        self.pipe, self.index, self.settings, self.stop, self.tell = pipe, index, settings, stop, tell
        self.next_preview, self.shown = 0.0, None
        # an fp16 autoencoder that overflows (SDXL's first one) would only show black
        self.previews = not (
            getattr(pipe.vae.config, "force_upcast", False) and pipe.vae.dtype == torch.float16
        )

    def __call__(self, run: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if self.stop.is_set():
            run._interrupt = True  # `run` is this call's own copy
            return tensors
        done, now = step + 1, time.monotonic()
        if self.previews and now >= self.next_preview and done < self.settings.steps:
            self.shown = _decoded(self.pipe, tensors["latents"][:1])
            after = time.monotonic()
            self.next_preview = after + max(PREVIEW_EVERY, 4 * (after - now))
        self.tell(Progress(self.index + 1, self.settings.count, done, self.settings.steps, self.shown))
        return tensors


def _decoded(pipe: Any, latents: torch.Tensor) -> Image.Image:
    """Latents [1, C, h, w] as a picture, noise and all."""
    shift = getattr(pipe.vae.config, "shift_factor", None) or 0.0
    pixels = pipe.vae.decode(latents.to(pipe.vae.dtype) / pipe.vae.config.scaling_factor + shift).sample
    return pipe.image_processor.postprocess(pixels.detach())[0]


def _drain(news: queue.Queue[Any]) -> None:
    try:
        while True:
            news.get_nowait()
    except queue.Empty:
        pass
