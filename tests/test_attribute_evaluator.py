"""The evaluator of attributes: it sees people upright, does not mind the batch, and can learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_objective import avatar_batch, learn_by_heart

from bolid.attribute_evaluator import SPOTS, AttributeEvaluator, cut
from bolid.avatars import world
from bolid.avatars.dataset import render_arrays
from bolid.avatars.identity import ATTRIBUTES, HELD_OUT, sample_identity
from bolid.evaluation.provenance import load_evaluators
from bolid.training.avatar_rows import AvatarRows
from bolid.training.config import DataConfig
from bolid.training.evaluator_rows import CombinationRows
from bolid.training.objectives.attribute_evaluator import (
    AttributeEvaluatorObjective,
    AttributeEvaluatorOptions,
)
from bolid.training.objectives.evaluators import DegradeOptions

SIDE = 128
EVALUATORS = Path(__file__).parents[1] / "models" / "evaluators"


def tiny(height: int = SIDE, width: int = SIDE) -> AttributeEvaluator:
    torch.manual_seed(0)
    sides = (24, 32, 32, 16, 16)
    return AttributeEvaluator(("hat", "colour"), (2, 3), height, width, sides, (8, 8), 8, 16)


def people(count: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rows = render_arrays("test", 0, count, 1, SIDE, SIDE)
    return rows["image"], rows["keypoints"]


def turned(pictures: np.ndarray, keypoints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Square pictures and their key-points, turned by 90 degrees: what was up points to the left."""
    points = np.stack([keypoints[..., 1], 1 - keypoints[..., 0], keypoints[..., 2]], -1)
    return np.rot90(pictures, axes=(1, 2)).copy(), points


def test_a_person_who_lies_looks_like_one_who_stands():
    pictures, keypoints = people()
    upright, lying = (
        [
            cut(torch.from_numpy(x).permute(0, 3, 1, 2).float(), torch.from_numpy(k.copy()), spot, 24)
            for spots in SPOTS.values()
            for spot in spots
        ]
        for x, k in ((pictures, keypoints), turned(pictures, keypoints))
    )
    assert len(upright) == 6
    for one, other in zip(upright, lying, strict=True):
        assert one.std() > 5  # it shows something
        torch.testing.assert_close(one, other, atol=0.5, rtol=0)


def test_crops_are_where_the_body_is():
    """A white torso on black: the torso's crop is white in its middle, the foot's is black."""
    x = torch.zeros(1, 3, 100, 100)
    x[:, :, 30:60, 40:60] = 1
    points = torch.zeros(1, 18, 3)
    for joint, place in {2: (0.4, 0.3), 5: (0.6, 0.3), 8: (0.43, 0.6), 11: (0.57, 0.6), 9: (0.43, 0.75),
                         12: (0.57, 0.75), 10: (0.43, 0.9), 13: (0.57, 0.9)}.items():  # fmt: skip
        points[0, joint, :2] = torch.tensor(place)
    torso, foot = cut(x, points, SPOTS["torso"][0], 20), cut(x, points, SPOTS["foot"][0], 16)
    assert torso.mean() > 0.95
    assert foot.max() == 0
    assert cut(x, points, SPOTS["legs"][0], 40)[0, 0, :4].mean() > 0.2  # the hips at its top
    assert cut(x, points, SPOTS["legs"][0], 40)[0, 0, -20:].max() == 0


def test_maps_show_every_crop_and_reach_the_picture():
    evaluator, (pictures, keypoints) = tiny().eval(), people(2)
    x = (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1).requires_grad_()
    maps = evaluator.maps(x, torch.from_numpy(keypoints.copy()))
    sizes = [each.shape[-1] for each in maps]
    assert all(each.shape[:2] == (2, 8) for each in maps)
    assert sizes == [6, 1, 8, 1, 8, 1, 4, 4, 1, 1, 4, 4, 1, 1]  # head, torso, legs, both hands, both feet
    sum(each.square().sum() for each in maps).backward()
    assert x.grad is not None
    assert (x.grad != 0).any(1).flatten(1).any(1).all()


