"""Files in the layout of official checkpoints, with numbers that can be made again anywhere.

`tests/fixtures/official_*` were recorded by the original projects' own code (IP-Adapter 62e4af9, InstantID
2145b67, PuLID 1aa2fc7) filled with the same numbers: tables of keys and shapes, and what the modules answer.
`tests/record_official.py` made them and compares them with clones of those projects.
"""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from tiny_unets import COMMON, FAMILIES
from torch import Tensor, nn

from bolid.training.random_bases import UNETS

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


def real_features(layout: str) -> dict[str, Any]:
    """Raw features of one person at the real sizes, of few patches."""
    method, family = LAYOUTS[layout]
    image = 768 if method.startswith("pulid") else 1280 if family == "sdxl" else 1024
    return {
        "face": numbers("real face", (1, 512)),
        "image": numbers("real image", (1, image)),
        "patches": numbers("real patches", (1, 9, 1280)),
        "levels": tuple(numbers(f"real level{i}", (1, 9, 1024)) for i in range(5)),
    }


def face_points() -> tuple[np.ndarray, tuple[int, int]]:
    """Five points of a face [5, 2] in pixels, as insightface gives them, and a picture's (width, height)."""
    return np.array([[40.3, 52.1], [71.8, 48.6], [58.2, 70.4], [45.9, 90.2], [70.5, 86.7]]), (112, 128)


def identity_net(unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet for a tiny UNet with known numbers, none of its layers silent."""
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4, 4, 4))
    fill(net, "control/")
    return net


def control_picture() -> Image.Image:
    """What the ControlNet looks at: 64 x 96 pixels (width x height)."""
    return Image.fromarray(np.random.RandomState(3).randint(0, 256, (96, 64, 3), np.uint8))


@dataclass
class PipelineCall:
    """Components beside UNet and ControlNet, and arguments of a call that ends in latents."""

    components: dict[str, Any]
    options: dict[str, Any]


def instantid_call() -> PipelineCall:
    """An SDXL pipeline's call by prompt embeddings, guided, two steps from known noise."""
    small: dict[str, Any] = {f"{side}_block_out_channels": (4,) * 4 for side in ("encoder", "decoder")}
    vae = AutoencoderTiny(**small, num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4)
    none = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)
    options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 5.0, "output_type": "latent"}
    for name in ("prompt_embeds", "negative_prompt_embeds"):
        options[name] = numbers(name, (1, 7, TOKEN_DIM))
        options[name.replace("prompt", "pooled_prompt")] = numbers(f"pooled {name}", (1, 24))
    options |= {"latents": numbers("latents", (1, 4, 12, 8)), "controlnet_conditioning_scale": 0.8}
    return PipelineCall({"vae": vae, "scheduler": scheduler, "add_watermarker": False, **none}, options)


def zero_pixels() -> Tensor:
    """What a vision encoder might make of pixel values that are all 0."""
    return numbers("zero pixels", (2, PATCHES, VISION))[:1]


def real_unet(family: str) -> UNet2DConditionModel:
    """A UNet of the real size without weights."""
    with torch.device("meta"):
        return UNet2DConditionModel(**UNETS[family])
