"""The held-out pairs that everything is measured on."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from bolid.avatars.dataset import render_arrays, source_fingerprint
from bolid.avatars.world import Split
from bolid.evaluation import probes


@dataclass(frozen=True)
class Pairs:
    """N people, each in two pictures: the truth that is to be drawn, and the reference.

    Arrays are as `render_arrays` gives them: pictures uint8 [N, H, W, 3], key-points float32 [N, 18, 3],
    masks uint8 [N, H, W], labels and visible [N, A], the rest [N].  `image_prompt` shows the truth's scene
    with nobody or a stranger; `prompt` names pose, view and scene, not the person.  `split` is that of the
    avatars, whose rows follow from it and `seed`; None for photographs.
    """

    image: np.ndarray
    reference: np.ndarray
    image_prompt: np.ndarray
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
    seed: np.ndarray
    prompt: tuple[str, ...]
    split: Split | None = None

    def __len__(self) -> int:
        return len(self.image)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures in pixels."""
        return self.image.shape[1], self.image.shape[2]

    def first(self, count: int) -> Pairs:
        """The first `count` pairs (all, if there are no more)."""
        return self.part(slice(count))

    def part(self, chunk: slice) -> Pairs:
        """The pairs of a slice."""
        names = [field.name for field in fields(self) if field.name != "split"]
        return replace(self, **{name: getattr(self, name)[chunk] for name in names})

    @property
    def avatars(self) -> Split:
        """The avatars' split. Raises ValueError for photographs, which cannot be drawn otherwise."""
        if self.split is None:
            raise ValueError("photographs cannot be drawn in another pose or other clothes")
        return self.split

    @cached_property
    def prompt_without_scene(self) -> tuple[str, ...]:
        """`prompt` without the scene's words."""
        return tuple(map(probes.without_scene, self.prompt, self.scene))

    @cached_property
    def clothes(self) -> np.ndarray:
        """Clothes nobody of these wears: int64 [N, 4], indices of `probes.CLOTHES`."""
        return probes.other_clothes([int(seed) for seed in self.seed], self.avatars)

    @cached_property
    def prompt_with_clothes(self) -> tuple[str, ...]:
        """`prompt` of a person in `clothes`."""
        return tuple(map(probes.with_clothes, self.prompt, self.clothes))


def held_out_pairs(
    count: int,
    height: int,
    width: int,
    processes: int = 2,
    cache_dir: str | Path | None = None,
    split: Split = "test",
) -> Pairs:
    """The first `count` pairs of a split, always the same ones.

    `cache_dir` keeps the rendered rows. Raises ValueError for a count below 1 or an unknown split.
    """
    arrays = render_arrays(split, 0, count, processes, height, width, cache_dir=cache_dir)
    names = [field.name for field in fields(Pairs) if field.name not in ("prompt", "split")]
    prompt = tuple(arrays["caption_without_identity"])
    return Pairs(**{name: arrays[name] for name in names}, prompt=prompt, split=split)


def pairs_fingerprint() -> str:
    """Changes when the avatar world draws otherwise: figures of different fingerprints do not compare."""
    return source_fingerprint()
