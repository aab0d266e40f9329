"""One way of calling the pipeline for held-out pairs: who, in which pose, by which prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from bolid.evaluation import probes
from bolid.evaluation.pairs import Pairs
from bolid.pose import PARTS, Pose, known

People = MutableMapping[tuple[int, str | None], Any]
"""Encoded people by (pair, what of the reference is hidden), of one pipeline."""


@dataclass(frozen=True)
class DrawOptions:
    """How pictures are drawn. None takes the pipeline's own default."""

    steps: int | None = None
    guidance: float | None = None
    id_strength: float | None = None
    seed: int = 0  # pair i is drawn from seed + i
    batch_size: int = 16  # pairs a pipeline call; results do not depend on it
    people: People = field(default_factory=dict)  # encoded before: looked up, and added to


@dataclass(frozen=True)
class Call:
    """A row that the pipeline draws; as it stands here: reference, prompt and the truth's exact pose.

    person: whose reference, the pair's own or the next pair's; None: nobody's. pose: the truth's key-points,
    the truth's picture as the pipeline's estimator reads it, another person's key-points in the same pose,
    or None. hide: a part of the reference that is painted over with grey before anything reads it. prompt:
    the name of a property of `Pairs`. image_prompt: whether it is given. further: arguments of the pipeline
    that differ from its defaults (they go before those of `DrawOptions`).
    """

    person: Literal["own", "next"] | None = "own"
    pose: Literal["exact", "picture", "another"] | None = "exact"
    prompt: Literal["prompt", "prompt_without_scene", "prompt_with_clothes"] = "prompt"
    image_prompt: bool = False
    further: Mapping[str, Any] = field(default_factory=dict)
    hide: Literal["head"] | None = None

    def __call__(self, pipe: Any, pairs: Pairs, chunk: slice, options: DrawOptions) -> np.ndarray:
        """Pictures uint8 [n, H, W, 3] of the pairs in `chunk`.

        A pair whose reference is refused is drawn without one, one whose pose is refused without a pose.
        """
        rows = list(range(*chunk.indices(len(pairs))))
        people = self._people(pipe, pairs, rows, options.people)
        poses = self._poses(pipe, pairs, rows)
        pictures = np.zeros_like(pairs.image[chunk])
        for with_person in (True, False):
            group = [k for k in range(len(rows)) if (people[k] is not None) == with_person]
            if group:
                given = {"reference": [people[k] for k in group]} if with_person else {}
                if self.pose is not None:
                    given["pose"] = [poses[k] for k in group]
                pictures[group] = self._drawn(pipe, pairs, [rows[k] for k in group], options, given)
        return pictures

    def _drawn(
        self, pipe: Any, pairs: Pairs, rows: list[int], options: DrawOptions, given: dict[str, Any]
    ) -> np.ndarray:
        """One pipeline call for `rows`, whose people and poses are `given`."""
        if self.image_prompt:
            given["image_prompt"] = [pairs.image_prompt[row] for row in rows]
        if options.id_strength is not None and "reference" in given:
            given["id_strength"] = options.id_strength
        drawn = pipe(
            [getattr(pairs, self.prompt)[row] for row in rows],
            generator=[options.seed + row for row in rows],
            height=pairs.size[0],
            width=pairs.size[1],
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            output_type="np",
            **(given | dict(self.further)),
        ).images
        return np.round(np.clip(np.asarray(drawn), 0, 1) * 255).astype(np.uint8)

    def _people(self, pipe: Any, pairs: Pairs, rows: list[int], encoded: People) -> list[Any]:
        if self.person is None:
            return [None] * len(rows)
        shift = int(self.person == "next")
        chosen = [(row + shift) % len(pairs) for row in rows]
        missing = [pair for pair in chosen if (pair, self.hide) not in encoded]
        if missing:
            references = pairs.reference[missing]
            if self.hide is not None:
                hidden = pairs.reference_masks[missing] == 1 + PARTS.index(self.hide)
                references = np.where(hidden[..., None], np.uint8(128), references)
            found = identities(pipe, references)
            encoded.update({(pair, self.hide): each for pair, each in zip(missing, found, strict=True)})
        return [encoded[pair, self.hide] for pair in chosen]

    def _poses(self, pipe: Any, pairs: Pairs, rows: list[int]) -> list[Pose | None]:
        if self.pose is None:
            return [None] * len(rows)
        if self.pose == "picture":
            found = _unless_refused(pipe.find_person, pairs.image[rows])
            return [None if person is None else Pose(person.keypoints) for person in found]
        if self.pose == "another":
            others = [probes.of_another(int(pairs.seed[row]), pairs.avatars, *pairs.size) for row in rows]
            return [Pose(known(other.keypoints)) for other in others]
        return [Pose(known(pairs.keypoints[row])) for row in rows]


def identities(pipe: Any, references: np.ndarray) -> list[Any]:
    """An `Identity` for each reference uint8 [N, H, W, 3]; None where it is refused (nobody found)."""
    return _unless_refused(pipe.encode_identity, references)


def _unless_refused(read: Callable[[np.ndarray], Any], pictures: np.ndarray) -> list[Any]:
    """`read` of each picture; None where the pipeline says, by a ValueError, that it finds no person."""
    found = []
    for picture in pictures:
        try:
            found.append(read(picture))
        except ValueError:
            found.append(None)
    return found
