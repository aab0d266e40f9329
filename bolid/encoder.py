"""Reference picture → part crops → frozen vision patches → identity tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionModel

from .pose import PARTS

MARGIN = 0.1  # of a part's larger side, on each side of its box
WHOLE = len(PARTS)  # part id of tokens of the whole person
SEEN_PIXELS = 12  # fewer labelled pixels than this are a stray edge, not a part
SHRINK = 3  # bilinear sampling may shrink this much before crops are sampled finer and averaged


def crop_parts(image: Tensor, parts: Tensor, size: int = 64) -> tuple[Tensor, Tensor]:
    """Cuts each body part out, on neutral grey.

    Args:
        image: [B, 3, H, W] in [-1, 1].
        parts: label map uint8 [B, H, W], 0 background, 1-4 as in PARTS.
        size: side of the square crops in pixels.

    Returns:
        crops [B, 4, 3, size, size] in [-1, 1], everything outside the part's mask 0, the square box around
        the mask with a 10 % margin; and present [B, 4] bool, whether at least 12 pixels of the part are seen.
        The crop of an absent part is all 0.

    Raises:
        ValueError: if picture and label map differ in size.
    """
    labels = torch.arange(1, len(PARTS) + 1, device=parts.device)
    return _crop(image, parts[:, None] == labels[:, None, None], size)


def crop_person(image: Tensor, parts: Tensor, size: int = 64) -> tuple[Tensor, Tensor]:
    """Cuts the whole person out, as `crop_parts` cuts a part: crops [B, 1, 3, size, size], present [B, 1]."""
    return _crop(image, parts[:, None] > 0, size)


def _crop(image: Tensor, masks: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """A square crop around each of K masks [B, K, H, W] → [B, K, 3, size, size] and present [B, K]."""
    if image.shape[0] != masks.shape[0] or image.shape[-2:] != masks.shape[-2:]:
        raise ValueError(
            f"The picture is {tuple(image.shape)}, its label map {(len(masks), *masks.shape[-2:])}: "
            "same B, H, W please."
        )
    present = masks.sum(dim=(-2, -1)) >= SEEN_PIXELS
    masks = masks & present[..., None, None]
    cut = (image[:, None] * masks[:, :, None]).flatten(0, 1)  # [B·4, 3, H, W]
    fine = math.ceil(max(image.shape[-2:]) / (SHRINK * size))
    grid = _square_grid(masks.flatten(0, 1), size * fine).to(cut.dtype)
    crops = F.grid_sample(cut, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return F.avg_pool2d(crops, fine).unflatten(0, masks.shape[:2]), present


def _square_grid(masks: Tensor, size: int) -> Tensor:
    """Sampling grid [M, size, size, 2] in [-1, 1] of the square box around each mask [M, H, W]."""
    height, width = masks.shape[-2:]
    left, right = _extent(masks.any(dim=-2))
    top, bottom = _extent(masks.any(dim=-1))
    half = torch.maximum(right - left, bottom - top) * (0.5 + MARGIN)
    steps = (torch.arange(size, device=masks.device) + 0.5) / size * 2 - 1  # crop pixel centres in [-1, 1]
    xs = ((left + right) / 2)[:, None] + half[:, None] * steps  # [M, size], in picture pixels
    ys = ((top + bottom) / 2)[:, None] + half[:, None] * steps
    xs, ys = xs * 2 / width - 1, ys * 2 / height - 1
    return torch.stack([xs[:, None].expand(-1, size, -1), ys[:, :, None].expand(-1, -1, size)], dim=-1)


def _extent(line: Tensor) -> tuple[Tensor, Tensor]:
    """First and one-past-last True of [M, length], in pixels; the whole length where nothing is True."""
    length = line.shape[-1]
    first = line.int().argmax(dim=-1)
    last = length - line.flip(-1).int().argmax(dim=-1)
    return first.float(), last.float()


def part_patches(
    vision: CLIPVisionModel,
    crops: Tensor,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    class_token: bool = False,
    layers: tuple[int, ...] = (-2,),
) -> Tensor:
    """Patches of a frozen vision encoder, from its last layer but one.

    Args:
        vision: a CLIP vision model; crops must have its image size.
        crops: [..., 3, size, size] in [-1, 1]: part crops [B, 4, ...] or whole pictures [B, ...].
        mean, std: per-channel statistics of pictures in [0, 1], as public CLIP models want them; None hands
            over [-1, 1] as it is, the convention of bolid-mini.
        class_token: keep the class token in front of the patches, as stock IP-Adapter pipelines do.
        layers: whose states, of `hidden_states`; several are joined along the width.

    Returns:
        [..., L, D], D times the number of layers.
    """
    pixels = crops.flatten(0, -4)
    if mean is not None and std is not None:
        shape = (1, 3, 1, 1)
        pixels = (pixels / 2 + 0.5 - pixels.new_tensor(mean).view(shape)) / pixels.new_tensor(std).view(shape)
    states = vision(pixel_values=pixels.to(vision.dtype), output_hidden_states=True).hidden_states
    assert states is not None
    joined = torch.cat([states[layer] for layer in layers], dim=-1)
    kept = joined if class_token else joined[:, 1:]
    return kept.unflatten(0, crops.shape[:-3])


@dataclass(frozen=True)
class Look:
    """How an adapter looks at a reference: what of the frozen vision encoder's states it gets.

    Args:
        whole: one crop of the person instead of one per part.
        class_token, layers: as of `part_patches`.
        recognition: with `whole`, a row before the others: the four parts' class tokens of the last layer,
            which tell attributes of a part, side by side and filled up with zeros. What the recognition
            embedding of a face is to InstantID and PuLID, for the body.
        prompt_class_token: the class token of image prompts is kept, whatever references do.
    """

    whole: bool = False
    class_token: bool = False
    layers: tuple[int, ...] = (-2,)
    recognition: bool = False
    prompt_class_token: bool = False

    @property
    def prompt(self) -> Look:
        """How image prompts are looked at: whole pictures, last layer but one."""
        return Look(class_token=self.prompt_class_token)

    def crops(self, image: Tensor, parts: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Crops [B, K, 3, size, size] for `states`, and present [B, 4] or, of the whole person, [B, 1]."""
        if not self.whole:
            return crop_parts(image, parts, size)
        crops, present = crop_person(image, parts, size)
        if self.recognition:
            crops = torch.cat([crops, crop_parts(image, parts, size)[0]], dim=1)
        return crops, present

    def states(self, vision: CLIPVisionModel, crops: Tensor, mean: Any = None, std: Any = None) -> Tensor:
        """[B, 4, L, D], or of the whole person [B, 1, L, D]; rows are filled up to the widest one's D."""
        if not self.recognition:
            return part_patches(vision, crops, mean, std, self.class_token, self.layers)
        whole = part_patches(vision, crops[:, :1], mean, std, self.class_token, self.layers)
        row = part_patches(vision, crops[:, 1:], mean, std, True, (-1,))[:, :, 0].flatten(1)  # [B, 4 · D]
        width = max(row.shape[-1], whole.shape[-1])
        row, whole = (F.pad(each, (0, width - each.shape[-1])) for each in (row, whole))
        return torch.cat([row[:, None, None], whole], dim=2)


