"""The diffusion stage on tiny real networks: features, dropped conditions, gradients, export."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_pipelines import make_mini

from bolid.avatars.dataset import render_arrays
from bolid.pipeline import BoLIDPipeline
from bolid.training.components import FrozenNetworks
from bolid.training.config import TrainConfig
from bolid.training.data import Rows
from bolid.training.features import VARIANTS, compute_features, random_strengths, token_ids
from bolid.training.loop import train
from bolid.training.objectives.diffusion import DiffusionObjective, DiffusionOptions

SMALL = DiffusionOptions(
    block_out_channels=(16, 16, 32),
    attention_head_counts=(2, 2, 2),
    body_channels=(8, 8, 8),
    token_dim=16,
    grid_steps=1,
)


@pytest.fixture(scope="module")
def frozen() -> FrozenNetworks:
    pipe = make_mini()
    return FrozenNetworks(pipe.vae, pipe.image_encoder, pipe.estimator, pipe.tokenizer, pipe.text_encoder)


@pytest.fixture(scope="module")
def rows(frozen: FrozenNetworks) -> Rows:
    arrays = render_arrays("train", 0, 6, processes=1, height=64, width=48)
    return Rows(compute_features(arrays, frozen, seed=0, device=torch.device("cpu")))


def make_objective(frozen: FrozenNetworks, **changes: object) -> DiffusionObjective:
    torch.manual_seed(0)
    empty = torch.from_numpy(token_ids(frozen.tokenizer, [""]))[0]
    options = dataclasses.replace(SMALL, **changes)
    return DiffusionObjective(
        options, frozen.vae, frozen.text_encoder, empty, frozen.image_encoder.config.hidden_size
    )


def test_features_have_one_row_each_and_the_latents_size(rows):
    batch = rows.batch(np.arange(6))
    assert batch["latents"].shape == (6, 4, 8, 6)
    assert batch["appearance"].shape == (6, VARIANTS, 5, 8, 6)
    assert batch["patches"].shape[:2] == (6, 4)
    covered = batch["appearance"][:, :, -1]
    assert float(covered.min()) >= 0
    assert float(covered.max()) <= 1


def test_strengths_offer_every_kind():
    strengths = random_strengths(400, np.random.default_rng(0))
    assert strengths[:, 0].min() >= 0.7
    assert (strengths[:, 0] == 1).all(-1).mean() == pytest.approx(0.5, abs=0.1)
    assert (strengths[:, 1] == 0).mean() == pytest.approx(0.28, abs=0.05)


def test_loss_reaches_base_and_adapter(frozen, rows):
    objective = make_objective(frozen)
    for layer in objective.adapter.layers.values():  # W_l starts at zero: BodyNet would see no gradient
        torch.nn.init.normal_(layer.body.weight, std=0.1)
    objective(rows.batch(np.arange(6)))["loss"].backward()
    silent = [
        n for n, p in objective.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert not [
        n for n in silent if n.startswith("adapter.body_net") or ".to_k_id" in n or n.endswith("latents")
    ]
    assert len(silent) < 0.1 * sum(p.requires_grad for p in objective.parameters())
    assert not any(p.grad is not None for p in objective.text_encoder.parameters())


def test_everything_dropped_leaves_the_base(frozen, rows):
    objective = make_objective(
        frozen, identity_drop=1.0, pose_drop=1.0, image_prompt_share=0.0, text_drop=0.0
    )
    batch = rows.batch(np.arange(6))
    inputs, text = objective.draw_conditions(batch)
    t = torch.full((6,), 500)
    conditions = objective.adapter.conditions(inputs)
    with torch.no_grad():
        adapted = objective.unet(batch["latents"], t, text, cross_attention_kwargs=conditions.kwargs()).sample
        plain = objective.unet(batch["latents"], t, text).sample
    assert torch.equal(adapted, plain)


def test_trained_export_opens_as_a_pipeline(frozen, rows, tmp_path):
    make_mini().save_pretrained(tmp_path / "components")
    objective = make_objective(frozen, components=str(tmp_path / "components"))
    config = TrainConfig(
        output_dir=str(tmp_path / "run"),
        max_train_steps=2,
        train_batch_size=3,
        lr_warmup_steps=0,
        mixed_precision="no",
    )
    exported = train(config, objective, rows, rows)
    assert (tmp_path / "run" / "grid-2.png").is_file()
    pipe = BoLIDPipeline.from_pretrained(exported)
    pipe.set_progress_bar_config(disable=True)
    pictures = pipe(
        "on the beach", pose="sitting", num_inference_steps=2, generator=0, height=64, width=48
    ).images
    assert pictures[0].size == (48, 64)
