"""Between the page and the studio: values in, updates out; a user's mistake becomes `gr.Error`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
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
from bolid.space.studio import Studio
from bolid.space.texts import NO_REFERENCE, OTHER_MODEL

CONTROLS = tuple(field.name for field in fields(Settings))  # the order in which the page hands them over
Seen = tuple[tuple[str, ...], list[Reference], str]  # the files looked at, the people, or what was wrong


def mistakes_told(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function (no generator) whose ValueError is shown to the user as its sentence."""

    @functools.wraps(function)
    def told(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except ValueError as error:
            raise mistake(error) from error

    return told


def mistake(error: ValueError) -> gr.Error:
    """What the page and clients are told of a user's mistake."""
    return gr.Error(_sentence(error), duration=12, print_exception=False)


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
            return None, views.note(NO_REFERENCE), ((), [], "")
        seen = self._seen(paths)
        if seen[2]:
            return *self._attempt(paths, seen[2]), seen
        return views.side_by_side([views.found_picture(p) for p in seen[1]]), views.found_words(seen[1]), seen

    def _seen(self, paths: tuple[str, ...]) -> Seen:
        try:
            return paths, self.studio.find(paths), ""
        except ValueError as error:
            return paths, [], _sentence(error)

    def _attempt(self, paths: tuple[str, ...], wrong: str) -> tuple[Image.Image | None, str]:
        """What was and was not found in pictures that cannot be used, and the way on."""
        if not self.studio.pipe.draws_avatars:
            return None, views.trouble(wrong)
        tries = [each for each in map(self.studio.attempt, paths) if each is not None]
        lines = [views.found_line(person, "All the same, what looks like a person was") for person in tries]
        shown = views.side_by_side([views.found_picture(person) for person in tries])
        return shown, views.trouble(wrong, *lines, OTHER_MODEL)

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

    def own_numbers(self, editor: Any, steps: float, guidance: float) -> list[Any]:
        """Updates of steps and guidance when a pose comes or goes: where the user left the model's own ones,
        the model's own again.
        """
        own = {posed: list(self.studio.own(posed).values()) for posed in (True, False)}
        posed = editor is not None
        return own[posed] if [steps, guidance] == own[not posed] else [gr.skip(), gr.skip()]

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
            pose = kept_pose(values)
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

    def settings_of(self, path: str) -> tuple[Settings, dict[str, Any] | None]:
        """Settings and pose that a picture was drawn with, for drawing again. Raises ValueError."""
        values = read_settings(path)
        return checked(self.studio.defaults | values, self.studio.size), kept_pose(values)


def kept_pose(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The pose among values of `read_settings`; None where it kept no key-points."""
    if "keypoints" not in values:
        return None
    return editor_pose({"keypoints": values["keypoints"], "name": values.get("pose")})


def reference_paths(reference: str | None, more: Sequence[Any] | None) -> tuple[str, ...]:
    """The files of all reference pictures; a gallery hands over (file, caption)."""
    further = [item[0] if isinstance(item, tuple | list) else item for item in more or ()]
    return tuple(path for path in (reference, *further) if path)


def keypoint_pose(keypoints: Any) -> np.ndarray:
    """A client's key-points as an array. Raises ValueError."""
    try:
        points = np.asarray(keypoints, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError("keypoints must be 18 rows of x, y or x, y, confidence") from error
    if points.shape not in ((18, 2), (18, 3)):
        raise ValueError(f"keypoints have the shape {list(points.shape)}; they must be [18, 2] or [18, 3]")
    return points
