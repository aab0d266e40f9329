"""BodyNet taught to draw by itself: x0 from its finest features by one linear map.

What pose and appearance map decide of a person needs no noise and no UNet. BodyNet alone sees several times
as many rows a second as the UNet with it; and when its features hold x0 in a linear form, every W_l of Eq. 6
can hand it on. The linear map lives in training only.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from bolid.adapter import AdapterInputs, BoLIDAdapter
from bolid.training.objectives.few_step import x0_huber

GROUND = 0.1  # weight of latent pixels without the person: BodyNet knows no scene
HUBER = 0.2  # as few_step.huber: errors of x0 above it count linearly


class Draft(nn.Module):
    """L_draft of one batch.

    Raises:
        ValueError: the base has no cross-attention at its finest level, so BodyNet stops short of it.
    """

    def __init__(self, adapter: BoLIDAdapter) -> None:
        super().__init__()
        net = adapter.body_net
        if net.config.finest:
            raise ValueError(
                "objective.weights.draft reads BodyNet's finest features, which this base does not use."
            )
        self.head = nn.Conv2d(net.config.channels[0], net.config.latent_channels, 1)
        self._net = (net,)  # in a tuple: not this module's child, but the adapter's

    def forward(self, inputs: AdapterInputs, batch: Mapping[str, Tensor], weight: Tensor) -> Tensor:
        """Pseudo-Huber error [B] of x0 inside the person; rows without pose or map are 0.

        batch: latents [B, C, h, w], part_share uint8 [B, 4, h, w]; weight [B, 1, h, w].
        """
        assert inputs.skeleton is not None
        assert inputs.appearance is not None
        assert inputs.pose_strength is not None
        x0 = self.draw(inputs)
        person = batch["part_share"].float().sum(1, keepdim=True) / 255
        error = x0_huber(x0, batch["latents"], weight * (GROUND + (1 - GROUND) * person), HUBER)
        told = (inputs.pose_strength > 0) & (inputs.appearance != 0).flatten(1).any(1)
        return error * told

    def draw(self, inputs: AdapterInputs) -> Tensor:
        """x0 [B, C, h, w] as the conditions alone tell it, float32."""
        finest = self._net[0](inputs.skeleton, inputs.appearance)[0]
        return self.head(finest).float()
