"""BoLIDAdapter: what is trained beside the base, and the one place that turns inputs into conditions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .attention import (
    MASKED,
    Conditions,
    IdentityAttention,
    TokenGroup,
    attach,
    cross_attentions,
    detach,
    require_attached,
)
from .body import BodyNet
from .encoder import WHOLE, IdentityResampler, ImageResampler, Look


@dataclass(frozen=True)
class AdapterInputs:
    """What one batch is conditioned on, before the layers' weights. None: no row has that kind.

    A row without a kind has strength 0 there; its tensors may hold anything finite.

    Args:
        tokens: identity tokens [B, N, C]; several references of one person are joined along N.
        token_present: bool [B, N], False where the token's part was not seen.
        part_ids: int64 [N], the part of each token.
        strength: [B, 4], 0 or more, one per part (`PARTS`).
        image_tokens: image-prompt tokens [B, M, C].
        image_strength: [B].
        skeleton: skeleton map [B, 3, H, W] in [0, 1].
        appearance: [B, L + 1, H/8, W/8], `body.pack_appearance`, already faded by `strength`; zeros = no map.
        pose_strength: [B], b of Eq. 6.
    """

    tokens: Tensor | None = None
    token_present: Tensor | None = None
    part_ids: Tensor | None = None
    strength: Tensor | None = None
    image_tokens: Tensor | None = None
    image_strength: Tensor | None = None
    skeleton: Tensor | None = None
    appearance: Tensor | None = None
    pose_strength: Tensor | None = None

    def without_identity(self, rows: Tensor | None = None) -> AdapterInputs:
        """No identity tokens and no appearance map in these rows (bool [B]; None: all); skeletons stay."""
        return replace(
            self, strength=_zero_rows(self.strength, rows), appearance=_zero_rows(self.appearance, rows)
        )

    def without_image(self, rows: Tensor | None = None) -> AdapterInputs:
        """No image prompt in these rows (bool [B]; None: all)."""
        return replace(self, image_strength=_zero_rows(self.image_strength, rows))

    def without_pose(self, rows: Tensor | None = None) -> AdapterInputs:
        """No body condition at all in these rows (bool [B]; None: all): identity by tokens alone."""
        return replace(self, pose_strength=_zero_rows(self.pose_strength, rows))

    def __getitem__(self, rows: Tensor) -> AdapterInputs:
        """Some rows, by indices [K] or a mask [B]."""
        by_row = {n: v[rows] for n, v in vars(self).items() if isinstance(v, Tensor) and n != "part_ids"}
        return replace(self, **by_row)

    def negative(self, rows: Tensor | None = None) -> AdapterInputs:
        """Guidance's negative half, in training as in inference: no identity, no image prompt."""
        return self.without_identity(rows).without_image(rows)


def _zero_rows(tensor: Tensor | None, rows: Tensor | None) -> Tensor | None:
    """`tensor` with the given rows exactly 0, whatever they held."""
    if tensor is None or rows is None:
        return None if tensor is None else torch.zeros_like(tensor)
    rows = rows.to(tensor.device).view(-1, *(1,) * (tensor.ndim - 1))
    return tensor.masked_fill(rows, 0)


def part_scale(strength: Tensor, token_present: Tensor, part_ids: Tensor) -> tuple[Tensor, Tensor]:
    """s̄ and log(s_part/s̄) of the adapted cross-attention.

    s̄ is the maximum over the parts that are present: else a part that is seen alone would count at any
    strength as much as at 1, because a bias that all tokens share cancels in the softmax.

    Args:
        strength: [B, 4], 0 or more. Tokens of the whole person (part id 4) have that of the weakest part, so
            that a part at 0 has no influence.
        token_present: bool [B, N].
        part_ids: int64 [N].

    Returns:
        s̄ [B] (0 where no token has influence) and the bias [B, N] (`MASKED` at tokens of strength 0).
    """
    strength = torch.cat([strength.float(), strength.float().amin(dim=1, keepdim=True)], dim=1)
    token_strength = strength[:, part_ids] * token_present  # [B, N]
    scale = token_strength.amax(dim=1)
    active = token_strength > 0
    ratio = torch.where(active, token_strength / scale.clamp_min(1e-12)[:, None], 1.0)
    return scale, torch.where(active, ratio.log(), MASKED)


