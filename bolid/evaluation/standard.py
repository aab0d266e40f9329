"""Opening the standard networks, and saying so where they cannot be had."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Literal

import torch

from bolid.estimators.catalogue import MissingModel, find_weights, install_command
from bolid.evaluation.networks import Networks, StandardEvaluators, version_of
from bolid.evaluation.provenance import load_evaluators

Choice = Literal["auto", "mini", "standard"]
POSE, BODY, CLIP, FACE = "vitpose", "dinov2", "openai/clip-vit-large-patch14", "opencv-face"


def open_networks(
    choice: Choice, folder: str, device: str, drawn: bool, say: Callable[[str], None]
) -> Networks:
    """The networks of a run.

    auto: the mini ones for drawn avatars (standard networks were trained on photographs), the standard ones
    for a dataset, or in their absence the mini ones; `say` then gets the sentence that tells so.

    Raises:
        ValueError: the set that was asked for by name cannot be had.
    """
    if choice == "mini" or (choice == "auto" and drawn):
        return load_evaluators(folder, device)
    try:
        return open_standard(device)
    except (MissingModel, ImportError) as error:
        if choice == "standard":
            raise ValueError(f"--networks standard: {error}") from error
        say(
            f"the standard networks cannot be had ({error}). Measuring with the mini networks instead: they "
            "know drawn avatars alone, their scores end in -mini and compare with no others."
        )
        return load_evaluators(folder, device)


def open_standard(device: str) -> StandardEvaluators:
    """Inception, LPIPS, CLIP, ViTPose, DINOv2 and SFace. Raises MissingModel or ImportError."""
    from bolid.estimators.photo import network_class
    from bolid.training.objectives.loss_networks import AppearanceNetwork, TextImageNetwork

    inception, inception_note = open_inception(device)
    lpips, lpips_note = open_lpips(device)
    pose = network_class(find_weights("keypoints", POSE)).open(find_weights("keypoints", POSE), device)
    face = network_class(find_weights("face", FACE)).open(find_weights("face", FACE), device)
    encoder = network_class(find_weights("vision", BODY)).open(find_weights("vision", BODY), device)
    clip, tokenizer, mean, std = _clip()
    library = f"transformers {version_of('transformers')}"
    where = "resized by the network's own processor"
    notes = {
        "FID": f"{inception_note}, in the truth's own spread",
        "KID": f"{inception_note}, kernel (x.y / D + 1)^3, in the truth's own spread",
        "LPIPS": lpips_note,
        "ID_sim": f"{library}, {BODY} {_hash(encoder.model)}, box around the key-points",
        "face": f"OpenCV {version_of('opencv-python-headless')}, {FACE}, largest face",
        "PCK, OKS-AP": f"{library}, {POSE} {_hash(pose.model)}, whole picture as box, {where}; OKS-AP over "
        "one detection a picture, without detection scores",
        "CLIP score": f"{library}, {CLIP} {_hash(clip)}, squeezed to its square",
    }
    body = AppearanceNetwork(encoder.model)
    text_image = TextImageNetwork(clip.to(device), tokenizer, mean, std).eval()
    return StandardEvaluators(pose, face, body, inception, lpips, text_image, notes, device)


def open_inception(device: str) -> tuple[Callable[[torch.Tensor], torch.Tensor], str]:
    """torch-fidelity's Inception v3, uint8 [B, 3, H, W] -> [B, 2048], and its signature."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (  # pyright: ignore[reportMissingImports]
            FeatureExtractorInceptionV3,
        )
    except ImportError as error:
        raise _not_installed("torch_fidelity", "torch-fidelity") from error
    try:
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).to(device).eval()
    except OSError as error:
        raise MissingModel(f"Inception's weights cannot be reached ({error})") from error
    note = f"torch-fidelity {version_of('torch-fidelity')}, Inception v3 {_hash(network)}, its own 299 x 299"
    return lambda pictures: network(pictures)[0], note


def open_lpips(device: str, random: bool = False) -> tuple[Callable[..., torch.Tensor], str]:
    """lpips' AlexNet as a map over the picture, and its signature. random: an untrained backbone (tests)."""
    try:
        import lpips  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise _not_installed("lpips", "lpips") from error
    try:
        network = lpips.LPIPS(net="alex", spatial=True, verbose=False, pnet_rand=random).to(device).eval()
    except OSError as error:
        raise MissingModel(f"the backbone of LPIPS cannot be reached ({error})") from error
    return network, f"lpips {version_of('lpips')}, AlexNet {_hash(network)}, the picture's own size"


def _clip() -> tuple[Any, Any, Any, Any]:
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    try:
        model = CLIPModel.from_pretrained(CLIP, dtype=torch.float32).eval().requires_grad_(False)
        processor: Any = CLIPImageProcessor.from_pretrained(CLIP)
        return model, AutoTokenizer.from_pretrained(CLIP), processor.image_mean, processor.image_std
    except OSError as error:
        raise MissingModel(f"{CLIP} cannot be reached ({str(error).splitlines()[0]})") from error


def _hash(network: Any) -> str:
    """Eight hex digits over a network's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:8]


def _not_installed(module: str, package: str) -> ImportError:
    return ImportError(f"{module} is not installed: {install_command([package])}")
