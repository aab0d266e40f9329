"""Files in the layout of official checkpoints, with numbers that can be made again anywhere.

`tests/fixtures/official_*` were recorded by the original projects' own modules (IP-Adapter 62e4af9, InstantID
2145b67, PuLID 1aa2fc7) filled with the same numbers: tables of keys and shapes, and what the modules answer.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from tiny_unets import COMMON, FAMILIES
from torch import Tensor, nn

FIXTURES = Path(__file__).parent / "fixtures"
TOKEN_DIM = 64  # text width of the tiny UNets here: FaceID-Plus's perceiver needs heads of 64
FACE, IMAGE, VISION, PATCHES = 32, 16, 40, 6  # sizes of tiny features; InstantID's face has its real 512

# layout in the tables → method, and family of the UNet it is for
LAYOUTS = {
    "ip-adapter_sd15": ("ip-adapter", "sd15"),
    "ip-adapter_sdxl": ("ip-adapter", "sdxl"),
    "ip-adapter-plus_sd15": ("ip-adapter-plus", "sd15"),
    "ip-adapter-plus_sdxl": ("ip-adapter-plus", "sdxl"),
    "ip-adapter-full-face_sd15": ("ip-adapter-full", "sd15"),
    "ip-adapter-faceid_sd15": ("ip-adapter-faceid", "sd15"),
    "ip-adapter-faceid_sdxl": ("ip-adapter-faceid", "sdxl"),
    "ip-adapter-faceid-plus_sd15": ("ip-adapter-faceid-plus", "sd15"),
    "ip-adapter-faceid-plusv2_sd15": ("ip-adapter-faceid-plusv2", "sd15"),
    "instantid": ("instantid", "sdxl"),
    "pulid_v1": ("pulid-v1", "sdxl"),
    "pulid_v1.1": ("pulid-v1.1", "sdxl"),
}
REAL_UNETS: dict[str, dict[str, Any]] = {
    "sd15": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
    },
}


def numbers(name: str, shape: tuple[int, ...], spread: float = 1.0) -> Tensor:
    """Normal numbers that depend on the name alone; numpy keeps this stream for ever."""
    state = np.random.RandomState(zlib.crc32(name.encode()))
    return torch.from_numpy((spread * state.standard_normal(shape)).astype(np.float32))


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """A plausible weight: matrices keep the scale of what they map, norms are near 1, biases small."""
    if len(shape) == 1:
        return 0.1 * numbers(name, shape) + float(name.endswith("weight"))
    return numbers(name, shape, spread=float(np.prod(shape[1:])) ** -0.5)


def fill(module: nn.Module, prefix: str = "") -> nn.Module:
    """Every weight of a module by its name."""
    state = {name: weight(prefix + name, tuple(w.shape)) for name, w in module.state_dict().items()}
    module.load_state_dict(state, strict=True)
    return module.eval()


def tables(size: str) -> dict[str, dict[str, list[int]]]:
    """Layout → key → shape, as the original modules have them. size: "tiny" or "real"."""
    found = json.loads((FIXTURES / "official_layouts.json").read_text())[size]
    # both versions of FaceID-Plus have the same module
    return found | {"ip-adapter-faceid-plusv2_sd15": found["ip-adapter-faceid-plus_sd15"]}


def outputs() -> dict[str, Tensor]:
    """What the original modules answered."""
    with np.load(FIXTURES / "official_outputs.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def checkpoint(layout: str, size: str = "tiny", device: str = "cpu") -> dict[str, Tensor]:
    """The flat weights of a file of that layout."""
    table = tables(size)[layout]
    if device == "meta":
        return {key: torch.empty(shape, device="meta") for key, shape in table.items()}
    return {key: weight(f"{layout}/{key}", tuple(shape)) for key, shape in table.items()}


def nested(state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """As the .bin files of IP-Adapter and InstantID hold it."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        first, rest = key.split(".", 1)
        parts.setdefault(first, {})[rest] = value
    return parts


def tiny_unet(family: str) -> UNet2DConditionModel:
    """A tiny UNet of that family with known numbers, the same for every call."""
    options: dict[str, Any] = COMMON | FAMILIES[family] | {"cross_attention_dim": TOKEN_DIM}
    unet = UNet2DConditionModel(sample_size=(12, 8), in_channels=4, out_channels=4, **options)
    fill(unet, f"{family}/")
    return unet


def run_unet(unet: UNet2DConditionModel, text: Tensor | None = None, **options: Any) -> Tensor:
    """One step on fixed latents [2, 4, 12, 8], text [2, 7, 64] and time."""
    text = numbers("text", (2, 7, TOKEN_DIM)) if text is None else text
    added: dict[str, Any] = {
        "text_embeds": numbers("pooled", (2, 24)),
        "time_ids": numbers("ids", (2, 6)).abs(),
    }
    added |= {"image_embeds": options.pop("image_embeds")} if "image_embeds" in options else {}
    with torch.no_grad():
        return unet(numbers("noise", (2, 4, 12, 8)), 7, text, added_cond_kwargs=added, **options).sample


def tiny_features(layout: str) -> dict[str, Any]:
    """Raw features of two people for a tiny file."""
    face = 512 if layout == "instantid" else FACE
    side = 32  # PuLID's states
    return {
        "face": numbers("face", (2, face), 2.0),
        "image": numbers("image", (2, IMAGE), 2.0),
        "patches": numbers("patches", (2, PATCHES, VISION)),
        "levels": tuple(numbers(f"level{i}", (2, PATCHES, side)) for i in range(5)),
    }


def zero_pixels() -> Tensor:
    """What a vision encoder might make of pixel values that are all 0."""
    return numbers("zero pixels", (2, PATCHES, VISION))[:1]


def real_unet(family: str) -> UNet2DConditionModel:
    """A UNet of the real size without weights."""
    with torch.device("meta"):
        return UNet2DConditionModel(sample_size=64, **REAL_UNETS[family])
