"""A tiny UNet with an adapter that acts, and a batch, for tests of the lightning branch."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from tiny_unets import make_unet
from torch import Tensor

from bolid.adapter import AdapterInputs, BoLIDAdapter
from bolid.attention import Conditions
from bolid.lightning import Generated, LightningOptions, lightning
from bolid.training.objectives.mini_unet import mini_scheduler

STEPS = 3


class Scene:
    """A tiny UNet of bolid-mini's shape with an attached adapter whose layers all act, and a batch of two."""

    def __init__(self) -> None:
        self.unet: UNet2DConditionModel = make_unet("mini")[0].requires_grad_(False)
        torch.manual_seed(0)
        self.adapter = BoLIDAdapter.for_unet(
            self.unet, vision_dim=16, resampler_width=16, resampler_heads=2, body_channels=(8, 8, 8)
        )
        bodies = [p for n, p in self.adapter.named_parameters() if n.endswith(".body.weight")]
        for weight in bodies:
            torch.nn.init.normal_(weight, std=0.2)
        self.adapter.attach(self.unet)
        self.noise, self.text = torch.randn(2, 4, 12, 8), torch.randn(2, 7, 64)
        self.patches, self.skeleton = torch.randn(2, 4, 9, 16), torch.rand(2, 3, 96, 64)
        self.scheduler = mini_scheduler()

    def inputs(self) -> AdapterInputs:
        return self.adapter.inputs(patches=self.patches, skeleton=self.skeleton)

    def run(self, mode: Any, conditions: Conditions | None = None, **options: Any) -> Generated:
        given = {"last": options.pop("last", 1), "steps": options.pop("steps", STEPS)}
        given["checkpoint"] = options.pop("checkpoint", True)
        conditions = self.adapter.conditions(self.inputs()) if conditions is None else conditions
        chosen = LightningOptions(mode=mode, **given)
        return lightning(self.unet, self.scheduler, self.noise, self.text, conditions, chosen, **options)

    def gradients(self, latents: Tensor) -> dict[str, Tensor]:
        """Of the adapter's weights, by name; all that have one."""
        self.adapter.zero_grad(set_to_none=True)
        latents.square().mean().backward()
        return {n: p.grad.clone() for n, p in self.adapter.named_parameters() if p.grad is not None}
