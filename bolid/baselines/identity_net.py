"""A ControlNet inside an adapter: InstantID's IdentityNet over the skeleton map, which listens to the
identity, or one over skeleton and appearance map, which listens to the text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from ..body import BodyNet
from .carried import CarriedGroup, carried


@dataclass(frozen=True)
class ControlGroup(CarriedGroup):
    """What the ControlNet gets in a call.

    Args:
        picture: skeleton maps [B, 3, H, W] in [0, 1].
        strength: pose strength [B]; 0: the row gets no residuals.
        tokens: [B, N, C], zeros where the identity is off; None: the call's text in their place.
        appearance: packed appearance maps [B, L + 1, H/8, W/8] for a `MapHint`; None: there are none.
    """

    picture: Tensor = field(kw_only=True)
    strength: Tensor = field(kw_only=True)
    tokens: Tensor | None = field(kw_only=True, default=None)
    appearance: Tensor | None = field(kw_only=True, default=None)

    @classmethod
    def of(cls, picture: Tensor, strength: Tensor, **further: Tensor | None) -> Self:
        return cls({}, {}, picture.new_zeros(len(picture), 0), picture=picture, strength=strength, **further)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        given = {name: getattr(self, name) for name in ("region", "tokens", "appearance")}
        mapped = {name: function(each) for name, each in given.items() if each is not None}
        return replace(
            self,
            bias=function(self.bias),
            picture=function(self.picture),
            strength=function(self.strength),
            **mapped,
        )


class MapHint(nn.Module):
    """A ControlNet's hint of BoLID's two maps: BodyNet's way in, then a projection that starts at zero.

    Args:
        latent_channels: channels L of the VAE's latents.
        width: channels of the UNet's finest level.
    """

    def __init__(self, latent_channels: int, width: int) -> None:
        super().__init__()
        self.maps = BodyNet(latent_channels, (width,))
        self.out = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(cast(Tensor, self.out.bias))

    def forward(self, maps: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """Skeleton maps [B, 3, H, W], or a pair of them and packed appearance maps [B, L + 1, h, w] →
        [B, width, h, w]."""
        skeleton, appearance = maps if isinstance(maps, tuple) else (maps, None)
        return self.out(self.maps(skeleton, appearance)[0])


def control_config(unet: UNet2DConditionModel) -> dict[str, Any]:
    """The sizes of a ControlNet for a UNet, for `make_control`."""
    made = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
    config = {name: value for name, value in made.config.items() if not name.startswith("_")}
    heads = getattr(unet.config, "addition_embed_type_num_heads", None)
    return config | ({} if heads is None else {"addition_embed_type_num_heads": heads})


def make_control(config: dict[str, Any], hint: MapHint | None = None) -> ControlNetModel:
    """A ControlNet of these sizes, with a hint of two maps instead of a picture's; its residuals are zero."""
    made = ControlNetModel(**config)
    if hint is not None:
        made.controlnet_cond_embedding = hint  # pyright: ignore[reportAttributeAccessIssue]
    return made


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
        given = carried(ControlGroup, args, kwargs)
        if given is None:
            return None
        sample = args[0] if args else kwargs["sample"]
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        if given.tokens is None:
            given = replace(given, tokens=args[2] if len(args) > 2 else kwargs["encoder_hidden_states"])
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
    assert given.tokens is not None
    picture: Any = given.picture.to(sample.dtype)
    if given.appearance is not None:
        picture = (picture, given.appearance.to(sample.dtype))
    down, middle = control(
        sample,
        timestep,
        given.tokens.to(sample.dtype),
        picture,
        added_cond_kwargs=added,
        return_dict=False,
    )
    scale = given.strength.view(-1, 1, 1, 1).to(sample.dtype)
    return [residual * scale for residual in down], middle * scale
