"""How well a text-image encoder finds a caption's picture among many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bolid import metrics
from bolid.avatars.dataset import render_arrays
from bolid.avatars.world import Split
from bolid.evaluation.gates import Gate
from bolid.evaluators import Projections

CAPTIONS, LEAST = 500, 0.5
ENDING = "-projections"  # of the folder beside a model's, where its encoders were trained as a CLIP


class OwnEncoders:
    """Unit embeddings by a pipeline's own text and image encoder."""

    def __init__(self, pipe: Any, projections: Projections) -> None:
        self.pipe, self.projections = pipe, projections

    @classmethod
    def find(cls, pipe: Any, model: str) -> OwnEncoders | None:
        """Of a pipeline and the folder it was opened from; None where no projections lie beside it."""
        folder = Path(f"{Path(model)}{ENDING}")
        if not (folder / "config.json").is_file():
            return None
        return cls(pipe, Projections.from_pretrained(folder, dtype=torch.float32).to(pipe.device))

    @torch.no_grad()
    def pictures(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> [B, E]; the whole picture is squeezed into the encoder's square."""
        encoder = self.pipe.image_encoder
        side = encoder.config.image_size
        square = F.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
        pooled = encoder(square.to(encoder.device, encoder.dtype)).pooler_output
        return F.normalize(self.projections.picture(pooled.float()), dim=-1)

    @torch.no_grad()
    def texts(self, words: list[str]) -> Tensor:
        """Texts -> [B, E]."""
        tokenizer, encoder = self.pipe.tokenizer, self.pipe.text_encoder
        given = tokenizer(words, padding="max_length", truncation=True, return_tensors="pt",
                          max_length=tokenizer.model_max_length)  # fmt: skip
        pooled = encoder(given["input_ids"].to(encoder.device)).pooler_output
        return F.normalize(self.projections.text(pooled.float()), dim=-1)


def retrieval_gate(network: Any, height: int, width: int, processes: int = 1, split: Split = "test") -> Gate:
    """r@1: the share of the first CAPTIONS captions of `split` whose own picture is the nearest of as many.

    network: `OwnEncoders`, or a `loss_networks.TextImageNetwork`. Several people may be told by the same
    words; that counts as a miss.
    """
    rows = render_arrays(split, 0, CAPTIONS, processes, height, width)
    pictures = torch.from_numpy(rows["image"]).permute(0, 3, 1, 2)
    with torch.no_grad():
        seen = torch.cat([network.pictures(chunk.float() / 127.5 - 1).cpu() for chunk in pictures.split(50)])
        told = network.texts(list(rows["caption"])).cpu()
    hits = (told @ seen.T).argmax(1).numpy() == np.arange(CAPTIONS)
    found = metrics.bootstrap(hits.astype(float))
    return Gate("Text-image encoder", f"r@1 of {CAPTIONS} captions", "at least", LEAST, found)
