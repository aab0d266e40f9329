"""One avatar picture with everything that is known about it."""

from dataclasses import dataclass

import numpy as np

from .camera import fit_camera
from .canvas import FRAME_HEIGHT, Canvas
from .figure import Figure
from .identity import AvatarIdentity
from .person import Person
from .scene import draw_scene, draw_shadow
from .seen import joints_seen, visible_attributes
from .shapes import jitter
from .skeleton import BodyAngles, forward_kinematics

_LYING = ("lying down", "sitting on the floor")  # families whose shadow reaches along the whole body


@dataclass(frozen=True)
class Rendering:
    """A picture and its ground truth."""

    image: np.ndarray  # uint8 [H,W,3] RGB
    keypoints: np.ndarray  # float32 [18,3]: x, y in [0,1], 1 seen or 0 hidden; OpenPose order
    parts: np.ndarray  # uint8 [H,W]: 0 background, 1 head, 2 upper, 3 lower, 4 feet
    visible: dict[str, bool]  # over ATTRIBUTES: whether the picture shows the attribute
    family: str
    view: str
    scene: str


def render(
    identity: AvatarIdentity,
    angles: BodyAngles,
    scene: str,
    rng: np.random.Generator,
    height: int = 192,
    width: int = 128,
    scene_seed: int | None = None,
) -> Rendering:
    """Draws one person in one scene.

    The composition depends on the aspect alone: a larger picture is the same one, sharper. The background is
    a function of (scene, scene_seed) alone; without a seed it is drawn from `rng`.

    Raises:
        ValueError: an unknown scene, or a height or width below 16.
    """
    scene_seed = int(rng.integers(2**31)) if scene_seed is None else scene_seed
    canvas, horizon = _canvas_with(scene, scene_seed, height, width)
    skeleton = forward_kinematics(identity, angles)
    camera = fit_camera(skeleton, angles, rng, canvas.width, horizon)
    person = Person(identity, skeleton, camera, canvas)
    _draw_ground_shadow(person, angles)
    figure = Figure(person)
    if angles.ground == "chair":
        figure.add_chair(jitter((150, 105, 70), rng, 14))
    figure.draw()
    labels = canvas.labels(height, width)
    return Rendering(
        image=canvas.paint(height, width),
        keypoints=joints_seen(person, labels),
        parts=np.ascontiguousarray(labels[..., 0]),
        visible=visible_attributes(identity, figure, labels),
        family=angles.family,
        view=angles.view,
        scene=scene,
    )


def render_scene(scene: str, scene_seed: int, height: int = 192, width: int = 128) -> np.ndarray:
    """The background of `render` with that seed, without a person: uint8 [H,W,3] RGB."""
    canvas, _ = _canvas_with(scene, scene_seed, height, width)
    return canvas.paint(height, width)


def _canvas_with(scene: str, scene_seed: int, height: int, width: int) -> tuple[Canvas, float]:
    """A canvas that shows the scene, and its horizon in frame units."""
    if min(height, width) < 16:
        raise ValueError(
            f"a picture of {width} x {height} is too small to draw: use at least 16 x 16, e.g. 128 x 192"
        )
    canvas = Canvas(width * FRAME_HEIGHT / height)
    return canvas, draw_scene(canvas, scene, np.random.default_rng(scene_seed))


def _draw_ground_shadow(person: Person, angles: BodyAngles) -> None:
    names = ("anL", "anR", "pel", "head") if angles.family in _LYING else ("anL", "anR", "pel")
    places = [float(person.at[name][0]) for name in names]
    ground = float(person.camera.origin[1]) + (7 if angles.ground == "air" else -1)
    middle, half = (min(places) + max(places)) / 2, (max(places) - min(places)) / 2
    draw_shadow(person.canvas, (middle, min(ground, FRAME_HEIGHT - 4.5)), half + 12, 4.5)
