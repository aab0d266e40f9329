"""Which picture is whose reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pair:
    """A row to be: positions of its target and its reference among the pictures; the same one where a person
    has one picture only.
    """

    target: int
    reference: int


def pair_up(people: Sequence[str], per_picture: int, seed: int) -> list[Pair]:
    """Pairs of pictures of one person, ordered by target.

    people: the person of each picture. Every picture is a target `per_picture` times, each time with another
    reference and never itself (fewer times where the person has fewer pictures), and a reference as often:
    the person's pictures stand in a random circle, and the j-th reference is j places on. A person's only
    picture is paired with itself, once.
    """
    circles: dict[str, list[int]] = {}
    for index, person in enumerate(people):
        circles.setdefault(person, []).append(index)
    pairs = []
    for number, person in enumerate(sorted(circles)):
        own = circles[person]
        circle = np.random.default_rng([seed, number]).permutation(own).tolist()
        count = len(circle)
        steps = range(1, min(per_picture, count - 1) + 1) if count > 1 else (0,)
        pairs += [Pair(circle[i], circle[(i + step) % count]) for step in steps for i in range(count)]
    return sorted(pairs, key=lambda pair: pair.target)
