"""The main objective (Eq. 1): base and adapter together, or the adapter alone on a frozen base."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bolid.adapter import AdapterInputs, BoLIDAdapter
from bolid.baselines.body import BodyAdapter
from bolid.losses import (
    LossWeights,
    answer_loss,
    perceptual_loss,
    picture_loss,
    reconstruction_loss,
    snr_weight,
    total,
)
from bolid.training.bases import FrozenBase, TextConditions
from bolid.training.draws import Draws
from bolid.training.objectives.conditions import Given, chosen_ids, draw_conditions
from bolid.training.objectives.critic import Critic
from bolid.training.objectives.draft import Draft
from bolid.training.objectives.export import complete_pipeline
from bolid.training.objectives.few_step import (
    FewStepOptions,
    few_step_rows,
    noised,
    require_zero_snr,
    x0_huber,
    x0_of,
)
from bolid.training.objectives.few_step_lora import with_few_step_lora
from bolid.training.objectives.latent import LatentObjective, LatentOptions, read_adapter, training_schedule
from bolid.training.objectives.lightning_losses import (
    BranchOptions,
    LightningBranch,
    Task,
    active_losses,
    few_step_scheduler,
    networks_needed,
)
from bolid.training.objectives.loss_networks import Kind, load_loss_networks
from bolid.training.objectives.mini_unet import UNetOptions, mini_scheduler, mini_unet

PERCEIVERS: dict[str, Kind] = {
    "perceptual": "appearance",
    "details": "attributes",
    "answers": "attributes",
}
"""Losses on what a network sees in decoded pictures, and the network that each sees them by."""

STEPS = 20
"""Of an exported pipeline's call, where rows are not trained for few-step sampling."""
FREE_STEPS, FREE_GUIDANCE = 10, 2.0
"""Of its call without a pose, where the others are: 20 steps kept no more of the person (docs/LOG.md)."""


@dataclass(frozen=True)
class AdapterOptions:
    """Shape of a new adapter."""

    method: str = "bolid"  # or a compared one: bolid.baselines.body_methods
    body_channels: tuple[int, ...] = (80, 96, 112)  # BodyNet's per level
    body_blocks: tuple[int, ...] = (1,)  # BodyNet's residual blocks per level, or one number for all
    token_dim: int = 96  # width of identity and image tokens
    tokens_per_part: tuple[int, ...] = (8, 8, 8, 4)  # identity tokens of head, upper, lower, feet
    resampler_width: int = 128  # inner width; ComfyUI's nodes read the official one alone (bolid.export)
    resampler_depth: int = 2
    resampler_heads: int = 4


@dataclass(frozen=True)
class DiffusionOptions(LatentOptions, UNetOptions, AdapterOptions):
    """Options of the diffusion stage."""

    few_step: FewStepOptions = field(default_factory=FewStepOptions)  # L_rec for few-step sampling
    weights: LossWeights = field(default_factory=LossWeights)  # λ of every loss (Eq. 1); 0 is off
    picture_rows: int = 6  # of the global batch: whose decoded x0 `picture` and `PERCEIVERS` see
    lightning: BranchOptions = field(default_factory=BranchOptions)  # of the losses on few-step pictures
    loss_networks: str | None = None  # a folder of them: see loss_networks.py
    critic: str | None = None  # folder of a trained one, for weights.adversarial; None: a new one


