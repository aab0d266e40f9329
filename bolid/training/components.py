"""The frozen networks that the diffusion stage stands on."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass
class FrozenNetworks:
    """The parts of the pipeline that training of base and adapter leaves alone."""

    vae: Any
    image_encoder: Any
    estimator: Any
    tokenizer: Any
    text_encoder: Any

    def fingerprint(self) -> str:
        """A hash of all weights: features of other networks are never reused."""
        digest = hashlib.sha256()
        for network in (self.vae, self.image_encoder, self.estimator):
            for name, tensor in sorted(network.state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.detach().float().cpu().numpy().tobytes())
        digest.update(repr(sorted(self.tokenizer.get_vocab().items())).encode())
        return digest.hexdigest()[:16]


def load_components(folder: str | Path, dtype: torch.dtype = torch.float32) -> FrozenNetworks:
    """Read vae, image_encoder, estimator, tokenizer and text_encoder from sub-folders of `folder`.

    Raises:
        ValueError: one of them is missing; the message names the stage that makes it.
    """
    from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModel

    from bolid.autoencoder import AvatarAutoencoder
    from bolid.estimator import PersonEstimator

    root = Path(folder)
    makers = {
        "vae": "autoencoder",
        "image_encoder": "clip",
        "text_encoder": "clip",
        "tokenizer": "clip",
        "estimator": "estimator",
    }
    for name, stage in makers.items():
        if not (root / name).is_dir():
            raise ValueError(
                f"{root} holds no {name!r}: train the stage {stage!r} and copy its export there (see "
                f"model_card.md)."
            )
    made: dict[str, Any] = {
        "vae": AvatarAutoencoder.from_pretrained(root / "vae", torch_dtype=dtype),
        "image_encoder": CLIPVisionModel.from_pretrained(root / "image_encoder", dtype=dtype),
        "text_encoder": CLIPTextModel.from_pretrained(root / "text_encoder", dtype=dtype),
        "estimator": PersonEstimator.from_pretrained(root / "estimator", torch_dtype=dtype),
        "tokenizer": CLIPTokenizer.from_pretrained(root / "tokenizer"),
    }
    for name, network in made.items():
        if name != "tokenizer":
            network.to(memory_format=torch.channels_last).eval().requires_grad_(False)
    return FrozenNetworks(**made)
