"""The frozen networks inside losses: neither the pipeline's nor the evaluation's, always float32.

A folder (`objective.loss_networks`) holds up to four of them, each as its `save_pretrained` wrote it:
`pose` (PersonEstimator, or transformers' ViTPose), `text_image` (a CLIPModel with its tokenizer),
`appearance` (AppearanceEvaluator of another seed, or a transformers vision model such as DINOv2) and
`attributes` (AttributeEvaluator of another seed).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bolid.attribute_evaluator import AttributeEvaluator
from bolid.estimator import PersonEstimator
from bolid.evaluators import AppearanceEvaluator
from bolid.losses import JOINTS12, body12, soft_argmax

Kind = Literal["pose", "text_image", "appearance", "attributes"]
MAKERS: dict[str, str] = {  # the commands that train each for avatars, with a seed that nothing else has
    "pose": "python train/run.py --config train/configs/mini-estimator.yaml --seed 1 "
    "--output_dir runs/loss-pose && mkdir -p {folder} && cp -r runs/loss-pose/export/estimator {folder}/pose",
    "text_image": "python train/run.py --config train/configs/mini-clip.yaml --seed 1 "
    "--output_dir runs/loss-clip && mkdir -p {folder} && cp -r runs/loss-clip/export/clip "
    "{folder}/text_image && cp runs/loss-clip/tokenizer/* {folder}/text_image/",
    "appearance": "python train/run.py --config train/configs/mini-appearance-evaluator.yaml --seed 1 "
    "--output_dir runs/loss-appearance && mkdir -p {folder} && cp -r runs/loss-appearance/export/appearance "
    "{folder}/appearance",
    "attributes": "python train/run.py --config train/configs/mini-attribute-evaluator.yaml --seed 1 "
    "objective.combinations=0 --output_dir runs/loss-attributes && mkdir -p {folder} && "
    "cp -r runs/loss-attributes/export/attributes {folder}/attributes",
}
VITPOSE_BETA = 10.0  # of `soft_argmax` for regressed Gaussians
CROP = 1.25  # the box that top-down networks see, in sizes of the key-points' box
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Sight:
    """What a pose network sees in pictures, in float32.

    places: [B, J, 2], x and y in [0, 1] of the picture; heatmaps: [B, J, h, w]; confidence: [B, 18] in
    [0, 1] in OpenPose's order; corner, extent: [B, 1, 2], the heat-maps' frame in the picture's coordinates;
    logits: whether the heat-maps are (PersonEstimator's) or regressed Gaussians (ViTPose's).
    """

    places: Tensor
    heatmaps: Tensor
    confidence: Tensor
    corner: Tensor
    extent: Tensor
    logits: bool

    def framed(self, points: Tensor) -> Tensor:
        """Key-points [B, J, 3] of the picture in the heat-maps' own frame."""
        return torch.cat(((points[..., :2] - self.corner) / self.extent, points[..., 2:]), -1)


class PoseNetwork(nn.Module):
    """Key-points of one person per picture, differentiable with respect to the pixels."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor, target: Tensor) -> Sight:
        """pixels: [B, 3, H, W] in [-1, 1]; target: key-points [B, 18, 3], where a top-down network looks."""
        estimator = isinstance(self.network, PersonEstimator)
        return self._bottom_up(pixels) if estimator else self._top_down(pixels, target)

    def _bottom_up(self, pixels: Tensor) -> Sight:
        fitted, (left, top, width, height) = self.network.fit(pixels)
        out = self.network(fitted)
        size = pixels.new_tensor(fitted.shape[:1:-1])  # (width, height)
        inner, corner = pixels.new_tensor((width, height)), pixels.new_tensor((left, top))
        corner, extent = (-corner / inner).expand(len(pixels), 1, 2), (size / inner).expand(len(pixels), 1, 2)
        places = out.keypoints * extent + corner
        return Sight(places, out.heatmaps.float(), out.confidence.float().sigmoid(), corner, extent, True)

    def _top_down(self, pixels: Tensor, target: Tensor) -> Sight:
        size = self.network.config.backbone_config.image_size
        crops, corner, extent = person_crop(pixels, target, (size[0], size[1]))
        maps = self.network(_normalised(crops, *IMAGENET)).heatmaps.float()
        confidence = maps.new_ones(len(maps), 18)
        confidence[:, JOINTS12[18]] = body12(maps.flatten(2).amax(-1)).clamp(0, 1)
        places = soft_argmax(maps, VITPOSE_BETA) * extent + corner
        return Sight(places, maps, confidence, corner, extent, False)


class TextImageNetwork(nn.Module):
    """Unit embeddings of pictures and of texts in one space.

    mean, std: statistics of pictures in [0, 1]; None hands over [-1, 1] as it is, bolid-mini's convention.
    """

    def __init__(self, clip: Any, tokenizer: Any, mean: Any = None, std: Any = None) -> None:
        super().__init__()
        self.clip, self.tokenizer, self.mean, self.std = clip, tokenizer, mean, std

    def pictures(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] → [B, E]; the whole picture is squeezed into the network's square."""
        size = self.clip.config.vision_config.image_size
        square = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
        pooled = self.clip.vision_model(pixel_values=_normalised(square, self.mean, self.std)).pooler_output
        return F.normalize(self.clip.visual_projection(pooled).float(), dim=-1)

    @torch.no_grad()
    def texts(self, words: list[str]) -> Tensor:
        """Texts → [B, E]."""
        given = self.tokenizer(words, padding="max_length", truncation=True, return_tensors="pt",
                               max_length=self.clip.config.text_config.max_position_embeddings)  # fmt: skip
        ids = given["input_ids"].to(self.clip.device)
        return F.normalize(self.clip.text_projection(self.clip.text_model(ids).pooler_output).float(), dim=-1)


