"""The autoencoder's objective: reconstruct crops, faces and people first."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bolid.autoencoder import AvatarAutoencoder
from bolid.training.data import Rows
from bolid.training.draws import Draws


@dataclass(frozen=True)
class AutoencoderOptions:
    """Options of the autoencoder stage."""

    latent_channels: int = 16  # channels of the latents
    block_out_channels: tuple[int, ...] = (12, 48, 96, 96)  # see AvatarAutoencoder
    encoder_layers: tuple[int, ...] = (1, 1, 2)  # residual blocks at 1/2, 1/4, 1/8
    decoder_layers: tuple[int, ...] = (2, 2, 3)  # residual blocks at 1/2, 1/4, 1/8
    crop: int = 96  # px, side of the square training crops, a multiple of 8
    head_crops: float = 0.4  # share of crops centred on the head
    person_crops: float = 0.4  # share centred on a point of the person; the rest lie anywhere
    person_weight: float = 2.0  # weight of person pixels against background ones
    head_weight: float = 4.0  # weight of head pixels against background ones
    square_weight: float = 0.0  # of the squared error, which outlines misplaced by a pixel dominate
    edge_weight: float = 0.5  # of the difference of neighbouring pixels' differences: sharp outlines
    latent_noise: float = 0.03  # noise on latents while decoding, in their standard deviations
    freeze_encoder: bool = False  # train the decoder alone: latents of earlier stages stay valid


def psnr(mse: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error in [-1, 1] units (peak 2)."""
    return float(10 * torch.log10(4 / mse.clamp_min(1e-10)))


class AutoencoderObjective(nn.Module):
    """Weighted L1 on pixels and on their differences, and squared error, over random crops."""

    def __init__(self, options: AutoencoderOptions):
        super().__init__()
        self.options = options
        self.vae = AvatarAutoencoder(
            latent_channels=options.latent_channels,
            block_out_channels=options.block_out_channels,
            encoder_layers=options.encoder_layers,
            decoder_layers=options.decoder_layers,
        )
        # the 1x1 standardising maps are set at the end, in closed form; they are not trained
        frozen: list[nn.Module] = [self.vae.quant_conv, self.vae.post_quant_conv]
        if options.freeze_encoder:
            frozen.append(self.vae.encoder)
        for module in frozen:
            module.requires_grad_(False)
        self.models: dict[str, Any] = {"vae": self.vae}

    def forward(self, batch: dict[str, Tensor], _draws: Draws | None = None) -> dict[str, Tensor]:
        """batch: image [B, 3, H, W] in [-1, 1], masks uint8 [B, H, W] part labels."""
        o = self.options
        image, parts = self._crops(batch["image"], batch["masks"])
        with torch.set_grad_enabled(not o.freeze_encoder):
            latents = self.vae.encode(image, return_dict=False)[0]
        noise = o.latent_noise * latents.detach().std() * torch.randn_like(latents)
        sample = self.vae.decode(latents + noise, return_dict=False)[0].float()
        weight = 1 + (o.person_weight - 1) * (parts > 0) + (o.head_weight - o.person_weight) * (parts == 1)
        weight = (weight / weight.mean())[:, None]
        pixels = (weight * (sample - image).abs()).mean()
        difference = sample - image
        edges = (weight[..., 1:] * difference.diff(dim=-1).abs()).mean() + (
            weight[..., 1:, :] * difference.diff(dim=-2).abs()
        ).mean()
        squares = (weight * difference.square()).mean()
        return {
            "loss": pixels + o.square_weight * squares + o.edge_weight * edges,
            "pixels": pixels.detach(),
            "squares": squares.detach(),
            "edges": edges.detach(),
        }

    def _crops(self, image: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
        o = self.options
        images, labels = [], []
        for picture, label in zip(image, parts, strict=True):
            draw = float(torch.rand(()))
            wanted = label == 1 if draw < o.head_crops else label > 0
            points = torch.nonzero(wanted) if draw < o.head_crops + o.person_crops else torch.empty(0, 2)
            height, width = label.shape
            side = min(o.crop, height, width)
            if len(points):
                point = points[int(torch.randint(len(points), ()))] + torch.randint(
                    -side // 4, side // 4 + 1, (2,)
                ).to(points.device)
                y, x = (point - side // 2).tolist()
            else:
                y, x = int(torch.randint(height - side + 1, ())), int(torch.randint(width - side + 1, ()))
            y, x = min(max(y, 0), height - side), min(max(x, 0), width - side)
            images.append(picture[:, y : y + side, x : x + side])
            labels.append(label[y : y + side, x : x + side])
        return torch.stack(images).contiguous(memory_format=torch.channels_last), torch.stack(labels)

    def evaluate(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Held-out PSNR in dB over whole pictures: everything, person pixels, head pixels (squared errors
        pooled)."""
        sample = self.vae(batch["image"]).clamp(-1, 1)
        error = (sample - batch["image"]).square().mean(1)
        parts = batch["masks"]
        return {
            "psnr": psnr(error.mean()),
            "psnr_person": psnr(error[parts > 0].mean()),
            "psnr_head": psnr(error[parts == 1].mean()),
        }

    def finish(self, rows: Rows) -> None:
        """Standardise the latents over training pictures: what diffusion models expect."""
        if self.options.freeze_encoder:
            return  # already standardised, and latents must stay what they are
        device = next(self.vae.parameters()).device
        take = np.linspace(0, len(rows) - 1, min(512, len(rows))).astype(int)
        codes = []
        for start in range(0, len(take), 32):
            picture = rows.batch(take[start : start + 32], device)["image"]
            latents = self.vae.encode(picture, return_dict=False)[0]
            codes.append(latents.float().permute(1, 0, 2, 3).flatten(1).cpu())
        flat = torch.cat(codes, dim=1)
        self.vae.standardise_(flat.mean(1).to(device), float((flat - flat.mean(1, keepdim=True)).std()))