class BoLIDAdapter(ModelMixin, ConfigMixin):
    """Resamplers, BodyNet, and keys, values and body projections for every cross-attention of a UNet.

    Make it by `for_unet`. Its weights stay outside of the UNet: `attach` only sets processors that know their
    layer's name.

    Args:
        layer_table: per cross-attention `{"name", "dim", "heads", "level"}`, level = halvings of the size.
        vision_dim: width of the vision encoder's patches.
        latent_channels: channels of the VAE's latents.
        token_dim: width of identity and image tokens.
        tokens_per_part: identity tokens of each part; with one entry, of the whole person.
        image_token_count: image-prompt tokens; 0 leaves the image prompt out.
        resampler_width, resampler_depth, resampler_heads, resampler_ffn_ratio: of the identity resampler.
        image_depth: layers of the image resampler.
        body_channels: BodyNet's channels per UNet level, finest first.
        body_blocks: BodyNet's residual blocks per level, or one number for all.
        zero_tokens: tokens of zero key and value beside the identity's, an attention sink (PuLID).
        class_token: the resamplers see the vision encoder's class token before the patches, as IP-Adapter's
            do (`part_patches`).
    """

    _supports_gradient_checkpointing = False

    config: Any  # made by ConfigMixin from the arguments

    @register_to_config
    def __init__(
        self,
        layer_table: list[dict[str, Any]],
        vision_dim: int = 192,
        latent_channels: int = 16,
        token_dim: int = 96,
        tokens_per_part: tuple[int, ...] = (8, 8, 8, 4),
        image_token_count: int = 8,
        resampler_width: int = 128,
        resampler_depth: int = 2,
        resampler_heads: int = 4,
        resampler_ffn_ratio: float = 2,
        image_depth: int = 1,
        body_channels: tuple[int, ...] = (80, 96, 112),
        body_blocks: tuple[int, ...] = (1,),
        zero_tokens: int = 0,  # noqa: ARG002 - read from the config
        class_token: bool = False,  # noqa: ARG002 - read from the config
    ) -> None:
        super().__init__()
        shape = {"width": resampler_width, "heads": resampler_heads, "ffn_ratio": resampler_ffn_ratio}
        self.resampler = IdentityResampler(
            vision_dim, token_dim, tuple(tokens_per_part), depth=resampler_depth, **shape
        )
        self.image_resampler = None
        if image_token_count:
            self.image_resampler = ImageResampler(
                vision_dim, token_dim, (image_token_count,), depth=image_depth, **shape
            )
        finest = min(row["level"] for row in layer_table)
        self.body_net = BodyNet(latent_channels, tuple(body_channels), tuple(body_blocks), finest)
        self.layers = nn.ModuleDict(
            {
                _key(row["name"]): IdentityAttention(
                    row["dim"], row["heads"], token_dim, body_channels[row["level"]]
                )
                for row in layer_table
            }
        )

    @classmethod
    def for_unet(cls, unet: UNet2DConditionModel, **options: Any) -> BoLIDAdapter:
        """An adapter that fits a UNet; its keys and values start from the text's where the widths agree.

        Args:
            options: arguments of the class. Not given, `token_dim` is the UNet's text width,
                `latent_channels` its output channels, `body_channels` a third of its channels (rounded to 8).
        """
        found = cross_attentions(unet)
        config: Any = unet.config
        widths = [max(8, round(width / 3 / 8) * 8) for width in config.block_out_channels]
        settings: dict[str, Any] = {"latent_channels": config.out_channels, "body_channels": tuple(widths)}
        first = next(iter(found.values()))
        settings["token_dim"] = _linear(first.to_k).in_features
        deepest = len(config.block_out_channels) - 1
        table = [
            {"name": name, "dim": attn.inner_dim, "heads": attn.heads, "level": _level(name, deepest)}
            for name, attn in found.items()
        ]
        adapter = cls(layer_table=table, **(settings | options))
        adapter.copy_text_weights(unet)
        return adapter

    @torch.no_grad()
    def copy_text_weights(self, unet: UNet2DConditionModel) -> None:
        """Starts keys and values from the text's where the token widths agree, as IP-Adapter does."""
        for name, attn in cross_attentions(unet).items():
            layer = self.layers[_key(name)]
            for target, source in (("k", _linear(attn.to_k)), ("v", _linear(attn.to_v))):
                for group in ("id", "image"):
                    weight = getattr(layer, f"to_{target}_{group}").weight
                    if weight.shape == source.weight.shape:
                        weight.copy_(source.weight)

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The UNet's names of the layers served."""
        return tuple(row["name"] for row in self.config.layer_table)

    def layer(self, name: str) -> IdentityAttention:
        return cast(IdentityAttention, self.layers[_key(name)])

    def attach(self, unet: UNet2DConditionModel, matmul: bool = False) -> None:
        """Makes the UNet listen to conditions; matmul=True for training on a CPU. See `attention.attach`."""
        attach(unet, self.layer_names, matmul)

    def detach(self, unet: UNet2DConditionModel) -> None:
        """Puts the stock processors back."""
        detach(unet)

    def require_attached(self, unet: UNet2DConditionModel) -> None:
        """Raises ValueError if something replaced a processor. See `attention.require_attached`."""
        require_attached(unet, self.layer_names)

    def encode_identity(self, patches: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Part patches [B, 4, L, D], present bool [B, 4] → tokens [B, N, C], token_present bool [B, N].

        An adapter of the whole person takes [B, 1, L, D] and [B, 1].
        """
        return self.resampler(patches, present)

    def encode_whole(self, patches: Tensor) -> Tensor:
        """Patches of the whole person [B, L, D] → tokens [B, N, C], all of part `WHOLE`."""
        return self.resampler.whole(patches)

    @property
    def sees_whole(self) -> bool:
        """Whether the adapter knows the whole person instead of its parts."""
        return len(self.resampler.tokens) == 1

    @property
    def look(self) -> Look:
        """How references are to be looked at for `encode_identity`, and image prompts for `encode_image`."""
        class_token = self.config.class_token
        return Look(self.sees_whole, class_token, prompt_class_token=class_token)

    def encode_image(self, patches: Tensor) -> Tensor:
        """Patches of the image prompt [B, L, D] → tokens [B, M, C].

        Raises:
            ValueError: if the adapter was made without an image prompt.
        """
        if self.image_resampler is None:
            raise ValueError("This adapter takes no image prompt: make it with image_token_count > 0.")
        return self.image_resampler(patches)

    @property
    def part_ids(self) -> Tensor:
        """Part of each identity token, int64 [N]."""
        ids = self.resampler.part_ids
        return ids + WHOLE if self.sees_whole else ids

    def forward(self, inputs: AdapterInputs) -> Conditions:
        """The same as `conditions`: what a wrapper for several processes calls."""
        return self.conditions(inputs)

    def inputs(
        self,
        patches: Tensor | None = None,
        present: Tensor | None = None,
        strength: Tensor | None = None,
        image_patches: Tensor | None = None,
        image_strength: Tensor | None = None,
        skeleton: Tensor | None = None,
        appearance: Tensor | None = None,
        pose_strength: Tensor | None = None,
    ) -> AdapterInputs:
        """Training's way in: runs the resamplers. Strengths left out are 1, `present` all True.

        Shapes as in `encode_identity` and `AdapterInputs`; image_patches [B, L, D]. What rows should miss is
        dropped from the result, by `without_…(rows)` and `negative(rows)`.
        """
        given: dict[str, Any] = {
            "skeleton": skeleton,
            "appearance": appearance,
            "pose_strength": pose_strength,
        }
        if patches is not None:
            if present is None:
                present = patches.new_ones(patches.shape[:2], dtype=torch.bool)
            given["tokens"], given["token_present"] = self.encode_identity(patches, present)
            given["part_ids"], given["strength"] = self.part_ids, strength
        if image_patches is not None:
            given["image_tokens"], given["image_strength"] = self.encode_image(image_patches), image_strength
        return _fill_strengths(AdapterInputs(**given))

    def conditions(self, inputs: AdapterInputs) -> Conditions:
        """Keys, values and body residuals of all layers, once per call; all differentiable.

        Raises:
            ValueError: if the inputs have no tensor at all or disagree in their number of rows.
        """
        inputs = _fill_strengths(inputs)
        tensors = (inputs.tokens, inputs.image_tokens, inputs.skeleton)
        sizes = {len(tensor) for tensor in tensors if tensor is not None}
        if len(sizes) != 1:
            raise ValueError(
                f"Tokens, image tokens and skeleton maps have {sorted(sizes)} rows: give one batch size."
            )
        groups = []
        if inputs.tokens is not None:
            groups.append(self._identity_group(inputs))
        if inputs.image_tokens is not None:
            assert inputs.image_strength is not None  # filled in above
            groups.append(self._image_group(inputs.image_tokens, inputs.image_strength))
        return Conditions(sizes.pop(), tuple(groups), self._body(inputs))

    def _identity_group(self, inputs: AdapterInputs) -> TokenGroup:
        assert inputs.tokens is not None
        assert inputs.strength is not None
        assert inputs.token_present is not None
        assert inputs.part_ids is not None
        scale, bias = part_scale(inputs.strength, inputs.token_present, inputs.part_ids)
        zeros = self.config.zero_tokens
        pairs = {name: self.layer(name).identity(inputs.tokens, scale, zeros) for name in self.layer_names}
        return TokenGroup.from_pairs(pairs, torch.nn.functional.pad(bias, (0, zeros)))

    def _image_group(self, tokens: Tensor, scale: Tensor) -> TokenGroup:
        pairs = {name: self.layer(name).image(tokens, scale) for name in self.layer_names}
        return TokenGroup.from_pairs(pairs, tokens.new_zeros(tokens.shape[:2]))

    def _body(self, inputs: AdapterInputs) -> dict[str, Tensor]:
        """b · W_l f_l of every layer, {} without skeleton maps."""
        if inputs.skeleton is None:
            return {}
        assert inputs.pose_strength is not None  # filled in before
        levels = [f.flatten(2).transpose(1, 2) for f in self.body_net(inputs.skeleton, inputs.appearance)]
        return {
            row["name"]: self.layer(row["name"]).residual(levels[row["level"]], inputs.pose_strength)
            for row in self.config.layer_table
        }


def _linear(projection: Any) -> nn.Linear:
    """A projection of diffusers' Attention, whose types say that it may be missing."""
    return projection


def _fill_strengths(inputs: AdapterInputs) -> AdapterInputs:
    """Strengths that were left out become 1."""
    filled: dict[str, Tensor] = {}
    if inputs.tokens is not None:
        if inputs.token_present is None or inputs.part_ids is None:
            raise ValueError(
                "Identity tokens need token_present and part_ids: take them from encode_identity."
            )
        if inputs.strength is None:
            filled["strength"] = inputs.tokens.new_ones(len(inputs.tokens), int(inputs.part_ids.max()) + 1)
    if inputs.image_tokens is not None and inputs.image_strength is None:
        filled["image_strength"] = inputs.image_tokens.new_ones(len(inputs.image_tokens))
    if inputs.skeleton is not None and inputs.pose_strength is None:
        filled["pose_strength"] = inputs.skeleton.new_ones(len(inputs.skeleton))
    return replace(inputs, **filled)


def _key(name: str) -> str:
    """Module dictionaries allow no dots."""
    return name.replace(".", "__")


def _level(name: str, deepest: int) -> int:
    """Halvings of the latents: `down_blocks.i` → i, `up_blocks.i` → deepest − i, mid → deepest."""
    place, index = name.split(".")[:2]
    return {"down_blocks": int, "up_blocks": lambda i: deepest - int(i)}.get(place, lambda _: deepest)(index)