class AppearanceNetwork(nn.Module):
    """Embeddings of the person in a picture whose key-points are known."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor, target: Tensor) -> Tensor:
        """pixels: [B, 3, H, W] in [-1, 1], target: key-points [B, 18, 3] → [B, E]."""
        if isinstance(self.network, AppearanceEvaluator):
            fitted = F.interpolate(pixels, self.network.size, mode="bilinear", antialias=True)
            return self.network(fitted, target)["body"]
        return self._person(pixels, target).pooler_output.float()

    def maps(self, pixels: Tensor, target: Tensor, weight: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Feature maps [B, C, h, w], and the weight [B, 1, h, w] of each one's places.

        pixels and target as above; weight: [B, 1, H, W] of the picture's pixels, 1 where a map shows a crop.
        """
        if not isinstance(self.network, AppearanceEvaluator):
            tokens = self._person(pixels, target).last_hidden_state.transpose(1, 2)[..., None]
            return [tokens], [torch.ones_like(tokens[:, :1])]
        fitted = F.interpolate(pixels, self.network.size, mode="bilinear", antialias=True)
        found = self.network.stages(fitted)
        weights = [F.adaptive_avg_pool2d(weight, (each.shape[-2], each.shape[-1])) for each in found]
        head = self.network.head_map(fitted, target)[0]
        return [*found, head], [*weights, torch.ones_like(head[:, :1])]

    def _person(self, pixels: Tensor, target: Tensor) -> Any:
        """What a transformers vision model says of the person's box."""
        side = self.network.config.image_size
        crops, _, _ = person_crop(pixels, target, (side, side))
        return self.network(pixel_values=_normalised(crops, *IMAGENET))


