"""Verdicts follow from intervals: what wins is said to win, what is not shown is not said."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from bolid.evaluation.analysis import Comparison, paired_tests
from bolid.evaluation.contestants import METHODS as TITLES
from bolid.evaluation.contestants import Contestant, table_rows
from bolid.evaluation.kept import Measured
from bolid.evaluation.pairs import Pairs, held_out_pairs
from bolid.evaluation.plots import Series, plot
from bolid.evaluation.questions import answers
from bolid.evaluators import Reading
from bolid.metrics import Interval

PAIRS, TRAININGS = 40, 3
HIGHER = ("id_similarity", "identified", "pck", "clip", "lpips", "error_upper", "error_lower")
METHODS = ("ip_adapter", "instantid", "pulid", "bolid", "bolid_no_map", "pose_only")


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return held_out_pairs(PAIRS, 96, 64, processes=1)


def measured(level: float, seed: int, trainings: int = TRAININGS, **others: float) -> Measured:
    """A row whose figures all have the level (LPIPS and errors: the other way round), with some noise."""
    rng = np.random.default_rng(seed)
    values = {}
    for figure in HIGHER:
        mean = others.get(figure, level if not figure.startswith(("lpips", "error")) else -level)
        values[figure] = (
            mean + rng.normal(0, 0.05, (trainings, 2, PAIRS)) + rng.normal(0, 0.01, (trainings, 1, 1))
        )
    return Measured(values, {})


def comparison(pairs: Pairs, levels: dict[str, float], **changed: Measured) -> Comparison:
    """Rows at these levels; a row's name may be given whole in `changed` (with _ for +)."""
    contestants = [
        Contestant(name, TITLES[name], tuple(f"{name}-{seed}" for seed in range(TRAININGS)))
        for name in METHODS
        if f"{name}+pose" in levels
    ]
    rows = [row for row in table_rows(contestants) if row.name in levels]
    found = {row.name: measured(levels[row.name], seed) for seed, row in enumerate(rows)}
    found |= {name: each for name, each in changed.items() if name in found}
    nothing = Reading(*(np.zeros((PAIRS, 1)),) * 5)
    return Comparison(rows, found, pairs, np.zeros((2, 2)), nothing)


LEVELS = {
    "base": 0.0, "ip_adapter": 0.3, "instantid": 0.0, "pulid": 0.3, "bolid": 0.5, "ip_adapter+pose": 0.4,
    "instantid+pose": 0.4, "pulid+pose": 0.4, "bolid+pose": 0.8, "bolid_no_map+pose": 0.5,
    "pose_only+pose": 0.4,
}  # fmt: skip


def verdict(found: Comparison, question: str) -> str:
    (answer,) = [each for each in answers(found) if question in each.question]
    return answer.verdict


def test_bolid_ahead_everywhere_is_a_yes(pairs: Pairs) -> None:
    assert verdict(comparison(pairs, LEVELS), "ahead of every").startswith("Yes: ahead of each baseline")


def test_one_rival_on_one_figure_is_named(pairs: Pairs) -> None:
    rival = measured(0.4, 77, pck=0.9)
    text = verdict(comparison(pairs, LEVELS, **{"pulid+pose": rival}), "ahead of every")
    assert text.startswith("Not shown in full: behind PuLID on PCK@0.1")
    level = measured(0.4, 78, lpips=-0.8)
    text = verdict(comparison(pairs, LEVELS, **{"instantid+pose": level}), "ahead of every")
    assert "not shown ahead of InstantID on LPIPS" in text
    assert "PuLID" not in text.partition(".")[0]


def test_clip_may_be_level_but_not_behind(pairs: Pairs) -> None:
    level = comparison(pairs, LEVELS, **{"pulid+pose": measured(0.4, 79, clip=0.8)})
    assert verdict(level, "ahead of every").startswith("Yes")
    behind = comparison(pairs, LEVELS, **{"pulid+pose": measured(0.4, 79, clip=0.95)})
    assert "behind PuLID on CLIP score" in verdict(behind, "ahead of every")


def test_missing_rivals_and_single_trainings_are_told(pairs: Pairs) -> None:
    fewer = {name: level for name, level in LEVELS.items() if not name.startswith("pulid")}
    single = comparison(pairs, fewer, **{"bolid+pose": measured(0.8, 5, trainings=1)})
    text = verdict(single, "ahead of every")
    assert "PuLID not compared" in text
    assert "BoLID: fewer than three training seeds" in text


