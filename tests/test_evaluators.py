"""The mini evaluators: shapes, round trips, independence of the batch, and that they can learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bolid.evaluators import AppearanceEvaluator, PoseEvaluator, decode_cells, to_tensor, upright_heads
from bolid.training.objectives.evaluators import (
    AppearanceEvaluatorObjective,
    AppearanceEvaluatorOptions,
    DegradeOptions,
    PoseEvaluatorObjective,
    PoseEvaluatorOptions,
    degrade,
)

HEIGHT, WIDTH = 96, 64
CLEAN = DegradeOptions(share=0.0, grey=0.0)


def pose_evaluator() -> PoseEvaluator:
    torch.manual_seed(0)
    return PoseEvaluator(HEIGHT, WIDTH, stem_channels=16, channels=16, context_channels=16)


def appearance_evaluator() -> AppearanceEvaluator:
    torch.manual_seed(0)
    small = {"channels": (8, 16, 16), "point_channels": 8, "hidden": 16, "embedding": 8}
    return AppearanceEvaluator(("hat", "colour"), (2, 3), 4, HEIGHT, WIDTH, head_crop=24, **small)


def pictures(count: int = 5, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def training_batch(count: int = 8) -> dict[str, torch.Tensor]:
    """Rows in which a joint is a bright square and the colour attribute is the picture's channel."""
    g = torch.Generator().manual_seed(0)
    labels = torch.stack([torch.arange(count) % 2, torch.arange(count) % 3], 1)
    batch: dict[str, torch.Tensor] = {"labels": labels, "scene": torch.arange(count) % 4}
    for name, prefix in (("image", ""), ("reference", "reference_")):
        points = torch.rand(count, 18, 3, generator=g) * 0.8 + 0.1
        points[..., 2] = (torch.rand(count, 18, generator=g) > 0.2).float()
        x = torch.rand(count, 3, HEIGHT, WIDTH, generator=g) - 1
        x[torch.arange(count), labels[:, 1]] += 1
        batch |= {
            name: x,
            f"{prefix}keypoints": points,
            f"{prefix}masks": torch.ones(count, HEIGHT, WIDTH, dtype=torch.uint8),
            f"{prefix}visible": torch.ones(count, 2, dtype=torch.bool),
        }
    return batch


def test_full_size_evaluators_stay_small():
    both = [PoseEvaluator(), AppearanceEvaluator(tuple("abcdefghijklmnopq"), (8,) * 17)]
    assert sum(p.numel() for model in both for p in model.parameters()) <= 3_000_000


def test_pose_comes_back_in_the_unit_square_for_any_picture_size():
    found = pose_evaluator().eval().predict(pictures(3, 200, 130), batch_size=2)
    assert found.shape == (3, 18, 3)
    assert found.dtype == np.float32
    assert ((found[..., 2] >= 0) & (found[..., 2] <= 1)).all()


def test_decoding_puts_a_joint_at_its_cell_plus_the_offset():
    cells, offsets = torch.zeros(1, 2, 12, 8), torch.zeros(1, 2, 2, 12, 8)
    cells[0, 0, 3, 5] = cells[0, 1, 11, 0] = 9.0
    offsets[0, 0, :, 3, 5] = torch.tensor([0.25, -0.5])
    found = decode_cells(cells, offsets, torch.zeros(1, 2))
    expected = torch.tensor([[[5.75 / 8, 3.0 / 12, 0.5], [0.5 / 8, 11.5 / 12, 0.5]]])
    torch.testing.assert_close(found, expected)


def test_readings_do_not_depend_on_the_batch():
    evaluator, pose = appearance_evaluator().eval(), pose_evaluator().eval()
    x = pictures()
    together = evaluator.predict(x, pose.predict(x))
    alone = evaluator.predict(x[2:3], pose.predict(x[2:3]))
    for name in ("attributes", "scene"):
        assert (getattr(together, name)[2:3] == getattr(alone, name)).all()
    for name in ("body", "head", "features"):
        np.testing.assert_allclose(getattr(together, name)[2:3], getattr(alone, name), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together.head, axis=1), 1, atol=1e-5)


def test_saved_evaluators_come_back_the_same(tmp_path: Path):
    x, points = pictures(2), np.random.default_rng(1).random((2, 18, 3), dtype=np.float32)
    for name, model in (("pose", pose_evaluator()), ("appearance", appearance_evaluator())):
        model.save_pretrained(tmp_path / name)
        again = type(model).from_pretrained(tmp_path / name).eval()
        if name == "pose":
            np.testing.assert_array_equal(model.eval().predict(x), again.predict(x))
        else:
            assert list(again.config.attributes) == ["hat", "colour"]
            a, b = model.eval().predict(x, points), again.predict(x, points)
            np.testing.assert_array_equal(a.body, b.body)


def test_perceptual_distance_is_zero_for_the_same_and_nan_where_no_part_is():
    x, parts = pictures(2), np.zeros((2, HEIGHT, WIDTH), np.uint8)
    parts[:, :48] = 1
    evaluator = appearance_evaluator().eval()
    same = evaluator.perceptual_distance(x, x, parts)
    other = evaluator.perceptual_distance(255 - x, x, parts)
    assert same.shape == (2, 4)
    assert same[:, 0] == pytest.approx(0, abs=1e-6)
    assert (other[:, 0] > 0.01).all()
    assert np.isnan(same[:, 1:]).all()


def test_heads_are_cut_upright():
    """A person lying on the side: the crop's top is where the head points."""
    x = torch.zeros(1, 3, 64, 64)
    x[:, :, :, 40:] = 1  # white right of the face
    points = torch.zeros(1, 18, 3)
    points[..., 0], points[..., 1] = 0.5, 0.5
    points[:, [0, 14, 15, 16, 17], 0] = 0.6
    crop = upright_heads(x, points, 24)
    assert crop.shape == (1, 3, 24, 24)
    assert crop[0, 0, :8].mean() > 0.9
    assert crop[0, 0, -8:].mean() < 0.1


def test_pictures_must_be_uint8():
    with pytest.raises(ValueError, match="uint8"):
        to_tensor(np.zeros((1, 8, 8, 3), np.float32), (8, 8), torch.device("cpu"))
    with pytest.raises(ValueError, match="one each"):
        appearance_evaluator().predict(pictures(2), np.zeros((3, 18, 3), np.float32))


def test_degrading_spoils_some_rows_and_keeps_the_range():
    torch.manual_seed(0)
    x = torch.rand(32, 3, 32, 32) * 2 - 1
    spoilt = degrade(x, DegradeOptions(share=0.6))
    changed = (spoilt != x).flatten(1).any(1)
    assert 4 < changed.sum() < 28
    assert spoilt.abs().max() <= 1
    assert torch.equal(degrade(x, DegradeOptions(share=0.0)), x)


@pytest.mark.parametrize("kind", ["pose", "appearance"])
def test_objectives_learn_a_batch_by_heart(kind: str):
    torch.manual_seed(0)
    if kind == "pose":
        objective = PoseEvaluatorObjective(PoseEvaluatorOptions(degrade=CLEAN), pose_evaluator())
    else:
        options = AppearanceEvaluatorOptions(degrade=CLEAN)
        objective = AppearanceEvaluatorObjective(options, appearance_evaluator())
    optimiser = torch.optim.Adam(objective.parameters(), 3e-3)
    batch, losses = training_batch(), []
    for _ in range(40):
        loss = objective(batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.grad is not None for p in objective.parameters())
    assert list(objective.models) == [kind]
    figures = objective.eval().evaluate(batch)
    assert all(np.isfinite(v) for v in figures.values())
