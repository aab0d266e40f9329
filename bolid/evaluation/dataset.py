"""The pairs of a comparison: a split of the avatars, or the rows of a dataset of photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np

from bolid.avatars.world import Split
from bolid.evaluation.pairs import Pairs, held_out_pairs, pairs_fingerprint

AVATARS = "avatars"


def open_pairs(
    dataset: str, split: str, count: int, size: tuple[int, int], processes: int, cache_dir: Path
) -> Pairs:
    """The first `count` pairs (fewer where the dataset has fewer) at `size` (height, width).

    dataset: "avatars", or whatever `data.source` of the training takes (`bolid.training.sources`): rows with
    image, masks, keypoints, caption and, given or found among the rows of the same identity, a reference.
    Such pairs have no attributes, scenes, pose families and views: what needs them is left out.

    Raises:
        ValueError: no such dataset, a column is missing, or a row cannot be read.
    """
    if dataset == AVATARS:
        return held_out_pairs(count, *size, processes, cache_dir, cast(Split, split))
    rows = _table(dataset, split, size, cache_dir)
    count = min(count, len(rows))
    columns = rows.read(np.arange(count))
    unknown, none = np.full(count, -1), np.zeros((count, 0), np.int64)
    taken = ("image", "reference", "image_prompt", "keypoints", "masks", "reference_masks")
    return Pairs(
        **{name: columns[name] for name in taken},
        labels=none,
        visible=none.astype(bool),
        reference_visible=none.astype(bool),
        scene=unknown,
        pose_family=unknown,
        view=unknown,
        reference_view=unknown,
        held_out=np.zeros(count, bool),
        seed=np.arange(count),
        prompt=tuple(columns["caption_without_identity"]),
    )


def dataset_fingerprint(dataset: str, split: str, size: tuple[int, int], cache_dir: Path) -> str:
    """Changes when the rows do."""
    return pairs_fingerprint() if dataset == AVATARS else _table(dataset, split, size, cache_dir).fingerprint


def _table(dataset: str, split: str, size: tuple[int, int], cache_dir: Path) -> Any:
    from bolid.training.config import DataConfig
    from bolid.training.person_rows import table_rows

    height, width = size
    return table_rows(
        DataConfig(source=dataset, split=split, height=height, width=width, cache_dir=str(cache_dir))
    )
