"""The lightning branch: losses on the picture that a few steps draw from noise with the current adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers import DDIMScheduler
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bolid.adapter import AdapterInputs, BoLIDAdapter
from bolid.lightning import Generated, LightningOptions, lightning, text_keys
from bolid.losses import (
    Form,
    LossWeights,
    alignment_losses,
    appearance_loss,
    bumps,
    clip_loss,
    heatmap_loss,
    joint_weights,
    keypoint_loss,
)
from bolid.training.bases import TextConditions
from bolid.training.objectives.loss_networks import Kind, Sight

NETWORK: dict[str, Kind] = {  # the loss → the network it needs; alignment needs none
    "id": "pose",
    "heatmap": "pose",
    "clip": "text_image",
    "appearance": "appearance",
}
ON_PICTURES = (*NETWORK, "semantic", "layout")  # every loss of this branch
SIGMA = {True: 1.0, False: 2.0}  # cells: a joint's bump in PersonEstimator's logits and in ViTPose's maps


@dataclass(frozen=True)
class BranchOptions(LightningOptions):
    """When the branch runs, on how many rows, and the forms of its losses."""

    every: int = 1  # optimiser steps from one run of the branch to the next
    after: int = 0  # its first step: the pictures of an adapter that draws nobody yet teach noise
    rows: int = 4  # rows of the global batch it runs on: the first ones
    renoise: bool = False  # fresh noise after every step, as LCM samples; else deterministic (DDIM)
    lora: str | None = (
        None  # few-step LoRA (LCM, Lightning, Hyper): file, folder or Hub id; on this branch only
    )
    lora_strength: float = 1.0  # its scale
    form: Form = "huber"  # of L_id; "square" is the source's plain sum of squares
    delta: float = 0.1  # of the Huber form: the person's scale times this is where it turns straight
    margin: float = 0.0  # of the appearance loss: below it two pictures count as of one person

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 1 or self.rows < 1:
            raise ValueError(f"lightning.every={self.every}, rows={self.rows}: 1 or more is needed.")
        if self.after < 0:
            raise ValueError(f"lightning.after={self.after}: a number of steps from 0 on is needed.")

    def runs_at(self, step: int) -> bool:
        """Whether the branch runs at this optimiser step (the first is 0)."""
        return step >= self.after and step % self.every == 0


def active_losses(weights: LossWeights) -> list[str]:
    """The losses of this branch that have a weight."""
    return [name for name in ON_PICTURES if getattr(weights, name)]


def networks_needed(weights: LossWeights) -> list[Kind]:
    """The loss networks that these weights ask for, each once."""
    return list(dict.fromkeys(NETWORK[name] for name in active_losses(weights) if name in NETWORK))


def few_step_scheduler(scheduler: Any) -> DDIMScheduler:
    """DDIM of a scheduler's noise, whose first step is at the last time step, from pure noise on."""
    made: Any = DDIMScheduler.from_config(
        scheduler.config, timestep_spacing="trailing", clip_sample=False, thresholding=False
    )
    return made


@dataclass(frozen=True)
class Task:
    """What the branch is to draw: k rows with their conditions, and what is true of them.

    noise, latents: [k, C, h, w], latents those of the true picture; keypoints: [k, 18, 3] of the pose asked
    for; words: the prompts; renoise: [steps - 1, k, C, h, w] or None.
    """

    noise: Tensor
    inputs: AdapterInputs
    text: TextConditions
    latents: Tensor
    keypoints: Tensor
    words: list[str]
    renoise: Tensor | None = None


