"""The main objective: base and adapter together, every condition dropped at random; or the adapter alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers import DDIMScheduler
from torch import Tensor, nn

from bolid.adapter import AdapterInputs, BoLIDAdapter
from bolid.lightning import roll_out
from bolid.losses import reconstruction_loss, snr_weight
from bolid.pose import skeleton_map
from bolid.training.components import load_components


@dataclass(frozen=True)
class DiffusionOptions:
    """Options of the diffusion stage."""

    components: str = (
        "runs/mini-components"  # folder of the frozen vae, text_encoder, tokenizer, image_encoder, estimator
    )
    base: str | None = (
        None  # folder with a trained `unet`: its weights are frozen and the adapter alone learns
    )
    block_out_channels: tuple[int, ...] = (96, 128, 128)  # of a new UNet, finest level first
    layers_per_block: int = 1  # of a new UNet
    attention_head_counts: tuple[int, ...] = (3, 4, 4)  # heads (not widths) per level
    body_channels: tuple[int, ...] = (80, 96, 128)  # BodyNet's per level
    body_blocks: int = 1  # BodyNet's residual blocks per level
    token_dim: int = 96  # width of identity and image tokens
    tokens_per_part: tuple[int, ...] = (8, 8, 8, 4)  # identity tokens of head, upper, lower, feet
    text_drop: float = 0.1  # share of rows without a prompt
    identity_drop: float = 0.12  # share without identity (tokens and map)
    map_drop: float = 0.08  # share that keeps its tokens and loses the appearance map
    pose_drop: float = 0.15  # share without any body condition: identity by tokens alone
    faded_share: float = 0.3  # share whose appearance map has parts faded or absent
    image_prompt_share: float = 0.3  # share of rows that see an image prompt
    plain_share: float = 0.6  # among rows with an identity: prompts without identity words
    person_weight: float = 2.0  # loss weight of latent pixels of the person against the background's
    head_weight: float = 4.0  # the same for the head
    snr_gamma: float = 5.0  # γ of the weighting by signal-to-noise ratio, see DiffusionObjective
    grid_guidance: float = 2.0  # guidance of the validation grid
    grid_steps: int = 6  # its steps


def mini_scheduler() -> DDIMScheduler:
    """v-prediction on a schedule that ends in pure noise: few-step sampling sees in training what it meets
    later."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # stock pipelines insist on it; trailing spacing does not use it
    )


def mini_unet(options: DiffusionOptions, latent_channels: int, text_dim: int) -> UNet2DConditionModel:
    """The UNet of bolid-mini: cross-attention at every level, self-attention where it is cheap (not at the
    finest).

    `addition_embed_type="text"` adds the attention-pooled prompt to the time embedding; a stock SD 1.5
    pipeline
    drives it without extra arguments.
    """
    levels = len(options.block_out_channels)
    return UNet2DConditionModel(
        sample_size=(24, 16),  # pyright: ignore[reportArgumentType]
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=options.block_out_channels,
        layers_per_block=options.layers_per_block,
        down_block_types=("CrossAttnDownBlock2D",) * levels,  # pyright: ignore[reportArgumentType]
        up_block_types=("CrossAttnUpBlock2D",) * levels,  # pyright: ignore[reportArgumentType]
        only_cross_attention=(True,) + (False,) * (levels - 1),  # pyright: ignore[reportArgumentType]
        attention_head_dim=options.attention_head_counts,  # pyright: ignore[reportArgumentType] # heads, by its meaning
        cross_attention_dim=text_dim,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        norm_num_groups=16,
    )


