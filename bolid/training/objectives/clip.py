"""Training of the small CLIP: captions against whole pictures, and attributes from part crops.

The contrast alone was slow to teach (r@1 .11 of 500 after 2.5 minutes); supervised attributes teach the same
vision tower what hair, clothes and shoes look like on crops, which is what the identity tokens read
(docs/LOG.md, mini.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from bolid.avatars.identity import ATTRIBUTES
from bolid.encoder import crop_parts
from bolid.evaluators import Projections
from bolid.pose import PARTS
from bolid.training.degradation import degrade, some_rows
from bolid.training.draws import Draws

PART_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "head": ("gender", "skin", "hair", "hair_colour", "hat", "hat_colour", "glasses", "beard"),
    "upper": ("gender", "skin", "top", "top_colour", "pattern", "bag", "bag_colour"),
    "lower": ("bottom", "bottom_colour"),
    "feet": ("shoes", "shoe_colour"),
}
CELLS = 2  # colours per patch side that the patch itself must tell: 4 px of a crop each
LABELS = 1 + len(PARTS)  # background first
MAX_LOGIT_SCALE = 4.6052  # ln 100, CLIP's own bound


@dataclass(frozen=True)
class ClipOptions:
    """Sizes of the two towers and what counts how much."""

    tokenizer: str = "runs/tokenizer"  # folder that bolid.training.tokenizer.train_tokenizer wrote
    image_size: int = 64  # px, side of crops and of the squeezed whole picture
    patch_size: int = 8  # px
    vision_width: int = 160  # hidden size
    vision_layers: int = 4
    vision_heads: int = 5
    text_width: int = 192  # hidden size, the UNet's cross-attention dimension
    text_layers: int = 3
    text_heads: int = 6
    embedding: int = 128  # dimension of the common space
    crop_rows: float = 0.25  # share of the rows whose part crops are read, four each
    degraded: float = 0.2  # share of pictures that get each kind of damage
    contrast_weight: float = 1.0  # of text against picture
    attribute_weight: float = 1.0  # cross-entropy of attributes on crops
    whole_weight: float = 0.5  # cross-entropy of scene, pose family, view and attributes on whole pictures
    layout_weight: float = 1.0  # cross-entropy of what part shows where on whole pictures
    colour_weight: float = 2.0  # mean square of the patches' own colours, in [-1,1]


def clip_model(options: ClipOptions, tokenizer: CLIPTokenizer) -> CLIPModel:
    """A small CLIPModel: the text tower pools at the tokenizer's end token, pictures are in [-1,1]."""
    vocabulary = tokenizer.get_vocab()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=options.text_width,
        intermediate_size=3 * options.text_width,
        num_hidden_layers=options.text_layers,
        num_attention_heads=options.text_heads,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=vocabulary[str(tokenizer.bos_token)],
        eos_token_id=vocabulary[str(tokenizer.eos_token)],
        pad_token_id=vocabulary[str(tokenizer.pad_token)],
    )
    vision = CLIPVisionConfig(
        hidden_size=options.vision_width,
        intermediate_size=3 * options.vision_width,
        num_hidden_layers=options.vision_layers,
        num_attention_heads=options.vision_heads,
        image_size=options.image_size,
        patch_size=options.patch_size,
    )
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=options.embedding
    )
    model = CLIPModel(config)
    # the fused kernel's backward takes three times as long on a CPU in bf16
    model.set_attn_implementation("eager")
    places = model.vision_model.embeddings.position_embedding.weight
    with torch.no_grad():
        places[1:] = grid_positions(options.image_size // options.patch_size, options.vision_width)
    return model


def grid_positions(side: int, width: int) -> Tensor:
    """Where the patches lie, as sines and cosines of column and row: [side * side, width], row by row.

    A start for the learned positions: CLIP's own (0.02 of noise) drowns in the patches and grows slowly.
    """
    count = width // 4
    frequency = torch.pi / 2 * 2 ** torch.linspace(0, math.log2(side), count) / side
    angle = torch.arange(side)[:, None] * frequency  # [side, count]
    waves = torch.cat((angle.sin(), angle.cos()), -1)  # [side, 2 * count]
    columns, rows = waves.repeat(side, 1), waves.repeat_interleave(side, 0)
    return 0.3 * F.pad(torch.cat((columns, rows), -1), (0, width - 4 * count))


def whole_picture(image: Tensor, size: int) -> Tensor:
    """The whole picture squeezed into the tower's square, nothing cut off: [B,3,H,W] -> [B,3,size,size]."""
    return F.interpolate(image.float(), (size, size), mode="bilinear", antialias=True)


def class_loss(logits: Tensor, labels: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the rows that count. logits [B,K], labels int64 [B], counts bool [B] ->
    (mean loss, share of right answers); zeros where no row counts.
    """
    number = counts.sum().clamp(min=1)
    loss = F.cross_entropy(logits.float(), labels, reduction="none")
    return (loss * counts).sum() / number, ((logits.argmax(-1) == labels) * counts).sum() / number


class ClipObjective(nn.Module):
    """Losses of a CLIPModel on avatars. `models` is what a run exports: the whole CLIP, its two towers, and
    the projections over them.
    """

    def __init__(self, options: ClipOptions, scenes: int, families: int, views: int) -> None:
        super().__init__()
        self.options = options
        self.tokenizer = CLIPTokenizer.from_pretrained(options.tokenizer)
        self.clip = clip_model(options, self.tokenizer)
        self.projections = Projections.of(self.clip)
        self.whole_names = {"scene": scenes, "pose_family": families, "view": views}
        kinds = {**self.whole_names, **{name: len(values) for name, values in ATTRIBUTES.items()}}
        width = options.vision_width
        self.whole_heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in kinds.items()})
        self.crop_heads = nn.ModuleDict(
            {
                f"{part}_{name}": nn.Linear(2 * width, len(ATTRIBUTES[name]))
                for part, names in PART_ATTRIBUTES.items()
                for name in names
            }
        )
        self.part_map = nn.Linear(width, LABELS * (options.image_size // options.patch_size) ** 2)
        self.patch_part = nn.Linear(width, LABELS)
        self.patch_colour = nn.Linear(width, 3 * CELLS**2)

    @property
    def models(self) -> dict[str, nn.Module]:
        """What a run exports, by folder name."""
        return {
            "clip": self.clip,
            "text_encoder": self.clip.text_model,
            "image_encoder": self.clip.vision_model,
            "projections": self.projections,
        }

    def forward(self, batch: dict[str, Tensor], _draws: Draws | None = None) -> dict[str, Tensor]:
        """batch: image, reference [B,3,H,W] in [-1,1]; masks, reference_masks uint8 [B,H,W]; labels int64
        [B,A]; visible, reference_visible bool [B,A]; scene, pose_family, view int64 [B]; input_ids,
        attention_mask [B,T] -> losses, with "loss".
        """
        with torch.autocast(batch["image"].device.type, enabled=False):
            whole, crops, present, labels, visible = self.pictures(batch)
        pixels = torch.cat((whole, crops.flatten(0, 1)))
        out = self.clip.vision_model(pixel_values=pixels, output_hidden_states=True)
        count = len(whole)
        losses = {
            "contrast": self.contrast(self.embed_pooled(out.pooler_output[:count]), self.embed_text(batch)),
            "whole": self.whole_losses(out.pooler_output[:count], batch)[0],
            "layout": self.layout_loss(
                out.pooler_output[:count], out.hidden_states[-2][:count, 1:], batch["masks"]
            ),
            "colour": self.colour_loss(out.hidden_states[-2][:, 1:], pixels),
        }
        patches = out.hidden_states[-2][count:, 1:].unflatten(0, crops.shape[:2])
        losses["attribute"] = self.crop_losses(patches, present, labels, visible)[0]
        weighted = [getattr(self.options, f"{name}_weight") * value for name, value in losses.items()]
        return {
            "loss": torch.stack(weighted).sum(),
            **{name: value.detach() for name, value in losses.items()},
        }

    @torch.no_grad()
    def pictures(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What the vision tower sees: (whole [B,3,S,S], crops [R,4,3,S,S], present [R,4], labels and visible
        [R,A]).

        Half of the crops are of the images, half of the references.
        """
        size, device = self.options.image_size, batch["image"].device
        whole = whole_picture(degrade(batch["image"], self.options.degraded), size)
        rows = some_rows(len(whole), self.options.crop_rows, device)
        if len(rows) == 0:
            rows = torch.zeros(1, dtype=torch.int64, device=device)
        first, second = rows.tensor_split(2)
        image = torch.cat((batch["image"][first], batch["reference"][second]))
        masks = torch.cat((batch["masks"][first], batch["reference_masks"][second]))
        visible = torch.cat((batch["visible"][first], batch["reference_visible"][second]))
        crops, present = crop_parts(degrade(image, self.options.degraded), masks, size)
        return whole, crops, present, batch["labels"][rows], visible

    def embed_text(self, batch: dict[str, Tensor]) -> Tensor:
        """Unit embeddings [B,E] of input_ids [B,T]; columns that are padding in every row are left out."""
        longest = int(batch["attention_mask"].sum(1).max())
        out = self.clip.text_model(input_ids=batch["input_ids"][:, :longest])
        return F.normalize(self.clip.text_projection(out.pooler_output).float(), dim=-1)

    def embed_pooled(self, pooled: Tensor) -> Tensor:
        """Unit embeddings [B,E] of the vision tower's pooled outputs [B,D]."""
        return F.normalize(self.clip.visual_projection(pooled).float(), dim=-1)

    def contrast(self, pictures: Tensor, texts: Tensor) -> Tensor:
        """Symmetric cross-entropy over the batch: each picture among all texts and the other way round."""
        logits = self.clip.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp() * pictures @ texts.T
        own = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    def whole_losses(self, pooled: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy over scene, pose family, view and all attributes; and the shares that are right
        by name. pooled: [B,D].
        """
        losses, right = [], {}
        for name in self.whole_names:
            everyone = torch.ones_like(batch[name], dtype=torch.bool)
            loss, right[name] = class_loss(self.whole_heads[name](pooled), batch[name], everyone)
            losses.append(2 * loss)  # there are many attributes and they are on a few pixels
        for index, name in enumerate(ATTRIBUTES):
            logits = self.whole_heads[name](pooled)
            loss, right[name] = class_loss(logits, batch["labels"][:, index], batch["visible"][:, index])
            losses.append(loss)
        return torch.stack(losses).mean(), right

    def layout_loss(self, pooled: Tensor, patches: Tensor, masks: Tensor) -> Tensor:
        """Which part shows where, of which poses are made: pose words alone taught nothing in 200 steps.

        Each patch [B,L,D] tells its own part, the pooled output [B,D] those of all; masks uint8 [B,H,W].
        """
        side = self.options.image_size // self.options.patch_size
        shares = F.one_hot(masks.long(), LABELS).permute(0, 3, 1, 2).float()
        shares = F.adaptive_avg_pool2d(shares, side).flatten(2)  # [B,5,L]
        own = self.patch_part(patches).transpose(1, 2)
        every = self.part_map(pooled).unflatten(1, (LABELS, side**2))
        return F.cross_entropy(own.float(), shares) + F.cross_entropy(every.float(), shares)

    def crop_losses(
        self, patches: Tensor, present: Tensor, labels: Tensor, visible: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy of each part's attributes from its crop, and the share of right answers by head.

        patches: [R,4,L,D], what the identity tokens will read; present bool [R,4]; labels, visible [R,A].
        """
        pooled = torch.cat((patches.mean(2), patches.amax(2)), -1)  # [R,4,2D]
        names, losses, right = list(ATTRIBUTES), [], {}
        for part, attributes in PART_ATTRIBUTES.items():
            k = PARTS.index(part)
            for name in attributes:
                column, head = names.index(name), f"{part}_{name}"
                counts = visible[:, column] & present[:, k]
                loss, right[head] = class_loss(self.crop_heads[head](pooled[:, k]), labels[:, column], counts)
                losses.append(loss)
        return torch.stack(losses).mean(), right

    def colour_loss(self, patches: Tensor, pixels: Tensor) -> Tensor:
        """Every patch must tell its own colours (2x2 of them): exact colours are lost by their names alone.

        patches: [M,L,D]; pixels: [M,3,S,S] in [-1,1].
        """
        side = self.options.image_size // self.options.patch_size
        small = F.adaptive_avg_pool2d(pixels, side * CELLS)
        target = F.pixel_unshuffle(small, CELLS).flatten(2).transpose(1, 2)  # [M,L,12]
        return F.mse_loss(self.patch_colour(patches).float(), target)

    @torch.no_grad()
    def evaluate(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Held-out figures: text-to-picture recall at 1 within this batch (say its size), and accuracies."""
        size = self.options.image_size
        pooled = self.clip.vision_model(pixel_values=whole_picture(batch["image"], size)).pooler_output
        scores = self.embed_text(batch) @ self.embed_pooled(pooled).T
        own = torch.arange(len(scores), device=scores.device)
        crops, present = crop_parts(batch["reference"], batch["reference_masks"], size)
        out = self.clip.vision_model(pixel_values=crops.flatten(0, 1), output_hidden_states=True)
        patches = out.hidden_states[-2][:, 1:].unflatten(0, crops.shape[:2])
        right = self.crop_losses(patches, present, batch["labels"], batch["reference_visible"])[1]
        whole = self.whole_losses(pooled, batch)[1]
        figures = {"recall_at_1": (scores.argmax(1) == own).float().mean()}
        figures |= {name: whole[name] for name in self.whole_names}
        figures["attributes"] = torch.stack(list(right.values())).mean()
        figures |= {f"crop_{name}": value for name, value in right.items()}
        return {name: float(value) for name, value in figures.items()}
