"""Whose head it is, whatever is worn below it: embeddings of upright head crops.

The head embedding of `AppearanceEvaluator` was taught by people who wear the same in both pictures, so it
tells them by collars and hoods too: drawn in other clothes, the truth itself is not found again by it.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from bolid.attribute_evaluator import CropNetwork
from bolid.evaluators import batches, upright_heads


class HeadEvaluator(ModelMixin, ConfigMixin):
    """Head embedding of a picture whose key-points are known (from `PoseEvaluator`): no loss and no part of
    the pipeline sees it.

    Args:
        height, width: px, of the network's input.
        side: px, of the upright head crop.
        widths: channels at half and at quarter resolution.
        hidden: what the crop is summed up in.
        embedding: length of the embedding.
    """

    @register_to_config
    def __init__(
        self,
        height: int = 192,
        width: int = 128,
        side: int = 48,
        widths: tuple[int, int] = (32, 64),
        hidden: int = 128,
        embedding: int = 64,
    ) -> None:
        super().__init__()
        self.size, self.side = (height, width), side
        self.crop = CropNetwork(widths, hidden)
        self.embed = nn.Linear(hidden, embedding)

    def forward(self, x: Tensor, keypoints: Tensor) -> Tensor:
        """Pictures float [B, 3, height, width] in [-1, 1], key-points [B, 18, 3] (x, y in [0, 1]) -> [B, E]
        of unit length."""
        crops = upright_heads(x, keypoints, self.side).to(x.dtype)
        return F.normalize(self.embed(self.crop(crops)).float(), dim=-1)

    @torch.no_grad()
    def predict(self, pictures: np.ndarray, keypoints: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """uint8 [N, H, W, 3] with key-points [N, 18, 3] -> float32 [N, E], unit length.

        Raises ValueError when there are not as many key-point sets as pictures, or for pictures not uint8.
        """
        read = [self(x, points) for x, points in batches(self, pictures, keypoints, batch_size)]
        return torch.cat(read).cpu().numpy()
