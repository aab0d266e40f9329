"""Features → tokens, as IP-Adapter, FaceID and InstantID do it. Weights have the files' names.

Each class has `from_state`, which reads its sizes from the weights of a file; the weights themselves are
loaded afterwards, strictly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from ..encoder import ImageResampler, PerceiverAttention, feed_forward

HEAD_DIM = 64  # of every official resampler; the files do not say it
State = Mapping[str, Tensor]


def resampler_sizes(state: State, prefix: str = "") -> dict[str, int]:
    """width, heads, depth and inner feed-forward width of a resampler's layers.

    Raises:
        ValueError: if its attention is not as wide as its latents in heads of 64.
    """
    inner, width = state[f"{prefix}layers.0.0.to_q.weight"].shape
    if inner != width or width % HEAD_DIM:
        raise ValueError(
            f"The resampler's attention maps {width} to {inner}: only equal widths in heads of {HEAD_DIM} "
            "are known from official files."
        )
    layers = {
        key.removeprefix(f"{prefix}layers.").split(".")[0] for key in state if f"{prefix}layers." in key
    }
    feed_forward = state[f"{prefix}layers.0.1.1.weight"].shape[0]
    return {"width": width, "heads": width // HEAD_DIM, "depth": len(layers), "inner": feed_forward}


def perceiver_layers(width: int, heads: int, depth: int, inner: int) -> nn.ModuleList:
    """The layers of a resampler as the files name them: `<layer>.0` attention, `<layer>.1` feed-forward."""
    return nn.ModuleList(
        nn.ModuleList([PerceiverAttention(width, heads), feed_forward(width, inner)]) for _ in range(depth)
    )


def run_layers(layers: nn.ModuleList, patches: Tensor, queries: Tensor) -> Tensor:
    """queries [B, N, W] through all layers; patches [B, L, W] stay."""
    for attention, expansion in layers:  # pyright: ignore[reportGeneralTypeIssues]
        queries = queries + attention(patches, queries)
        queries = queries + expansion(queries)
    return queries


class ImageProjection(nn.Module):
    """IP-Adapter: one linear layer and a norm. image [B, D] → [B, N, C]."""

    def __init__(self, image_dim: int, token_dim: int, tokens: int) -> None:
        super().__init__()
        self.proj = nn.Linear(image_dim, tokens * token_dim)
        self.norm = nn.LayerNorm(token_dim)

    @classmethod
    def from_state(cls, state: State) -> Self:
        (out, image_dim), token_dim = state["proj.weight"].shape, len(state["norm.weight"])
        return cls(image_dim, token_dim, out // token_dim)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(self.proj(image).unflatten(-1, (-1, self.norm.normalized_shape[0])))


class FullProjection(nn.Module):
    """IP-Adapter full-face: a token of every patch. patches [B, L, D] → [B, L, C]."""

    def __init__(self, vision_dim: int, inner: int, token_dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Linear(vision_dim, inner), nn.GELU(), nn.Linear(inner, token_dim), nn.LayerNorm(token_dim)
        )

    @classmethod
    def from_state(cls, state: State) -> Self:
        inner, vision_dim = state["proj.0.weight"].shape
        return cls(vision_dim, inner, len(state["proj.3.weight"]))

    def forward(self, patches: Tensor) -> Tensor:
        return self.proj(patches)


class FaceProjection(nn.Module):
    """IP-Adapter FaceID: a small network and a norm. face [B, F] → [B, N, C]."""

    def __init__(self, face_dim: int, inner: int, token_dim: int, tokens: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(face_dim, inner), nn.GELU(), nn.Linear(inner, tokens * token_dim))
        self.norm = nn.LayerNorm(token_dim)

    @classmethod
    def sizes(cls, state: State) -> tuple[int, int, int, int]:
        (inner, face_dim), token_dim = state["proj.0.weight"].shape, len(state["norm.weight"])
        return face_dim, inner, token_dim, state["proj.2.weight"].shape[0] // token_dim

    @classmethod
    def from_state(cls, state: State) -> Self:
        return cls(*cls.sizes(state))

    def forward(self, face: Tensor) -> Tensor:
        return self.norm(self.proj(face).unflatten(-1, (-1, self.norm.normalized_shape[0])))


class FacePerceiver(nn.Module):
    """The perceiver of FaceID-Plus: its queries are the face tokens. [B, N, C], [B, L, D] → [B, N, C]."""

    def __init__(
        self, vision_dim: int, width: int, token_dim: int, heads: int, depth: int, inner: int
    ) -> None:
        super().__init__()
        self.proj_in = nn.Linear(vision_dim, width)
        self.layers = perceiver_layers(width, heads, depth, inner)
        self.proj_out = nn.Linear(width, token_dim)
        self.norm_out = nn.LayerNorm(token_dim)

    def forward(self, queries: Tensor, patches: Tensor) -> Tensor:
        return self.norm_out(self.proj_out(run_layers(self.layers, self.proj_in(patches), queries)))


class FacePlusProjection(FaceProjection):
    """IP-Adapter FaceID-Plus: face tokens ask the patches of the face. face [B, F], patches [B, L, D].

    `shortcut` s: tokens are face + s · perceiver(face, patches) (version 2), or the perceiver's alone (None,
    version 1). The two versions' files have the same keys.
    """

    shortcut: float | None = None
    perceiver_resampler: FacePerceiver

    @classmethod
    def from_state(cls, state: State) -> Self:
        face_dim, inner, token_dim, tokens = cls.sizes(state)
        module = cls(face_dim, inner, token_dim, tokens)
        prefix = "perceiver_resampler."
        vision_dim = state[f"{prefix}proj_in.weight"].shape[1]
        module.perceiver_resampler = FacePerceiver(
            vision_dim, token_dim=token_dim, **resampler_sizes(state, prefix)
        )
        return module

    def forward(self, face: Tensor, patches: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        tokens = super().forward(face)
        answer = self.perceiver_resampler(tokens, patches)
        return answer if self.shortcut is None else tokens + self.shortcut * answer


class PlusResampler(ImageResampler):
    """IP-Adapter Plus on patches [B, L, D]; InstantID on a face [B, F], taken as one patch. → [B, N, C]."""

    @classmethod
    def from_state(cls, state: State) -> Self:
        (_, tokens, _), (token_dim, _) = state["latents"].shape, state["proj_out.weight"].shape
        sizes = resampler_sizes(state)
        ratio = sizes.pop("inner") / sizes["width"]
        return cls(state["proj_in.weight"].shape[1], token_dim, (tokens,), ffn_ratio=ratio, **sizes)

    def forward(self, patches: Tensor) -> Tensor:
        return super().forward(patches if patches.ndim == 3 else patches[:, None])


def with_part(state: State) -> dict[str, Tensor]:
    """A resampler's weights with the one that ours has beside them, as 0 (`encoder.Resampler`)."""
    latents = state["latents"]
    return {**state, "part_embedding": torch.zeros_like(latents[0, :1])}
