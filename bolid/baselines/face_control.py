"""InstantID's IdentityNet: an ordinary ControlNet that listens to the face tokens instead of the text."""

from __future__ import annotations

import copy
from typing import Any

from diffusers import ControlNetModel
from torch import Tensor


def listening_to(controlnet: ControlNetModel, tokens: Tensor) -> ControlNetModel:
    """The same ControlNet, weights shared, with the tokens in the text's place; the given one stays as it is.

    Made for one call: hand it to the pipeline of that call. Pooled text and time ids go in as ever.

    Args:
        controlnet: IdentityNet, opened by `ControlNetModel.from_pretrained`.
        tokens: [rows, N, C] of the UNet's rows: under guidance negative, then positive, each repeated for the
            pictures per prompt.

    Raises:
        ValueError: when called with another number of rows than the tokens have.
    """
    listener = copy.copy(controlnet)

    def forward(sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, *more: Any, **kw: Any) -> Any:
        if len(encoder_hidden_states) != len(tokens):
            raise ValueError(
                f"The face tokens are for {len(tokens)} rows, the ControlNet runs with "
                f"{len(encoder_hidden_states)}: stack both halves under guidance, negative first."
            )
        face = tokens.to(encoder_hidden_states)
        return controlnet.forward(sample, timestep, face, *more, **kw)

    listener.forward = forward
    return listener
