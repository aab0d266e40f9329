"""The rows that a GarmentNet learns from, its objective and its stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_pipelines import HEIGHT, TEXT, WIDTH, make_detail, make_mini

from bolid.appearance import appearance_map
from bolid.avatars.dataset import render_arrays
from bolid.avatars.identity import ATTRIBUTES
from bolid.pipeline import BoLIDPipeline
from bolid.plan import pixels_of
from bolid.pose import known
from bolid.training.bases import open_base
from bolid.training.config import DataConfig, TrainConfig
from bolid.training.draws import step_draws
from bolid.training.objectives.garments import (
    COLUMNS,
    NAMES,
    PROMPTS,
    GarmentObjective,
    GarmentOptions,
    GarmentWeights,
    appearance_of,
    garment_rows,
    laid_on,
)
from bolid.training.stages import build_stage

SMALL: dict[str, Any] = {"channels": (6, 8), "kernel": 3, "heads": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[dict[str, Any], dict[str, np.ndarray], Any]:
    """Columns of 24 avatars, the stage's rows of them, and the pipeline whose words they have."""
    folder, pipe = tmp_path_factory.mktemp("pipe"), make_mini()
    pipe.save_pretrained(folder)
    cells = render_arrays("train", 0, 24, 1, HEIGHT, WIDTH)
    columns = {name: cells[name] for name in COLUMNS}
    return columns, garment_rows(columns, open_base(folder), 0), pipe


