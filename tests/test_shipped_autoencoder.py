"""The shipped autoencoder, on the example people: sharp enough, and latents that keep their own spectrum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bolid.autoencoder import AvatarAutoencoder
from bolid.pictures import load_picture

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    files = sorted((ROOT / "examples" / "photos").glob("*/*.png"))
    arrays = [torch.from_numpy(np.array(load_picture(file))) for file in files]
    return torch.stack(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.fixture(scope="module")
def vae() -> AvatarAutoencoder:
    folder = ROOT / "models" / "bolid-mini" / "vae"
    return AvatarAutoencoder.from_pretrained(folder, torch_dtype=torch.float32).eval()


@torch.no_grad()
def test_pictures_come_back(vae: AvatarAutoencoder, pictures: torch.Tensor) -> None:
    error = (vae(pictures) - pictures).square().mean()
    assert float(10 * torch.log10(4 / error)) > 28


@torch.no_grad()
def test_latents_have_one_scale_and_their_own_spectrum(
    vae: AvatarAutoencoder, pictures: torch.Tensor
) -> None:
    """Whitened ones make ten of sixteen components, which nobody sees, count as much as all the colours."""
    latents = vae.encode(pictures).latents * vae.config["scaling_factor"]
    flat = latents.permute(1, 0, 2, 3).flatten(1)
    assert float(flat.std()) == pytest.approx(1, abs=0.2)
    spread = torch.linalg.svdvals(flat - flat.mean(1, keepdim=True)).square()
    assert spread[0] > 8 * spread[-1]
