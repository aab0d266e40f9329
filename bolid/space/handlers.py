"""Between the page and the studio: values in, updates out; a user's mistake becomes `gr.Error`."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

import bolid.space.views as views
from bolid.pose import Pose
from bolid.reference import Reference
from bolid.space.editor import editor_pose, editor_value
from bolid.space.settings import Settings, checked, read_settings
from bolid.space.studio import Drawn, Studio

CONTROLS = tuple(field.name for field in fields(Settings))  # the order in which the page hands them over
Seen = tuple[tuple[str, ...], list[Reference], str]  # the files looked at, the people, or what was wrong


def mistakes_told(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function (no generator) whose ValueError is shown to the user as its sentence."""

    @functools.wraps(function)
    def told(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except ValueError as error:
            raise gr.Error(_sentence(error), duration=12, print_exception=False) from error

    return told


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:1].upper() + text[1:]


class Handlers:
    """The page's functions, over one studio. Nothing of a request is kept here."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    def look(self, reference: str | None, more: Sequence[Any] | None) -> tuple[Image.Image | None, str, Seen]:
        """What was found in the references: one picture, words, and the people for later."""
        paths = reference_paths(reference, more)
        if not paths:
            return (
                None,
                views.note("No reference yet: upload a picture, or pick an example person."),
                ((), [], ""),
            )
        seen = self._seen(paths)
        if seen[2]:
            return None, views.trouble(seen[2]), seen
        return views.side_by_side([views.found_picture(p) for p in seen[1]]), views.found_words(seen[1]), seen

    def _seen(self, paths: tuple[str, ...]) -> Seen:
        try:
            return paths, self.studio.find(paths), ""
        except ValueError as error:
            return paths, [], _sentence(error)

    def people(self, paths: tuple[str, ...], seen: Seen | None, settings: Settings) -> list[Reference]:
        """Who is to be drawn. Raises ValueError: nobody is made up where a person was to be kept."""
        if not settings.uses_person:
            return []
        if not paths:
            raise ValueError(
                "there is no reference picture; upload one or pick an example person "
                "(or set the ID strength to 0 to draw from words alone)"
            )
        if seen is None or seen[0] != paths:
            seen = self._seen(paths)
        if seen[2]:
            raise ValueError(seen[2])
        return seen[1]

    def named_pose(self, name: str | None) -> dict[str, Any] | None:
        """A named pose for the editor. Raises ValueError for an unknown name, a file's path too."""
        if not name:
            return None
        Pose.named(name)  # before `pose_points`, which would open a file of the server
        return editor_value(self.studio.pose_points(name), name)

    @mistakes_told
    def picture_pose(self, path: str | None) -> Any:
        """The pose of the person, or of the skeleton map, in a picture."""
        return gr.skip() if path is None else editor_value(self.studio.pose_points(path))

    @mistakes_told
    def own_pose(self, seen: Seen | None) -> dict[str, Any] | None:
        """The reference's own pose."""
        if not seen or not seen[1]:
            raise ValueError("there is no reference with a person yet; upload one or pick an example person")
        return editor_value(seen[1][0].keypoints)

    @mistakes_told
    def pose(self, editor: Any) -> dict[str, Any] | None:
        """The editor's pose for a drawing."""
        return editor_pose(editor)

    def preview(self, editor: Any, seen: Seen | None, retarget: bool, *parts: float) -> Image.Image | None:
        """The skeleton that will be used; None for the free pose or a pose that cannot be used."""
        try:
            pose = editor_pose(editor)
        except ValueError:
            return None
        if pose is None:
            return None
        strengths = dict(zip(("id_strength", "head", "upper", "lower", "feet"), parts, strict=False))
        settings = Settings(
            width=self.studio.size[1], height=self.studio.size[0], retarget=retarget, **strengths
        )
        points = self.studio.fit(pose["keypoints"], seen[1] if seen else [], settings)
        return self.studio.skeleton(points, self.studio.size)

    def generate(
        self,
        paths: tuple[str, ...],
        seen: Seen | None,
        pose: dict[str, Any] | None,
        image_prompt: str | None,
        values: Mapping[str, Any],
    ) -> Iterator[tuple[list[tuple[Image.Image, str]], Any, int]]:
        """(pictures so far, news, the first seed) after every step; closing it stops the drawing.

        Raises gr.Error.
        """
        done: list[tuple[Image.Image, str]] = []
        try:
            settings = checked(values, self.studio.size)
            people = self.people(paths, seen, settings)
            for news in self.studio.draw(settings, people, pose, image_prompt, threading.Event()):
                if isinstance(news, Drawn):
                    done = [*done, (news.image, caption(news))]
                yield done, news, settings.seed
        except ValueError as error:
            raise gr.Error(_sentence(error), duration=12, print_exception=False) from error

    @mistakes_told
    def load(self, path: str | None) -> list[Any]:
        """Updates for every control of `CONTROLS`, then the editor's, from a picture's settings."""
        if path is None:
            return [gr.skip()] * (len(CONTROLS) + 1)
        values = read_settings(path)
        controls = [gr.update(value=values[name]) if name in values else gr.skip() for name in CONTROLS]
        return [*controls, self._loaded_pose(values)]

    def _loaded_pose(self, values: Mapping[str, Any]) -> Any:
        if "keypoints" in values:
            pose = editor_pose({"keypoints": values["keypoints"], "name": values.get("pose")})
            return editor_value(pose["keypoints"], pose["name"]) if pose else None
        name = values.get("pose")
        if name is None:
            return None
        try:
            return self.named_pose(str(name))
        except ValueError:  # the command line keeps the name of the pose's file, which is not here
            gr.Warning(
                f"The pose was taken from the file {str(name)[:60]!r}; give it again under 'From a picture'."
            )
            return gr.skip()


def reference_paths(reference: str | None, more: Sequence[Any] | None) -> tuple[str, ...]:
    """The files of all reference pictures; a gallery hands over (file, caption)."""
    further = [item[0] if isinstance(item, tuple | list) else item for item in more or ()]
    return tuple(path for path in (reference, *further) if path)


def caption(drawn: Drawn) -> str:
    """What stands under a picture."""
    words = f"seed {drawn.seed}"
    return words if drawn.accuracy is None else f"{words} · pose {round(100 * drawn.accuracy)} %"


def keypoint_pose(keypoints: Any) -> np.ndarray:
    """A client's key-points as an array. Raises ValueError."""
    try:
        points = np.asarray(keypoints, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError("keypoints must be 18 rows of x, y or x, y, confidence") from error
    if points.shape not in ((18, 2), (18, 3)):
        raise ValueError(f"keypoints have the shape {list(points.shape)}; they must be [18, 2] or [18, 3]")
    return points
