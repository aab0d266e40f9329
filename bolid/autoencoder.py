"""The autoencoder of bolid-mini: RGB picture <-> 16-channel latents at 1/8 of its size."""

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class EncoderOutput(BaseOutput):
    """`latents`: [B, latent_channels, H/8, W/8], unit variance over the training pictures."""

    latents: Tensor


@dataclass
class DecoderOutput(BaseOutput):
    """`sample`: [B, 3, H, W], RGB in [-1, 1] (values slightly outside are possible)."""

    sample: Tensor


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a skip; no normalisation, so any crop of a picture is coded alike."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)  # the block starts as the identity: stable without normalisation
        assert self.conv2.bias is not None
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.conv1(torch.relu(x))))


def regroup(x: Tensor, channels: int) -> Tensor:
    """x [B, C, h, w] with another number of channels, without weights: neighbours averaged, or each repeated.

    One of C and `channels` divides the other.
    """
    have = x.shape[1]
    if have >= channels:
        return x.unflatten(1, (channels, have // channels)).mean(2)
    return x.repeat_interleave(channels // have, dim=1)


class Step(nn.Module):
    """A change of size and width: a convolution beside a shortcut that only rearranges pixels.

    The convolution starts at zero, so an untrained autoencoder already gives a blurred copy of its picture
    and
    training goes into what the blur lacks. (The shortcut is the one of DC-AE, arXiv 2410.10733.)

    Args:
        scale: "down" halves the size, "up" doubles it, "same" keeps it.
    """

    def __init__(self, channels: int, out_channels: int, scale: Literal["down", "same", "up"]):
        super().__init__()
        self.out_channels, self.scale = out_channels, scale
        if scale == "down":
            self.conv = nn.Conv2d(channels, out_channels, 3, stride=2, padding=1)
        elif scale == "up":
            self.conv = nn.Conv2d(channels, 4 * out_channels, 1)
        else:
            self.conv = nn.Conv2d(channels, out_channels, 3, padding=1)
        nn.init.zeros_(self.conv.weight)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.scale == "down":
            return self.conv(x) + regroup(functional.pixel_unshuffle(x, 2), self.out_channels)
        if self.scale == "up":
            return functional.pixel_shuffle(self.conv(x) + regroup(x, 4 * self.out_channels), 2)
        return self.conv(x) + regroup(x, self.out_channels)


class AvatarAutoencoder(ModelMixin, ConfigMixin):
    """Deterministic convolutional autoencoder, f8, with the interface pipelines expect of a VAE.

    The full-resolution level is a rearrangement (`PixelUnshuffle(2)`), not a convolution: that halves the
    cost on a CPU. `block_out_channels` has one entry per level from full resolution to 1/8, so the usual rule
    `2 ** (len(block_out_channels) - 1)` gives the scale factor 8; its first entry is therefore fixed at 12.

    Args:
        latent_channels: channels of the latents.
        block_out_channels: channels at 1/1 (always 12), 1/2, 1/4 and 1/8 of the picture's size; each a
        multiple of
            the one before, or four times the one before a multiple of it, and the last a multiple of
            `latent_channels`.
        encoder_layers, decoder_layers: residual blocks at 1/2, 1/4 and 1/8.
        scaling_factor: what pipelines multiply latents by; 1 here, as the standardising is inside the model.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        block_out_channels: tuple[int, ...] = (12, 48, 96, 96),
        encoder_layers: tuple[int, ...] = (1, 1, 2),
        decoder_layers: tuple[int, ...] = (2, 2, 3),
        scaling_factor: float = 1.0,  # noqa: ARG002 - read from the config by pipelines
    ):
        super().__init__()
        widths = block_out_channels
        fits = (
            len(widths) == 4 and widths[0] == 12 and widths[1] % 12 == 0 and widths[3] % latent_channels == 0
        )
        if not fits or any(4 * a % b for a, b in itertools.pairwise(widths[1:])):
            raise ValueError(
                f"block_out_channels={tuple(widths)} with {latent_channels} latent channels: four levels are "
                f"needed, "
                "12 channels first (an RGB picture rearranged 2x2), then a multiple of 12, then divisors of "
                "four "
                "times the one before, the last a multiple of latent_channels; for example (12, 48, 96, 96)."
            )
        encoder: list[nn.Module] = [nn.PixelUnshuffle(2), Step(12, widths[1], "same")]
        for level in (1, 2, 3):
            if level > 1:
                encoder.append(Step(widths[level - 1], widths[level], "down"))
            encoder += [ResidualBlock(widths[level]) for _ in range(encoder_layers[level - 1])]
        self.encoder = nn.Sequential(*encoder, Step(widths[3], latent_channels, "same"))

        decoder: list[nn.Module] = [Step(latent_channels, widths[3], "same")]
        for level in (3, 2, 1):
            decoder += [ResidualBlock(widths[level]) for _ in range(decoder_layers[level - 1])]
            if level > 1:
                decoder.append(Step(widths[level], widths[level - 1], "up"))
        self.decoder = nn.Sequential(*decoder, Step(widths[1], 12, "same"), nn.PixelShuffle(2))
        # 1x1 maps that standardise the latents once training has ended; the identity until then
        self.quant_conv = nn.Conv2d(latent_channels, latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1)
        for conv in (self.quant_conv, self.post_quant_conv):
            nn.init.dirac_(conv.weight)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    @apply_forward_hook  # CPU offloading would not see it otherwise
    def encode(self, x: Tensor, return_dict: bool = True) -> EncoderOutput | tuple[Tensor]:
        """x: [B, 3, H, W] RGB in [-1, 1], H and W multiples of 8 -> latents [B, C, H/8, W/8]."""
        if x.shape[-1] % 8 or x.shape[-2] % 8:
            raise ValueError(
                f"picture of {x.shape[-1]}x{x.shape[-2]} pixels: both sides must be multiples of 8."
            )
        latents = self.quant_conv(self.encoder(x))
        return EncoderOutput(latents=latents) if return_dict else (latents,)

    @apply_forward_hook
    def decode(
        self,
        z: Tensor,
        return_dict: bool = True,
        generator: torch.Generator | None = None,  # noqa: ARG002 - pipelines pass it to every VAE
    ) -> DecoderOutput | tuple[Tensor]:
        """z: [B, C, H/8, W/8] latents -> picture [B, 3, H, W] in [-1, 1]. `generator` is accepted and
        unused."""
        sample = self.decoder(self.post_quant_conv(z))
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction of x, [B, 3, H, W] in [-1, 1]."""
        latents = self.encode(x, return_dict=False)[0]
        return self.decode(latents, return_dict=False)[0]

    @torch.no_grad()
    def standardise_(self, mean: Tensor, std: float) -> None:
        """Make the latents zero-mean with variance 1 over all channels, without changing any reconstruction.

        mean [C], std: of the present latents over training pictures. The encoder's last 1x1 map becomes
        z' = (z − mean) / std and the decoder's first its inverse; both are exact because 1x1 maps have no
        border.
        One scale for all channels: whitening would weigh every principal component alike in a diffusion loss,
        while the two largest of sixteen carry nine tenths of what can be seen.
        """
        quant, post = self.quant_conv, self.post_quant_conv
        assert quant.bias is not None
        assert post.bias is not None
        post.bias.add_(post.weight[:, :, 0, 0] @ mean)
        post.weight.mul_(std)
        quant.bias.sub_(mean).div_(std)
        quant.weight.div_(std)


def encode_latents(vae: Any, pixels: Tensor) -> Tensor:
    """Latents [B, C, H/8, W/8] of pictures [B, 3, H, W] in [-1, 1], shifted and scaled as the UNet has them.

    vae: this autoencoder, or any of diffusers. One that overflows in half precision (SDXL's own says so by
    `force_upcast`) encodes in float32 and is put back afterwards, as the stock pipelines do; the latents have
    its type.
    """
    dtype = vae.dtype
    upcast = dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
    if upcast:
        vae.to(torch.float32)
    try:
        encoded = vae.encode(pixels.to(vae.dtype))
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    finally:
        if upcast:
            vae.to(dtype)
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    return ((latents - shift) * vae.config.scaling_factor).to(dtype)
