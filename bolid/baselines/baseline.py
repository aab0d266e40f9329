"""An official checkpoint on a UNet: features → tokens → conditions, through BoLID's own processors."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..attention import Conditions, TokenGroup, attach, detach
from .attention import LowRank, TokenAttention, hook_low_rank, orthogonal, strengths
from .checkpoint import Parts, read_checkpoint, split_checkpoint
from .layers import build_layers, build_updates
from .projectors import (
    FacePlusProjection,
    FaceProjection,
    FullProjection,
    ImageProjection,
    PlusResampler,
    with_part,
)
from .pulid import PulidEncoder, PulidFormer
from .records import Features, Method, Ortho

PROJECTORS: dict[str, Any] = {
    "ip-adapter": ImageProjection,
    "ip-adapter-plus": PlusResampler,
    "ip-adapter-full": FullProjection,
    "ip-adapter-faceid": FaceProjection,
    "ip-adapter-faceid-plus": FacePlusProjection,
    "ip-adapter-faceid-plusv2": FacePlusProjection,
    "instantid": PlusResampler,
    "pulid-v1": PulidEncoder,
    "pulid-v1.1": PulidFormer,
}


class Baseline(nn.Module):
    """The weights of one official file and what its method does with them. Make it by `load_baseline`.

    Args:
        method: the method's record.
        projector: features → tokens.
        layers: cross-attention name → its keys and values.
        updates: projection name → low-rank update (FaceID), else empty.
    """

    def __init__(
        self,
        method: Method,
        projector: nn.Module,
        layers: dict[str, TokenAttention],
        updates: dict[str, LowRank],
    ) -> None:
        super().__init__()
        self.method = method
        self.projector = projector
        self.layer_names, self.update_names = tuple(layers), tuple(updates)
        self.layers, self.updates = nn.ModuleList(layers.values()), nn.ModuleList(updates.values())
        self._handles: list[RemovableHandle] = []

    def tokens(self, features: Features) -> Tensor:
        """Tokens [B, N, C] of features as the encoders give them; normalised here where the method wants it.

        Raises:
            ValueError: if a feature is missing, or a raw face embedding has length 1.
        """
        given = []
        for name, convention in self.method.features.items():
            value = getattr(features, name)
            if value is None:
                raise ValueError(f"{self.method.name} needs Features({name}=…), of {self.method.encoder}.")
            if name == "face":
                _require_raw(value, self.method)
            value = F.normalize(value.float(), dim=-1) if convention == "normalised" else value
            dtype = next(self.projector.parameters()).dtype
            given.append(tuple(v.to(dtype) for v in value) if isinstance(value, tuple) else value.to(dtype))
        return self.projector(*given)

    def negative(self, features: Features, zero_pixels: Tensor | None = None) -> Tensor:
        """Tokens of guidance's negative half, by the method's own form, for features of the same shapes.

        Args:
            zero_pixels: patches [1 or B, L, D] that the vision encoder makes of pixel values that are all 0
                after its preprocessing; needed where `method.blank` says so.

        Raises:
            ValueError: if they are needed and not given.
        """
        blank: dict[str, Any] = {}
        for name, kind in self.method.blank.items():
            value = getattr(features, name)
            if kind == "zero pixels":
                if zero_pixels is None:
                    raise ValueError(
                        f"{self.method.name}'s negative half is an encoded picture: give zero_pixels, the "
                        "vision encoder's patches of pixel_values that are all 0."
                    )
                blank[name] = zero_pixels.expand(len(value), -1, -1)
            else:
                blank[name] = tuple(map(torch.zeros_like, value)) if name == "levels" else value * 0
        return self.tokens(_one_reference(Features(**blank)))

    def conditions(
        self,
        tokens: Tensor,
        scale: float | Tensor | None = None,
        zero_tokens: int | None = None,
        ortho: Ortho | None = None,
    ) -> Conditions:
        """Keys and values of all layers, once per call. Under guidance `Conditions.cat(negative, positive)`.

        Args:
            tokens: [B, N, C].
            scale: one strength or one per row [B].
            zero_tokens, ortho: PuLID's two switches. All three: None is the method's own.
        """
        scale = self.method.scale if scale is None else scale
        zeros = self.method.zero_tokens if zero_tokens is None else zero_tokens
        rows = strengths(scale, len(tokens), tokens)
        named = zip(self.layer_names, self.layers, strict=True)
        pairs = {name: layer(tokens, rows, zeros) for name, layer in named}
        group = TokenGroup.from_pairs(pairs, tokens.new_zeros(len(tokens), tokens.shape[1] + zeros))
        return Conditions(len(tokens), (orthogonal(group, self.method.ortho if ortho is None else ortho),))

    def attach(self, unet: UNet2DConditionModel, update_scale: float = 1.0) -> None:
        """Makes the UNet listen to conditions; FaceID's low-rank updates act from here to `detach`.

        The UNet's weights stay as they are. Move the baseline to the UNet's device and dtype before.
        """
        self.detach(unet)
        attach(unet, self.layer_names)
        updates: Any = dict(zip(self.update_names, self.updates, strict=True))
        self._handles = hook_low_rank(unet, updates, update_scale)

    def detach(self, unet: UNet2DConditionModel) -> None:
        """Back to stock processors and no updates."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        detach(unet)


