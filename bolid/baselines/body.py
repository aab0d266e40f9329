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
from .carried import CarriedGroup
from .down_residuals import DownResiduals, down_widths, hook_residuals
from .identity_net import ControlGroup, MapHint, control_config, copy_encoder, hook_control, make_control

__all__ = ["BodyAdapter", "ModelMixin"]  # diffusers' loader looks for a component's base beside its class


class BodyAdapter(BoLIDAdapter):
    """The adapter of a record in `BODY_METHODS`. Make it by `for_method`.

    Args:
        method: the record's name.
        vision_layers: joined layers of the vision encoder (`body_look`), () for part crops.
        control: sizes of the ControlNet (`control_config`), None without one.
        down_widths: of the UNet's down blocks, where body features are added to them; else ().
        others: as of BoLIDAdapter.
    """

    @register_to_config
    def __init__(
        self,
        layer_table: list[dict[str, Any]],
        method: str = "ip_adapter",
        vision_layers: tuple[int, ...] = (),
        control: dict[str, Any] | None = None,
        down_widths: tuple[int, ...] = (),
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
        self.control_net = None
        if control is not None:
            width = control["block_out_channels"][0]
            hint = MapHint(latent_channels, width) if self.record.sees_map else None
            self.control_net = make_control(control, hint)
        self.down_residuals = DownResiduals(body_channels, down_widths) if down_widths else None
        self._handle: Any = None

    @classmethod
    def for_method(cls, name: str, unet: Any, vision: Any, **options: Any) -> BodyAdapter:
        """A new adapter of a method for a UNet and the vision encoder's config.

        Args:
            options: sizes as of `BoLIDAdapter.for_unet`. Tokens of the whole person have the text's width and
                their keys and values start from the text's, as the papers have it.

        Raises:
            ValueError: for an unknown name, or a UNet that the method has no way into.
        """
        record = find_method(name)
        given: dict[str, Any] = {"method": name, "vision_dim": vision.hidden_size, "image_token_count": 0}
        given["zero_tokens"] = record.zero_tokens
        if record.tokens not in ("parts", "none"):
            given["vision_layers"] = body_look(vision.num_hidden_layers).layers
            options = {k: v for k, v in options.items() if k not in ("tokens_per_part", "token_dim")}
        if record.has_control:
            given["control"] = control_config(unet)
        if record.body == "map residuals":
            given["down_widths"] = down_widths(unet)
        made: Any = cls.for_unet(unet, **(options | given))
        if made.control_net is not None:
            copy_encoder(made.control_net, unet)
        return made

    @property
    def look(self) -> Look:
        layers = tuple(self.config.vision_layers)
        return Look(True, True, layers, recognition=True) if layers else super().look

    def attach(self, unet: UNet2DConditionModel, matmul: bool = False) -> None:
        """As BoLIDAdapter's; the hook of what is carried too."""
        self.detach(unet)
        super().attach(unet, matmul)
        if self.control_net is not None:
            if matmul:
                self.control_net.set_attn_processor(AttnProcessor())  # pyright: ignore[reportArgumentType]
            self._handle = hook_control(unet, self.control_net)
        if self.down_residuals is not None:
            self._handle = hook_residuals(unet)

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
        further = self._carried(kept)
        return made if further is None else replace(made, groups=(*made.groups, further))

    def _kept(self, inputs: AdapterInputs) -> AdapterInputs:
        dropped: dict[str, None] = {}
        if self.record.tokens == "none":
            dropped |= dict.fromkeys(("tokens", "token_present", "part_ids"))
        if not self.record.sees_map:
            dropped["appearance"] = None
        return replace(inputs, **dropped)

    def _identity_group(self, inputs: AdapterInputs) -> TokenGroup:
        return orthogonal(super()._identity_group(inputs), self.record.ortho)

    def _body(self, inputs: AdapterInputs) -> dict[str, Tensor]:
        return super()._body(inputs) if self.record.in_attention else {}

    def _carried(self, inputs: AdapterInputs) -> CarriedGroup | None:
        """What reaches the UNet by a hook: a ControlNet's inputs, or body features for the down blocks."""
        if inputs.skeleton is None or self.record.in_attention:
            return None
        rows = len(inputs.skeleton)
        strength = inputs.pose_strength
        strength = inputs.skeleton.new_ones(rows) if strength is None else strength
        if self.down_residuals is not None:
            return self.down_residuals(self.body_net(inputs.skeleton, inputs.appearance), strength)
        if self.record.sees_map:
            return ControlGroup.of(inputs.skeleton, strength, appearance=inputs.appearance)
        return ControlGroup.of(inputs.skeleton, strength, tokens=self._heard(inputs))

    def _heard(self, inputs: AdapterInputs) -> Tensor:
        """IdentityNet's tokens: zeros where the identity is off."""
        assert inputs.skeleton is not None
        tokens, rows = inputs.tokens, len(inputs.skeleton)
        if tokens is None:
            count, width = self.record.count, self.config.token_dim
            tokens = inputs.skeleton.new_zeros(rows, count, width)
        elif inputs.strength is not None:
            on = (inputs.strength.amax(dim=1) > 0).to(tokens.dtype)
            tokens = tokens * on[:, None, None]
        return tokens
