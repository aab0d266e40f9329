"""The held-out pairs that everything is measured on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from bolid.avatars.dataset import render_arrays, source_fingerprint


@dataclass(frozen=True)
class Pairs:
    """N people of the test split, each in two pictures: the truth that is to be drawn, and the reference.

    Arrays are as `render_arrays` gives them: pictures uint8 [N, H, W, 3], key-points float32 [N, 18, 3],
    masks uint8 [N, H, W], labels and visible [N, A], the rest [N].  `prompt` names pose, view and scene, not
    the person.
    """

    image: np.ndarray
    reference: np.ndarray
    keypoints: np.ndarray
    masks: np.ndarray
    reference_masks: np.ndarray
    labels: np.ndarray
    visible: np.ndarray
    reference_visible: np.ndarray
    scene: np.ndarray
    pose_family: np.ndarray
    view: np.ndarray
    reference_view: np.ndarray
    held_out: np.ndarray
    prompt: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.image)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures in pixels."""
        return self.image.shape[1], self.image.shape[2]


def held_out_pairs(
    count: int, height: int, width: int, processes: int = 2, cache_dir: str | Path | None = None
) -> Pairs:
    """The first `count` pairs of the test split, always the same ones.

    `cache_dir` keeps the rendered rows.  Raises ValueError for a count below 1.
    """
    arrays = render_arrays("test", 0, count, processes, height, width, cache_dir=cache_dir)
    names = [field.name for field in fields(Pairs) if field.name != "prompt"]
    return Pairs(**{n: arrays[n] for n in names}, prompt=tuple(arrays["caption_without_identity"]))


def pairs_fingerprint() -> str:
    """Changes when the avatar world draws otherwise: figures of different fingerprints do not compare."""
    return source_fingerprint()