class PerceiverAttention(nn.Module):
    """Queries attend to patches and to themselves; weights named as in IP-Adapter Plus."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(width, width * 2, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, patches: Tensor, queries: Tensor) -> Tensor:
        """patches [B, L, C], queries [B, N, C] → [B, N, C]."""
        patches, queries = self.norm1(patches), self.norm2(queries)
        keys, values = self.to_kv(torch.cat([patches, queries], dim=1)).chunk(2, dim=-1)
        query, keys, values = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (self.to_q(queries), keys, values)
        )  # [B, heads, ·, d]
        scores = query @ keys.transpose(-1, -2) * query.shape[-1] ** -0.5
        hidden = scores.softmax(dim=-1).to(values.dtype) @ values
        return self.to_out(hidden.transpose(1, 2).flatten(2))


class Resampler(nn.Module):
    """Perceiver from patches to a few tokens, one group of learned queries per part.

    The parts share all weights but their queries and an embedding, and never see each other: a part's tokens
    depend on that part's patches alone. With one part it is the resampler of IP-Adapter Plus, whose weights
    fit here by name (`part_embedding` apart, which is then 0).

    Args:
        vision_dim: width D of the patches.
        token_dim: width of the tokens.
        tokens: tokens of each part.
        width: inner width; a multiple of `heads`.
        depth: layers.
        heads: attention heads.
        ffn_ratio: inner width of the feed-forward layers over `width`.
    """

    def __init__(
        self,
        vision_dim: int,
        token_dim: int,
        tokens: tuple[int, ...] = (8, 8, 8, 4),
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        ffn_ratio: float = 2,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} must be a multiple of heads {heads}.")
        self.tokens = tuple(tokens)
        self.latents = nn.Parameter(torch.randn(1, sum(tokens), width) / width**0.5)
        self.part_embedding = nn.Parameter(torch.randn(len(tokens), width) / width**0.5)
        self.proj_in = nn.Linear(vision_dim, width)
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(width, heads), feed_forward(width, round(width * ffn_ratio))])
            for _ in range(depth)
        )
        self.proj_out = nn.Linear(width, token_dim)
        self.norm_out = nn.LayerNorm(token_dim)

    @property
    def part_ids(self) -> Tensor:
        """Part index of each token, int64 [N]."""
        ids = [part for part, count in enumerate(self.tokens) for _ in range(count)]
        return torch.tensor(ids, device=self.latents.device)

    def forward(self, patches: Tensor) -> Tensor:
        """patches [B, parts, L, D] → tokens [B, N, token_dim], grouped by part in order (`part_ids`).

        Raises:
            ValueError: if the patches have another number of parts.
        """
        rows, parts = patches.shape[:2]
        if parts != len(self.tokens):
            raise ValueError(
                f"Patches of {parts} parts came to a resampler of {len(self.tokens)}: use crop_parts."
            )
        hidden = self.proj_in(patches.to(self.latents.dtype)) + self.part_embedding[:, None]
        hidden = hidden.flatten(0, 1)  # [B·parts, L, width]
        own, slots = self._slots()
        queries = self._ask(hidden, self.latents[0, own].repeat(rows, 1, 1))  # [B·parts, longest, width]
        queries = queries.unflatten(0, (rows, parts)).flatten(1, 2)[:, slots]
        return self.norm_out(self.proj_out(queries))

    def whole(self, patches: Tensor) -> Tensor:
        """patches of the whole person [B, L, D] → tokens [B, N, token_dim] of one group.

        All parts' queries stand side by side and see the same patches and each other, under the mean of the
        parts' embeddings: the one form of several parts that IP-Adapter Plus's layout can hold. With one part
        it is `forward`; with several it is not what was trained.
        """
        hidden = self.proj_in(patches.to(self.latents.dtype)) + self.part_embedding.mean(dim=0)
        queries = self._ask(hidden, self.latents.expand(len(hidden), -1, -1))
        return self.norm_out(self.proj_out(queries))

    def _ask(self, hidden: Tensor, queries: Tensor) -> Tensor:
        """Queries [B, N, width] through all layers, over patches [B, L, width]."""
        for attention, expansion in self.layers:  # pyright: ignore[reportGeneralTypeIssues]
            queries = queries + attention(hidden, queries)
            queries = queries + expansion(queries)
        return queries

    def _slots(self) -> tuple[Tensor, Tensor]:
        """Which latent fills each place of [parts, longest], and the flat place of each token.

        Parts with fewer tokens are filled up with repeats of their last query; a repeat is one more key to
        its own part and is dropped from the result.
        """
        longest, start = max(self.tokens), 0
        own, slots = [], []
        for part, count in enumerate(self.tokens):
            own.append([start + min(place, count - 1) for place in range(longest)])
            slots += [part * longest + place for place in range(count)]
            start += count
        device = self.latents.device
        return torch.tensor(own, device=device), torch.tensor(slots, device=device)


def feed_forward(width: int, inner: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, inner, bias=False),
        nn.GELU(),
        nn.Linear(inner, width, bias=False),
    )


class IdentityResampler(Resampler):
    """Part patches → identity tokens; knows which parts are seen."""

    def forward(self, patches: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore
        """patches [B, 4, L, D], present bool [B, 4] → tokens [B, N, token_dim], token_present bool [B, N].

        Tokens of absent parts are zeros.
        """
        token_present = present[:, self.part_ids]
        return super().forward(patches) * token_present[..., None], token_present


class ImageResampler(Resampler):
    """Patches of a whole picture → image-prompt tokens."""

    def forward(self, patches: Tensor) -> Tensor:
        """patches [B, L, D] → [B, M, token_dim]."""
        return super().forward(patches[:, None])
