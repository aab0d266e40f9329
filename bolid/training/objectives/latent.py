"""What the stages on latents share: the base, the adapter, the conditions, held-out figures, the grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.schedulers import DDIMScheduler
from torch import Tensor, nn

from bolid.adapter import AdapterInputs, BoLIDAdapter
from bolid.losses import keypoint_weights, reconstruction_loss
from bolid.training.augmentation import Augment
from bolid.training.bases import FrozenBase, TextConditions
from bolid.training.draws import Draws
from bolid.training.features import in_step
from bolid.training.objectives.conditions import (
    ConditionOptions,
    Given,
    batch_inputs,
    draw_skeletons,
    encode_prompts,
    on_device,
)
from bolid.training.objectives.grid import sample_grid


@dataclass(frozen=True)
class LatentOptions(ConditionOptions):
    """Options that the stages on latents share."""

    components: str = (
        "runs/mini-components"  # folder of the frozen vae, text_encoder, tokenizer, image_encoder, estimator
    )
    base: str | None = None  # pipeline folder or Hub id: its UNet is frozen and the adapter alone learns
    image_encoder: str | None = None  # CLIP vision model for a base that has none
    adapter: str | None = None  # folder of a trained adapter to go on from; its shape replaces the options'
    person_weight: float = 2.0  # loss weight of latent pixels of the person against the background's
    head_weight: float = 4.0  # the same for the head
    feet_weight: float = 2.0  # the same for the feet
    keypoint_gain: float = 0.0  # more weight at the joints, in multiples of a pixel's own; 0: none
    snr_gamma: float = 5.0  # γ of the weighting by signal-to-noise ratio, see `losses.snr_weight`
    grid_guidance: float = 2.0  # guidance of the validation grid
    grid_steps: int = 6  # its steps


class LatentObjective(nn.Module):
    """An objective on latents. The UNet that learns or is learned on, an adapter attached to it.

    Rows come as features, or as raw pictures whose features are computed in the step; `augmentation` and
    `estimate` say how (see `features.in_step`), set by the stage.

    Args:
        scheduler: DDIM, its prediction type epsilon or v_prediction.
    """

    models: dict[str, Any]
    augmentation: Augment = "own"
    estimate: bool = False

    def __init__(
        self, options: LatentOptions, base: FrozenBase, unet: Any, adapter: BoLIDAdapter, scheduler: Any
    ) -> None:
        super().__init__()
        self.common, self.base = options, base
        self.unet, self.adapter, self.scheduler = unet, adapter, scheduler
        self.prediction = scheduler.config.prediction_type
        self.empty = base.empty_text(1)

    @property
    def error_name(self) -> str:
        """Name of the plain error's figure."""
        return "v_error" if self.prediction == "v_prediction" else "epsilon_error"

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the feed's thread does ahead of the step: draws the skeleton maps. Raw rows may still be
        mirrored.
        """
        if "latents" not in batch:
            return batch
        return batch | {"skeleton": draw_skeletons(batch, self.base.fold)}

    def features(self, batch: dict[str, Tensor], draws: Draws | None = None) -> dict[str, Tensor]:
        """The rows' features; None: of held-out rows, the same each time."""
        if "latents" in batch:
            return batch
        if draws is None:
            count = len(batch["keypoints"])
            draws = Draws(0, 0, np.arange(count), count, batch["keypoints"].device)
            return in_step(batch, self.base, draws, "none", self.estimate)
        return in_step(batch, self.base, draws, self.augmentation, self.estimate)

    def predict(
        self, latents: Tensor, noise: Tensor, steps: Tensor, text: TextConditions, inputs: AdapterInputs
    ) -> tuple[Tensor, Tensor]:
        """What the UNet predicts at `steps` [B], and what is true: v or ε, [B, C, h, w]."""
        noisy = self.scheduler.add_noise(latents, noise, steps)
        return self.call_unet(noisy, steps, text, inputs), self.truth(latents, noise, steps)

    def call_unet(self, noisy: Tensor, steps: Tensor, text: TextConditions, inputs: AdapterInputs) -> Tensor:
        """v or ε [B, C, h, w] as the UNet with the adapter sees it in `noisy` at `steps` [B]."""
        conditions = self.adapter.conditions(inputs)
        return self.unet(noisy, steps, cross_attention_kwargs=conditions.kwargs(), **text.kwargs()).sample

    def truth(self, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """What the UNet is to predict."""
        return noise if self.prediction == "epsilon" else self.scheduler.get_velocity(latents, noise, steps)

    def alphas(self, steps: Tensor) -> Tensor:
        """ᾱ_t [B] at `steps` [B], float32."""
        return self.scheduler.alphas_cumprod.to(steps.device)[steps]

    def pixel_weight(self, batch: dict[str, Tensor]) -> Tensor:
        """[B, 1, h, w] of mean 1 per row, from the share of each part in each latent pixel (part_share uint8
        [B, 4, h, w]) and, with `keypoint_gain`, from the visible joints."""
        share = batch["part_share"].float() / 255
        o = self.common
        parts = (o.head_weight, o.person_weight, o.person_weight, o.feet_weight)
        excess = share.new_tensor(parts).view(1, -1, 1, 1) - 1
        weight = 1 + (excess * share).sum(1, keepdim=True)
        if o.keypoint_gain:
            size = (share.shape[-2], share.shape[-1])
            weight = weight * keypoint_weights(batch["keypoints"].float(), size, o.keypoint_gain)
        return weight / weight.mean((2, 3), keepdim=True)

    def encode(self, batch: dict[str, Tensor], given: Given) -> TextConditions:
        """The rows' prompts as the UNet takes them."""
        return encode_prompts(self.base, batch, given, on_device(self.empty, batch["latents"].device))

    def inputs(self, batch: dict[str, Tensor]) -> AdapterInputs:
        """All conditions of the rows with the whole appearance map, nothing dropped."""
        count = len(batch["latents"])
        variant = torch.zeros(count, dtype=torch.int64, device=batch["latents"].device)
        return batch_inputs(self.adapter, batch, variant, self.base.fold)

    def whole(self, batch: dict[str, Tensor]) -> Given:
        """All conditions of the rows but the image prompt; the prompt does not tell the person."""
        inputs = self.inputs(batch).without_image()
        never = torch.zeros(len(batch["latents"]), dtype=torch.bool, device=batch["latents"].device)
        return Given(inputs, batch["plain_ids"], never)

    @torch.no_grad()
    def evaluate(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Held-out error of what the UNet predicts, with all conditions and with text alone."""
        batch = self.features(batch)
        latents, count = batch["latents"], len(batch["latents"])
        noise, steps = torch.randn_like(latents), torch.linspace(50, 999, count, device=latents.device).long()
        whole = self.whole(batch)
        alone = replace(
            whole, inputs=whole.inputs.without_identity().without_pose(), ids=batch["caption_ids"]
        )
        figures = {}
        for name, given in (("", whole), ("_text_only", alone)):
            pair = self.predict(latents, noise, steps, self.encode(batch, given), given.inputs)
            figures[self.error_name + name] = float(reconstruction_loss(*pair).mean())
        return figures

    @torch.no_grad()
    def picture(self, batch: dict[str, Tensor]) -> np.ndarray:
        """A validation grid, uint8 [H, W, 3]; a column a row of the batch: map | skeleton | pose given |
        tokens only | truth."""
        batch = self.features(batch)
        given = self.whole(batch)
        text = self.encode(batch, given)
        empty = self.encode(batch, replace(given, no_text=~given.no_text))
        return sample_grid(self, batch, given.inputs, text, empty)


def training_schedule(base: FrozenBase) -> DDIMScheduler:
    """The base's own noise schedule. Raises ValueError where it predicts neither v nor epsilon."""
    scheduler: Any = DDIMScheduler.from_config(base.scheduler.config)
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"the base {base.source!r} predicts {scheduler.config.prediction_type!r}: only epsilon and "
            "v_prediction can be trained."
        )
    return scheduler


def read_adapter(folder: str, unet: Any) -> BoLIDAdapter:
    """The trained adapter in a folder, or in its sub-folder `adapter`, float32.

    Raises ValueError when there is none, or it was made for another UNet.
    """
    from bolid.loading import adapter_class, require_fit

    place = Path(folder) / "adapter"
    place = place if (place / "config.json").is_file() else Path(folder)
    config = place / "config.json"
    if not config.is_file() or "layer_table" not in config.read_text():
        raise ValueError(
            f"{folder!r} holds no adapter: give a pipeline's folder, or the folder that an adapter's "
            "config.json is in (objective.adapter)."
        )
    adapter = adapter_class(place).from_pretrained(place, torch_dtype=torch.float32)
    require_fit(adapter, unet)
    return adapter
