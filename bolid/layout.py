"""LayoutNet: a pose from the words of a prompt, for calls that name none.

A small base draws a body well where the pose says where the limbs are, and shreds where it has to find that
out by itself. Text to pose to picture, as in "From Text to Pose to Image" (arXiv 2411.12872), by flow
matching (arXiv 2210.02747, 2209.03003): noise at time 1 moves along straight lines to key-points at time 0.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from bolid.pose import JOINTS

STEPS = 10  # of a sample; more fit the words no better
GUIDANCE = 2.0  # away from the poses of no words: 79 % fit the words, 62 % at 1, of 85 % by the same judge
TIME_SCALE = 1000.0  # times in [0, 1] are embedded as diffusion's steps are


class LayoutNet(ModelMixin, ConfigMixin):
    """The states of a prompt -> where the joints of a person in that picture may be.

    A transformer over 18 joint tokens (x, y, seen), which also attend to the text. Inside, key-points are
    [B, 18, 3]: x and y less `centre`, over `scale`, so that they are about of mean 0 and deviation 1, and
    seen as 1, hidden as -1. See `normalised`.

    `empty` holds the states [L, C] of the prompt without words, which guidance leads away from; the stage
    `layout` fills it in.

    Args:
        text_dim: C, width of the prompt's states, those that the UNet gets.
        text_length: L, tokens of a prompt.
        width: of the tokens, a multiple of `heads`.
        layers: of the transformer.
        heads: of each attention.
        centre: mean place of a joint, x and y as shares of the picture.
        scale: deviation of a joint's x and y, as a share of the picture.

    Raises ValueError for a width that the heads do not divide.
    """

    config: Any  # made by ConfigMixin from the arguments
    empty: Tensor

    @register_to_config
    def __init__(
        self,
        text_dim: int,
        text_length: int,
        width: int = 64,
        layers: int = 3,
        heads: int = 4,
        centre: tuple[float, float] = (0.5, 0.475),  # noqa: ARG002 - read from the config
        scale: float = 0.19,  # noqa: ARG002 - read from the config
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width={width} is no multiple of heads={heads}.")
        self.register_buffer("empty", torch.zeros(text_length, text_dim))
        self.joints = nn.Parameter(0.02 * torch.randn(len(JOINTS), width))
        self.enter = nn.Linear(3, width)
        self.wave = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = TimestepEmbedding(width, width)
        self.words = nn.Sequential(nn.Linear(text_dim, width), nn.LayerNorm(width))
        self.blocks = nn.ModuleList(
            BasicTransformerBlock(
                width,
                heads,
                width // heads,
                cross_attention_dim=width,
                activation_fn="gelu",
                ff_inner_dim=3 * width,
            )
            for _ in range(layers)
        )
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3))

    def forward(self, moved: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """The velocity d(moved) / d(time), [B, 18, 3].

        moved: [B, 18, 3], (1 - time) * normalised key-points + time * noise; time: [B] in [0, 1]; context:
        the prompt's states [B, L, C].

        Raises ValueError for a context of another width.
        """
        if context.shape[-1] != self.config.text_dim:
            raise ValueError(
                f"the prompt's states are {context.shape[-1]} wide, this LayoutNet reads "
                f"{self.config.text_dim}: it was made for another text encoder; load it with its own base, "
                "or leave it out (layout=None)"
            )
        kind = self.joints.dtype
        when = self.time(self.wave(TIME_SCALE * time).to(kind))
        hidden = self.enter(moved.to(kind)) + self.joints + when[:, None]
        words = self.words(context.to(kind))
        for block in self.blocks:
            hidden = block(hidden, encoder_hidden_states=words)
        return self.leave(hidden).to(moved.dtype)

    def normalised(self, keypoints: Tensor) -> Tensor:
        """Key-points [B, 18, 3], x and y in [0, 1] of the picture, confidence -> the form of `forward`: a
        joint of confidence 1 is seen, of less hidden."""
        places = (keypoints[..., :2] - self._centre(keypoints)) / self.config.scale
        return torch.cat([places, (keypoints[..., 2:] >= 1) * 2.0 - 1], -1)

    @torch.no_grad()
    def sample(
        self, context: Tensor, noise: Tensor, steps: int = STEPS, guidance: float = GUIDANCE
    ) -> Tensor:
        """Key-points [B, 18, 3] float32: x and y as shares of the picture, confidence 1 seen or 0 hidden.

        A hidden joint has a place too; of a hidden joint of the face it means nothing (it was not learnt).

        context: the prompts' states [B, L, C]; noise: [B, 18, 3] of a standard normal distribution, which
        decides which of the fitting poses it is; steps: of Euler's method, 1 or more; guidance: 1 for none,
        more for poses that are more typical of the words.
        """
        moved = noise.float()
        silence = self.empty.expand(len(moved), -1, -1)
        for step in range(steps):
            time = moved.new_full((len(moved),), 1 - step / steps)
            velocity = self(moved, time, context)
            if guidance != 1:
                free = self(moved, time, silence)
                velocity = free + guidance * (velocity - free)
            moved = moved - velocity / steps
        places = moved[..., :2] * self.config.scale + self._centre(moved)
        return torch.cat([places, (moved[..., 2:] > 0).float()], -1)

    def _centre(self, like: Tensor) -> Tensor:
        return torch.tensor(self.config.centre, dtype=like.dtype, device=like.device)