def batch_of(rows: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """As `data.Rows` gives them."""
    pictures = {name: pixels_of(list(rows[name])) for name in ("image", "rgb", "skeleton")}
    return {name: torch.from_numpy(each).float() if name == "words" else torch.from_numpy(each)
            for name, each in rows.items()} | pictures  # fmt: skip


def test_prompts_name_what_they_are_said_to(made):
    columns, rows, pipe = made
    assert rows["words"].shape == (24, PROMPTS, 16, TEXT)
    assert not rows["told"][:, 0].any()
    assert rows["told"][:, 1].all()
    third = rows["told"][:, 2]
    assert third.any(0).all()
    assert not third.all(0).any()
    states = pipe.encode_prompt(columns["caption_without_identity"][3], "cpu", 1, False)[0]
    np.testing.assert_allclose(rows["words"][3, 0], states[0].detach(), atol=2e-3)
    tops = columns["labels"][:, list(ATTRIBUTES).index("top")]
    dresses = tops == ATTRIBUTES["top"].index("dress")
    assert dresses.any()
    assert (third[dresses][:, 0] == third[dresses][:, 1]).all()  # a dress is both


def test_garments_are_named_by_whole_words():
    told = {
        "a man dressed in white sneakers and a red sun hat": (False, False),
        "a woman with short hair dressed in blue trousers": (False, True),
        "a guy wearing a stripy tee on a street": (True, False),
        "a lady wearing a long red dress": (True, True),
    }
    for text, (top, bottom) in told.items():
        assert [bool(names.search(text)) for names in NAMES] == [top, bottom]


def test_maps_lack_what_words_are_to_tell(made):
    columns, rows, _ = made
    points = [torch.from_numpy(known(columns[name])) for name in ("reference_keypoints", "keypoints")]
    masks = torch.from_numpy(columns["reference_masks"])
    whole = appearance_map(pixels_of(list(columns["reference"])), masks, *points)
    kept = appearance_of(batch_of(rows))
    assert kept.shape == whole.shape
    assert kept[:, 3].mean() < 0.5 * whole[:, 3].mean()
    levels = np.unique(rows["coverage"])
    assert {0, 255} < set(levels.tolist())  # some rows are faded
    assert rows["coverage"].reshape(24, -1).max(1).min() == 0  # some have no reference
    assert (kept[:, :3].abs() <= kept[:, 3:] + 0.01).all()


def test_rows_follow_from_their_seed(made, tmp_path: Path):
    columns, rows, pipe = made
    pipe.save_pretrained(tmp_path)
    base = open_base(tmp_path)
    for name, each in garment_rows(columns, base, 0).items():
        np.testing.assert_array_equal(each, rows[name])
    assert not np.array_equal(garment_rows(columns, base, 1)["coverage"], rows["coverage"])


def test_the_objective_learns_where_named_clothes_lie(made):
    torch.manual_seed(0)
    objective = GarmentObjective(GarmentOptions(**SMALL, weights=GarmentWeights(coverage=4.0)), TEXT)
    batch = {name: each[:8] for name, each in batch_of(made[1]).items()}
    optimiser = torch.optim.Adam(objective.parameters(), 1e-2)
    before = objective.evaluate(batch)
    for step in range(150):
        losses = objective(batch, step_draws(0, step, 8))
        assert set(losses) == {"loss", "picture", "coverage"}
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
    after = objective.evaluate(batch)
    assert after["rgb"] < 0.8 * before["rgb"]
    assert after["overlap"] > before["overlap"] + 0.2
    assert after["unasked"] < 0.5 * before["unasked"]
    assert objective.picture(batch).shape == (3 * HEIGHT, 8 * WIDTH, 3)


def test_what_no_word_names_costs_no_colour(made):
    torch.manual_seed(0)
    objective = GarmentObjective(GarmentOptions(**SMALL), TEXT)
    batch = batch_of(made[1])
    silent = batch | {"told": torch.zeros_like(batch["told"])}
    losses = objective(silent, step_draws(0, 0, 24))
    assert losses["picture"] == 0
    assert losses["coverage"] > 0
    other = silent | {"image": -batch["image"]}
    assert torch.equal(objective(other, step_draws(0, 0, 24))["loss"], losses["loss"])


def test_what_networks_see_tells_no_outline():
    truth = torch.full((1, 3, 8, 8), -0.5)
    masks = torch.zeros(1, 8, 8, dtype=torch.uint8)
    masks[:, 2:6, 2:6] = 2
    masks[:, :2, 2:6] = 1
    truth[:, :, 2:6, 2:6], truth[:, :, :2, 2:6] = 0.9, 0.2
    place = torch.stack([masks == 2, masks == 3], 1).float()
    colours = torch.full_like(truth, 0.7)
    nothing, everything = torch.full((1, 2, 8, 8), -50.0), torch.full((1, 2, 8, 8), 50.0)
    bare = laid_on(truth, masks, place, colours, nothing)
    assert torch.equal(bare[:, :, :2, 2:6], truth[:, :, :2, 2:6])
    assert (bare[:, :, 2:6, 2:6] == -0.5).all()
    drawn = laid_on(truth, masks, place, colours, everything)
    torch.testing.assert_close(drawn[:, :, 2:], colours[:, :, 2:])
    assert torch.equal(drawn[:, :, :2, 2:6], truth[:, :, :2, 2:6])  # a head lies over them


def test_the_stage_completes_the_pipeline(tmp_path: Path):
    pipe = make_mini()
    pipe.register_modules(detail=make_detail())
    pipe.save_pretrained(tmp_path / "pipe")
    sizes: dict[str, Any] = {"train_size": 6, "validation_size": 2, "processes": 1}
    data = DataConfig(cache_dir=str(tmp_path / "cache"), height=HEIGHT, width=WIDTH, **sizes)
    config = TrainConfig(
        stage="garments", data=data, max_train_steps=2, train_batch_size=4,
        objective={"pipeline": str(tmp_path / "pipe"), **SMALL},
    )  # fmt: skip
    objective, train, held_out = build_stage(config)
    assert (len(train), len(held_out)) == (6, 2)
    losses = objective(train.batch(np.arange(4)), step_draws(0, 0, 4))
    losses["loss"].backward()
    assert all(each.grad is not None for each in objective.net.parameters())
    assert objective.picture(held_out.batch(np.arange(2))).shape == (3 * HEIGHT, 2 * WIDTH, 3)
    objective.net.save_pretrained(tmp_path / "export" / "garments")
    objective.complete(tmp_path / "export")
    opened = BoLIDPipeline.from_pretrained(tmp_path / "export")
    assert opened.detail is not None
    torch.testing.assert_close(opened.garments.leave.weight, objective.net.leave.weight, rtol=0, atol=2e-3)
    assert open_base(tmp_path / "export").unet is not None


def test_a_missing_loss_network_is_named(tmp_path: Path):
    weights = GarmentWeights(details=0.5)
    options = GarmentOptions(**SMALL, weights=weights, loss_networks=str(tmp_path))
    with pytest.raises(ValueError, match="attributes"):
        GarmentObjective(options, TEXT)
