import numpy as np
import pytest
import torch

from bolid.estimator import PersonEstimator, local_soft_argmax
from bolid.pose import MIRROR
from bolid.training import degradation
from bolid.training.objectives.estimator import (
    EstimatorObjective,
    EstimatorOptions,
    Views,
    covered,
    mirrored,
    target_confidence,
    warped,
    without_person,
)

TINY = EstimatorOptions(height=96, width=64, channels=(8, 8, 16), layers=1)


def make_batch(size: int = 4, height: int = 96, width: int = 64) -> dict[str, torch.Tensor]:
    """Pictures of noise with a bright disc at each joint; parts in a box around the middle."""
    generator = torch.Generator().manual_seed(0)
    batch = {}
    for prefix, picture in (("", "image"), ("reference_", "reference")):
        keypoints = torch.rand(size, 18, 3, generator=generator) * 0.6 + 0.2
        keypoints[..., 2] = (keypoints[..., 2] > 0.4).float()
        masks = torch.zeros(size, height, width, dtype=torch.uint8)
        for label in range(1, 5):
            masks[:, label * height // 6 : (label + 1) * height // 6, width // 3 : 2 * width // 3] = label
        batch[picture] = torch.rand(size, 3, height, width, generator=generator) * 2 - 1
        batch[f"{prefix}keypoints"], batch[f"{prefix}masks"] = keypoints, masks
    batch["image_prompt"] = torch.zeros(size, 3, height, width)
    return batch


def views_of(batch: dict[str, torch.Tensor]) -> Views:
    return Views(batch["image"], batch["keypoints"], batch["masks"])


@pytest.fixture
def estimator() -> PersonEstimator:
    torch.manual_seed(0)
    return PersonEstimator(96, 64, (8, 8, 16), 1)


def test_shipped_size_is_small() -> None:
    assert sum(p.numel() for p in PersonEstimator().parameters()) <= 800_000


@pytest.mark.parametrize("shape", [(96, 64, 3), (2, 96, 64, 3), (1, 75, 150, 3), (1, 300, 60, 3)])
def test_predict_takes_any_size(estimator: PersonEstimator, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    estimate = estimator.predict(image)
    batch = 1 if len(shape) == 3 else shape[0]
    assert estimate.keypoints.shape == (batch, 18, 3)
    assert estimate.keypoints.dtype == np.float32
    assert estimate.parts.shape == (batch, *shape[-3:-1])
    assert estimate.parts.dtype == np.uint8
    assert estimate.person.shape == (batch,)
    assert estimate.keypoints.min() >= 0
    assert estimate.keypoints.max() <= 1


def test_predict_of_a_batch_equals_single_predictions(estimator: PersonEstimator) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 96, 64, 3), dtype=np.uint8)
    together = estimator.predict(images)
    for index, image in enumerate(images):
        alone = estimator.predict(image)
        np.testing.assert_allclose(alone.keypoints[0], together.keypoints[index], atol=1e-4)
        np.testing.assert_allclose(alone.person[0], together.person[index], atol=1e-4)


@pytest.mark.parametrize("bad", [np.zeros((96, 64, 3), np.float32), np.zeros((96, 64), np.uint8)])
def test_predict_refuses_other_arrays(estimator: PersonEstimator, bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8 RGB"):
        estimator.predict(bad)


def test_sizes_are_checked(estimator: PersonEstimator) -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        PersonEstimator(100, 64)
    with pytest.raises(ValueError, match="resize"):
        estimator(torch.zeros(1, 3, 64, 64))


def test_save_and_load_round_trip(estimator: PersonEstimator, tmp_path) -> None:
    estimator.save_pretrained(tmp_path)
    loaded = PersonEstimator.from_pretrained(tmp_path)
    x = torch.rand(1, 3, 96, 64)
    torch.testing.assert_close(loaded(x).heatmaps, estimator(x).heatmaps, rtol=0, atol=1e-6)


def test_local_soft_argmax_finds_the_peak_between_cells() -> None:
    y, x = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(16) + 0.5, indexing="ij")
    near = -((x - 5.3) ** 2 + (y - 17.8) ** 2) / 2
    far = -((x - 13) ** 2 + (y - 3) ** 2) / 2 - 1.0  # a second, lower peak must not pull
    places, probability = local_soft_argmax(torch.logaddexp(near, far)[None, None])
    torch.testing.assert_close(
        places[0, 0] * torch.tensor([16, 24]), torch.tensor([5.3, 17.8]), rtol=0, atol=0.02
    )
    torch.testing.assert_close(probability.sum(), torch.tensor(1.0))


