"""The guard of the shipped weights: it notices every figure that falls, and says when it cannot tell."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from bolid.evaluation.analysis import BY_KEY
from bolid.evaluation.guard import falls, read_reference, reference_of

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "eval" / "report" / "quick.json"


def results() -> dict[str, Any]:
    """Results in which every guarded figure has the reference's value."""
    reference = read_reference(REFERENCE)
    rows = {
        row: {"all": {figure: {"mean": kept["value"]} for figure, kept in figures.items()}}
        for row, figures in reference["figures"].items()
    }
    return {"settings": dict(reference["settings"]), "rows": rows}


def guarded() -> list[tuple[str, str]]:
    figures = json.loads(REFERENCE.read_text())["figures"]
    return [(row, figure) for row, each in figures.items() for figure in each]


def test_the_reference_guards_identity_pose_and_perception_of_the_shipped_model() -> None:
    assert {("bolid+pose", f) for f in ("id_similarity", "pck", "lpips", "oks_ap")} <= set(guarded())
    assert falls(results(), read_reference(REFERENCE)) == []


@pytest.mark.parametrize(("row", "figure"), guarded())
def test_each_figure_that_falls_is_noticed_and_alone(row: str, figure: str) -> None:
    reference, found = read_reference(REFERENCE), results()
    kept = reference["figures"][row][figure]
    worse = -1 if kept["better"] == "higher" else 1
    cell = found["rows"][row]["all"][figure]
    cell["mean"] = kept["value"] + worse * (1.01 * kept["tolerance"] + 1e-6)
    (sentence,) = falls(found, reference)
    assert sentence.startswith(f"{row}, {figure}: ")
    cell["mean"] = kept["value"] - worse * 5  # better is no fall
    assert falls(found, reference) == []


def test_a_figure_that_is_gone_or_nan_has_fallen() -> None:
    reference, found = read_reference(REFERENCE), results()
    del found["rows"]["bolid+pose"]["all"]["pck"]
    found["rows"]["bolid+pose"]["all"]["lpips"]["mean"] = float("nan")
    assert len(falls(found, reference)) == 2
    del found["rows"]["bolid+pose"]
    assert len(falls(found, reference)) == len(reference["figures"]["bolid+pose"])


def test_other_pictures_are_no_comparison() -> None:
    found = results()
    found["settings"]["samples"] = 7
    with pytest.raises(ValueError, match="samples=64, this run with 7"):
        falls(found, read_reference(REFERENCE))
    with pytest.raises(ValueError, match="--quick --accept"):
        read_reference(REFERENCE.parent / "nowhere.json")


def test_a_reference_holds_what_it_was_made_of() -> None:
    found = copy.deepcopy(results()) | {"weights": {"bolid": ["x"]}}
    for row in found["rows"].values():
        for name, cell in row["all"].items():
            cell |= {"low": cell["mean"] - 0.2, "high": cell["mean"] + 0.2, "count": 3}
            assert name in BY_KEY
    made = reference_of(found)
    assert made["weights"] == {"bolid": ["x"]}
    assert made["figures"]["bolid+pose"]["pck"]["tolerance"] == pytest.approx(0.1)
    assert made["settings"] == read_reference(REFERENCE)["settings"]
