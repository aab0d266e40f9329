"""Rows of random features, tiny loss networks and tiny bases, for tests of the objectives on latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_pipelines import HEIGHT, WIDTH, make_mini, make_tokenizer, make_xl
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from bolid.attribute_evaluator import AttributeEvaluator
from bolid.avatars.dataset import render_arrays
from bolid.estimator import PersonEstimator
from bolid.evaluators import AppearanceEvaluator
from bolid.pose import Pose
from bolid.training.bases import FrozenBase
from bolid.training.data import Rows
from bolid.training.objectives.diffusion import DiffusionOptions
from bolid.training.objectives.evaluators import COLUMNS
from bolid.training.objectives.lightning_losses import BranchOptions

NAMES = ("vae", "unet", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler",
         "image_encoder", "feature_extractor", "estimator")  # fmt: skip
SMALL = DiffusionOptions(
    block_out_channels=(16, 16),
    attention_head_counts=(2, 2),
    body_channels=(8, 8),
    token_dim=16,
    tokens_per_part=(2, 2, 2, 1),
    grid_steps=1,
    lightning=BranchOptions(steps=2, rows=2),
)
PROMPTS = ("on a beach", "in the snow", "at home", "in a park")


def make_base(family: str = "mini", source: str = "tiny") -> FrozenBase:
    """The frozen base of a tiny pipeline."""
    pipe: Any = make_xl() if family == "xl" else make_mini()
    if family == "sd15":
        from diffusers import AutoencoderKL, DDIMScheduler

        shape: dict[str, Any] = {
            "block_out_channels": (8,) * 4,
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "norm_num_groups": 4,
        }
        scheduler = DDIMScheduler(clip_sample=False, steps_offset=1)
        pipe.register_modules(scheduler=scheduler, vae=AutoencoderKL(**shape))
    components = {name: component for name, component in pipe.components.items() if name in NAMES}
    return FrozenBase(components, source, zero_empty=family == "xl")


def make_rows(base: FrozenBase, count: int = 4, seed: int = 0) -> Rows:
    """Columns as `compute_features` gives them, of random numbers; two appearance maps a row."""
    rng = np.random.default_rng(seed)
    height, width = HEIGHT // 8, WIDTH // 8
    points = Pose.named("standing").keypoints
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(count)]

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal((count, *shape)).astype(np.float16)

    appearance = normal(2, 5, height, width)
    appearance[:, :, -1] = rng.random((count, 2, height, width))
    return Rows(
        {
            "latents": normal(4, height, width),
            "appearance": appearance,
            "strengths": np.ones((count, 2, 4), np.float16),
            "part_share": rng.integers(0, 60, (count, 4, height, width)).astype(np.uint8),
            "patches": normal(4, 16, 16),
            "present": np.ones((count, 4), bool),
            "prompt_patches": normal(16, 16),
            "keypoints": np.repeat(points[None], count, 0).astype(np.float32),
            "caption_ids": base.token_ids([f"{prompt} red hair" for prompt in prompts]),
            "plain_ids": base.token_ids(prompts),
        }
    )


def save_loss_networks(folder: Path, seed: int = 5) -> Path:
    """All four, tiny, with random weights."""
    torch.manual_seed(seed)
    PersonEstimator(height=HEIGHT, width=WIDTH, channels=(8, 8, 16), layers=1, heads=2).save_pretrained(
        folder / "pose"
    )
    pipe = make_mini(seed)
    towers = {"text_config": pipe.text_encoder.config, "vision_config": pipe.image_encoder.config}
    config = CLIPConfig(**{name: tower.to_dict() for name, tower in towers.items()}, projection_dim=8)
    CLIPModel(config).save_pretrained(folder / "text_image")
    make_tokenizer().save_pretrained(folder / "text_image")
    AppearanceEvaluator(
        attributes=("hair",),
        values=(3,),
        height=HEIGHT,
        width=WIDTH,
        head_crop=16,
        channels=(8, 8, 8),
        point_channels=4,
        hidden=16,
        embedding=8,
    ).save_pretrained(folder / "appearance")
    AttributeEvaluator(("hair",), (3,), HEIGHT, WIDTH, (16,) * 5, (8, 8), 8, 8).save_pretrained(
        folder / "attributes"
    )
    return folder


def awaken(adapter: Any) -> None:
    """W_l starts at zero, where BodyNet would see no gradient."""
    torch.manual_seed(1)
    for layer in adapter.layers.values():
        torch.nn.init.normal_(layer.body.weight, std=0.1)


def gradients(objective: Any, loss: Tensor) -> dict[str, Tensor]:
    """Of every trainable weight that has one, by name."""
    objective.zero_grad(set_to_none=True)
    loss.backward()
    return {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}


def avatar_batch(count: int, side: int) -> dict[str, Tensor]:
    """What the evaluators' objectives read, of avatars to train on, squares of `side` pixels."""
    rows = render_arrays("train", 0, count, 1, side, side)
    return Rows({name: rows[name] for name in COLUMNS if name in rows}).batch(np.arange(count))


def learn_by_heart(objective: Any, batch: dict[str, Tensor], steps: int = 60) -> tuple[Any, Any]:
    """Figures before and after some steps on one batch; every weight gets a gradient."""
    before = objective.eval().evaluate(batch)
    optimiser = torch.optim.Adam(objective.parameters(), 3e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        objective(batch)["loss"].backward()
        optimiser.step()
    assert all(p.grad is not None for p in objective.parameters())
    return before, objective.evaluate(batch)
