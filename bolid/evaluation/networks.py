"""The networks that measure, two sets behind one interface: this project's mini ones and the standard ones.

Scores made with the mini set bear the ending `-mini`; `signatures` says of either what stands behind a score.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch

from bolid import metrics
from bolid.attribute_evaluator import AttributeEvaluator
from bolid.evaluators import AppearanceEvaluator, PoseEvaluator, Reading
from bolid.head_evaluator import HeadEvaluator

Kind = Literal["mini", "standard"]
BATCH = 32  # pictures a network sees at once


class Networks(Protocol):
    """What measures pictures. `names`: the attributes it can name, () for none."""

    @property
    def kind(self) -> Kind: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    def read(self, pictures: np.ndarray) -> tuple[np.ndarray, Reading]:
        """Key-points [N, 18, 3] and `Reading` of pictures uint8 [N, H, W, 3], from pixels alone."""
        ...

    def perceptual_distance(
        self, pictures: np.ndarray, truth: np.ndarray, parts: np.ndarray, labels: int = 4
    ) -> np.ndarray:
        """LPIPS within each label 1..labels of `parts` uint8 [N, H, W]: [N, labels]; NaN where there is
        none."""
        ...

    def text_similarity(self, pictures: np.ndarray, prompts: list[str]) -> np.ndarray:
        """[Eq. 5] CLIP score of each picture and its prompt, [N]; NaN without a network for it."""
        ...

    def signatures(self) -> dict[str, str]:
        """Score -> what stands behind it: library, network, weights, resize."""
        ...


@dataclass(frozen=True)
class Evaluators:
    """The mini networks.

    text_image: a small CLIP of its own (`loss_networks.TextImageNetwork`), neither the pipeline's nor a
    loss's; None leaves the CLIP score out. attributes: names them in the place of `appearance`, which is
    coarser; head: gives the head embeddings in its place, for other clothes change those. weights: a hash
    for each network by its name here, for signatures.
    """

    pose: PoseEvaluator
    appearance: AppearanceEvaluator
    text_image: Any = None
    attributes: AttributeEvaluator | None = None
    head: HeadEvaluator | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    kind: Kind = "mini"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple((self.attributes or self.appearance).names)

    def read(self, pictures: np.ndarray) -> tuple[np.ndarray, Reading]:
        keypoints = self.pose.predict(pictures)
        reading = replace(self.appearance.predict(pictures, keypoints), face=metrics.face_seen(keypoints))
        if self.attributes is not None:
            reading = replace(reading, attributes=self.attributes.predict(pictures, keypoints))
        if self.head is not None:
            reading = replace(reading, head=self.head.predict(pictures, keypoints))
        return keypoints, reading

    def perceptual_distance(
        self, pictures: np.ndarray, truth: np.ndarray, parts: np.ndarray, labels: int = 4
    ) -> np.ndarray:
        return self.appearance.perceptual_distance(pictures, truth, parts, labels)

    def text_similarity(self, pictures: np.ndarray, prompts: list[str]) -> np.ndarray:
        return _text_similarity(self.text_image, pictures, prompts)

    def signatures(self) -> dict[str, str]:
        look = self._signature("appearance", "AppearanceEvaluator", self.appearance.size)
        pose = self._signature("pose", "PoseEvaluator", self.pose.size)
        head = f"{look}, head embedding"
        if self.head is not None:
            head = self._signature("head", "HeadEvaluator", self.head.size)
        found = {
            "FID": f"{look}, pooled stages in the truth's own spread",
            "KID": f"{look}, the same features, kernel (x.y / D + 1)^3",
            "LPIPS": f"{look}, two stages, unit channels, unweighted",
            "ID_sim": f"{look}, body embedding",
            "face": f"{head}; a face is seen where nose and an eye are ({pose})",
            "PCK, OKS-AP": f"{pose}; OKS-AP over one detection a picture, without detection scores",
        }
        if self.attributes is not None:
            size = self.attributes.size
            found["attributes"] = self._signature("attributes", "AttributeEvaluator", size)
        if self.text_image is not None:
            side = self.text_image.clip.config.vision_config.image_size
            clip = self._signature("text_image", "small CLIP trained here", (side, side))
            found["CLIP score"] = f"{clip} (squeezed)"
        return found

    def _signature(self, name: str, kind: str, size: tuple[int, int]) -> str:
        """What a network is, by its name here; size: height and width of what it sees."""
        weights = self.weights.get(name, "?")
        return (
            f"{kind}, bolid {version_of('bolid')}, weights {weights}, bilinear antialias to "
            f"{size[1]} x {size[0]}"
        )


@dataclass(frozen=True)
class StandardEvaluators:
    """The standard networks; every one may be exchanged, and tests put tiny ones of the same classes in.

    pose: (uint8 [H, W, 3], boxes [N, 4] px) -> key-points [N, 18, 3], a ViTPose. face: picture -> faces with
    `embedding`, largest first; None leaves faces out. body: (pixels in [-1, 1], key-points) -> [B, E].
    inception: uint8 [B, 3, H, W] -> [B, D]. lpips: two of [B, 3, H, W] in [-1, 1] -> map [B, 1, H, W].
    """

    pose: Callable[[np.ndarray, np.ndarray], np.ndarray]
    face: Callable[[np.ndarray], list[Any]] | None
    body: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    inception: Callable[[torch.Tensor], torch.Tensor]
    lpips: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    text_image: Any
    notes: dict[str, str] = field(default_factory=dict)  # score -> its signature
    device: str = "cpu"
    kind: Kind = "standard"
    names: tuple[str, ...] = ()

    @torch.no_grad()
    def read(self, pictures: np.ndarray) -> tuple[np.ndarray, Reading]:
        height, width = pictures.shape[1:3]
        whole = np.array([[0, 0, width, height]], np.float32)  # the person fills a full-body picture
        keypoints = np.concatenate([self.pose(picture, whole) for picture in pictures])
        body, features = [], []
        for rows in _chunks(len(pictures)):
            pixels = _pixels(pictures[rows]).to(self.device)
            points = torch.from_numpy(keypoints[rows]).to(self.device)
            body.append(self.body(pixels, points).float().cpu())
            whole_pictures = torch.from_numpy(np.ascontiguousarray(pictures[rows])).permute(0, 3, 1, 2)
            features.append(self.inception(whole_pictures.to(self.device)).float().cpu())
        head, seen = self._faces(pictures)
        nothing = np.zeros((len(pictures), 0), np.int64)
        scene = np.full(len(pictures), -1)
        unit = torch.nn.functional.normalize(torch.cat(body), dim=-1).numpy()
        return keypoints, Reading(nothing, scene, unit, head, torch.cat(features).numpy(), seen)

    def _faces(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Unit embedding of the largest face [N, F], NaN where none is found, and whether one is."""
        found = [self.face(picture) if self.face else [] for picture in pictures]
        width = next((len(faces[0].embedding) for faces in found if faces), 1)
        head = np.full((len(pictures), width), np.nan, np.float32)
        for row, faces in enumerate(found):
            if faces:
                head[row] = faces[0].embedding / max(float(np.linalg.norm(faces[0].embedding)), 1e-12)
        return head, np.array([bool(faces) for faces in found])

    @torch.no_grad()
    def perceptual_distance(
        self, pictures: np.ndarray, truth: np.ndarray, parts: np.ndarray, labels: int = 4
    ) -> np.ndarray:
        found = []
        for rows in _chunks(len(pictures)):
            ours, theirs = (_pixels(each[rows]).to(self.device) for each in (pictures, truth))
            distance = self.lpips(ours, theirs)[:, 0].float().cpu().numpy()
            masks = np.stack([parts[rows] == label for label in range(1, labels + 1)], 1)
            count = masks.sum((2, 3))
            total = (masks * distance[:, None]).sum((2, 3))
            found.append(np.where(count > 0, total / np.maximum(count, 1), np.nan))
        return np.concatenate(found)

    def text_similarity(self, pictures: np.ndarray, prompts: list[str]) -> np.ndarray:
        return _text_similarity(self.text_image, pictures, prompts, self.device)

    def signatures(self) -> dict[str, str]:
        return dict(self.notes)


@torch.no_grad()
def _text_similarity(
    network: Any, pictures: np.ndarray, prompts: list[str], device: str = "cpu"
) -> np.ndarray:
    if network is None:
        return np.full(len(pictures), np.nan)
    found = []
    for rows in _chunks(len(pictures)):
        seen = network.pictures(_pixels(pictures[rows]).to(device)).cpu().numpy()
        found.append(metrics.clip_score(seen, network.texts(prompts[rows]).cpu().numpy()))
    return np.concatenate(found)


def _chunks(count: int) -> list[slice]:
    return [slice(start, start + BATCH) for start in range(0, count, BATCH)]


def _pixels(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> float [N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def version_of(package: str) -> str:
    """The installed version of a package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