class AttributeNetwork(nn.Module):
    """Features of upright crops of the person in a picture whose key-points are known, and what they name."""

    def __init__(self, network: AttributeEvaluator) -> None:
        super().__init__()
        self.network = network

    def maps(self, pixels: Tensor, target: Tensor, _weight: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """As `AppearanceNetwork.maps`; every map shows a crop."""
        found = self.network.maps(
            F.interpolate(pixels, self.network.size, mode="bilinear", antialias=True), target
        )
        return found, [torch.ones_like(each[:, :1]) for each in found]

    def answers(self, pixels: Tensor, target: Tensor) -> list[Tensor]:
        """Logits [B, values] of each attribute; pixels and target as above."""
        fitted = F.interpolate(pixels, self.network.size, mode="bilinear", antialias=True)
        return self.network.split(self.network(fitted, target))


def person_crop(pixels: Tensor, target: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """The box around the known key-points, `CROP` times as large and of the proportions of `size`.

    pixels: [B, 3, H, W]; target: [B, 18, 3]; size: (height, width) of the crops. Returns the crops
    [B, 3, *size], differentiable, grey where they leave the picture, and the box in the picture's
    coordinates: corner and extent [B, 1, 2].
    """
    shape = pixels.new_tensor((pixels.shape[-1], pixels.shape[-2]))
    points = target[..., :2].float() * shape
    known = (target[..., :2] != 0).any(-1, keepdim=True)
    low = torch.where(known, points, torch.inf).amin(1)
    high = torch.where(known, points, -torch.inf).amax(1)
    nobody = ~known.any(1)  # [B, 1]: such a row shows the whole picture
    low, high = torch.where(nobody, 0.0, low), torch.where(nobody, shape, high)
    aspect = size[1] / size[0]
    height = torch.maximum(high[:, 1] - low[:, 1], (high[:, 0] - low[:, 0]) / aspect).clamp_min(8) * CROP
    extent = torch.stack((height * aspect, height), -1)[:, None] / shape
    corner = ((low + high) / 2 / shape)[:, None] - extent / 2
    y, x = (torch.arange(side, device=pixels.device) + 0.5 for side in size)
    steps = torch.stack(torch.meshgrid(y / size[0], x / size[1], indexing="ij")[::-1], -1)  # [h, w, 2]
    grid = corner[:, None] + steps * extent[:, None]
    return F.grid_sample(pixels, 2 * grid - 1, align_corners=False), corner, extent


def _normalised(pixels: Tensor, mean: Any, std: Any) -> Tensor:
    """[-1, 1] → what the network was trained on; None: as it is."""
    if mean is None:
        return pixels
    shape = (1, 3, 1, 1)
    return (pixels / 2 + 0.5 - pixels.new_tensor(mean).view(shape)) / pixels.new_tensor(std).view(shape)


def load_loss_networks(folder: str | Path | None, kinds: Iterable[Kind]) -> dict[str, nn.Module]:
    """The named networks of a folder, float32, frozen, in evaluation mode.

    Raises:
        ValueError: there is no folder or no such network; the message has the command that makes it.
    """
    found = {}
    for kind in kinds:
        place = None if folder is None else Path(folder) / kind
        if place is None or not (place / "config.json").is_file():
            command = MAKERS[kind].format(folder=folder or "runs/loss-networks")
            where = "objective.loss_networks is not set" if folder is None else f"{folder} holds no {kind!r}"
            raise ValueError(
                f"{where}, and a loss with a weight needs the network {kind!r}. Train one that neither the "
                f"pipeline nor the evaluation has: {command}; then objective.loss_networks="
                f"{folder or 'runs/loss-networks'}. Or set the weight to 0."
            )
        found[kind] = _OPENERS[kind](place).float().requires_grad_(False).eval()
    return found


def _open_pose(place: Path) -> nn.Module:
    if _class_name(place) == "PersonEstimator":
        return PoseNetwork(PersonEstimator.from_pretrained(place))
    from transformers import VitPoseForPoseEstimation

    return PoseNetwork(VitPoseForPoseEstimation.from_pretrained(place, dtype=torch.float32))


def _open_text_image(place: Path) -> nn.Module:
    from transformers import AutoTokenizer, CLIPModel

    statistics = place / "preprocessor_config.json"
    given = json.loads(statistics.read_text()) if statistics.is_file() else {}
    clip = CLIPModel.from_pretrained(place, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(place)
    return TextImageNetwork(clip, tokenizer, given.get("image_mean"), given.get("image_std"))


def _open_appearance(place: Path) -> nn.Module:
    if _class_name(place) == "AppearanceEvaluator":
        return AppearanceNetwork(AppearanceEvaluator.from_pretrained(place))
    from transformers import AutoModel

    return AppearanceNetwork(AutoModel.from_pretrained(place, dtype=torch.float32))


def _open_attributes(place: Path) -> nn.Module:
    return AttributeNetwork(AttributeEvaluator.from_pretrained(place))


def _class_name(place: Path) -> str:
    """The diffusers class that wrote a folder; empty for transformers' models."""
    return json.loads((place / "config.json").read_text()).get("_class_name", "")


_OPENERS: dict[str, Any] = {
    "pose": _open_pose,
    "text_image": _open_text_image,
    "appearance": _open_appearance,
    "attributes": _open_attributes,
}


def refuse_shared(folder: str | Path, evaluators: str | Path, pipeline: str | Path, clip: str | Path) -> None:
    """A loss must not teach to the test. Raises ValueError where a loss network is one of the evaluators
    (`clip` has the one of the CLIP score) or of the pipeline, whatever the float type it was saved in."""
    rivals = {
        "pose": (Path(evaluators) / "pose", Path(pipeline) / "estimator"),
        "appearance": (Path(evaluators) / "appearance",),
        "attributes": (Path(evaluators) / "attributes",),
        "text_image": (Path(clip) / "text_image", Path(pipeline) / "image_encoder"),
    }
    for kind, others in rivals.items():
        own = _weights(Path(folder) / kind)
        for other in others:
            if own and _same(own, _weights(other)):
                raise ValueError(
                    f"{Path(folder) / kind} has the weights of {other}: a loss network must be another one. "
                    f"Train it with a seed of its own: {MAKERS[kind].format(folder=folder)}."
                )


def _weights(place: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    found: dict[str, Tensor] = {}
    for file in sorted(place.glob("*.safetensors")):
        found |= load_file(file)
    return found


def _same(own: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether all matrices that both have by name (of a CLIP, those of its vision tower) agree to float16.

    Vectors are left out: norms and biases of two trainings may both be as they began.
    """
    shared = [name for name in own.keys() & other.keys() if own[name].ndim > 1]
    return bool(shared) and all(
        own[name].shape == other[name].shape
        and torch.allclose(own[name].float(), other[name].float(), rtol=2e-3, atol=1e-4)
        for name in shared
    )
