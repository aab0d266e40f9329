"""What some rows ask of a pair beside the truth: another prompt, another person's pose, another pose.

All of it follows from the pair's split and seed, as the pair itself does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bolid.avatars.caption import SCENE_WORDS
from bolid.avatars.identity import ATTRIBUTES, CLOTH_COLOURS, HELD_OUT, AvatarIdentity
from bolid.avatars.render import Rendering, render
from bolid.avatars.scene import SCENES
from bolid.avatars.world import RowPlan, Split, plan_row
from bolid.clothes import CLOTHES
from bolid.clothes import with_clothes as in_words

CLOTHES_COLUMNS = tuple(list(ATTRIBUTES).index(name) for name in CLOTHES)
# A dress is left out (it decides the bottom too), and so are skirts for men, whom the world never draws so.
_TOPS = ("t-shirt", "sweater", "tank top", "hoodie", "jacket")
_BOTTOMS = {"man": ("trousers", "shorts"), "woman": ATTRIBUTES["bottom"]}


def without_scene(prompt: str, scene: int) -> str:
    """`prompt` without the words of its scene (index into SCENES): "a person in a park, side view" ->
    "a person, side view".
    """
    for words in sorted(SCENE_WORDS[SCENES[scene]], key=len, reverse=True):
        if words in prompt:
            left = prompt.replace(words, " ")
            return ", ".join(" ".join(piece.split()) for piece in re.split(",", left) if piece.strip())
    raise AssertionError(f"{prompt!r} does not tell the scene {SCENES[scene]!r}")


def other_clothes(seeds: Sequence[int], split: Split) -> np.ndarray:
    """int64 [N, 4]: indices of `CLOTHES`, each another value than the person of that row of `split`
    wears.
    """
    return np.array([_other_clothes(plan_row(seed, split).identity, seed) for seed in seeds])


def with_clothes(prompt: str, clothes: np.ndarray) -> str:
    """A prompt of "a person" that wears `clothes` [4], indices of `CLOTHES`, in the captions' words."""
    worn = {name: ATTRIBUTES[name][index] for name, index in zip(CLOTHES, clothes, strict=True)}
    return in_words(prompt, worn)


def of_another(seed: int, split: Split, height: int, width: int) -> Rendering:
    """The next row's person in this row's pose, view and scene: a pose with other proportions."""
    return _rendered(plan_row(seed, split), plan_row(seed + 1, split).identity, height, width)


def reposed(seed: int, split: Split, height: int, width: int) -> np.ndarray:
    """This row's person and scene in the pose of the reference: uint8 [H, W, 3]."""
    plan = plan_row(seed, split)
    rng = np.random.default_rng(plan.draw_seed)
    return render(plan.identity, plan.reference_angles, plan.scene, rng, height, width, plan.scene_seed).image


def redressed(seed: int, split: Split, clothes: np.ndarray, height: int, width: int) -> np.ndarray:
    """This row's person in `clothes` [4], indices of `CLOTHES`: uint8 [H, W, 3].

    It is what `with_clothes` asks for, so no picture can let a network read more of it.
    """
    plan = plan_row(seed, split)
    worn = {name: ATTRIBUTES[name][index] for name, index in zip(CLOTHES, clothes, strict=True)}
    colours = {f"{piece}_rgb": CLOTH_COLOURS[worn[f"{piece}_colour"]] for piece in ("top", "bottom")}
    # the words name no pattern, and the person's own may be in the new top's colour
    return _rendered(plan, replace(plan.identity, pattern="plain", **worn, **colours), height, width).image


def _rendered(plan: RowPlan, identity: AvatarIdentity, height: int, width: int) -> Rendering:
    rng = np.random.default_rng(plan.draw_seed)  # the same framing as the truth's
    return render(identity, plan.angles, plan.scene, rng, height, width, plan.scene_seed)


def _other_clothes(identity: AvatarIdentity, seed: int) -> list[int]:
    """Indices of `CLOTHES` that differ from the person's in all four, drawn by the seed; no pair of garment
    and colour that training never showed.
    """
    rng = np.random.default_rng([seed, 0xC107])
    unseen = HELD_OUT[("top", "top_colour")]
    while True:
        chosen = {
            name: str(rng.choice([value for value in values if value != getattr(identity, name)]))
            for name, values in zip(
                CLOTHES,
                (_TOPS, ATTRIBUTES["top_colour"], _BOTTOMS[identity.gender], ATTRIBUTES["bottom_colour"]),
                strict=True,
            )
        }
        if (chosen["top"], chosen["top_colour"]) not in unseen:
            return [ATTRIBUTES[name].index(chosen[name]) for name in CLOTHES]
