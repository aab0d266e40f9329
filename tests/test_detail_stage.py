"""The rows that a DetailNet learns from, its objective and its stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_objective import save_loss_networks
from tiny_pipelines import HEIGHT, WIDTH, make_detail, make_mini

from bolid.avatars.dataset import render_arrays
from bolid.detail import changeable
from bolid.pipeline import BoLIDPipeline
from bolid.pose import PARTS, known, skeleton_map
from bolid.training.avatar_rows import AvatarRows
from bolid.training.config import DataConfig, TrainConfig
from bolid.training.drawn_rows import DrawnRows, draw, drawn_strengths, pipeline_fingerprint
from bolid.training.draws import step_draws
from bolid.training.objectives.detail import (
    DetailObjective,
    DetailOptions,
    DetailWeights,
    appearance_of,
    skeleton_of,
)
from bolid.training.objectives.diffusion import PERCEIVERS
from bolid.training.redressed_rows import RedressedRows
from bolid.training.stages import build_stage

SMALL: dict[str, Any] = {"channels": (8, 8), "blocks": (1, 1)}
WORDS = 16  # width of the embeddings of `rows_of`


def small_data(folder: Path, **changes: Any) -> DataConfig:
    sizes = {"train_size": 6, "validation_size": 2, "height": HEIGHT, "width": WIDTH, "processes": 1}
    return DataConfig(cache_dir=str(folder), **(sizes | changes))


def test_drawn_rows_are_the_pipelines_pictures_beside_truth_and_map():
    pipe = make_mini()
    cells = render_arrays("train", 0, 3, 1, HEIGHT, WIDTH)
    columns = draw(pipe, cells, 32)
    assert {name: value.shape[1:] for name, value in columns.items()} == {
        "drawn": (HEIGHT, WIDTH, 3), "image": (HEIGHT, WIDTH, 3), "rgb": (HEIGHT, WIDTH, 3),
        "coverage": (HEIGHT, WIDTH, 1), "masks": (HEIGHT, WIDTH), "keypoints": (18, 3),
        "skeleton": (HEIGHT, WIDTH, 3), "words": (16, pipe.unet.config.cross_attention_dim),
    }  # fmt: skip
    np.testing.assert_array_equal(columns["image"], cells["image"])
    again = draw(pipe, cells, 32)
    np.testing.assert_array_equal(again["drawn"], columns["drawn"])
    assert not np.array_equal(draw(pipe, cells, 48)["drawn"], columns["drawn"])
    hidden = cells | {"shared_parts": np.zeros((3, len(PARTS)), bool)}
    assert not draw(pipe, hidden, 32)["coverage"].any()


def test_most_calls_have_a_usual_strength_and_some_lack_a_part():
    drawn = np.stack([drawn_strengths(np.random.default_rng(seed)) for seed in range(300)])
    alike = (drawn == drawn[:, :1]).all(1)
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert 0.75 < alike.mean() < 0.95
    assert (drawn[~alike] == 0).any()
    assert (drawn[~alike] == 1).any()


def rows_of(size: int = 4) -> dict[str, torch.Tensor]:
    """A batch as `DrawnRows` gives it; what was drawn is the truth blurred, the map the truth itself."""
    cells = render_arrays("train", 0, size, 1, HEIGHT, WIDTH)
    image = torch.from_numpy(cells["image"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    masks = torch.from_numpy(cells["masks"])
    coverage = (masks > 0).byte()[..., None] * 255
    drawn = torch.nn.functional.avg_pool2d(image, 5, 1, 2)
    rgb = image * (masks > 0)[:, None]
    points = torch.from_numpy(cells["keypoints"])
    bones = torch.from_numpy(skeleton_map(known(cells["keypoints"]), HEIGHT, WIDTH)).permute(0, 3, 1, 2)
    return {
        "drawn": drawn,
        "image": image,
        "rgb": rgb,
        "coverage": coverage,
        "masks": masks,
        "keypoints": points,
        "skeleton": bones.float() / 127.5 - 1,
        "words": torch.randn(size, 5, WORDS),
    }


def test_the_objective_learns_to_take_the_map(tmp_path):
    torch.manual_seed(0)
    folder = save_loss_networks(tmp_path)
    weights = DetailWeights(perceptual=0.1, details=0.1, answers=0.1, adversarial=0.1)
    objective = DetailObjective(
        DetailOptions(**SMALL, weights=weights, loss_networks=str(folder), seen_rows=3), WORDS
    )
    batch, optimiser = rows_of(), torch.optim.Adam(objective.parameters(), 5e-3)
    before = objective.evaluate(batch)
    assert before["picture"] < before["picture_drawn"]  # it begins with a share of the map
    for step in range(40):
        losses = objective(batch, step_draws(0, step, 4))
        assert set(losses) == {"loss", "picture", *PERCEIVERS, "critic", "adversarial"}
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
    after = objective.evaluate(batch)
    assert after["picture"] < 0.8 * before["picture"]
    assert after["rgb_person"] < 0.8 * before["rgb_person"]
    assert after["picture_drawn"] == before["picture_drawn"]
    assert all(parameter.grad is None for parameter in objective.seen_by.parameters())
    assert objective.picture(batch).shape == (4 * HEIGHT, 4 * WIDTH, 3)


def test_it_starts_as_the_smaller_one_of_a_folder(tmp_path):
    small = make_detail()
    small.save_pretrained(tmp_path / "detail")
    larger = {"channels": (8, 16), "blocks": (1, 2)}
    objective = DetailObjective(DetailOptions(**larger, start_as=str(tmp_path)), WORDS)
    torch.testing.assert_close(objective.net.enter.weight[:8], small.enter.weight)
    with pytest.raises(ValueError, match="holds no detail/"):
        DetailObjective(DetailOptions(start_as=str(tmp_path / "none")), WORDS)


def test_the_stage_draws_its_rows_once_and_completes_the_pipeline(tmp_path):
    make_mini().save_pretrained(tmp_path / "pipe")
    data = small_data(tmp_path / "cache", redressed_size=3)
    config = TrainConfig(
        stage="detail", data=data, max_train_steps=2, train_batch_size=4,
        objective={"pipeline": str(tmp_path / "pipe"), "channels": [8, 8], "blocks": [1, 1]},
    )  # fmt: skip
    objective, train, held_out = build_stage(config)
    assert (len(train), len(held_out)) == (9, 2)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}
    _, again, _ = build_stage(config)
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}
    numbers = np.arange(9)
    for name, value in train.batch(numbers).items():
        torch.testing.assert_close(again.batch(numbers)[name], value, rtol=0, atol=0)
    objective.net.save_pretrained(tmp_path / "export" / "detail")
    objective.complete(tmp_path / "export")
    opened = BoLIDPipeline.from_pretrained(tmp_path / "export")
    assert opened.detail is not None
    assert opened.call_defaults() == (2, 2.0)


def test_redressed_rows_are_drawn_without_their_clothes(tmp_path):
    make_mini().save_pretrained(tmp_path / "pipe")
    data = small_data(tmp_path)
    rows = RedressedRows(AvatarRows(data, "train", 3))
    with_clothes = DrawnRows(AvatarRows(data, "train", 3), str(tmp_path / "pipe"), "x", data)
    bare = DrawnRows(rows, str(tmp_path / "pipe"), "x", data)
    shown, hidden = (each.batch(np.arange(3))["coverage"].float().mean() for each in (with_clothes, bare))
    assert 0 < hidden < 0.6 * shown


def test_the_critic_sees_the_same_ground_and_learns_beside():
    """Far from the map both of its pictures are the drawn one; the adversarial loss moves the net alone."""
    torch.manual_seed(0)
    objective = DetailObjective(DetailOptions(**SMALL, weights=DetailWeights(adversarial=1.0)), WORDS)
    batch, critic = rows_of(), objective.critic
    assert critic is not None
    seen = []
    handle = critic.register_forward_pre_hook(lambda _module, given: seen.append(given[0].detach()))
    losses = objective.judged(critic, objective.corrected(batch), batch, step_draws(0, 0, 4))
    handle.remove()
    truth, own = seen[0].chunk(4)[:2]
    far = changeable(appearance_of(batch), skeleton_of(batch)).expand_as(truth) == 0
    assert far.any()
    torch.testing.assert_close(truth[far], own[far])
    assert not torch.equal(truth[~far], own[~far])
    losses["adversarial"].backward()
    assert all(parameter.grad is None for parameter in critic.parameters())
    assert any(parameter.grad is not None for parameter in objective.net.parameters())


def test_a_critic_goes_on_from_its_folder(tmp_path):
    weights = DetailWeights(adversarial=0.1)
    first = DetailObjective(DetailOptions(**SMALL, weights=weights), WORDS)
    assert first.critic is not None
    first.critic.save_pretrained(tmp_path / "critic")
    again = DetailObjective(DetailOptions(**SMALL, weights=weights, critic=str(tmp_path)), WORDS)
    assert again.critic is not None
    for mine, theirs in zip(again.critic.parameters(), first.critic.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
    with pytest.raises(ValueError, match="holds no PictureCritic"):
        DetailObjective(DetailOptions(**SMALL, weights=weights, critic=str(tmp_path / "none")), WORDS)


def test_a_critic_without_a_weight_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"weights\.adversarial is 0"):
        DetailObjective(DetailOptions(**SMALL, critic=str(tmp_path)), WORDS)


def test_a_mean_of_more_rows_than_there_are_is_theirs():
    draws = step_draws(0, 0, 4)
    values = torch.tensor([1.0, 2.0, 3.0, 6.0])
    assert float(draws.mean_of_first(values, 6)) == pytest.approx(3.0)
    assert float(draws.mean_of_first(values[: len(draws.first(2))], 2)) == pytest.approx(1.5)
    with pytest.raises(ValueError, match="at least 1"):
        draws.mean_of_first(values[:0], 0)


def test_the_rows_key_leaves_the_detail_out(tmp_path):
    pipe = make_mini()
    pipe.save_pretrained(tmp_path / "pipe")
    before = pipeline_fingerprint(str(tmp_path / "pipe"))
    pipe.register_modules(detail=make_detail())
    pipe.save_pretrained(tmp_path / "pipe")
    assert pipeline_fingerprint(str(tmp_path / "pipe")) == before
    make_mini(seed=1).save_pretrained(tmp_path / "pipe")
    assert pipeline_fingerprint(str(tmp_path / "pipe")) != before
