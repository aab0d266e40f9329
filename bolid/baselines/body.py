"""`BodyAdapter`: a compared method as an adapter, trained, saved and called like BoLID's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diffusers import ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from ..adapter import AdapterInputs, BoLIDAdapter
from ..attention import Conditions, TokenGroup
from ..encoder import Look
from .attention import orthogonal
from .body_methods import BodyMethod, find_method
from .body_tokens import BodyProjector, body_look
from .identity_net import ControlGroup, control_config, copy_encoder, hook_control, make_control

__all__ = ["BodyAdapter", "ModelMixin"]  # diffusers' loader looks for a component's base beside its class


class BodyAdapter(BoLIDAdapter):
    """The adapter of a record in `BODY_METHODS`. Make it by `for_method`.

    Args:
        method: the record's name.
        vision_layers: joined layers of the vision encoder (`body_look`), () for part crops.
        control: sizes of IdentityNet (`control_config`), None without one.
        others: as of BoLIDAdapter.
    """

    @register_to_config
    def __init__(
        self,
        layer_table: list[dict[str, Any]],
        method: str = "ip_adapter",
        vision_layers: tuple[int, ...] = (),
        control: dict[str, Any] | None = None,
        vision_dim: int = 192,
        latent_channels: int = 16,
        token_dim: int = 96,
        tokens_per_part: tuple[int, ...] = (8, 8, 8, 4),
        image_token_count: int = 0,
        resampler_width: int = 128,
        resampler_depth: int = 2,
        resampler_heads: int = 4,
        resampler_ffn_ratio: float = 2,
        image_depth: int = 1,
        body_channels: tuple[int, ...] = (80, 96, 112),
        body_blocks: tuple[int, ...] = (1,),
        zero_tokens: int = 0,
        class_token: bool = False,
    ) -> None:
        super().__init__(
            layer_table,
            vision_dim=vision_dim,
            latent_channels=latent_channels,
            token_dim=token_dim,
            tokens_per_part=tokens_per_part,
            image_token_count=image_token_count,
            resampler_width=resampler_width,
            resampler_depth=resampler_depth,
            resampler_heads=resampler_heads,
            resampler_ffn_ratio=resampler_ffn_ratio,
            image_depth=image_depth,
            body_channels=body_channels,
            body_blocks=body_blocks,
            zero_tokens=zero_tokens,
            class_token=class_token,
        )
        self.record: BodyMethod = find_method(method)
        if vision_layers:
            self.resampler: Any = BodyProjector(
                self.record, vision_dim, tuple(vision_layers), token_dim, resampler_width, resampler_heads
            )
        self.identity_net = None if control is None else make_control(control)
        self._handle: Any = None

    @classmethod
    def for_method(cls, name: str, unet: Any, vision: Any, **options: Any) -> BodyAdapter:
        """A new adapter of a method for a UNet and the vision encoder's config.

        Args:
            options: sizes as of `BoLIDAdapter.for_unet`. Tokens of the whole person have the text's width and
                their keys and values start from the text's, as the papers have it.

        Raises:
            ValueError: for an unknown name.
        """
        record = find_method(name)
        given: dict[str, Any] = {"method": name, "vision_dim": vision.hidden_size, "image_token_count": 0}
        given["zero_tokens"] = record.zero_tokens
        if record.tokens not in ("parts", "none"):
            given["vision_layers"] = body_look(vision.num_hidden_layers).layers
            options = {k: v for k, v in options.items() if k not in ("tokens_per_part", "token_dim")}
        if record.body == "identity net":
            given["control"] = control_config(unet)
        made: Any = cls.for_unet(unet, **(options | given))
        if made.identity_net is not None:
            copy_encoder(made.identity_net, unet)
        return made

    @property
    def look(self) -> Look:
        layers = tuple(self.config.vision_layers)
        return Look(True, True, layers, recognition=True) if layers else super().look

    def attach(self, unet: UNet2DConditionModel, matmul: bool = False) -> None:
        """As BoLIDAdapter's; IdentityNet's hook too."""
        self.detach(unet)
        super().attach(unet, matmul)
        if self.identity_net is not None:
            if matmul:
                self.identity_net.set_attn_processor(AttnProcessor())  # pyright: ignore[reportArgumentType]
            self._handle = hook_control(unet, self.identity_net)

    def detach(self, unet: UNet2DConditionModel) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        super().detach(unet)

    def conditions(self, inputs: AdapterInputs) -> Conditions:
        """As BoLIDAdapter's, of what the method takes: whatever else the inputs hold has no influence."""
        kept = self._kept(inputs)
        if kept.tokens is None and kept.skeleton is None:
            given = (inputs.tokens, inputs.skeleton, inputs.image_tokens)
            return Conditions(len(next(tensor for tensor in given if tensor is not None)))
        made = super().conditions(kept)
        control = self._control(kept)
        return made if control is None else replace(made, groups=(*made.groups, control))

    def _kept(self, inputs: AdapterInputs) -> AdapterInputs:
        dropped: dict[str, None] = {}
        if self.record.tokens == "none":
            dropped |= dict.fromkeys(("tokens", "token_present", "part_ids"))
        if self.record.body != "map":
            dropped["appearance"] = None
        return replace(inputs, **dropped)

    def _identity_group(self, inputs: AdapterInputs) -> TokenGroup:
        return orthogonal(super()._identity_group(inputs), self.record.ortho)

    def _body(self, inputs: AdapterInputs) -> dict[str, Tensor]:
        return {} if self.identity_net is not None else super()._body(inputs)

    def _control(self, inputs: AdapterInputs) -> ControlGroup | None:
        """IdentityNet's share of a call: tokens (zeros where the identity is off) and the skeleton map."""
        if self.identity_net is None or inputs.skeleton is None:
            return None
        rows = len(inputs.skeleton)
        strength = inputs.pose_strength
        strength = inputs.skeleton.new_ones(rows) if strength is None else strength
        tokens = inputs.tokens
        if tokens is None:
            count, width = self.record.count, self.config.token_dim
            tokens = inputs.skeleton.new_zeros(rows, count, width)
        elif inputs.strength is not None:
            on = (inputs.strength.amax(dim=1) > 0).to(tokens.dtype)
            tokens = tokens * on[:, None, None]
        return ControlGroup.of(tokens, inputs.skeleton, strength)