class DiffusionObjective(nn.Module):
    """L_rec (Eq. 2, `bolid.losses`) on latents, as a weighted error of v; conditions dropped at random by
    row.

    Args:
        text_encoder: frozen; empty_ids: token ids [T] of the empty prompt; vae: frozen, for pictures of
        samples only.
    """

    def __init__(
        self, options: DiffusionOptions, vae: Any, text_encoder: Any, empty_ids: Tensor, vision_dim: int
    ):
        super().__init__()
        self.options = options
        self.vae, self.text_encoder = vae.requires_grad_(False), text_encoder.requires_grad_(False)
        self.empty_ids: Tensor
        self.register_buffer("empty_ids", empty_ids)
        self.scheduler: Any = mini_scheduler()
        channels = vae.config.latent_channels
        if options.base is None:
            self.unet = mini_unet(options, channels, text_encoder.config.hidden_size)
        else:
            self.unet = UNet2DConditionModel.from_pretrained(
                Path(options.base) / "unet", torch_dtype=torch.float32
            )
            self.unet.requires_grad_(False)
        self.adapter = BoLIDAdapter.for_unet(
            self.unet,
            vision_dim=vision_dim,
            token_dim=options.token_dim,
            body_channels=options.body_channels,
            body_blocks=options.body_blocks,
            tokens_per_part=options.tokens_per_part,
        )
        # plain matrix products are the cheaper attention on a CPU at these sizes
        self.adapter.attach(self.unet, matmul=not torch.cuda.is_available())
        self.models: dict[str, Any] = {"unet": self.unet, "adapter": self.adapter}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """batch: the columns of bolid.training.features.compute_features, as tensors."""
        inputs, text = self.draw_conditions(batch)
        latents = batch["latents"]
        noise = torch.randn_like(latents)
        steps = torch.randint(
            self.scheduler.config.num_train_timesteps, (len(latents),), device=latents.device
        )
        velocity, target = self._velocities(latents, noise, steps, text, inputs)
        weight = snr_weight(self.scheduler.alphas_cumprod.to(latents.device)[steps], self.options.snr_gamma)
        loss = reconstruction_loss(velocity, target, weight=self._pixel_weight(batch["part_share"]))
        with torch.no_grad():
            plain = reconstruction_loss(velocity, target)
        return {"loss": (weight * loss).mean(), "v_error": plain.mean()}

    def _velocities(
        self, latents: Tensor, noise: Tensor, steps: Tensor, text: Tensor, inputs: AdapterInputs
    ) -> tuple[Tensor, Tensor]:
        """Predicted and true v [B, C, h, w]."""
        noisy = self.scheduler.add_noise(latents, noise, steps)
        conditions = self.adapter.conditions(inputs)
        prediction = self.unet(noisy, steps, text, cross_attention_kwargs=conditions.kwargs()).sample
        return prediction, self.scheduler.get_velocity(latents, noise, steps)

    def _pixel_weight(self, part_share: Tensor) -> Tensor:
        """[B, 1, h, w] of mean 1 per row, from the share of each part in each latent pixel, uint8 [B, 4, h,
        w]."""
        share = part_share.float() / 255
        o = self.options
        weight = 1 + (o.person_weight - 1) * share.sum(1) + (o.head_weight - o.person_weight) * share[:, 0]
        return (weight / weight.mean((1, 2), keepdim=True))[:, None]

    def draw_conditions(self, batch: dict[str, Tensor]) -> tuple[AdapterInputs, Tensor]:
        """Drop conditions per row, independently; returns the adapter's inputs and text states [B, T, D]."""
        o = self.options
        count, device = len(batch["latents"]), batch["latents"].device

        def chance(p: float) -> Tensor:
            return torch.rand(count, device=device) < p

        no_identity, no_map, no_pose = chance(o.identity_drop), chance(o.map_drop), chance(o.pose_drop)
        no_image, no_text = ~chance(o.image_prompt_share), chance(o.text_drop)
        plain = chance(o.plain_share) & ~no_identity
        faded = 1 + torch.randint(batch["appearance"].shape[1] - 1, (count,), device=device)
        variant = faded * chance(o.faded_share)
        inputs = self.inputs(batch, variant)
        assert inputs.appearance is not None
        inputs = AdapterInputs(
            **{**inputs.__dict__, "appearance": inputs.appearance.masked_fill(no_map.view(-1, 1, 1, 1), 0)}
        )
        inputs = inputs.without_identity(no_identity).without_pose(no_pose).without_image(no_image)
        # an image prompt must be able to set the scene alone: half of those rows lose their words
        no_text |= ~no_image & chance(0.5)
        ids = torch.where(plain[:, None], batch["plain_ids"], batch["caption_ids"])
        ids = torch.where(no_text[:, None], self.empty_ids, ids)
        return inputs, self.encode_text(ids)

    def inputs(self, batch: dict[str, Tensor], variant: Tensor) -> AdapterInputs:
        """All conditions of the rows, nothing dropped; `variant` [B] chooses the appearance map (0: all
        parts)."""
        rows = torch.arange(len(variant), device=variant.device)
        height, width = (8 * side for side in batch["latents"].shape[-2:])
        drawn = skeleton_map(batch["keypoints"].cpu().numpy(), height, width)
        skeleton = torch.from_numpy(drawn).to(variant.device).permute(0, 3, 1, 2).float() / 255
        return self.adapter.inputs(
            patches=batch["patches"],
            present=batch["present"],
            strength=batch["strengths"][rows, variant],
            image_patches=batch["prompt_patches"],
            skeleton=skeleton,
            appearance=batch["appearance"][rows, variant],
        )

    @torch.no_grad()
    def encode_text(self, ids: Tensor) -> Tensor:
        """Token ids [B, T] -> text states [B, T, D], as stock pipelines take them."""
        return self.text_encoder(ids)[0].float()

    @torch.no_grad()
    def evaluate(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Held-out error of v with all conditions, and with text alone."""
        latents, count = batch["latents"], len(batch["latents"])
        noise, steps = torch.randn_like(latents), torch.linspace(50, 999, count, device=latents.device).long()
        inputs = self.inputs(batch, torch.zeros(count, dtype=torch.long, device=latents.device))
        inputs = inputs.without_image()
        figures = {}
        for name, given, ids in (
            ("v_error", inputs, batch["plain_ids"]),
            ("v_error_text_only", inputs.without_identity().without_pose(), batch["caption_ids"]),
        ):
            pair = self._velocities(latents, noise, steps, self.encode_text(ids), given)
            figures[name] = float(reconstruction_loss(*pair).mean())
        return figures

    def complete(self, folder: Path) -> None:
        """Turn an export of unet and adapter into a whole pipeline that `BoLIDPipeline.from_pretrained`
        opens."""
        from bolid.pipeline import BoLIDPipeline

        frozen = load_components(self.options.components, torch.float16)
        pipeline = BoLIDPipeline(
            vae=frozen.vae,
            text_encoder=frozen.text_encoder,
            tokenizer=frozen.tokenizer,
            unet=UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float16),
            scheduler=self.scheduler,
            image_encoder=frozen.image_encoder,
            adapter=BoLIDAdapter.from_pretrained(folder / "adapter", torch_dtype=torch.float16),
            estimator=frozen.estimator,
            default_steps=20,
            default_guidance_scale=self.options.grid_guidance,
        )
        pipeline.save_pretrained(folder)

    @torch.no_grad()
    def picture(self, batch: dict[str, Tensor]) -> np.ndarray:
        """A validation grid, uint8 [H, W, 3]; a column a row of the batch: map | skeleton | pose given |
        tokens only | truth."""
        o, count = self.options, len(batch["latents"])
        inputs = self.inputs(
            batch, torch.zeros(count, dtype=torch.long, device=batch["latents"].device)
        ).without_image()
        text, empty = self.encode_text(batch["plain_ids"]), self.encode_text(self.empty_ids.expand(count, -1))
        noise = torch.randn_like(batch["latents"])

        def sample(given: AdapterInputs) -> Tensor:
            guidance = (o.grid_guidance, empty, self.adapter.conditions(given.negative()))
            latents = roll_out(
                self.unet, self.scheduler, noise, text, self.adapter.conditions(given), o.grid_steps, guidance
            )
            return self.vae.decode(latents.float()).sample

        assert inputs.skeleton is not None
        assert inputs.appearance is not None
        bands = [
            self.vae.decode(inputs.appearance[:, :-1]).sample,
            inputs.skeleton * 2 - 1,
            sample(inputs),
            sample(inputs.without_pose()),
            self.vae.decode(batch["latents"]).sample,
        ]
        grid = torch.cat([torch.cat(list(band), dim=-1) for band in bands], dim=-2)
        return ((grid.clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0).cpu().numpy()