def test_gradients_reach_the_pixels(estimator: PersonEstimator) -> None:
    pixels = torch.rand(1, 3, 96, 64, requires_grad=True)
    estimator(pixels).keypoints.square().sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0


def test_objective_trains_everything_and_learns() -> None:
    torch.manual_seed(0)
    objective, batch = EstimatorObjective(TINY), make_batch()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    history = []
    for step in range(12):
        losses = objective(batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        if step == 0:
            assert all(p.grad is not None for p in objective.parameters())
        optimizer.step()
        history.append(float(losses["loss"].detach()))
    assert np.isfinite(history).all()
    assert np.mean(history[-3:]) < np.mean(history[:3])
    figures = objective.evaluate(batch)
    assert {"pck", "median_px", "part_iou", "person_accuracy"} <= figures.keys()
    assert np.isfinite(list(figures.values())).all()


def test_objective_runs_under_autocast_and_uses_labelled_empty_scenes() -> None:
    torch.manual_seed(0)
    batch = make_batch(8)
    batch["image_prompt_person"] = torch.zeros(8, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(EstimatorObjective(TINY)(batch)["loss"])


def test_mirroring_twice_changes_nothing() -> None:
    views = views_of(make_batch())
    once, twice = mirrored(views), mirrored(mirrored(views))
    torch.testing.assert_close(twice.keypoints, views.keypoints)
    torch.testing.assert_close(twice.pixels, views.pixels)
    torch.testing.assert_close(once.keypoints[:, 2, 0], 1 - views.keypoints[:, MIRROR[2], 0])


def test_warping_moves_keypoints_with_the_picture() -> None:
    torch.manual_seed(1)
    height, width = 96, 64
    keypoints = torch.rand(4, 18, 3) * 0.2 + 0.4
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    distance = ((x - keypoints[:, :1, :1]) * width) ** 2 + ((y - keypoints[:, :1, 1:2]) * height) ** 2
    pixels = (-distance / 8).exp()[:, None].expand(4, 3, height, width)  # a blob at joint 0
    out = warped(Views(pixels, keypoints, torch.zeros(4, height, width, dtype=torch.uint8)))
    weight = out.pixels[:, 0] / out.pixels[:, 0].sum((1, 2), keepdim=True)
    centre = torch.stack(((weight * x).sum((1, 2)), (weight * y).sum((1, 2))), -1)
    torch.testing.assert_close(centre, out.keypoints[:, 0, :2], rtol=0, atol=0.01)


def test_covered_joints_are_hidden_and_faces_lose_their_confidence() -> None:
    torch.manual_seed(0)
    views = views_of(make_batch())
    views.keypoints[..., 2] = 1
    out = covered(views)
    hidden = out.keypoints[..., 2] == 0
    assert hidden.any()
    confidence = target_confidence(out.keypoints)
    assert (confidence[:, 0][hidden[:, 0]] == 0).all()  # the nose
    assert (confidence[:, 3][hidden[:, 3]] == 0.5).all()  # an elbow
    outside = views.keypoints.clone()
    outside[..., 0] = 1.2
    assert (target_confidence(outside) == 0).all()


def test_degradation_keeps_shape_and_range() -> None:
    torch.manual_seed(0)
    pixels = torch.rand(7, 3, 96, 64) * 2 - 1
    for out in (
        degradation.degrade(pixels),
        degradation.shift_colours(pixels),
        degradation.abstract_pictures(pixels),
        without_person(views_of(make_batch(7)), 7),
    ):
        assert out.shape == pixels.shape
        assert out.min() >= -1
        assert out.max() <= 1
    fine = degradation.quantise_blocks(pixels, torch.full((7, 1, 1, 1), 1e-6))
    torch.testing.assert_close(fine, pixels, rtol=0, atol=1e-4)  # the cosine transform is orthonormal
