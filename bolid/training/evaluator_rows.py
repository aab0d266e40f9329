"""Rows that evaluators learn from and generators do not.

Evaluators of attributes see every combination, also those a generator is tested on. A combination that
training never shows is a test of the model that is measured, not of what measures it: an evaluator that has
seen no green hoodie takes it for a sweater. People stay apart: proportions and exact colours are drawn anew,
and no row is one of the test split's.

Evaluators of heads see people in two sets of clothes, or they would tell them by their collars.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bolid.avatars.identity import ATTRIBUTES, sample_identity
from bolid.avatars.render import Rendering, render
from bolid.avatars.world import plan_row
from bolid.training.avatar_rows import AvatarRows
from bolid.training.redressed_rows import redressed_reference


class _RedrawnRows:
    """The rows of a split, `share` of them with some columns drawn anew."""

    kind: str  # of the fingerprint
    key: int  # of the random numbers

    def __init__(self, rows: AvatarRows, share: float) -> None:
        self._rows, self._share = rows, share
        self.fingerprint = f"{rows.fingerprint}-{self.kind}-{share:g}"

    def __len__(self) -> int:
        return len(self._rows)

    def columns(self, names: Sequence[str]) -> dict[str, Any]:
        """The named columns of all rows."""
        found = self._rows.columns(("seed", *names))
        for at, seed in enumerate(found["seed"].tolist()):
            rng = np.random.default_rng([seed, self.key])
            if rng.random() < self._share:
                drawn = self._drawn(seed, rng)
                for name in drawn.keys() & found.keys():
                    found[name][at] = drawn[name]
        return {name: found[name] for name in names}

    def _drawn(self, seed: int, rng: np.random.Generator) -> dict[str, Any]:
        raise NotImplementedError


class CombinationRows(_RedrawnRows):
    """The rows of a split, `share` of them with another person, who shows a combination of
    `bolid.avatars.identity.HELD_OUT`, in the same poses and scenes.

    Captions and image prompts stay those of the person before: they are none of an evaluator's columns.
    """

    kind, key = "combinations", 0xC0B1

    def _drawn(self, seed: int, rng: np.random.Generator) -> dict[str, Any]:
        plan, person = plan_row(seed, self._rows.split), sample_identity(rng, held_out=True)
        place = np.random.default_rng(plan.draw_seed)
        image = render(person, plan.angles, plan.scene, place, *self._rows.size, plan.scene_seed)
        reference = render(person, plan.reference_angles, plan.reference_scene, place, *self._rows.size)
        seen = {"labels": person.labels()}
        return seen | _shown("image", "", image) | _shown("reference", "reference_", reference)


class OtherClothesRows(_RedrawnRows):
    """The rows of a split, `share` of them with a reference in other clothes; labels stay the target's."""

    kind, key = "other-clothes", 0xC1073

    def _drawn(self, seed: int, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002 - keyed by the row
        drawn = redressed_reference(seed, self._rows.split, self._rows.size)[1]
        return _shown("reference", "reference_", drawn)


def _shown(picture: str, prefix: str, drawn: Rendering) -> dict[str, np.ndarray]:
    return {
        picture: drawn.image,
        f"{prefix}masks": drawn.parts,
        f"{prefix}keypoints": drawn.keypoints,
        f"{prefix}visible": np.array([drawn.visible[name] for name in ATTRIBUTES], bool),
    }