class DiffusionObjective(LatentObjective):
    """Eq. 1's losses of one batch: L_rec on latents, and on the lightning branch's pictures all others.

    Conditions are dropped at random by row; every random number comes from `Draws`.

    Args:
        base: opened by `bases.open_base`: `options.base`, or without one `options.components`, whose UNet
            (if any) is left aside and a new one trained.

    Raises:
        ValueError: a loss has a weight and its network is missing, or the weights leave nothing to do.
    """

    def __init__(self, options: DiffusionOptions, base: FrozenBase):
        if options.base is None:
            base.unet, scheduler = None, mini_scheduler()
            text_dim = base.text_encoders[0].config.hidden_size
            unet: Any = mini_unet(options, base.vae.config.latent_channels, text_dim)
        else:
            unet, scheduler = base.require("unet"), training_schedule(base)
        adapter = open_adapter(options, unet, base)
        # plain matrix products are the cheaper attention on a CPU at these sizes
        adapter.attach(unet, matmul=not torch.cuda.is_available())
        super().__init__(options, base, unet, adapter, scheduler)
        self.options = options
        self.models: dict[str, Any] = {"adapter": adapter}
        if options.base is None:
            self.models = {"unet": unet, "adapter": adapter}
        if options.few_step.share:
            require_zero_snr(scheduler)
        self.branch, self.few_step_unet = self._open_branch()
        self.draft = Draft(adapter) if options.weights.draft else None
        self.critic = self._open_critic(adapter)
        self.companions = {} if self.critic is None else {"critic": self.critic}
        seen_by: dict[str, Kind] = {
            name: kind for name, kind in PERCEIVERS.items() if getattr(options.weights, name)
        }
        networks = load_loss_networks(options.loss_networks, seen_by.values())
        self.perceivers = nn.ModuleDict({name: networks[kind] for name, kind in seen_by.items()})

    def _open_branch(self) -> tuple[LightningBranch | None, Any]:
        """The lightning branch and the UNet with its LoRA; neither exists where no weight asks for it."""
        o = self.options
        each_step = o.lightning.every == 1 and o.lightning.after == 0
        always = o.weights.rec or o.weights.draft or (active_losses(o.weights) and each_step)
        if not always:
            raise ValueError(
                "objective.weights.rec=0 needs the draft, or a loss on pictures, with a weight at every step "
                "(objective.lightning.every=1, after=0): else there are steps without any loss."
            )
        for name in ("picture", *PERCEIVERS):
            if getattr(o.weights, name) and not o.weights.rec:
                raise ValueError(
                    f"objective.weights.{name} decodes what rec predicts: give weights.rec a weight."
                )
        if o.weights.adversarial and not (o.weights.rec and o.few_step.share):
            raise ValueError(
                "objective.weights.adversarial judges few-step pictures: give weights.rec and few_step.share "
                "a value."
            )
        if not active_losses(o.weights):
            return None, None
        networks = load_loss_networks(o.loss_networks, networks_needed(o.weights))
        branch = LightningBranch(o.lightning, o.weights, networks)
        if o.lightning.lora is None:
            return branch, None
        lora = with_few_step_lora(self.unet, o.lightning.lora, o.lightning.lora_strength, self.base.is_xl)
        return branch, lora

    def _open_critic(self, adapter: BoLIDAdapter) -> Critic | None:
        """The critic of `weights.adversarial`; none where that is 0."""
        folder = self.options.critic
        if not self.options.weights.adversarial:
            if folder is not None:
                raise ValueError(f"objective.critic={folder!r} needs objective.weights.adversarial above 0.")
            return None
        return Critic.for_adapter(adapter) if folder is None else Critic.open(folder, adapter)

    def forward(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """batch: the columns of bolid.training.features.compute_features, as tensors, or raw rows.

        Returns scalars, each the mean over the global batch: "loss", its terms by name, and the plain error
        of what the UNet predicts.
        """
        batch = self.features(batch, draws)
        losses: dict[str, Tensor] = {}
        figures: dict[str, Tensor] = {}
        given = draw_conditions(self.adapter, batch, self.options, draws, self.base.fold)
        if self.options.weights.rec:
            losses, figures = self.reconstruction(batch, given, draws)
        if self.draft is not None:
            losses["draft"] = draws.mean(self.draft(given.inputs, batch, self.pixel_weight(batch)))
        if self.branch is not None and self.options.lightning.runs_at(draws.step):
            losses |= self.on_pictures(batch, draws)
        figures |= {name: value.detach() for name, value in losses.items()}
        critics_own = losses.pop("critic", 0.0)  # no λ: it reaches the critic alone
        return {"loss": total(losses, self.options.weights) + critics_own, **figures}

    def reconstruction(
        self, batch: dict[str, Tensor], given: Given, draws: Draws
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """{"rec": L_rec, weighted by pixel and signal-to-noise ratio; with a weight also "picture" and
        those of `PERCEIVERS` of x0 decoded, "critic" and "adversarial"}, and the plain error as a figure;
        means over the global batch.
        """
        latents = batch["latents"]
        noise = draws.normal("noise", *latents.shape[1:])
        steps = draws.integers("timestep", self.scheduler.config.num_train_timesteps)
        text, rows = self.encode(batch, given), None
        noisy = self.scheduler.add_noise(latents, noise, steps)
        if self.options.few_step.share:
            rows = few_step_rows(self.options.few_step, self.scheduler, steps, posed(given.inputs), draws)
            noisy = noised(self.scheduler, latents, noise, rows, partial(self.first_x0, noise, text, given))
            steps = rows.steps
        prediction = self.call_unet(noisy, steps, text, given.inputs)
        target, pixel, alphas = (
            self.truth(latents, noise, steps),
            self.pixel_weight(batch),
            self.alphas(steps),
        )
        weight = snr_weight(alphas, self.options.snr_gamma, self.prediction)
        loss = weight * reconstruction_loss(prediction, target, weight=pixel)
        losses, x0 = {}, x0_of(prediction, noisy, alphas, self.prediction)
        if rows is not None:
            few = x0_huber(x0, latents, pixel, self.options.few_step.huber)
            loss = torch.where(rows.few, few, loss)
        if self.options.weights.picture or self.perceivers:
            losses |= self.decoded(x0, batch, pixel, draws)
        if self.critic is not None and rows is not None:
            losses |= self.judged(self.critic, x0, latents, given.inputs, rows.last, draws)
        figures = {self.error_name: draws.mean(reconstruction_loss(prediction.detach(), target))}
        return losses | {"rec": draws.mean(loss)}, figures

    def decoded(self, x0: Tensor, batch: dict[str, Tensor], pixel: Tensor, draws: Draws) -> dict[str, Tensor]:
        """L_picture and the losses of `PERCEIVERS` by their names, as far as they have a weight, of the first
        `picture_rows` rows of the global batch against their decoded truth.
        """
        count, weights = self.options.picture_rows, self.options.weights
        chosen = draws.first(count)
        values = {name: x0.new_zeros(0) for name in ("picture", *PERCEIVERS) if getattr(weights, name)}
        if len(chosen):
            with torch.no_grad():
                truth = self.base.decode(batch["latents"][chosen])
            weight = functional.interpolate(pixel[chosen], truth.shape[-2:])
            picture = self.base.decode(x0[chosen])
            if weights.picture:
                values["picture"] = picture_loss(picture, truth, weight)
            for name, network in self.perceivers.items():
                values[name] = perceived(name, network, picture, truth, batch["keypoints"][chosen], weight)
        return {name: draws.mean_of_first(value.float(), count) for name, value in values.items()}

    @staticmethod
    def judged(
        critic: Critic, x0: Tensor, latents: Tensor, inputs: AdapterInputs, last: Tensor, draws: Draws
    ) -> dict[str, Tensor]:
        """The critic's and the adversarial loss of the rows `last` (bool [B]), the others counting 0.

        Where there is none the first row goes through and counts 0 too: processes wait for each other's
        gradients.
        """
        chosen = (
            last.nonzero()[:, 0]
            if bool(last.any())
            else torch.zeros(1, dtype=torch.int64, device=last.device)
        )
        noise = draws.normal("critic", *latents.shape[1:])[chosen]
        values = critic.losses(x0[chosen], latents[chosen].float(), inputs[chosen], noise)
        whole = latents.new_zeros(len(last)).float()
        values = {name: value * last[chosen] for name, value in values.items()}
        return {name: draws.mean(whole.index_put((chosen,), value)) for name, value in values.items()}

    def first_x0(self, noise: Tensor, text: TextConditions, given: Given, rows: Tensor) -> Tensor:
        """x0 [k, C, h, w] as the model sees it in pure noise, of the rows int64 [k]; no terminal SNR: -v."""
        steps = torch.full_like(rows, self.scheduler.config.num_train_timesteps - 1)
        return -self.call_unet(noise[rows], steps, text[rows], given.inputs[rows]).float()

    def on_pictures(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """The lightning branch's losses: means over the first `lightning.rows` of the global batch."""
        assert self.branch is not None
        count = self.options.lightning.rows
        if count > draws.total or count % draws.processes:
            raise ValueError(
                f"objective.lightning.rows={count} of a global batch of {draws.total} rows in "
                f"{draws.processes} process(es): at most {draws.total}, and a multiple of {draws.processes}."
            )
        chosen = draws.first(count)
        values = {name: batch["latents"].new_zeros(0).float() for name in self.branch.active}
        if len(chosen):
            unet = self.unet if self.few_step_unet is None else self.few_step_unet
            task = self.task(batch, draws, chosen)
            scheduler = few_step_scheduler(self.scheduler)
            values = self.branch(unet, self.adapter, scheduler, self.base.decode, task)
        return {name: draws.mean_of_first(value.float(), count) for name, value in values.items()}

    def task(self, batch: dict[str, Tensor], draws: Draws, chosen: Tensor) -> Task:
        """What the branch draws: the chosen rows (int64 [k]) with all their conditions."""
        o, shape = self.options, batch["latents"].shape[1:]
        noise = draws.normal("lightning/noise", *shape)[chosen]
        plain = (draws.uniform("lightning/plain") < o.plain_share)[chosen]
        renoise = None
        if o.lightning.renoise and o.lightning.steps > 1:
            fresh = draws.normal("lightning/renoise", o.lightning.steps - 1, *shape)[chosen]
            renoise = fresh.transpose(0, 1)
        rows = {name: column[chosen] for name, column in batch.items()}
        inputs = self.inputs(rows).without_image()
        assert inputs.strength is not None
        plain = plain & (inputs.strength > 0).all(1)  # words may tell what the reference does not
        given = Given(inputs, chosen_ids(rows, plain), torch.zeros_like(plain))
        words = self.base.tokenizers[0].batch_decode(
            given.ids[:, 0] if given.ids.ndim == 3 else given.ids, skip_special_tokens=True
        )
        text = self.encode(rows, given)
        return Task(noise, inputs, text, rows["latents"].float(), rows["keypoints"].float(), words, renoise)

    def complete(self, folder: Path) -> None:
        """Turn an export into what people open; see `export.complete_pipeline`."""
        o = self.options
        defaults: dict[str, Any] | None = None
        if o.base is None:
            defaults = {"default_steps": STEPS, "default_guidance_scale": o.grid_guidance}
            if o.few_step.share:
                defaults |= {
                    "default_steps": o.few_step.steps,
                    "default_steps_unposed": FREE_STEPS,
                    "default_guidance_scale_unposed": FREE_GUIDANCE,
                }
        complete_pipeline(folder, self.base, self.scheduler, defaults)


def posed(inputs: AdapterInputs) -> Tensor:
    """bool [B]: rows with a body condition."""
    assert inputs.pose_strength is not None
    return inputs.pose_strength > 0


def open_adapter(options: DiffusionOptions, unet: Any, base: FrozenBase) -> BoLIDAdapter:
    """The adapter of `options.adapter`, or a new one of `options.method` that fits the UNet."""
    if options.adapter is not None:
        return read_adapter(options.adapter, unet)
    names = [each.name for each in fields(AdapterOptions) if each.name != "method"]
    shape = {name: getattr(options, name) for name in names}
    if options.method != "bolid":
        vision = base.require("image_encoder").config
        return BodyAdapter.for_method(options.method, unet, vision, **shape)
    return BoLIDAdapter.for_unet(unet, vision_dim=base.vision_dim, **shape)


def perceived(
    name: str, network: Any, picture: Tensor, truth: Tensor, keypoints: Tensor, weight: Tensor
) -> Tensor:
    """The loss [k] of `PERCEIVERS` of pictures [k, 3, H, W] against the truth; the network stays float32."""
    with torch.autocast(picture.device.type, enabled=False):
        points, picture, truth = keypoints.float(), picture.float(), truth.float()
        if name == "answers":
            with torch.no_grad():
                named = network.answers(truth, points)
            return answer_loss(network.answers(picture, points), named)
        with torch.no_grad():
            wanted, weights = network.maps(truth, points, weight.float())
        seen, _ = network.maps(picture, points, weight.float())
        return perceptual_loss(seen, wanted, weights)
