"""One row of the avatar world: a person in two poses and scenes, as a pure function of split and seed."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .caption import caption, caption_without_identity
from .identity import AvatarIdentity, pick, sample_identity
from .render import Rendering, render, render_scene
from .scene import SCENES
from .skeleton import POSE_FAMILIES, VIEWS, BodyAngles, sample_angles

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

_SALT = 0xB011D  # keeps these streams apart from any other use of small seeds
# Reference pictures are what a user would upload: mostly upright, mostly from the front.
_REFERENCE_FAMILY_CHANCES = (0.3, 0.16, 0.05, 0.13, 0.07, 0.04, 0.04, 0.04, 0.04, 0.05, 0.05, 0.03)
_REFERENCE_VIEW_CHANCES = (0.6, 0.25, 0.15)
_EMPTY_PROMPT_CHANCE = 0.4  # of image prompts that show the scene without anybody


@dataclass(frozen=True)
class RowPlan:
    """Everything a row shows, before a pixel is drawn.

    `stranger` (None: nobody) stands in the image prompt, in the place of the image: `scene_seed` fixes it.
    `draw_seed` feeds what else is drawn at random: framing, words, the reference's place.
    """

    identity: AvatarIdentity
    angles: BodyAngles
    scene: str
    scene_seed: int
    reference_angles: BodyAngles
    reference_scene: str
    stranger: AvatarIdentity | None
    stranger_angles: BodyAngles
    draw_seed: int
    held_out: bool


def plan_row(seed: int, split: Split) -> RowPlan:
    """What row `seed` of a split shows; every second test row (the odd seeds) is a held-out combination.

    Splits draw from streams of their own, and proportions are continuous: no person is in two splits.

    Raises: ValueError for an unknown split or a negative seed.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    if seed < 0:
        raise ValueError(f"seed {seed} is negative: use a whole number from 0 on")
    rng = np.random.default_rng([_SALT, SPLITS.index(split), seed])
    held_out = split == "test" and seed % 2 == 1
    identity = sample_identity(rng, held_out)
    angles = sample_angles(rng)
    scene = pick(rng, SCENES)
    scene_seed, draw_seed = rng.integers(2**32, size=2).tolist()
    return RowPlan(
        identity=identity,
        angles=angles,
        scene=scene,
        scene_seed=scene_seed,
        reference_angles=_reference_angles(rng, angles),
        reference_scene=pick(rng, tuple(name for name in SCENES if name != scene)),
        stranger=None if rng.random() < _EMPTY_PROMPT_CHANCE else sample_identity(rng),
        stranger_angles=sample_angles(rng),
        draw_seed=draw_seed,
        held_out=held_out,
    )


def _reference_angles(rng: np.random.Generator, angles: BodyAngles) -> BodyAngles:
    """Another pose than `angles`: the family or the view differs."""
    while True:
        family = pick(rng, POSE_FAMILIES, _REFERENCE_FAMILY_CHANCES)
        view = pick(rng, VIEWS, _REFERENCE_VIEW_CHANCES)
        if (family, view) != (angles.family, angles.view):
            return sample_angles(rng, family, view)


def sample_row(seed: int, split: Split, height: int = 192, width: int = 128) -> dict[str, Any]:
    """Row `seed` of a split, the same on every call.

    image, reference, image_prompt: uint8 [H, W, 3] RGB. keypoints, reference_keypoints: float32 [18, 3], x
    and y in [0, 1], visibility 0 or 1. masks, reference_masks: uint8 [H, W] part labels. identity: every
    field of `AvatarIdentity`. visible, reference_visible: attribute -> bool. The rest are words, the
    seed, `held_out`.

    Raises: ValueError as `plan_row`.
    """
    plan = plan_row(seed, split)
    rng = np.random.default_rng(plan.draw_seed)
    image = render(plan.identity, plan.angles, plan.scene, rng, height, width, plan.scene_seed)
    reference = render(plan.identity, plan.reference_angles, plan.reference_scene, rng, height, width)
    return {
        "image": image.image,
        "reference": reference.image,
        "caption": caption(plan.identity, plan.angles, plan.scene, rng, image.visible),
        "caption_without_identity": caption_without_identity(plan.angles, plan.scene, rng),
        "image_prompt": _image_prompt(plan, rng, height, width),
        **_annotations(image, ""),
        **_annotations(reference, "reference_"),
        "identity": plan.identity.as_dict(),
        "held_out": plan.held_out,
        "seed": seed,
    }


def _image_prompt(plan: RowPlan, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """The image's place with a stranger in it or nobody: uint8 [H, W, 3]."""
    if plan.stranger is None:
        return render_scene(plan.scene, plan.scene_seed, height, width)
    angles, seed = plan.stranger_angles, plan.scene_seed
    return render(plan.stranger, angles, plan.scene, rng, height, width, seed).image


def _annotations(rendering: Rendering, prefix: str) -> dict[str, Any]:
    return {
        f"{prefix}keypoints": rendering.keypoints,
        f"{prefix}masks": rendering.parts,
        f"{prefix}pose_family": rendering.family,
        f"{prefix}view": rendering.view,
        f"{prefix}scene": rendering.scene,
        f"{prefix}visible": rendering.visible,
    }
