"""A full-body pipeline out of public parts, without training: `python -m bolid assemble`.

An IP-Adapter Plus becomes the adapter's identity and image-prompt tokens (each body part goes through its
resampler), a ControlNet of OpenPose skeletons gives the pose, an InstantID or PuLID the face. What the public
parts have no counterpart for starts from nothing and waits for training: the body features, and what sets
the parts apart. Every part keeps its own licence.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from bolid.adapter import BoLIDAdapter
from bolid.baselines.checkpoint import Parts, read_checkpoint, split_checkpoint
from bolid.baselines.face import FaceAdapter
from bolid.baselines.layers import build_layers
from bolid.baselines.projectors import resampler_sizes
from bolid.loading import vision_class
from bolid.pipeline import BoLIDPipeline
from bolid.pose import PARTS

FACES = {"instantid": "InstantX/InstantID:ip-adapter.bin", "pulid": "guozinan/PuLID:pulid_v1.1.safetensors"}
ENCODER = "models/image_encoder"  # where IP-Adapter's repository keeps ViT-H
Tokens = Literal["parts", "whole"]


def assemble(
    base: str,
    body: str,
    output: str | os.PathLike[str],
    *,
    face: str = "none",
    face_file: str | None = None,
    pose: str | None = None,
    image_encoder: str | None = None,
    tokens: Tokens = "parts",
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a pipeline's folder that `BoLIDPipeline.from_pretrained` opens and training starts from.

    base, pose: folders or Hub ids of a Stable Diffusion 1.5 or SDXL pipeline and of a ControlNet for OpenPose
        skeletons (None: no ControlNet).
    body: an IP-Adapter Plus file, local or `repository:file`; its keys and values serve every part.
    face: "instantid", "pulid" or "none"; face_file: local or `repository:file`, None: the authors' own.
    image_encoder: folder or `repository:folder`; None looks beside the body file, then where IP-Adapter's
        repository has it.
    tokens: "parts" sees head, upper, lower and feet each on its own, "whole" the person as one picture,
        which is IP-Adapter Plus exactly.
    dtype: of the weights that are written.

    Raises ValueError for parts that are missing, of another kind, or of different bases; then nothing is
    written.
    """
    target = Path(output)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{str(target)!r} is there already; give a new folder, or empty this one")
    if face not in (*FACES, "none"):
        raise ValueError(f"face is {face!r}; it must be instantid, pulid or none")
    pipe: Any = BoLIDPipeline.from_pretrained(base, dtype=dtype)
    parts = _read(body, "ip-adapter-plus")
    made: dict[str, Any] = {"adapter": adapter_from_plus(parts, pipe.unet, tokens)}
    made |= _vision(image_encoder or _encoder_beside(body), parts, dtype)
    if face != "none":
        found = _read(face_file or FACES[face])
        if not found.method.name.startswith(face):
            raise ValueError(f"the face file is of {found.method.name}, not of {face}; give the other --face")
        made["face"] = FaceAdapter.from_parts(found, pipe.unet)
    if pose is not None:
        made["controlnet"] = _controlnet(pose, pipe.unet, dtype)
    if pipe.estimator is None:
        from bolid.estimators.photo import PhotoEstimator

        made["estimator"] = PhotoEstimator()
    pipe.register_modules(**made)
    pipe.to(dtype=dtype)
    pipe._listen()
    return _save(pipe, target)


def adapter_from_plus(parts: Parts, unet: Any, tokens: Tokens = "parts") -> BoLIDAdapter:
    """BoLID's adapter with the weights of an IP-Adapter Plus; its body projections start from zero.

    Raises ValueError if the file was made for another base.
    """
    state = parts.projector
    sizes, count = resampler_sizes(state), state["latents"].shape[1]
    layers, _ = build_layers(parts.attention, unet, parts.names, state["proj_out.weight"].shape[0])
    places = len(PARTS) if tokens == "parts" else 1
    adapter = BoLIDAdapter.for_unet(
        unet,
        vision_dim=state["proj_in.weight"].shape[1],
        token_dim=state["proj_out.weight"].shape[0],
        tokens_per_part=(count,) * places,
        image_token_count=count,
        resampler_width=sizes["width"],
        resampler_depth=sizes["depth"],
        resampler_heads=sizes["heads"],
        resampler_ffn_ratio=sizes["inner"] / sizes["width"],
        image_depth=sizes["depth"],
        class_token=True,
    )
    for resampler, copies in ((adapter.resampler, places), (adapter.image_resampler, 1)):
        assert resampler is not None  # made with image tokens
        latents = state["latents"].repeat(1, copies, 1)
        embedding = torch.zeros(copies, sizes["width"])
        resampler.load_state_dict({**state, "latents": latents, "part_embedding": embedding}, strict=True)
    for name, source in layers.items():
        layer = adapter.layer(name)
        for group in ("id", "image"):
            getattr(layer, f"to_k_{group}").weight.data.copy_(source.to_k)
            getattr(layer, f"to_v_{group}").weight.data.copy_(source.to_v)
    return adapter.eval()


