"""The gates of bolid-mini (issue 3): what is wanted, what was measured, and whether it is reached.

Attributes are normalised, (row - chance) / (truth - chance), with another person's reference as chance.
"below" asks the whole 95 % interval to lie below the limit, "not above" that it does not lie above it;
"at least" and "at most" look at the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from bolid import metrics
from bolid.evaluation.drawing import STRENGTHS
from bolid.evaluation.pairs import Pairs
from bolid.evaluation.scores import Scores, groups
from bolid.metrics import Interval
from bolid.pose import PARTS

Sense = Literal["at least", "at most", "below", "not above"]
RELATIVE_GROUPS = ("all", "sitting", "pose: lying down", "view: back", "unseen combination")
RELATIVE_FIGURES = ("pck", "scene", "attributes", "identified_by_head", "identified_by_body")


@dataclass(frozen=True)
class Gate:
    """One line of the table. A gate without a measured picture is not reached."""

    about: str
    what: str
    sense: Sense
    limit: float
    measured: Interval

    @property
    def passed(self) -> bool:
        """Whether it is reached; False for NaN."""
        found = self.measured
        value = {"below": found.high, "not above": found.low}.get(self.sense, found.mean)
        if self.sense == "at least":
            return bool(value >= self.limit)
        return bool(value < self.limit if self.sense == "below" else value <= self.limit)

    def as_dict(self) -> dict[str, Any]:
        """For results.json."""
        return asdict(self) | {"passed": self.passed}


class MissingRow(LookupError):
    """A gate needs a row that was not drawn."""


@dataclass(frozen=True)
class Measured:
    """The scores of all rows; rows of fewer pairs have the first of them."""

    scores: Mapping[str, Scores]
    pairs: Pairs

    def values(self, *columns: tuple[str, str]) -> list[np.ndarray]:
        """Values [n] of each (row, figure), of the pairs that all these rows have."""
        for row, _ in columns:
            if row not in self.scores:
                raise MissingRow(row)
        found = [self.scores[row].values[figure] for row, figure in columns]
        count = min(map(len, found))
        return [each[:count] for each in found]

    def mean(self, row: str, figure: str) -> Interval:
        """Of one figure."""
        return metrics.bootstrap(self.values((row, figure))[0])

    def ratio(self, row: str, figure: str, to: str = "truth", group: str = "all") -> Interval:
        """The row's share of what `to` has, in a group of `scores.groups`; attributes above chance."""
        columns = [(row, figure), (to, figure)]
        if figure == "attributes":
            columns.append(("other_reference", figure))
        values = self.values(*columns)
        mask = groups(self.pairs).get(group, np.zeros(len(self.pairs), bool))[: len(values[0])]
        found, truth, *chance = (each[mask] for each in values)
        return metrics.ratio_bootstrap(found, truth, chance[0] if chance else None)

    def difference(self, row: str, other: str, figure: str) -> Interval:
        """The paired difference, row minus other."""
        own, theirs = self.values((row, figure), (other, figure))
        return metrics.paired_bootstrap(own, theirs)


