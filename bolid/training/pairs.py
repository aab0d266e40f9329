"""Who is in which row: references from other pictures of a person, and people held out from training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

FEW_PEOPLE = 10  # below it rows are held out, not people
MOST_HELD_OUT = 0.1  # of all rows


def person_key(cell: Any, row: int) -> str:
    """A person's key: a string, number or struct as text; a row without an identity is a person of its
    own."""
    if cell is None or cell == "":
        return f"\0row {row}"
    return cell if isinstance(cell, str) else json.dumps(cell, sort_keys=True, default=str)


def hold_out(people: Sequence[str], size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(rows to train on, rows held out) of a dataset without a split for it; both ascending.

    About `size` rows are held out, a tenth of all at the most. Whole people where there are at least ten, so
    that no one is on both sides; single rows otherwise. Fewer than four rows are trained on and looked at
    alike.
    """
    rows = np.arange(len(people))
    wanted = min(size, int(len(people) * MOST_HELD_OUT)) if len(people) >= 10 else min(size, len(people) // 4)
    if wanted < 1:
        return rows, rows[: max(1, size)]
    rng = np.random.default_rng([seed, len(people)])
    names, person = np.unique(np.asarray(people), return_inverse=True)
    groups = person if len(names) >= FEW_PEOPLE else rows
    counts = np.bincount(groups)
    order = rng.permutation(len(counts))
    within = order[np.cumsum(counts[order]) <= wanted]
    if not len(within):  # the first person drawn has more rows than wanted: take the one with fewest
        within = np.array([counts.argmin()])
    held = np.isin(groups, within)
    return rows[~held], rows[held]


class Partners:
    """For every row the other rows of the same person, in an order of its own.

    Args:
        people: a key per row of the subset.
    """

    def __init__(self, people: Sequence[str], seed: int = 0) -> None:
        names, self._person = np.unique(np.asarray(people), return_inverse=True)
        order = np.argsort(self._person, kind="stable")
        self._members = np.split(order, np.cumsum(np.bincount(self._person, minlength=len(names)))[:-1])
        self._seed = seed

    def of(self, row: int, view: int) -> list[int]:
        """Rows that may be the reference of `row`, the one for version `view` first; none for a lone
        picture."""
        others = self._members[self._person[row]]
        others = others[others != row]
        if not len(others):
            return []
        order = np.random.default_rng([self._seed, row]).permutation(others)
        return np.roll(order, -(view % len(order))).tolist()