def _read(source: str, method: str | None = None) -> Parts:
    """An official file, local or `repository:file`. Raises ValueError for another kind than `method`."""
    path = Path(source)
    if not path.is_file() and ":" in source:
        repository, file = source.split(":", 1)
        path = _download(repository, file)
    parts = split_checkpoint(read_checkpoint(path), file_name=path.name)
    if method is not None and parts.method.name != method:
        raise ValueError(
            f"the body file {path.name} is of {parts.method.name}; give an IP-Adapter Plus, for example "
            "h94/IP-Adapter:sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors"
        )
    return parts


def _download(repository: str, file: str, folder: bool = False) -> Path:
    """A file (or folder) of a Hub repository. Raises ValueError where it cannot be had."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        if folder:
            return Path(snapshot_download(repository, allow_patterns=f"{file}/*")) / file
        return Path(hf_hub_download(repository, file))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ValueError(
            f"{repository}:{file} is neither here nor to be had from the Hugging Face Hub; give a path, "
            f"or fetch it first: hf download {repository} {file}"
        ) from error


def _encoder_beside(body: str) -> str:
    """Where the body file's vision encoder lies: beside it, or in its repository."""
    path = Path(body)
    if path.is_file():
        for place in (path.parent / "image_encoder", path.parent / ENCODER, path.parent.parent / ENCODER):
            if (place / "config.json").is_file():
                return str(place)
        raise ValueError(
            f"no image_encoder lies beside {path.name}; give the folder of its vision encoder (ViT-H of "
            "h94/IP-Adapter) by --image-encoder"
        )
    return f"{body.split(':', 1)[0]}:{ENCODER}"


def _vision(source: str, parts: Parts, dtype: torch.dtype) -> dict[str, Any]:
    """Vision encoder and its pixel statistics. Raises ValueError where the body file wants another width."""
    from transformers import CLIPImageProcessor

    folder = Path(source)
    if not folder.is_dir():
        repository, _, inner = source.partition(":")
        folder = _download(repository, inner or ENCODER, folder=True)
    encoder = vision_class(folder).from_pretrained(folder, dtype=dtype).eval()
    wanted = parts.projector["proj_in.weight"].shape[1]
    if encoder.config.hidden_size != wanted:
        raise ValueError(
            f"the vision encoder in {str(folder)!r} gives patches of {encoder.config.hidden_size}, the body "
            f"file wants {wanted}; give the encoder it was made for by --image-encoder"
        )
    side = encoder.config.image_size
    processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return {"image_encoder": encoder, "feature_extractor": processor}


def _controlnet(source: str, unet: Any, dtype: torch.dtype) -> Any:
    """A ControlNet. Raises ValueError where there is none, or it was made for another base."""
    from diffusers import ControlNetModel

    try:
        controlnet: Any = ControlNetModel.from_pretrained(source, dtype=dtype)
    except OSError as error:
        raise ValueError(
            f"{source!r} is no ControlNet's folder and cannot be had from the Hugging Face Hub; give one for "
            "OpenPose skeletons, for example thibaud/controlnet-openpose-sdxl-1.0"
        ) from error
    for name in ("cross_attention_dim", "block_out_channels", "in_channels"):
        theirs, ours = (np.ravel(model.config[name]).tolist() for model in (controlnet, unet))
        if theirs != ours:
            raise ValueError(
                f"the ControlNet {source!r} was made for another base: its {name} is {theirs}, "
                f"the base's {ours}"
            )
    return controlnet.eval()


def _save(pipe: Any, target: Path) -> Path:
    """The folder, whole or not at all."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        pipe.save_pretrained(temporary)
        if target.is_dir():
            target.rmdir()  # empty: checked before
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
