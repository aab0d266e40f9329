"""`PhotoEstimator`: people, key-points and parts of photographs behind the seam of the mini estimator."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin

from bolid.estimator import Estimate
from bolid.estimators.catalogue import Task, Weights, find_weights
from bolid.estimators.networks import Boxes


class Networks:
    """Networks opened so far, by task and source, each once; whoever makes it holds it. Safe for threads."""

    def __init__(self) -> None:
        self._opened: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()

    def get(self, task: Task, source: str, device: torch.device | str = "cpu") -> Any:
        """The network of a task by name, Hub id or folder, on the device; opened on the first call.

        Raises ValueError for an unknown name and MissingModel where it cannot be had.
        """
        weights = find_weights(task, source)
        with self._lock:
            key = (task, weights.repo)
            if key not in self._opened:
                self._opened[key] = network_class(weights).open(weights, device)
            return self._opened[key].to(device)


def network_class(weights: Weights) -> Any:
    """The class that runs a model."""
    from bolid.estimators import faces, networks, openpose, parsing

    named = {
        "openpose": openpose.OpenPoseKeypoints,
        "dwpose": openpose.DWPoseKeypoints,
        "insightface": faces.InsightFaces,
        "opencv-face": faces.OpenCvFaces,
    }
    by_task = {
        "people": networks.PeopleFinder,
        "keypoints": networks.VitPoseKeypoints,
        "parts": parsing.PartFinder,
        "vision": networks.VisionEncoder,
        "caption": networks.Captioner,
        "face": faces.InsightFaces if any(Path(weights.repo).glob("det_*.onnx")) else faces.OpenCvFaces,
    }
    return named.get(weights.name, by_task[weights.task])


class PhotoEstimator(ModelMixin, ConfigMixin):
    """An estimator for photographs: `BoLIDPipeline(..., estimator=PhotoEstimator())`.

    It has the `predict` of `bolid.estimator.PersonEstimator`, so that everything which finds persons takes
    either. It is a component of diffusers without weights of its own: saved, it is its config; its networks
    are opened when first used and follow its device, in float32.

    people, keypoints, parts: names of `bolid.estimators.catalogue`, Hub ids or folders.

    Raises ValueError for unknown names.
    """

    config: Any

    @register_to_config
    def __init__(
        self, people: str = "rtdetr", keypoints: str = "vitpose", parts: str = "segformer-clothes"
    ) -> None:
        super().__init__()
        self.sources: dict[Task, str] = {"people": people, "keypoints": keypoints, "parts": parts}
        for task, source in self.sources.items():
            find_weights(task, source)
        self.networks = Networks()
        self.register_buffer("place", torch.zeros(()), persistent=False)  # says where the networks shall be

    def network(self, task: Task) -> Any:
        """The network of a task, on this estimator's device."""
        return self.networks.get(task, self.sources[task], self.device)

    def people(self, image: np.ndarray) -> Boxes:
        """The persons in a picture, uint8 RGB [H, W, 3], the most prominent first."""
        return self.network("people")(check_picture(image))

    def look(self, image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Key-points float32 [18, 3] and part labels uint8 [H, W] of the person in the box [4] (px)."""
        keypoints = self.network("keypoints")(image, box[None])[0]
        return keypoints, self.network("parts")(image, box, keypoints)

    def predict(self, image: np.ndarray) -> Estimate:
        """One picture or a batch -> Estimate of the most prominent person in each, if there is one.

        image: uint8 RGB [H, W, 3] or [B, H, W, 3] of any size. Raises ValueError for anything else.
        """
        batch = check_picture(image, batched=True)
        batch = batch[None] if batch.ndim == 3 else batch
        rows = [self._predict_one(picture) for picture in batch]
        keypoints, parts, person = (np.stack(column) for column in zip(*rows, strict=True))
        return Estimate(keypoints, parts, person)

    def _predict_one(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.float32]:
        boxes = self.people(image)
        if not len(boxes):
            return np.zeros((18, 3), np.float32), np.zeros(image.shape[:2], np.uint8), np.float32(0)
        keypoints, parts = self.look(image, boxes.xyxy[0])
        return keypoints, parts, np.float32(boxes.scores[0])

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Writes config.json: the names of the models, not their weights."""
        del kwargs  # safe_serialization, variant, ...: they speak of weights
        self.save_config(save_directory)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, **kwargs: Any
    ) -> Self:
        """Reads what `save_pretrained` wrote.

        kwargs: those of `ConfigMixin.load_config`; those that speak of weights mean nothing here.
        """
        known = ("subfolder", "cache_dir", "revision", "token", "local_files_only", "force_download")
        options = {name: kwargs[name] for name in known if name in kwargs}
        config: Any = cls.load_config(os.fspath(pretrained_model_name_or_path or ""), **options)
        made: Any = cls.from_config(config)
        return made


def check_picture(image: np.ndarray, *, batched: bool = False) -> np.ndarray:
    """The picture, contiguous. Raises ValueError unless it is uint8 RGB [H, W, 3] (or a batch)."""
    if image.dtype != np.uint8 or image.ndim not in ((3, 4) if batched else (3,)) or image.shape[-1] != 3:
        shapes = "[H, W, 3] or [B, H, W, 3]" if batched else "[H, W, 3]"
        raise ValueError(f"expected uint8 RGB {shapes}, got {image.dtype} {list(image.shape)}: convert it")
    return np.ascontiguousarray(image)
