"""The rows that a LayoutNet learns from, its objective and its stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_pipelines import HEIGHT, TEXT, WIDTH, make_detail, make_layout, make_mini

from bolid.avatars.dataset import render_arrays
from bolid.pipeline import BoLIDPipeline
from bolid.pose import Pose, known
from bolid.training.bases import open_base
from bolid.training.config import DataConfig, TrainConfig
from bolid.training.draws import step_draws
from bolid.training.objectives.layout import (
    COLUMNS,
    LayoutObjective,
    LayoutOptions,
    layout_rows,
    placed,
)
from bolid.training.stages import build_stage

NAMES = ("standing", "lying")


def two_poses(rows: int) -> tuple[LayoutObjective, dict[str, torch.Tensor]]:
    """An objective and a batch of two prompts in turn, each with its pose."""
    torch.manual_seed(0)
    points = torch.from_numpy(np.stack([known(Pose.named(name).keypoints) for name in NAMES]))
    kinds = torch.arange(2)
    bank = {"keypoints": points.numpy(), "pose_family": kinds.numpy(), "view": kinds.numpy()}
    options = LayoutOptions(width=32, layers=2, heads=2, empty_share=0.0)
    objective = LayoutObjective(options, torch.zeros(4, TEXT), bank)
    words = torch.randn(2, 1, 4, TEXT).expand(2, 2, 4, TEXT)
    turns = torch.arange(rows) % 2
    told = torch.ones(rows, dtype=torch.bool)
    batch = {"words": words[turns], "keypoints": points[turns], "pose_family": turns, "view": turns}
    return objective, batch | {"pose_family_told": told, "view_told": told}


def test_the_objective_learns_which_words_mean_which_pose():
    objective, batch = two_poses(32)
    optimiser = torch.optim.Adam(objective.parameters(), 5e-3)
    before = objective.evaluate(batch)
    for step in range(80):
        losses = objective(batch, step_draws(0, step, 32))
        assert set(losses) == {"loss", "places", "seen"}
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
    after = objective.evaluate(batch)
    assert after["flow"] < 0.6 * before["flow"]
    assert after["pose_family"] == after["view"] == 1
    assert after["pose_family_truth"] == 1
    assert objective.picture(batch).shape == (3 * 192, 32 * 128, 3)


def test_unknown_places_are_not_learnt_and_those_of_hidden_limbs_are():
    objective, batch = two_poses(4)
    hidden = batch["keypoints"].clone()
    hidden[:, 0, 2] = 0  # a nose that is not seen
    hidden[:, 4, 2] = 0.5  # a wrist behind the body
    batch = batch | {"keypoints": hidden}
    assert placed(batch)[:, 0].eq(0).all()
    assert placed(batch)[:, 4].eq(1).all()
    draws = step_draws(0, 0, 4)
    times, noise = draws.uniform("time"), draws.normal("noise", 18, 3)
    squares = objective.squares(batch, batch["words"][:, 0], times, noise)
    weight = placed(batch)[..., None].expand(-1, -1, 2)
    expected = (squares[..., :2] * weight).sum() / weight.sum()
    torch.testing.assert_close(objective(batch, draws)["places"], expected.detach())


def test_rows_without_words_get_the_empty_prompt():
    objective, batch = two_poses(4)
    silent = LayoutObjective(
        LayoutOptions(width=32, layers=2, heads=2, empty_share=1.0), objective.net.empty, bank_of(batch)
    )
    silent.load_state_dict(objective.state_dict())
    losses = silent(batch, step_draws(0, 0, 4))
    empty = batch | {"words": torch.zeros_like(batch["words"])}
    torch.testing.assert_close(losses["loss"], objective(empty, step_draws(0, 0, 4))["loss"])


def bank_of(batch: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: batch[name].numpy() for name in ("keypoints", "pose_family", "view")}


def test_rows_tell_what_their_captions_tell(tmp_path: Path):
    pipe = make_mini()
    pipe.save_pretrained(tmp_path)
    cells = render_arrays("train", 0, 12, 1, HEIGHT, WIDTH)
    columns = {name: cells[name] for name in COLUMNS}
    columns["caption_without_identity"] = [
        "a person", *("a person " + text for text in ["seen from behind"] * 11)
    ]  # fmt: skip
    rows = layout_rows(columns, open_base(tmp_path))
    assert rows["words"].shape == (12, 2, 16, TEXT)
    assert not rows["pose_family_told"].any()
    np.testing.assert_array_equal(rows["view_told"][1:], cells["view"][1:] == 2)
    assert not rows["view_told"][0]
    np.testing.assert_array_equal(rows["keypoints"], known(cells["keypoints"]))
    states = pipe.encode_prompt(cells["caption"][3], "cpu", 1, False)[0]
    np.testing.assert_allclose(rows["words"][3, 0], states[0].detach(), atol=2e-3)


def test_the_stage_completes_the_pipeline(tmp_path: Path):
    pipe = make_mini()
    pipe.register_modules(detail=make_detail(), layout=make_layout(pipe))
    pipe.save_pretrained(tmp_path / "pipe")
    sizes: dict[str, Any] = {"train_size": 6, "validation_size": 2, "processes": 1}
    data = DataConfig(cache_dir=str(tmp_path / "cache"), height=HEIGHT, width=WIDTH, **sizes)
    config = TrainConfig(
        stage="layout", data=data, max_train_steps=2, train_batch_size=4,
        objective={"pipeline": str(tmp_path / "pipe"), "width": 16, "layers": 1, "heads": 2},
    )  # fmt: skip
    objective, train, held_out = build_stage(config)
    assert (len(train), len(held_out)) == (6, 2)
    losses = objective(train.batch(np.arange(4)), step_draws(0, 0, 4))
    assert torch.isfinite(losses["loss"])
    assert objective.picture(held_out.batch(np.arange(2))).shape == (3 * 192, 2 * 128, 3)
    torch.nn.init.normal_(objective.net.joints)
    objective.net.save_pretrained(tmp_path / "export" / "layout")
    objective.complete(tmp_path / "export")
    opened = BoLIDPipeline.from_pretrained(tmp_path / "export")
    assert opened.detail is not None
    silence = opened.encode_prompt("", "cpu", 1, False)[0][0]
    torch.testing.assert_close(opened.layout.empty, silence, rtol=0, atol=2e-3)
    torch.testing.assert_close(opened.layout.joints, objective.net.joints, rtol=0, atol=2e-3)
    assert opened.call_defaults() == (2, 2.0)
    assert open_base(tmp_path / "export").unet is not None
