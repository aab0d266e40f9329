"""From measured pictures to the report's numbers: figures with intervals, tests against BoLID, groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from bolid import intervals, metrics
from bolid.evaluation.contestants import METHODS, POSE, Row
from bolid.evaluation.figures import where_shown
from bolid.evaluation.kept import Measured
from bolid.evaluation.pairs import Pairs
from bolid.evaluation.scores import groups
from bolid.evaluators import Reading
from bolid.metrics import Interval
from bolid.pose import PARTS


@dataclass(frozen=True)
class Figure:
    """A column of the table. better: which way is better, or neither. read: by a network of the evaluation,
    so that its name ends in -mini with the mini set."""

    key: str
    title: str
    better: Literal["higher", "lower", "zero"]
    digits: int = 3
    read: bool = True


FIGURES = (
    Figure("id_similarity", "ID_sim", "higher"),
    Figure("identified", "body 1 of 16", "higher"),
    Figure("face_similarity", "face sim", "higher"),
    Figure("face_seen", "faces found", "higher"),
    Figure("pck", "PCK@0.1", "higher"),
    Figure("pck_05", "PCK@0.05", "higher"),
    Figure("oks_ap", "OKS-AP", "higher"),
    Figure("lpips", "LPIPS", "lower"),
    Figure("lpips_person", "LPIPS person", "lower"),
    Figure("clip", "CLIP score", "higher"),
    Figure("scene", "prompt's scene", "higher"),
    Figure("attributes", "attributes", "higher"),
    *(Figure(f"error_{part}", f"RGB {part}", "lower", 1, read=False) for part in PARTS),
    Figure("copy_paste", "copy-paste", "zero"),
    Figure("diversity", "diversity", "higher"),
)
BY_KEY = {figure.key: figure for figure in FIGURES}
LEAST_OF_A_GROUP = 8  # pairs: fewer give an interval of chance, one gives none at all
AIMS = ("id_similarity", "pck", "lpips", "clip")
"""What the aim speaks of: ahead on the first three with intervals that do not overlap, not behind on CLIP."""
MAIN = "bolid" + POSE
TRUTH_GROUPS = ("all", "sitting", "pose: standing", "pose: lying down", "view: front", "view: back",
                "unseen combination", "seen combination")  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Everything measured. truth: features [N, D] of the truths; references: what was read in the references
    of the pairs; unlike: what the methods should share and do not, for the verdict."""

    rows: Sequence[Row]
    measured: Mapping[str, Measured]
    pairs: Pairs
    truth: np.ndarray
    references: Reading
    unlike: tuple[str, ...] = ()
    _groups: dict[str, np.ndarray] = field(default_factory=dict)

    def values(self, row: str, figure: str, group: str = "all") -> np.ndarray:
        """[T, P] of a row's figure, NaN outside of the group and where nothing was measured."""
        found = self.measured[row].of(figure)
        mask = self.group(group)[: found.shape[1]]
        return np.where(mask, found, np.nan)

    def group(self, name: str) -> np.ndarray:
        """bool [P]; all False for a group that the pairs do not have."""
        if not self._groups:
            self._groups.update(groups(self.pairs))
            if self.pairs.held_out.any():
                self._groups["seen combination"] = ~self.pairs.held_out.astype(bool)
        return self._groups.get(name, np.zeros(len(self.pairs), bool))

    def interval(self, row: str, figure: str, group: str = "all") -> Interval:
        """Mean and interval over trainings and pairs."""
        return intervals.interval(self.values(row, figure, group))

    def test(self, row: str, other: str, figure: str, group: str = "all") -> intervals.Test:
        """Paired, row minus other, of the pairs that both drew.

        Rows of the same trainings are compared training by training; a method trained once against several
        trainings of another is given their spread.
        """
        a, b = self.values(row, figure, group), self.values(other, figure, group)
        count = min(a.shape[1], b.shape[1])
        by = [next(each for each in self.rows if each.name == name).contestant for name in (row, other)]
        same = None not in by and by[0] == by[1] and len(a) == len(b)
        # another training could stand there; not so for the base, nor for a model given by its folder
        borrow = "base" not in (row, other) and all(each is not None and each.name in METHODS for each in by)
        return intervals.compare(a[:, :count], b[:, :count], same=same, borrow=borrow)

    def apart(self, row: str, figure: str, group: str, other: str) -> Interval:
        """Mean of one group of pairs minus another's, unpaired: other people are in them.

        NaN where one has too few pairs for an interval.
        """
        values = self.values(row, figure)
        first, second = (values[:, self.group(name)[: values.shape[1]]] for name in (group, other))
        if min(np.isfinite(each).any(0).sum() for each in (first, second)) < LEAST_OF_A_GROUP:
            return Interval(float("nan"), float("nan"), float("nan"), 0)
        return intervals.compare_groups(first, second)