def test_readings_do_not_depend_on_the_batch_and_come_back_from_disk(tmp_path: Path):
    evaluator = tiny().eval()
    pictures, keypoints = people()
    together = evaluator.predict(pictures, keypoints, batch_size=2)
    assert together.shape == (5, 2)
    assert (together < [2, 3]).all()
    np.testing.assert_array_equal(together[2:3], evaluator.predict(pictures[2:3], keypoints[2:3]))
    evaluator.save_pretrained(tmp_path)
    again = AttributeEvaluator.from_pretrained(tmp_path).eval()
    x, k = torch.rand(2, 3, SIDE, SIDE), torch.rand(2, 18, 3)
    assert torch.equal(evaluator(x, k), again(x, k))
    with pytest.raises(ValueError, match="one each"):
        evaluator.predict(pictures, keypoints[:3])
    with pytest.raises(ValueError, match="uint8"):
        evaluator.predict(pictures.astype(np.float32), keypoints)


def test_the_objective_learns_a_batch_by_heart():
    batch = avatar_batch(8, SIDE)
    batch["labels"] = torch.stack([torch.arange(8) % 2, torch.arange(8) % 3], 1)
    for name in ("visible", "reference_visible"):
        batch[name] = torch.ones(8, 2, dtype=torch.bool)
    options = AttributeEvaluatorOptions(degrade=DegradeOptions(share=0, grey=0))
    objective = AttributeEvaluatorObjective(options, tiny())
    before, after = learn_by_heart(objective, batch)
    assert after["attributes"] > max(0.9, before["attributes"])
    assert after.keys() == {"attributes", "attributes_degraded", "attribute/hat", "attribute/colour"}


def test_the_shipped_evaluators_name_attributes_by_it():
    rows = render_arrays("validation", 0, 24, 1, 192, 128)
    evaluators = load_evaluators(str(EVALUATORS), "cpu")
    assert evaluators.attributes is not None
    keypoints, reading = evaluators.read(rows["image"])
    own = evaluators.attributes.predict(rows["image"], keypoints)
    np.testing.assert_array_equal(reading.attributes, own)
    coarse = evaluators.appearance.predict(rows["image"], keypoints)
    np.testing.assert_array_equal(reading.body, coarse.body)
    right = [
        (found == rows["labels"])[rows["visible"].astype(bool)].mean() for found in (own, coarse.attributes)
    ]
    assert right[0] > right[1]
    assert "attributes" in evaluators.signatures()


def test_evaluators_see_combinations_that_generators_never_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = DataConfig(train_size=12, height=96, width=64, processes=1, cache_dir=str(tmp_path))
    rows = AvatarRows(data, "train", 12)
    shown = ("image", "masks", "keypoints", "visible")
    names = (*shown, "reference", *(f"reference_{name}" for name in shown[1:]), "labels", "scene", "seed")

    def unseen(labels: np.ndarray) -> bool:
        words = {name: values[k] for (name, values), k in zip(ATTRIBUTES.items(), labels, strict=True)}
        return any((words[a], words[b]) in pairs for (a, b), pairs in HELD_OUT.items())

    def columns(share: float) -> dict[str, np.ndarray]:
        return CombinationRows(rows, share).columns(names)

    own, none, every = rows.columns(names), columns(0.0), columns(1.0)
    for name in names:
        np.testing.assert_array_equal(own[name], none[name])
        assert every[name].dtype == own[name].dtype
        np.testing.assert_array_equal(every[name], columns(1.0)[name])
    assert not any(map(unseen, own["labels"]))
    assert all(map(unseen, every["labels"]))
    np.testing.assert_array_equal(every["scene"], own["scene"])
    assert (every["image"] != own["image"]).any((1, 2, 3)).all()
    assert (every["reference"] != own["reference"]).any((1, 2, 3)).all()
    assert 0 < sum(map(unseen, columns(0.4)["labels"])) < 12
    # they are what the world draws of that person in the row's poses and scenes
    plan_row = world.plan_row

    def with_another(seed: int, split: world.Split) -> world.RowPlan:
        rng = np.random.default_rng([seed, 0xC0B1])
        rng.random()  # whether the row is one of the share
        return replace(plan_row(seed, split), identity=sample_identity(rng, held_out=True))

    monkeypatch.setattr(world, "plan_row", with_another)
    drawn = render_arrays("train", 0, 12, 1, 96, 64)
    for name in names:
        np.testing.assert_array_equal(every[name], drawn[name])
