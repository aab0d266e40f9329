"""`FaceAdapter`: an official face checkpoint as a component of a pipeline, beside BoLID's own adapter."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from ..attention import Conditions, cross_attentions
from .attention import TokenAttention
from .baseline import PROJECTORS, Baseline, build_baseline
from .checkpoint import Parts
from .projectors import FacePlusProjection
from .records import METHODS, Features


class FaceAdapter(ModelMixin, ConfigMixin):
    """The face tokens of InstantID, PuLID or a FaceID without low-rank updates, saved as a folder.

    In a pipeline its tokens act on the head alone, where the pose says where that is, at the head's strength
    times the method's own. InstantID's IdentityNet is not part of it: it holds the picture to the five face
    points of a portrait, which in a full-body picture the pose gives.

    Args:
        method: a name of `METHODS`.
        projector: names and shapes of the projector's weights in the official layout.
        token_dim: width of the tokens.
        layer_table: per cross-attention `{"name", "dim", "heads"}`.
    """

    _supports_gradient_checkpointing = False
    config: Any  # made by ConfigMixin from the arguments

    @register_to_config
    def __init__(
        self, method: str, projector: dict[str, list[int]], token_dim: int, layer_table: list[dict[str, Any]]
    ) -> None:
        super().__init__()
        record, kind = METHODS[method], PROJECTORS[method]
        made = kind.from_state({name: torch.empty(shape, device="meta") for name, shape in projector.items()})
        if isinstance(made, FacePlusProjection):
            made.shortcut = record.shortcut
        layers = {
            row["name"]: TokenAttention(
                torch.empty(row["dim"], token_dim), torch.empty(row["dim"], token_dim), row["heads"]
            )
            for row in layer_table
        }
        self.baseline = Baseline(record, made, layers, {})

    @classmethod
    def from_parts(cls, parts: Parts, unet: Any) -> FaceAdapter:
        """From an official file that is already read. Raises ValueError as `build_baseline`, and for FaceID's
        files with low-rank updates, which change the base itself.
        """
        source = build_baseline(parts, unet)
        if source.update_names:
            raise ValueError(
                f"{parts.method.name} also changes the base's own projections; give instantid or pulid"
            )
        found = cross_attentions(unet)
        table = [
            {"name": name, "dim": found[name].inner_dim, "heads": found[name].heads}
            for name in source.layer_names
        ]
        first: Any = source.layers[0]
        shapes = {name: list(weight.shape) for name, weight in parts.projector.items()}
        made = cls(parts.method.name, shapes, first.to_k.shape[1], table)
        made.baseline.load_state_dict(source.state_dict(), strict=True)
        return made.eval()

    @property
    def method(self) -> Any:
        return self.baseline.method

    def features_of(self, image: np.ndarray, estimator: Any, device: Any) -> Features | None:
        """The largest face's features in a picture, uint8 RGB [H, W, 3], by the estimator's own networks.

        None where no face is seen. Raises ValueError where no network of the method's kind is there.
        """
        networks = getattr(estimator, "networks", None)
        if networks is None or set(self.method.features) != {"face"}:
            raise ValueError(
                f"the face adapter is {self.method.name}, which needs features of {self.method.encoder}; "
                "give them: person = pipe.encode_identity(picture, face=Features(...))"
            )
        found = networks.get("face", "insightface", device)(image)
        return Features(face=torch.from_numpy(found[0].embedding)[None]) if found else None

    def tokens(self, features: Features) -> Tensor:
        """Tokens [B, N, C]; see `Baseline.tokens`."""
        return self.baseline.tokens(features)

    def face_conditions(self, tokens: Tensor, strength: Tensor) -> Conditions:
        """Conditions of tokens [B, N, C] at strength [B] times the method's own; 0 has no influence."""
        return self.baseline.conditions(tokens, strength * self.method.scale)
