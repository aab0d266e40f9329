"""How well a text-image encoder finds a caption's picture among many."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bolid import metrics
from bolid.avatars.dataset import render_arrays
from bolid.evaluation.gates import Gate

CAPTIONS, LEAST = 500, 0.5


def retrieval_gate(network: Any, height: int, width: int, processes: int = 1) -> Gate:
    """r@1: the share of the first CAPTIONS test captions whose own picture is the nearest of as many.

    network: a `loss_networks.TextImageNetwork`. Several people may be told by the same words; that counts as
    a miss.
    """
    rows = render_arrays("test", 0, CAPTIONS, processes, height, width)
    pictures = torch.from_numpy(rows["image"]).permute(0, 3, 1, 2)
    with torch.no_grad():
        seen = torch.cat([network.pictures(chunk.float() / 127.5 - 1).cpu() for chunk in pictures.split(50)])
        told = network.texts(list(rows["caption"])).cpu()
    hits = (told @ seen.T).argmax(1).numpy() == np.arange(CAPTIONS)
    found = metrics.bootstrap(hits.astype(float))
    return Gate("Text-image encoder", f"r@1 of {CAPTIONS} captions", "at least", LEAST, found)