def test_a_method_trained_once_is_given_the_others_spread(pairs: Pairs) -> None:
    once = measured(0.5, 5, trainings=1)
    found = comparison(pairs, LEVELS, **{"bolid_no_map+pose": once, "base": measured(0.0, 6, trainings=1)})
    wide, narrow = (found.test("bolid+pose", row, "pck").difference for row in ("bolid_no_map+pose", "base"))
    assert wide.high - wide.low > 1.3 * (narrow.high - narrow.low)  # the base is one and the same


def test_the_shipped_model_is_no_proof_of_the_method(pairs: Pairs) -> None:
    found = comparison(pairs, LEVELS)
    rows = [
        replace(row, title="BoLID, as shipped") if row.name == "bolid+pose" else row for row in found.rows
    ]
    text = verdict(replace(found, rows=rows), "ahead of every")
    assert text.startswith("Not shown in full: BoLID, as shipped: not trained as the others were")


def test_what_carries_is_what_beats_the_base(pairs: Pairs) -> None:
    text = verdict(comparison(pairs, LEVELS), "carry from the face")
    assert text.startswith("IP-Adapter, PuLID and BoLID draw the reference's body better")
    assert "InstantID does not" in text
    weak = verdict(comparison(pairs, LEVELS | {"ip_adapter": 0.0}), "carry from the face")
    assert "the base or the vision encoder needs work" in weak


def test_costs_parts_and_gaps_are_read_off_their_rows(pairs: Pairs) -> None:
    found = comparison(pairs, LEVELS)
    assert "identity costs" not in verdict(found, "pose cost identity").lower()
    cheap = comparison(pairs, LEVELS, **{"ip_adapter+pose": measured(0.4, 9, pck=0.1, id_similarity=0.1)})
    text = verdict(cheap, "pose cost identity")
    assert "Pose costs IP-Adapter identity" in text
    assert "identity costs IP-Adapter pose accuracy" in text
    assert "The appearance map: ID_sim, PCK@0.1, LPIPS and CLIP score" in verdict(found, "part of BoLID")
    dear = comparison(pairs, LEVELS, **{"bolid_no_map+pose": measured(0.5, 9, pck=0.9)})
    assert "The appearance map: ID_sim, LPIPS and CLIP score (it costs PCK@0.1)" in verdict(
        dear, "part of BoLID"
    )
    assert verdict(found, "hidden") == "Not answered by this run."
    back = np.flatnonzero(pairs.view == 2)
    assert len(back) >= 8 or "No method" in verdict(found, "back view")


def test_every_rival_is_tested_with_holm_over_all(pairs: Pairs) -> None:
    found = paired_tests(comparison(pairs, LEVELS))
    assert len(found) == (len(LEVELS) - 1) * 4
    assert all(test["p_holm"] >= test["p"] for test in found)
    clear = [test for test in found if test["difference"]["low"] > 0.1]
    assert clear
    assert all(test["p_holm"] < 0.01 for test in clear)  # a whole table of tests leaves room for it
    assert all(test["trainings"] == (TRAININGS, TRAININGS) for test in found)


def test_plots_are_drawings_with_error_bars_and_escape_names() -> None:
    series = [Series("a < b", (0.0, 1.0), (Interval(1, 0.5, 1.5, 3), Interval(2, 1, 3, 3)))]
    drawn = plot("T & t", "x", "y", series)
    assert drawn.startswith("<svg")
    assert drawn.count("<circle") == 2 + 1  # points and legend
    assert "polyline" in drawn
    assert "a &lt; b" in drawn
    assert "nan" not in plot("t", "x", "y", [Series("a", (0.0,), (Interval(*(float("nan"),) * 3, 0),))])


def test_a_ninth_series_has_a_mark_of_its_own() -> None:
    many = [Series(str(n), (0.0,), (Interval(n, n, n, 1),)) for n in range(9)]
    marks = re.findall(r"<(circle|rect) [^>]*fill=\"(#\w+)\"", plot("t", "x", "y", many, lines=False))
    assert len(set(marks)) == 9
