"""The compared methods for bodies: one record each, over code that all share (`bolid.baselines.body`).

IP-Adapter, InstantID and PuLID are retargeted from the face to the body. Everything that a method does not
decide is the same for all: the frozen base, the data, the steps, the form of L_rec, which conditions are
dropped how often, and what guidance's negative half is (`AdapterInputs.negative`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .records import Ortho

Tokens = Literal["none", "parts", "whole", "embedding", "levels"]
Body = Literal["skeleton", "map", "identity net", "map residuals", "map control"]


@dataclass(frozen=True)
class BodyMethod:
    """A compared method.

    Args:
        name: the key in BODY_METHODS, and the folder of its trainings.
        title: in tables.
        tokens: what becomes identity tokens. "parts": BoLID's crops; "whole": the vision encoder's patches of
            one crop of the person; "embedding": one recognition vector; "levels": that vector and one token
            for each of several of the encoder's layers; "none".
        body: what a pose becomes. "skeleton": BodyNet over the skeleton map alone, the same for all methods
            that have no pose input of their own; "map": with the appearance map, BoLID's; "identity net": a
            ControlNet over the skeleton map that listens to the identity tokens instead of the text. Other
            ways in for both maps: "map residuals": BodyNet's features on the UNet's down blocks; "map
            control": a ControlNet, at every step.
        losses: weights of Eq. 1 by the names of `LossWeights`.
        count: identity tokens of the whole person.
        zero_tokens, ortho: PuLID's, see `bolid.baselines.attention`.
    """

    name: str
    title: str
    tokens: Tokens
    body: Body
    losses: Mapping[str, float] = field(default_factory=lambda: {"rec": 1.0})
    count: int = 16
    zero_tokens: int = 0
    ortho: Ortho = "off"

    @property
    def sees_map(self) -> bool:
        """Whether the appearance map is given to it."""
        return self.body not in ("skeleton", "identity net")

    @property
    def has_control(self) -> bool:
        """Whether a ControlNet is its way in for the body."""
        return self.body in ("identity net", "map control")

    @property
    def in_attention(self) -> bool:
        """Whether its body features are added in the cross-attentions (Eq. 6)."""
        return self.body in ("skeleton", "map")

    @property
    def command(self) -> str:
        """How it is trained; the seed and the folder are still to be said."""
        config = CONFIGS.get(self.name, "baseline-bolid" if self.losses == EQ1 else "baseline-ip-adapter")
        other = "" if self.name in CONFIGS else f" objective.method={self.name}"
        return f"python train/run.py --config train/configs/{config}.yaml{other}"


CONFIGS = {
    name: f"baseline-{name.replace('_', '-')}" for name in ("ip_adapter", "instantid", "pulid", "bolid")
}
# on the lightning branch a tenth of the λ of the source and of PuLID (appearance: its L_id): docs/LOG.md
EQ1 = {"rec": 1.0, "id": 0.1, "clip": 0.1}
PULID_LOSSES = {"rec": 1.0, "appearance": 0.1, "semantic": 0.06, "layout": 0.01}
BODY_METHODS: dict[str, BodyMethod] = {
    method.name: method
    for method in (
        # Plus: 16 tokens by a resampler of depth 4 over the penultimate layer with its class token, L_rec
        BodyMethod("ip_adapter", "IP-Adapter", "whole", "skeleton"),
        # 16 tokens by the same resampler over one un-normalised embedding, IdentityNet, L_rec
        BodyMethod("instantid", "InstantID", "embedding", "identity net"),
        # v1: 5 tokens of recognition and class embedding, 5 of levels, zero tokens, orthogonal, alignment
        BodyMethod("pulid", "PuLID", "levels", "skeleton", PULID_LOSSES, 10, 8, "v2"),
        BodyMethod("bolid", "BoLID", "parts", "map", EQ1),
        BodyMethod("bolid_no_map", "BoLID without the appearance map", "parts", "skeleton", EQ1),
        BodyMethod("bolid_no_tokens", "BoLID without identity tokens", "none", "map", EQ1),
        BodyMethod("pose_only", "Base + pose", "none", "skeleton"),
        # three ways in for skeleton and appearance map, and nothing else
        BodyMethod("body_features", "Body features in the attention", "none", "map"),
        BodyMethod("body_residuals", "Body features on the down blocks", "none", "map residuals"),
        BodyMethod("body_control", "ControlNet over both maps", "none", "map control"),
    )
}
"""The fair comparison's methods and BoLID's own leave-one-out forms."""


def find_method(name: str) -> BodyMethod:
    """The record of a name. Raises ValueError that lists the names."""
    if name not in BODY_METHODS:
        raise ValueError(f"method {name!r} is none of {', '.join(BODY_METHODS)}.")
    return BODY_METHODS[name]
