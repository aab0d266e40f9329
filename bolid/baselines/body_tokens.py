"""From what a frozen vision encoder saw of a whole person to identity tokens, as each method does it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..encoder import ImageResampler, Look
from .body_methods import BodyMethod
from .pulid import LEVELS, PulidEncoder

PARTS_TOLD = 4  # parts whose class tokens are the recognition vector (`Look.recognition`)


def pulid_levels(depth: int) -> tuple[int, ...]:
    """The states that PuLID reads, of an encoder of `depth` layers: 4, 8, 12, 16, 20 of 24 as its own; of a
    shallow encoder from the embedding to the last, some twice if need be.
    """
    if depth < 2 * LEVELS:
        return tuple(round(i * depth / (LEVELS - 1)) for i in range(LEVELS))
    return tuple(round(i * depth / (LEVELS + 1)) for i in range(1, LEVELS + 1))


def body_look(depth: int) -> Look:
    """What IP-Adapter, InstantID and PuLID see of an encoder of `depth` layers, all in one, so that their
    features are computed once: PuLID's levels, IP-Adapter Plus's last layer but one, and the last.
    """
    layers = {*pulid_levels(depth), depth - 1, depth}
    return Look(True, True, tuple(sorted(layers)), recognition=True)


class BodyProjector(nn.Module):
    """States [B, 1, 2 + L, n · D] of `body_look` → tokens [B, N, C].

    Args:
        method: its `tokens` say which form.
        vision_dim: width D of the encoder.
        layers: n, the joined layers.
        token_dim: C.
        width, heads: of the resampler (IP-Adapter's depth 4 and inner ratio 4 are fixed).
    """

    def __init__(
        self,
        method: BodyMethod,
        vision_dim: int,
        layers: tuple[int, ...],
        token_dim: int,
        width: int,
        heads: int,
    ) -> None:
        super().__init__()
        self.kind, self.tokens = method.tokens, (method.count,)
        self.vision_dim, self.layers = vision_dim, tuple(layers)
        shape = {"width": width, "depth": 4, "heads": heads, "ffn_ratio": 4}
        told = PARTS_TOLD * vision_dim
        if method.tokens == "whole":
            self.inner: nn.Module = ImageResampler(vision_dim, token_dim, (method.count,), **shape)
        elif method.tokens == "embedding":
            self.inner = ImageResampler(told, token_dim, (method.count,), **shape)
        else:
            self.inner = pulid_encoder(told + vision_dim, vision_dim, width, token_dim)

    @property
    def part_ids(self) -> Tensor:
        """One part for all, int64 [N]."""
        return torch.zeros(self.tokens[0], dtype=torch.int64, device=next(self.parameters()).device)

    def forward(self, states: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """states [B, 1, 2 + L, n · D], present bool [B, 1] → tokens [B, N, C], token_present bool [B, N].

        Tokens of an absent person are zeros.
        """
        tokens = self.project(states[:, 0].to(next(self.parameters()).dtype))
        token_present = present.expand(-1, tokens.shape[1])
        return tokens * token_present[..., None], token_present

    def project(self, states: Tensor) -> Tensor:
        """[B, 2 + L, n · D] → [B, N, C]."""
        recognition = states[:, 0, : PARTS_TOLD * self.vision_dim]  # raw, as InstantID and PuLID take it
        joined = states[:, 1:, : len(self.layers) * self.vision_dim]
        by_layer = dict(zip(self.layers, joined.split(self.vision_dim, dim=-1), strict=True))
        depth = self.layers[-1]
        if self.kind == "whole":
            return self.inner(by_layer[depth - 1])
        if self.kind == "embedding":
            return self.inner(recognition[:, None])
        image = F.normalize(by_layer[depth][:, 0], dim=-1)
        return self.inner(recognition, image, tuple(by_layer[level] for level in pulid_levels(depth)))


def pulid_encoder(face_and_image: int, vision_dim: int, width: int, token_dim: int) -> PulidEncoder:
    """A new `PulidEncoder` of these sizes; 5 tokens come of the embeddings, one of each level."""

    def mapping(name: str, given: int, made: int) -> dict[str, Tensor]:
        shapes = {"0": (width, given), "3": (width, width), "6": (made, width)}
        return {f"{name}.{place}.weight": torch.empty(shape) for place, shape in shapes.items()}

    state = mapping("body", face_and_image, LEVELS * token_dim)
    for level in range(LEVELS):
        for name in (f"mapping_{level}", f"mapping_patch_{level}"):
            state |= mapping(name, vision_dim, token_dim)
    return PulidEncoder.from_state(state)
