"""InstantID's IdentityNet inside an adapter: a ControlNet over the skeleton map that listens to the identity.

Its residuals reach the UNet by a hook before every call, from conditions that travel with the call: the
pipelines and the training loop call the UNet as ever.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor

from ..attention import KEY, Conditions, TokenGroup


@dataclass(frozen=True)
class ControlGroup(TokenGroup):
    """What IdentityNet gets in a call, carried among the token groups; it adds nothing to an attention.

    Args:
        tokens: [B, N, C], zeros where the identity is off.
        picture: skeleton maps [B, 3, H, W] in [0, 1].
        strength: pose strength [B]; 0: the row gets no residuals.
    """

    tokens: Tensor = field(kw_only=True)
    picture: Tensor = field(kw_only=True)
    strength: Tensor = field(kw_only=True)

    @classmethod
    def of(cls, tokens: Tensor, picture: Tensor, strength: Tensor) -> Self:
        nothing = tokens.new_zeros(len(tokens), 0)
        return cls({}, {}, nothing, tokens=tokens, picture=picture, strength=strength)

    def join(self, hidden: Tensor, query: Tensor, layer: str) -> Tensor:  # noqa: ARG002
        return hidden

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return replace(
            self,
            bias=function(self.bias),
            tokens=function(self.tokens),
            picture=function(self.picture),
            strength=function(self.strength),
            region=None if self.region is None else function(self.region),
        )


def control_config(unet: UNet2DConditionModel) -> dict[str, Any]:
    """The sizes of a ControlNet for a UNet, for `make_control`."""
    made = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
    config = {name: value for name, value in made.config.items() if not name.startswith("_")}
    heads = getattr(unet.config, "addition_embed_type_num_heads", None)
    return config | ({} if heads is None else {"addition_embed_type_num_heads": heads})


def make_control(config: dict[str, Any]) -> ControlNetModel:
    """A ControlNet of these sizes; its residuals are zero."""
    return ControlNetModel(**config)


def copy_encoder(control: ControlNetModel, unet: UNet2DConditionModel) -> None:
    """Starts the ControlNet from the UNet's encoder, as InstantID does."""
    names = ["conv_in", "time_proj", "time_embedding", "down_blocks", "mid_block"]
    names += ["add_embedding"] if hasattr(control, "add_embedding") else []
    for name in names:
        state = getattr(unet, name).state_dict()
        getattr(control, name).load_state_dict(state)


def hook_control(unet: UNet2DConditionModel, control: Callable[..., Any]) -> Any:
    """Adds the residuals of `control` to every call whose conditions hold a ControlGroup; its handle."""

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        conditions: Conditions | None = (kwargs.get("cross_attention_kwargs") or {}).get(KEY)
        sample = args[0] if args else kwargs["sample"]
        groups = () if conditions is None else conditions.for_rows(len(sample)).groups
        given = next((group for group in groups if isinstance(group, ControlGroup)), None)
        if given is None:
            return None
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        down, middle = _residuals(control, given, sample, timestep, kwargs.get("added_cond_kwargs"))
        if (others := kwargs.get("down_block_additional_residuals")) is not None:  # a ControlNet beside it
            down = [ours + theirs for ours, theirs in zip(down, others, strict=True)]
            middle = middle + kwargs["mid_block_additional_residual"]
        added = {"down_block_additional_residuals": tuple(down), "mid_block_additional_residual": middle}
        return args, kwargs | added

    return unet.register_forward_pre_hook(before, with_kwargs=True)


def _residuals(
    control: Callable[..., Any], given: ControlGroup, sample: Tensor, timestep: Any, added: Any
) -> tuple[list[Tensor], Tensor]:
    """Residuals of every level, times each row's strength."""
    down, middle = control(
        sample,
        timestep,
        given.tokens.to(sample.dtype),
        given.picture.to(sample.dtype),
        added_cond_kwargs=added,
        return_dict=False,
    )
    scale = given.strength.view(-1, 1, 1, 1).to(sample.dtype)
    return [residual * scale for residual in down], middle * scale
