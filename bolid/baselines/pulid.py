"""Features → tokens, as PuLID v1 and v1.1 do it. Weights have the files' names."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from .projectors import State, perceiver_layers, resampler_sizes, run_layers

LEVELS = 5  # EVA states that PuLID reads


def _mapping(state: State, name: str) -> nn.Sequential:
    """Linear, norm, leaky ReLU, twice, and a last linear layer, of the sizes that a file has under `name`."""
    first, second = (state[f"{name}.{place}.weight"] for place in (0, 3))
    return nn.Sequential(
        nn.Linear(first.shape[1], first.shape[0]),
        nn.LayerNorm(first.shape[0]),
        nn.LeakyReLU(),
        nn.Linear(second.shape[1], second.shape[0]),
        nn.LayerNorm(second.shape[0]),
        nn.LeakyReLU(),
        nn.Linear(second.shape[0], state[f"{name}.6.weight"].shape[0]),
    )


class PulidEncoder(nn.Module):
    """PuLID v1 (`IDEncoder`): ID tokens of face and class embedding, then one token per level."""

    body: nn.Sequential

    @classmethod
    def from_state(cls, state: State) -> Self:
        module = cls()
        module.body = _mapping(state, "body")
        for level in range(LEVELS):
            for name in (f"mapping_{level}", f"mapping_patch_{level}"):
                module.add_module(name, _mapping(state, name))
        return module

    def forward(self, face: Tensor, image: Tensor, levels: tuple[Tensor, ...]) -> Tensor:
        """face [B, 512], image [B, 768], levels 5 × [B, L, 1024] → [B, 5 + 5, C].

        A level's token is its mapped class token plus the mean of its mapped patches.
        """
        local = [
            self.get_submodule(f"mapping_{level}")(states[:, :1])
            + self.get_submodule(f"mapping_patch_{level}")(states[:, 1:]).mean(dim=1, keepdim=True)
            for level, states in enumerate(levels)
        ]
        token_dim = local[0].shape[-1]
        tokens = self.body(torch.cat([face, image], dim=-1)).unflatten(-1, (-1, token_dim))
        return torch.cat([tokens, *local], dim=1)


class PulidFormer(nn.Module):
    """PuLID v1.1 (`IDFormer`): learned queries beside ID tokens, asking the levels one after another."""

    def __init__(self, queries: int, width: int, token_dim: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.zeros(1, queries, width))
        self.proj_out = nn.Parameter(torch.zeros(width, token_dim))
        self.layers = nn.ModuleList()

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Raises ValueError if the layers cannot be dealt out to five levels."""
        module = cls(state["latents"].shape[1], *state["proj_out"].shape)
        sizes = resampler_sizes(state)
        if sizes["depth"] % LEVELS:
            raise ValueError(f"{sizes['depth']} layers are no multiple of PuLID's {LEVELS} levels.")
        module.layers = perceiver_layers(**sizes)
        for name in (*(f"mapping_{level}" for level in range(LEVELS)), "id_embedding_mapping"):
            module.add_module(name, _mapping(state, name))
        return module

    def forward(self, face: Tensor, image: Tensor, levels: tuple[Tensor, ...]) -> Tensor:
        """face [B, 512] or [B, R, 512], image likewise 768, levels 5 × [B, R · 577, 1024] → [B, 32, C].

        Every level's layers see the ID tokens before its patches; the ID tokens are also asked with, beside
        the learned queries, and dropped at the end.
        """
        width = self.latents.shape[-1]
        given = self.get_submodule("id_embedding_mapping")(torch.cat([face, image], dim=-1))
        given = given.flatten(1).unflatten(-1, (-1, width))  # [B, R · 5, width]
        queries = torch.cat([self.latents.expand(len(given), -1, -1), given], dim=1)
        each = len(self.layers) // LEVELS
        for level, states in enumerate(levels):
            seen = torch.cat([given, self.get_submodule(f"mapping_{level}")(states)], dim=1)
            queries = run_layers(self.layers[level * each : (level + 1) * each], seen, queries)
        return queries[:, : self.latents.shape[1]] @ self.proj_out