def complete(measured: Mapping[str, Measured], pairs: Pairs, truth: np.ndarray, references: Reading) -> None:
    """Adds the figures that need all pictures of a row: identification and diversity."""
    for found in measured.values():
        body, features = found.embeddings["body"], found.embeddings["features"]
        trainings, samplings, count = body.shape[:3]
        hits = np.full((trainings, samplings, count), np.nan)
        for t in range(trainings):
            for k in range(samplings):
                hits[t, k] = metrics.identification(body[t, k], references.body[:count])
        found.values["identified"] = hits
        if "face_similarity" in found.values:  # hair and hats hide faces from the parts too
            shown = where_shown(np.ones(count), pairs.first(count), 1)
            found.values["face_similarity"] = np.where(
                np.isfinite(shown), found.values["face_similarity"], np.nan
            )
        units = np.stack([metrics.standardised(f.reshape(-1, f.shape[-1]), truth) for f in features])
        spread = [metrics.diversity(u.reshape(samplings, count, -1)) for u in units]
        found.values["diversity"] = np.repeat(np.stack(spread)[:, None], samplings, 1)


def distributions(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Row -> fid, kid (each None with a `why` where it cannot be), pictures, pairs.

    FID is of all pictures of a row, KID the mean over its drawings of all pairs: unbiased as it is, it would
    not be with the same pair in it several times.
    """
    truth, found = metrics.standardised(comparison.truth, comparison.truth), {}
    for row in comparison.rows:
        if row.group == "sweep":
            continue
        measured = comparison.measured[row.name]
        features = metrics.standardised(measured.stacked("features"), comparison.truth)
        drawings = [metrics.standardised(each, comparison.truth) for each in measured.drawings("features")]
        entry: dict[str, Any] = {
            "pictures": len(features),
            "pairs": max(len(each) for each in drawings),
            "kid": float(np.mean([metrics.kid(each, truth) for each in drawings])),
        }
        entry |= _fid(features, truth)
        if row.name == "truth":
            entry |= {"fid": None, "kid": None, "why": "these are the truths"}
        found[row.name] = entry
    order = np.random.default_rng(0).permutation(len(truth))  # every other row is an unseen combination
    halves = truth[order[::2]], truth[order[1::2]]
    found["two halves of the truth"] = {
        "pictures": len(halves[0]),
        "kid": metrics.kid(*halves),
        **_fid(*halves),
    }
    return found


def _fid(features: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    try:
        metrics.require_fid_samples(min(len(features), len(truth)), features.shape[1])
    except ValueError as error:
        return {"fid": None, "why": str(error)}
    return {"fid": metrics.fid(features, truth)}


def summarise(comparison: Comparison) -> dict[str, Any]:
    """For results.json: `rows` row -> group -> figure -> interval, `distribution`, `tests` (BoLID minus each
    row with a method, Holm over all), `sweeps` what is varied -> method -> points."""
    main = [row for row in comparison.rows if row.group != "sweep"]
    named = [name for name in TRUTH_GROUPS if comparison.group(name).any()]
    named += [name for name in comparison._groups if name.startswith("pose: ") and name not in named]
    rows = {
        row.name: {
            group: {f.key: asdict(comparison.interval(row.name, f.key, group)) for f in FIGURES}
            for group in named
        }
        for row in main
    }
    return {
        "rows": rows,
        "distribution": distributions(comparison),
        "tests": paired_tests(comparison),
        "sweeps": sweeps(comparison),
    }


def paired_tests(comparison: Comparison) -> list[dict[str, Any]]:
    """BoLID with pose against every other row that a model drew, in `AIMS`: difference, p, Holm's p."""
    if MAIN not in comparison.measured:
        return []
    found = []
    for row in comparison.rows:
        if row.group == "sweep" or row.name in (MAIN, "truth", "another"):
            continue
        for figure in AIMS:
            test = comparison.test(MAIN, row.name, figure)
            own, other = (comparison.interval(name, figure) for name in (MAIN, row.name))
            found.append(
                {
                    "row": row.name,
                    "figure": figure,
                    "difference": asdict(test.difference),
                    "p": test.p,
                    "trainings": test.trainings,
                    "overlap": not (own.low > other.high or own.high < other.low),
                }
            )
    for entry, p in zip(found, intervals.holm([entry["p"] for entry in found]), strict=True):
        entry["p_holm"] = p
    return found


def sweeps(comparison: Comparison) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """What is varied -> contestant -> points {value, figure -> interval}, in order of the value."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in comparison.rows:
        if row.sweep is None or row.contestant is None:
            continue
        what, value = row.sweep
        point = {"value": value} | {f.key: asdict(comparison.interval(row.name, f.key)) for f in FIGURES}
        found.setdefault(what, {}).setdefault(row.contestant.name, []).append(point)
    return found
