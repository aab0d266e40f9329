"""Public estimators' real classes at tiny size with random weights, saved to folders and opened by path."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessor,
    RTDetrResNetConfig,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    SwinConfig,
    VitPoseBackboneConfig,
    VitPoseConfig,
    VitPoseForPoseEstimation,
    VitPoseImageProcessor,
)

ATR = (
    "Background", "Hat", "Hair", "Sunglasses", "Upper-clothes", "Skirt", "Pants", "Dress", "Belt",
    "Left-shoe", "Right-shoe", "Face", "Left-leg", "Right-leg", "Left-arm", "Right-arm", "Bag", "Scarf",
)  # fmt: skip


def hide(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks whether a package is installed is told that it is not."""
    find = importlib.util.find_spec

    def without(name: str, *more: Any) -> Any:
        return None if name == package else find(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", without)


def save(folder: Path, model: Any, processor: Any) -> Path:
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def labels(*names: str) -> dict[str, Any]:
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }


def people(folder: Path, *, sure: bool = True, names: tuple[str, ...] = ("person", "dog")) -> Path:
    """An RT-DETR that is sure (or sure that there is none) of a person in all of its five boxes."""
    torch.manual_seed(0)
    backbone = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
        out_indices=[2, 3, 4],
    )
    config = RTDetrConfig(
        backbone_config=backbone, encoder_hidden_dim=16, encoder_in_channels=[8, 8, 8], d_model=16,
        feat_strides=[8, 16, 32], encoder_ffn_dim=16, encoder_attention_heads=2, decoder_ffn_dim=16,
        decoder_in_channels=[16, 16, 16], decoder_layers=2, decoder_attention_heads=2, num_queries=5,
        num_denoising=0, encode_proj_layers=[2], decoder_n_points=2, **labels(*names),
    )  # fmt: skip
    model = RTDetrForObjectDetection(config)
    with torch.no_grad():
        for head in model.model.decoder.class_embed:
            head.weight.zero_()
            head.bias.copy_(torch.tensor([6.0 if sure else -6.0, -6.0]))
    return save(folder, model, RTDetrImageProcessor(size={"height": 64, "width": 64}))


def keypoints(folder: Path, *, experts: int = 1) -> Path:
    """A ViTPose of 64 x 48 pixels; with several experts it is a ViTPose+."""
    torch.manual_seed(1)
    backbone = VitPoseBackboneConfig(
        image_size=(64, 48), patch_size=(16, 16), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, out_indices=[2], num_experts=experts, part_features=8 if experts > 1 else 0,
    )  # fmt: skip
    joints = labels(*(f"joint {index}" for index in range(17)))
    model = VitPoseForPoseEstimation(
        VitPoseConfig(backbone_config=backbone, use_simple_decoder=True, **joints)
    )
    return save(folder, model, VitPoseImageProcessor(size={"height": 64, "width": 48}))


def parts(folder: Path, names: tuple[str, ...] = ATR) -> Path:
    """A SegFormer of human parsing (by its class names)."""
    torch.manual_seed(2)
    config = SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16, sr_ratios=[4, 2, 2, 1], mlp_ratios=[2, 2, 2, 2], **labels(*names),
    )  # fmt: skip
    return save(
        folder,
        SegformerForSemanticSegmentation(config),
        SegformerImageProcessor(size={"height": 64, "width": 64}),
    )


def silhouettes(folder: Path, names: tuple[str, ...] = ("person", "bicycle")) -> Path:
    """A Mask2Former that knows persons as a whole."""
    torch.manual_seed(3)
    swin = SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_layers=1,
        encoder_feedforward_dim=16, decoder_layers=2, num_attention_heads=2, dim_feedforward=16,
        num_queries=4, **labels(*names),
    )  # fmt: skip
    return save(
        folder,
        Mask2FormerForUniversalSegmentation(config),
        Mask2FormerImageProcessor(size={"height": 64, "width": 64}),
    )


def vision(folder: Path, kind: str) -> Path:
    """CLIP, DINOv2 or SigLIP at 28 x 28 pixels, patches of 14: four of them."""
    torch.manual_seed(4)
    size = {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    square = {"height": 28, "width": 28}
    model, processor = {
        "clip": lambda: (CLIPVisionModel(CLIPVisionConfig(intermediate_size=16, **size)), CLIPImageProcessor),
        "dinov2": lambda: (Dinov2Model(Dinov2Config(mlp_ratio=1, **size)), CLIPImageProcessor),
        "siglip": lambda: (
            SiglipVisionModel(SiglipVisionConfig(intermediate_size=16, **size)),
            SiglipImageProcessor,
        ),
    }[kind]()
    return save(folder, model, processor(size=square))


def all_three(folder: Path) -> dict[str, str]:
    """Folders of the three networks of a `PhotoEstimator`."""
    made = {"people": people(folder / "people"), "keypoints": keypoints(folder / "keypoints"),
            "parts": parts(folder / "parts")}  # fmt: skip
    return {task: str(path) for task, path in made.items()}
