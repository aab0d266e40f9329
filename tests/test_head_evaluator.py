"""The evaluator of heads: it finds a person again whatever they wear, and the shipped one does so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_objective import avatar_batch, learn_by_heart

from bolid.avatars.dataset import render_arrays
from bolid.evaluation.calls import DrawOptions
from bolid.evaluation.drawing import draw_redressed
from bolid.evaluation.networks import Evaluators
from bolid.evaluation.pairs import held_out_pairs
from bolid.evaluation.provenance import load_evaluators
from bolid.head_evaluator import HeadEvaluator
from bolid.metrics import identification
from bolid.training.avatar_rows import AvatarRows
from bolid.training.config import DataConfig
from bolid.training.evaluator_rows import OtherClothesRows
from bolid.training.objectives.evaluators import DegradeOptions
from bolid.training.objectives.head_evaluator import HeadEvaluatorObjective, HeadEvaluatorOptions
from bolid.training.redressed_rows import redressed_reference

SIDE = 128
EVALUATORS = Path(__file__).parents[1] / "models" / "evaluators"


def tiny() -> HeadEvaluator:
    torch.manual_seed(0)
    return HeadEvaluator(SIDE, SIDE, 24, (8, 8), 16, 8)


def test_embeddings_do_not_depend_on_the_batch_and_come_back_from_disk(tmp_path: Path) -> None:
    evaluator, rows = tiny().eval(), render_arrays("test", 0, 5, 1, SIDE, SIDE)
    pictures, keypoints = rows["image"], rows["keypoints"]
    together = evaluator.predict(pictures, keypoints, batch_size=2)
    assert together.shape == (5, 8)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(together[2:3], evaluator.predict(pictures[2:3], keypoints[2:3]), atol=1e-6)
    evaluator.save_pretrained(tmp_path)
    again = HeadEvaluator.from_pretrained(tmp_path).eval()
    x, k = torch.rand(2, 3, SIDE, SIDE), torch.rand(2, 18, 3)
    assert torch.equal(evaluator(x, k), again(x, k))
    with pytest.raises(ValueError, match="one each"):
        evaluator.predict(pictures, keypoints[:3])


def test_what_lies_outside_the_crop_does_not_count() -> None:
    rows = render_arrays("test", 0, 4, 1, SIDE, SIDE)
    pictures, keypoints = rows["image"], rows["keypoints"].copy()
    keypoints[:, :, :2] = 0.5, 0.3  # every head in one place, upright
    keypoints[:, 1, :2] = 0.5, 0.4
    changed = pictures.copy()
    changed[:, SIDE // 2 + 8 :] = 255 - changed[:, SIDE // 2 + 8 :]
    before, after = (tiny().eval().predict(each, keypoints) for each in (pictures, changed))
    np.testing.assert_array_equal(before, after)
    changed[:, : SIDE // 2] = 255 - changed[:, : SIDE // 2]
    assert np.abs(tiny().eval().predict(changed, keypoints) - before).max() > 0.01


def test_the_objective_learns_to_find_people_again() -> None:
    batch = avatar_batch(16, SIDE)
    options = HeadEvaluatorOptions(degrade=DegradeOptions(share=0, grey=0))
    objective = HeadEvaluatorObjective(options, tiny())
    before, after = learn_by_heart(objective, batch)
    assert after.keys() == {"identified", "identified_degraded"}
    assert after["identified"] > max(0.8, before["identified"])


def test_a_share_of_the_references_wears_other_clothes(tmp_path: Path) -> None:
    data = DataConfig(train_size=12, height=96, width=64, processes=1, cache_dir=str(tmp_path))
    rows = AvatarRows(data, "train", 12)
    names = ("image", "keypoints", "labels", "reference", "reference_keypoints", "reference_masks", "seed")
    own, none, every, some = (
        rows.columns(names) if share is None else OtherClothesRows(rows, share).columns(names)
        for share in (None, 0.0, 1.0, 0.5)
    )
    for name in names:
        np.testing.assert_array_equal(own[name], none[name])
        assert every[name].dtype == own[name].dtype
    for name in ("image", "keypoints", "labels"):
        np.testing.assert_array_equal(own[name], every[name])
    for row, seed in enumerate(own["seed"].tolist()):
        drawn = redressed_reference(seed, "train", (96, 64))[1]
        np.testing.assert_array_equal(every["reference"][row], drawn.image)
        np.testing.assert_array_equal(every["reference_keypoints"][row], drawn.keypoints)
    changed = (some["reference"] != own["reference"]).any((1, 2, 3))
    assert 0 < changed.sum() < 12
    np.testing.assert_array_equal(some["reference"][changed], every["reference"][changed])
    assert OtherClothesRows(rows, 0.5).fingerprint != OtherClothesRows(rows, 1.0).fingerprint


def test_the_shipped_one_knows_people_in_other_clothes() -> None:
    """Where the embedding that was taught on people in the same clothes loses many of them."""
    evaluators = load_evaluators(str(EVALUATORS), "cpu")
    assert evaluators.head is not None
    pairs = held_out_pairs(48, 192, 128, 1, None, "validation")
    redressed = draw_redressed(None, pairs, slice(0, 48), DrawOptions())
    without = Evaluators(evaluators.pose, evaluators.appearance)

    def found(networks: Evaluators, pictures: np.ndarray) -> float:
        one, other = (networks.read(each)[1].head for each in (pictures, pairs.reference))
        return float(identification(one, other).mean())

    assert found(evaluators, pairs.image) > 0.85
    assert found(evaluators, redressed) > max(0.8, found(without, redressed))
    assert found(evaluators, np.roll(pairs.image, 1, axis=0)) < 0.25  # somebody else
    assert "HeadEvaluator" in evaluators.signatures()["face"]