def load_baseline(
    path: str | os.PathLike[str],
    unet: UNet2DConditionModel,
    method: str | None = None,
    dtype: torch.dtype | None = None,
) -> Baseline:
    """Opens an official file for a UNet, without attaching it.

    Args:
        path: .safetensors, or .bin (read as plain tensors only).
        unet: of the family that the file was made for; only its layers' names and widths are read.
        method: a name of METHODS; None recognises it (`split_checkpoint`).
        dtype: None keeps the file's.

    Raises:
        ValueError: if the file is none of the known layouts, incomplete, or made for another UNet.
    """
    parts = split_checkpoint(read_checkpoint(path), method, Path(path).name)
    baseline = build_baseline(parts, unet)
    return baseline if dtype is None else baseline.to(dtype)


def build_baseline(parts: Parts, unet: UNet2DConditionModel) -> Baseline:
    """A baseline of weights that are already read (`split_checkpoint`). Raises as `load_baseline`."""
    projector, token_dim = _projector(parts)
    layers, rest = build_layers(parts.attention, unet, parts.names, token_dim)
    updates = build_updates(rest, unet, parts.method)
    return Baseline(parts.method, projector, layers, updates).eval()


def _projector(parts: Parts) -> tuple[nn.Module, int]:
    """The projector with its weights, and the width C of its tokens."""
    name, state = parts.method.name, parts.projector
    kind = PROJECTORS[name]
    try:
        with torch.device("meta"):
            projector = kind.from_state(state)
        weights = with_part(state) if kind is PlusResampler else state
        projector.load_state_dict(weights, strict=True, assign=True)
    except KeyError as error:
        raise ValueError(f"The file is no complete {name}: its projector lacks {error}.") from error
    except RuntimeError as error:
        raise ValueError(f"The file's projector is not that of {name}: {error}") from error
    if kind is FacePlusProjection:
        projector.shortcut = parts.method.shortcut
    last = [state[key] for key in ("norm.weight", "norm_out.weight", "proj.3.weight", "mapping_0.6.weight")
            if key in state]  # fmt: skip
    width = state["proj_out"].shape[1] if name == "pulid-v1.1" else last[0].shape[0]
    return projector, width


def _require_raw(face: Tensor, method: Method) -> None:
    """Refuses lengths of 1: the embedding was normalised before, and then a raw method fails silently."""
    length = face.detach().float().norm(dim=-1)
    if method.features["face"] == "raw" and ((length - 1).abs() < 1e-3).any():
        raise ValueError(
            f"{method.name} wants the face embedding as the network gives it, this one has length 1: "
            "take insightface's `embedding`, not `normed_embedding`."
        )


def _one_reference(blank: Features) -> Features:
    """PuLID's negative half is that of one reference, however many [B, R, F] there are."""
    if blank.face is None or blank.face.ndim == 2 or blank.levels is None or blank.image is None:
        return blank
    count = blank.face.shape[1]
    levels = tuple(states[:, : states.shape[1] // count] for states in blank.levels)
    return replace(blank, face=blank.face[:, 0], image=blank.image[:, 0], levels=levels)
