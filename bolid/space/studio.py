"""The model behind the page: find people, fit poses, draw with progress, and stop when told."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

import bolid.inputs as inputs
from bolid.pictures import whole_frame
from bolid.plan import fitted
from bolid.pose import Pose, skeleton_map
from bolid.reference import Reference, find_person
from bolid.space.measures import Measured, Networks, measure
from bolid.space.provenance import can_watermark, marked
from bolid.space.settings import Settings, picture_text

LEFT_ALONE = 60  # seconds after which a drawing that nobody listens to is stopped
PREVIEW_EVERY = 0.1  # seconds between live previews at least,
PREVIEW_SHARE = 4  # and this many times what one takes


@dataclass(frozen=True)
class Job:
    """One picture to draw: settings, and a pose {"keypoints": [18, 3] of the model's own frame, "name": str |
    None}, or None for the free pose.
    """

    settings: Settings
    pose: dict[str, Any] | None


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
    """A finished picture, its settings in `image.info["bolid"]`, and what was measured on it."""

    image: Image.Image
    seed: int
    measured: Measured


class Stopped(Exception):
    """Ends a drawing from inside."""


class Studio:
    """One loaded pipeline for all users. Nothing of a request is kept here.

    networks: what measures the pictures; None measures nothing. watermark: whether large ones bear it.
    """

    def __init__(
        self, pipe: Any, model: str, networks: Networks | None = None, watermark: bool = True
    ) -> None:
        pipe.set_progress_bar_config(disable=True)  # before the first request; never changed afterwards
        if getattr(pipe, "watermark", None) is not None:
            pipe.watermark = None  # SDXL's own; `provenance.marked` takes its place
        self.pipe = pipe
        self.model = model
        self.networks = networks
        self.watermark = watermark and can_watermark()
        self.size: tuple[int, int] = pipe.picture_size  # (height, width) in pixels
        self.defaults = self.own(posed=True)

    def own(self, posed: bool) -> dict[str, float]:
        """The model's own steps and guidance, with or without a pose that the user gives."""
        own = self.pipe.call_defaults(posed or self.finds_poses)
        return dict(zip(("steps", "guidance"), own, strict=True))

    @property
    def finds_poses(self) -> bool:
        """Whether a free pose is one that fits the prompt."""
        return self.pipe.layout is not None

    def find(self, paths: Sequence[str]) -> list[Reference]:
        """The person in every picture. Raises ValueError as `find_person`."""
        several = len(paths) > 1
        return [
            self.pipe.find_person(path, f"reference {place}" if several else "reference")
            for place, path in enumerate(paths, 1)
        ]

    def attempt(self, path: str) -> Reference | None:
        """What the estimator makes of a picture that `find` refuses as a photograph; None for nothing."""
        try:
            return find_person(self.pipe.estimator, path, *self.size)
        except ValueError:
            return None

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
        self, jobs: Sequence[Job], people: Sequence[Reference], image_prompt: str | None
    ) -> Generator[Progress | Drawn, None, None]:
        """Job after job, with what happens in between. Closing the iterator stops it at the next step, and so
        does the end of the program, which waits for that: a daemon thread inside torch would abort it.

        Raises ValueError for what the pipeline refuses.
        """
        stop, news = threading.Event(), queue.Queue[Any](maxsize=4)

        def tell(item: Any) -> None:
            left = time.monotonic() + LEFT_ALONE
            while threading.main_thread().is_alive() and not stop.is_set() and time.monotonic() < left:
                with contextlib.suppress(queue.Full):
                    return news.put(item, timeout=0.2)
            raise Stopped

        def work() -> None:
            try:
                self._draw_all(jobs, people, image_prompt, tell)
            except Stopped:
                pass
            except Exception as error:  # handed to the listener, who raises it
                with contextlib.suppress(Stopped):
                    tell(error)

        thread = threading.Thread(target=work, daemon=False)
        thread.start()
        try:
            for item in _items(news, thread):
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            stop.set()
            while thread.is_alive():  # the next request must not share the cores with a dying one
                _drain(news)
                thread.join(timeout=0.05)

    def _draw_all(
        self, jobs: Sequence[Job], people: Sequence[Reference], image_prompt: Any, tell: Callable[[Any], None]
    ) -> None:
        kept = people and any(job.settings.uses_person for job in jobs)
        person = self.pipe.encode_identity(list(people)) if kept else None
        for index, job in enumerate(jobs):
            step = _StepCallback(self.pipe, Progress(index + 1, len(jobs), 0, job.settings.steps), tell)
            tell(self._draw_one(job, people, person, image_prompt, step))

    def _draw_one(
        self, job: Job, people: Sequence[Reference], person: Any, image_prompt: Any, step: _StepCallback
    ) -> Drawn:
        settings, points, target = job.settings, None, None
        if job.pose is not None:
            pose = Pose(job.pose["keypoints"]).keypoints
            points = self.framed(pose, (settings.height, settings.width))
            target = self.fit(pose, people, settings) if settings.pose_strength > 0 else None
        image = self.pipe(
            settings.prompt, person if settings.uses_person else None, points, image_prompt,
            settings.image_prompt_strength, settings.strengths, settings.pose_strength, settings.retarget,
            settings.negative_prompt or None, settings.steps, settings.guidance, settings.height,
            settings.width, generator=settings.seed, callback_on_step_end=step,
        ).images[0]  # fmt: skip
        figures = measure(self.networks, image, people if settings.uses_person else (), target)
        by = {} if self.networks is None else {"measured_by": self.networks.by}
        told = {"id_similarity": figures.likeness, "pose_accuracy": figures.accuracy} | by
        text = picture_text(settings, job.pose, self.model, measured=told)
        return Drawn(marked(image, text, self.watermark), settings.seed, figures)


class _StepCallback:
    """Tells every step, with a preview now and then. `tell` ends the call by an exception when asked to."""

    def __init__(self, pipe: Any, progress: Progress, tell: Callable[[Any], None]) -> None:
        self.pipe, self.progress, self.tell = pipe, progress, tell
        self.next_preview = 0.0
        # an fp16 autoencoder that overflows (SDXL's first one) would only show black
        self.previews = not (
            getattr(pipe.vae.config, "force_upcast", False) and pipe.vae.dtype == torch.float16
        )

    def __call__(self, _run: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        now, shown = time.monotonic(), self.progress.preview
        if self.previews and now >= self.next_preview and step + 1 < self.progress.steps:
            shown = _decoded(self.pipe, tensors["latents"][:1])
            after = time.monotonic()
            self.next_preview = after + max(PREVIEW_EVERY, PREVIEW_SHARE * (after - now))
        self.progress = replace(self.progress, step=step + 1, preview=shown)
        self.tell(self.progress)
        return tensors


def _decoded(pipe: Any, latents: torch.Tensor) -> Image.Image:
    """Latents [1, C, h, w] as a picture, noise and all."""
    shift = getattr(pipe.vae.config, "shift_factor", None) or 0.0
    pixels = pipe.vae.decode(latents.to(pipe.vae.dtype) / pipe.vae.config.scaling_factor + shift).sample
    return pipe.image_processor.postprocess(pixels.detach())[0]


def _items(news: queue.Queue[Any], thread: threading.Thread) -> Iterator[Any]:
    """What comes, until the thread has ended and nothing is left."""
    while True:
        try:
            yield news.get(timeout=0.02)
        except queue.Empty:
            if not thread.is_alive() and news.empty():
                return


def _drain(news: queue.Queue[Any]) -> None:
    try:
        while True:
            news.get_nowait()
    except queue.Empty:
        pass