class LightningBranch(nn.Module):
    """Roll-out, decoding and the losses that have a weight. Its networks are frozen and stay float32.

    Args:
        networks: by kind, from `load_loss_networks`; those of `networks_needed(weights)`.
    """

    def __init__(self, options: BranchOptions, weights: LossWeights, networks: dict[str, nn.Module]) -> None:
        super().__init__()
        self.options = options
        self.active = tuple(active_losses(weights))
        self.networks: Any = nn.ModuleDict(networks)

    def train(self, mode: bool = True) -> LightningBranch:  # noqa: ARG002 - frozen networks do not train
        return super().train(False)

    def forward(
        self, unet: Any, adapter: BoLIDAdapter, scheduler: Any, decode: Callable[[Tensor], Tensor], task: Task
    ) -> dict[str, Tensor]:
        """Losses by the names of `LossWeights`, [k] each, float32.

        scheduler: `few_step_scheduler`'s; decode: latents → pixels in [-1, 1], differentiable.
        """
        align = {"semantic", "layout"} & set(self.active)
        record = adapter.layer_names if align else ()
        made = self.roll_out(unet, scheduler, task, adapter.conditions(task.inputs), record)
        losses: dict[str, Tensor] = {}
        if align:
            losses |= self._alignment(unet, adapter, scheduler, task, made)
        if len(self.networks):
            with torch.autocast(task.noise.device.type, enabled=False):
                losses |= self._on_pixels(decode, made.latents.float(), task)
        return {name: losses[name] for name in self.active}

    def roll_out(self, unet: Any, scheduler: Any, task: Task, conditions: Any, record: Any = ()) -> Generated:
        """The few steps from the task's noise, with gradients by the options' mode."""
        return lightning(
            unet,
            scheduler,
            task.noise,
            task.text.states,
            conditions,
            self.options,
            record=record,
            renoise=task.renoise,
            added_cond_kwargs=task.text.added,
        )

    def _alignment(
        self, unet: Any, adapter: BoLIDAdapter, scheduler: Any, task: Task, made: Generated
    ) -> dict[str, Tensor]:
        """PuLID's: the same prompt, pose and noise without the identity must ask the same of the text."""
        layers = adapter.layer_names
        with torch.no_grad():
            nobody = adapter.conditions(task.inputs.without_identity())
            without = self.roll_out(unet, scheduler, task, nobody, layers)
        keys = text_keys(unet, task.text.states, layers)
        with torch.autocast(task.noise.device.type, enabled=False):
            return alignment_losses(made.queries, without.queries, keys)

    def _on_pixels(
        self, decode: Callable[[Tensor], Tensor], latents: Tensor, task: Task
    ) -> dict[str, Tensor]:
        again = self.options.checkpoint and torch.is_grad_enabled()
        pixels: Any = checkpoint(decode, latents, use_reentrant=False) if again else decode(latents)
        with torch.no_grad():
            truth = decode(task.latents) if {"pose", "appearance"} & set(self.networks) else None
        losses: dict[str, Tensor] = {}
        if "pose" in self.networks:
            assert truth is not None
            losses |= self._pose(pixels, truth, task.keypoints)
        if "text_image" in self.networks:
            network = self.networks["text_image"]
            losses["clip"] = clip_loss(network.pictures(pixels), network.texts(task.words))
        if "appearance" in self.networks:
            assert truth is not None
            network = self.networks["appearance"]
            with torch.no_grad():
                person = network(truth, task.keypoints)
            losses["appearance"] = appearance_loss(
                network(pixels, task.keypoints), person, self.options.margin
            )
        return losses

    def _pose(self, pixels: Tensor, truth: Tensor, target: Tensor) -> dict[str, Tensor]:
        """L_id and the heat-map loss beside it; joints count by the target picture alone."""
        network, size = self.networks["pose"], (pixels.shape[-2], pixels.shape[-1])
        with torch.no_grad():
            confidence = network(truth, target).confidence
        sight: Sight = network(pixels, target)
        losses = {}
        if "id" in self.active:
            losses["id"] = keypoint_loss(
                sight.places, target, size, confidence, self.options.form, self.options.delta
            )
        if "heatmap" in self.active:
            cells = (sight.heatmaps.shape[-2], sight.heatmaps.shape[-1])
            spread = target.new_full((len(target),), SIGMA[sight.logits]).float()
            wanted = bumps(sight.framed(target), cells, spread)
            weight = joint_weights(target, confidence)
            losses["heatmap"] = heatmap_loss(sight.heatmaps, wanted, weight, sight.logits)
        return losses
