"""Avatar rows whose reference wears other clothes than the person is to: what a call is told where clothes
come by words.

In other rows reference and target wear the same, so what is left of a reference whose clothes are taken out
(a hem at a shoe, a collar at a chin) tells them still, and a model learns to believe it more than the words.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bolid.avatars.render import Rendering, render
from bolid.avatars.world import RowPlan, Split, plan_row
from bolid.clothes import CLOTHES, in_other_clothes, with_clothes
from bolid.pose import PARTS
from bolid.training.avatar_rows import AvatarRows

KEPT = np.array([part not in ("upper", "lower") for part in PARTS])  # what the reference still tells
NAMED = 0.75  # share of the captions that name top and bottom; the others name what they named before


class RedressedRows:
    """The same rows with references in other clothes.

    The columns are those of `AvatarRows`, and `shared_parts` bool [N, 4]: parts of the reference that the
    target shows too. Some captions name top and bottom; no caption of theirs names a pattern.
    """

    def __init__(self, rows: AvatarRows) -> None:
        self._rows = rows
        self.fingerprint = f"{rows.fingerprint}-redressed-{NAMED:g}"

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: np.ndarray) -> dict[str, Any]:
        """Columns of some rows, in the order asked for."""
        columns = self._rows.read(indices)
        for at, seed in enumerate(columns["seed"].tolist()):
            plan, drawn, rng = redressed_reference(seed, self._rows.split, self._rows.size)
            columns["reference"][at] = drawn.image
            columns["reference_masks"][at] = drawn.parts
            columns["reference_keypoints"][at] = drawn.keypoints
            if rng.random() < NAMED:
                worn = {name: getattr(plan.identity, name) for name in CLOTHES}
                columns["caption"][at] = with_clothes(columns["caption_without_identity"][at], worn)
        return columns | {"shared_parts": np.tile(KEPT, (len(columns["seed"]), 1))}


def redressed_reference(
    seed: int, split: Split, size: tuple[int, int]
) -> tuple[RowPlan, Rendering, np.random.Generator]:
    """A row's plan, its reference drawn in other clothes, and the generator that drew them, for more.

    size: height and width, px.
    """
    plan = plan_row(seed, split)
    rng = np.random.default_rng([plan.draw_seed, 0xD2E55])
    person = in_other_clothes(plan.identity, rng)
    return plan, render(person, plan.reference_angles, plan.reference_scene, rng, *size), rng