Line = tuple[str, str, Sense, float, Callable[[Measured], Interval]]
_TRUTH, _AUTOENCODER, _POSED = "Evaluators on ground truth", "Autoencoder", "Generated, pose given"
_UNPOSED, _IMAGE, _STRENGTH, _WORDS = "Generated, pose=None", "Image prompt", "Strength", "Words"
_FIXED: tuple[Line, ...] = (
    (_TRUTH, "PCK@0.1", "at least", 0.97, lambda m: m.mean("truth", "pck")),
    (_TRUTH, "attributes", "at least", 0.90, lambda m: m.mean("truth", "attributes")),
    (_TRUTH, "scene", "at least", 0.98, lambda m: m.mean("truth", "scene")),
    (_AUTOENCODER, "dB, picture", "at least", 30, lambda m: m.mean("reconstruction", "psnr")),
    (_AUTOENCODER, "dB, person", "at least", 27, lambda m: m.mean("reconstruction", "psnr_person")),
    (_AUTOENCODER, "dB, head crop", "at least", 25, lambda m: m.mean("reconstruction", "psnr_head")),
    (_AUTOENCODER, "PCK@0.1 / truth's", "at least", 0.97, lambda m: m.ratio("reconstruction", "pck")),
    (_AUTOENCODER, "attributes", "at least", 0.90, lambda m: m.ratio("reconstruction", "attributes")),
    (_POSED, "PCK@0.1 / truth's", "at least", 0.85, lambda m: m.ratio("generated", "pck")),
    (_POSED, "the same, sitting", "at least", 0.70, lambda m: m.ratio("generated", "pck", group="sitting")),
    (
        _POSED, "the same, lying", "at least", 0.70,
        lambda m: m.ratio("generated", "pck", group="pose: lying down"),
    ),
    (_POSED, "the same, back", "at least", 0.70, lambda m: m.ratio("generated", "pck", group="view: back")),
    (
        _POSED, "bone-ratio error, another's pose: retarget=True - False", "below", 0,
        lambda m: m.difference("another_pose", "another_pose_as_given", "bone_ratio"),
    ),
    (_POSED, "attributes", "at least", 0.80, lambda m: m.ratio("generated", "attributes")),
    (_POSED, "head, 1 of 16", "at least", 0.80, lambda m: m.mean("generated", "identified_by_head")),
    (_POSED, "scene / truth's", "at least", 0.90, lambda m: m.ratio("generated", "scene")),
    (_UNPOSED, "attributes, tokens alone", "at least", 0.50, lambda m: m.ratio("tokens_alone", "attributes")),
    (_IMAGE, "scene / truth's", "at least", 0.80, lambda m: m.ratio("image_prompt", "scene")),
    (
        _IMAGE, "attributes / those without it", "at least", 0.95,
        lambda m: m.ratio("image_prompt", "attributes", to="no_scene_word"),
    ),
    (_WORDS, "clothes as the prompt says", "at least", 0.70, lambda m: m.mean("clothes_in_prompt", "words")),
    (
        _WORDS, "head, 1 of 16", "at least", 0.70,
        lambda m: m.mean("clothes_in_prompt", "identified_by_head"),
    ),
)  # fmt: skip


def _lines() -> Iterator[Line]:
    """All gates: those of `_FIXED`, and one for each part and each step of strength."""
    yield from _FIXED
    for figure, title in (("error", "RGB error"), ("lpips_mini", "LPIPS-mini")):
        for part in PARTS:
            yield (
                _POSED, f"{title}, {part}, - appearance map's", "below", 0.0,
                lambda m, name=f"{figure}_{part}": m.difference("generated", "appearance_map", name),
            )  # fmt: skip
    yield _strength(STRENGTHS[0], STRENGTHS[-1], "below")
    for low, high in pairwise(STRENGTHS):
        yield _strength(low, high, "not above")


def _strength(low: float, high: float, sense: Sense) -> Line:
    rows = f"strength_{high:g}", f"strength_{low:g}"
    title = f"RGB error inside the person, {high:g} - {low:g}"
    return _STRENGTH, title, sense, 0.0, lambda m: m.difference(*rows, "error_person")


def gates(scores: Mapping[str, Scores], pairs: Pairs) -> list[Gate]:
    """Every gate whose rows were drawn, in the order of issue 3's table."""
    measured, found = Measured(scores, pairs), []
    order = (_TRUTH, _AUTOENCODER, _POSED, _UNPOSED, _IMAGE, _STRENGTH, _WORDS)
    for about, what, sense, limit, measure in sorted(_lines(), key=lambda line: order.index(line[0])):
        try:
            found.append(Gate(about, what, sense, limit, measure(measured)))
        except MissingRow:
            continue
    return found


def relative_to_truth(scores: Mapping[str, Scores], pairs: Pairs) -> dict[str, dict[str, dict[str, Any]]]:
    """Group -> figure -> interval of generated's share of the truth's (attributes above chance); {} where a
    row is missing.
    """
    measured = Measured(scores, pairs)
    try:
        return {
            group: {
                figure: asdict(measured.ratio("generated", figure, group=group))
                for figure in RELATIVE_FIGURES
            }
            for group in RELATIVE_GROUPS
        }
    except MissingRow:
        return {}
