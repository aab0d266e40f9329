"""Gates, probes, and whether the shipped evaluators rank spoilt truth rightly."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bolid import BoLIDPipeline
from bolid.avatars.caption import SCENE_WORDS
from bolid.avatars.identity import ATTRIBUTES, HELD_OUT
from bolid.evaluation.calls import DrawOptions
from bolid.evaluation.contestants import draw_another
from bolid.evaluation.drawing import DRAWERS
from bolid.evaluation.gates import Gate, gates
from bolid.evaluation.pairs import Pairs, held_out_pairs
from bolid.evaluation.probes import CLOTHES, CLOTHES_COLUMNS, of_another, without_scene
from bolid.evaluation.provenance import load_evaluators
from bolid.evaluation.retrieval import OwnEncoders, retrieval_gate
from bolid.evaluation.scores import Scores, score, summarise
from bolid.metrics import Interval, bone_ratio_error

PAIRS = 48
MODELS = Path(__file__).parents[1] / "models"
EVALUATORS, MODEL = MODELS / "evaluators", MODELS / "bolid-mini"


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return held_out_pairs(PAIRS, 192, 128, processes=1)


@pytest.fixture(scope="module")
def scores(pairs: Pairs) -> dict[str, Scores]:
    """The shipped evaluators' figures of the truth and of the truth spoilt in one way each."""
    evaluators = load_evaluators(str(EVALUATORS), "cpu")
    _, reference = evaluators.read(pairs.reference)
    rows = ("truth", "blurred", "recoloured", "swapped", "reposed", "redressed")
    drawn = {row: DRAWERS[row](None, pairs, slice(0, PAIRS), DrawOptions()) for row in rows}
    return {row: score(pictures, pairs, evaluators, reference) for row, pictures in drawn.items()}


def test_each_spoiling_moves_the_figure_it_should(scores: dict[str, Scores], pairs: Pairs):
    summary = summarise(scores, pairs)

    def mean(row: str, figure: str) -> float:
        return summary["rows"][row]["all"][figure]["mean"]

    # truth first, in every figure; the truth in another pose may be the easier one to read
    others = [row for row in scores if row not in ("reposed", "redressed")]
    for figure in ("pck", "attributes", "identified_by_body"):
        assert mean("truth", figure) > max(mean(row, figure) for row in others) - 0.02
    assert mean("truth", "pck") > mean("reposed", "pck")
    # blur: seen by FID-mini and LPIPS-mini; people, poses and scenes are still read
    assert summary["distribution"]["blurred"]["fid_mini"] > 0
    assert 0 < mean("blurred", "lpips_mini_upper") < mean("swapped", "lpips_mini_upper")
    assert mean("blurred", "pck") > mean("truth", "pck") - 0.1
    # other colours: attributes and RGB, not the pose
    assert mean("recoloured", "attributes") < mean("blurred", "attributes") - 0.1
    assert mean("recoloured", "error_upper") > 2 * mean("blurred", "error_upper")
    assert mean("recoloured", "pck") > mean("truth", "pck") - 0.1
    # another person: identification and attributes
    assert mean("swapped", "identified_by_body") < 0.4 < mean("truth", "identified_by_body")
    assert mean("swapped", "identified_by_head") < 0.4 < mean("truth", "identified_by_head")
    assert mean("swapped", "attributes") < mean("blurred", "attributes")
    # another pose: PCK, not the person and not the scene
    assert mean("reposed", "pck") < mean("truth", "pck") - 0.3
    assert mean("reposed", "identified_by_body") > mean("swapped", "identified_by_body") + 0.3
    assert mean("reposed", "scene") > 0.9
    # other clothes: they are read, and the person is no longer
    assert mean("redressed", "words") > mean("truth", "words") + 0.5
    each = [mean("redressed", f"words_{name}") for name in CLOTHES]
    assert min(each) > 0.6
    assert min(each) < mean("redressed", "words") < max(each)
    assert mean("redressed", "attributes") < mean("truth", "attributes") - 0.1
    assert mean("redressed", "pck") > mean("truth", "pck") - 0.05


def test_the_clip_score_knows_the_right_words_and_finds_pictures(pairs: Pairs):
    network = load_evaluators(str(EVALUATORS), "cpu")
    own = network.text_similarity(pairs.image, list(pairs.prompt))
    scene = np.roll(np.arange(PAIRS), 1)
    other = network.text_similarity(pairs.image, [pairs.prompt[i] for i in scene])
    changed = pairs.scene != pairs.scene[scene]
    assert (own - other)[changed].mean() > 0.1
    assert (own - other)[changed].min() > -0.1
    undressed = network.text_similarity(pairs.image, list(pairs.prompt_with_clothes))
    assert (own - undressed).mean() > 0.02  # nobody there wears what the words say


def test_the_shipped_encoders_find_pictures_by_their_captions(tmp_path: Path):
    pipe = BoLIDPipeline.from_pretrained(MODEL)
    encoders = OwnEncoders.find(pipe, str(MODEL))
    assert encoders is not None
    gate = retrieval_gate(encoders, 192, 128)
    assert gate.measured.mean > 0.5  # chance: .002
    assert gate.measured.count == 500
    assert OwnEncoders.find(pipe, str(tmp_path)) is None


def test_gates_are_computed_from_rows_that_were_drawn(scores: dict[str, Scores], pairs: Pairs):
    found = {(gate.about, gate.what): gate for gate in gates(scores, pairs)}
    assert {about for about, _ in found} == {"Evaluators on ground truth"}
    assert found["Evaluators on ground truth", "PCK@0.1"].measured.count > 0.8 * PAIRS
    # the truth in the generated row's place reaches every gate of it, the spoilt one does not
    rows = {
        "truth": scores["truth"],
        "appearance_map": scores["blurred"],
        "other_reference": scores["swapped"],
    }
    best = gates(rows | {"generated": scores["truth"]}, pairs)
    worst = gates(rows | {"generated": scores["swapped"]}, pairs)
    posed = [gate for gate in best if gate.about == "Generated, pose given"]
    assert len(posed) >= 14
    assert all(gate.passed for gate in posed if gate.measured.count)
    failed = {gate.what for gate in worst if not gate.passed}
    assert {"PCK@0.1 / truth's", "attributes", "head, 1 of 16", "scene / truth's"} <= failed
    shorter = {
        row: Scores({k: v[:20] for k, v in s.values.items()}, s.features[:20]) for row, s in rows.items()
    }
    mixed = gates(shorter | {"truth": scores["truth"], "tokens_alone": scores["truth"]}, pairs)
    assert next(gate for gate in mixed if gate.about == "Generated, pose=None").measured.mean == 1


@pytest.mark.parametrize(
    ("sense", "interval", "passed"),
    [
        ("at least", (0.5, 0.4, 0.6), True),
        ("at least", (0.49, 0.4, 0.6), False),
        ("at most", (0.5, 0.4, 0.6), True),
        ("below", (0.45, 0.4, 0.49), True),
        ("below", (0.45, 0.4, 0.5), False),
        ("not above", (0.6, 0.5, 0.7), True),
        ("not above", (0.6, 0.51, 0.7), False),
        ("at least", (math.nan,) * 3, False),
        ("not above", (math.nan,) * 3, False),
    ],
)
def test_a_gate_passes_by_its_sense(sense: str, interval: tuple[float, float, float], passed: bool):
    gate = Gate("about", "what", sense, 0.5, Interval(*interval, 3))  # pyright: ignore[reportArgumentType]
    assert gate.passed is passed
    assert gate.as_dict()["passed"] is passed


def test_prompts_without_scene_tell_nothing_of_it(pairs: Pairs):
    every = [words for several in SCENE_WORDS.values() for words in several]
    for before, after in zip(pairs.prompt, pairs.prompt_without_scene, strict=True):
        assert not any(words in after for words in every)
        assert len(after) < len(before)
        assert "a person" in after
    assert without_scene("in the park, a person walking, side view", 1) == "a person walking, side view"
    assert without_scene("a person indoors in a room", 4) == "a person"


@pytest.fixture(scope="module", params=["test", "validation"])
def either(request) -> Pairs:
    """Pairs of either split: what is asked of them follows from their own."""
    return held_out_pairs(16, 192, 128, processes=1, split=request.param)


def test_clothes_in_the_prompt_are_none_that_the_person_wears(either: Pairs):
    assert (either.clothes != either.labels[:, list(CLOTHES_COLUMNS)]).all()
    for row, prompt in enumerate(either.prompt_with_clothes):
        worn = {
            name: ATTRIBUTES[name][index] for name, index in zip(CLOTHES, either.clothes[row], strict=True)
        }
        assert f"{worn['top_colour']} {worn['top']}" in prompt
        assert worn["bottom_colour"] in prompt
        assert (worn["top"], worn["top_colour"]) not in HELD_OUT[("top", "top_colour")]
    assert (either.first(5).clothes == either.clothes[:5]).all()


def test_another_person_keeps_the_pose_and_has_other_proportions(either: Pairs):
    others = np.stack([of_another(int(seed), either.avatars, *either.size).keypoints for seed in either.seed])
    assert np.nanmean(bone_ratio_error(others, either.keypoints, either.size)) > 0.02
    assert np.abs(others[..., :2] - either.keypoints[..., :2]).mean() < 0.05


@pytest.mark.parametrize("draw", [draw_another, DRAWERS["reposed"], DRAWERS["redressed"]])
def test_rows_of_avatars_follow_the_pairs_own_split(either: Pairs, draw):
    drawn = draw(None, either, slice(0, 8), DrawOptions())
    changed = (np.abs(drawn.astype(int) - either.image[:8]) > 8).any(-1).mean((1, 2))
    assert changed.min() > 0  # another person, or the person in another pose
    assert np.median(changed) < 0.35  # before the same scene


def test_photographs_have_no_other_clothes(pairs: Pairs):
    with pytest.raises(ValueError, match="photographs"):
        replace(pairs.first(1), split=None).clothes  # noqa: B018 - it is computed when asked for
