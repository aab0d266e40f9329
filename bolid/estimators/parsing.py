"""Part masks by a segmentation network of transformers."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch

from bolid.estimators.catalogue import Weights, from_hub, require_packages
from bolid.estimators.networks import Network
from bolid.estimators.part_labels import divide, label_table

MARGIN = 0.1  # room around a person's box, in shares of its larger side: parsers learned from such crops
_UNIVERSAL = ("mask2former", "maskformer", "oneformer")


class PartFinder(Network):
    """SegFormer and other semantic segmenters, Mask2Former, MaskFormer, OneFormer, by their class names.

    A human-parsing model gives the parts; one that knows "person" only gives the silhouette, which the
    key-points divide.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        self.table = label_table({int(number): name for number, name in model.config.id2label.items()})

    @classmethod
    def open(cls, weights: Weights, device: torch.device | str = "cpu") -> Self:
        import transformers

        kind = from_hub(weights, transformers.AutoConfig.from_pretrained).model_type
        universal = kind in _UNIVERSAL
        if universal:
            require_packages(weights, "scipy")  # transformers' own classes of this kind ask for it
        model_class = (
            transformers.AutoModelForUniversalSegmentation
            if universal
            else transformers.AutoModelForSemanticSegmentation
        )
        processor_class = (
            transformers.AutoProcessor if kind == "oneformer" else transformers.AutoImageProcessor
        )
        model = from_hub(weights, model_class.from_pretrained, dtype=torch.float32)
        return cls(model, from_hub(weights, processor_class.from_pretrained)).to(device)

    @torch.no_grad()
    def __call__(self, image: np.ndarray, box: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
        """Part labels uint8 [H, W] of the person in the box [4] (px); 0 outside of it.

        keypoints: [18, 3] of that person, x, y in [0, 1] of the picture.
        """
        left, top, right, bottom = _around(box, image.shape[0], image.shape[1])
        crop = np.ascontiguousarray(image[top:bottom, left:right])
        kinds = self.table[self.classes(crop)]
        points = keypoints.copy()
        points[:, :2] = (points[:, :2] * (image.shape[1], image.shape[0]) - (left, top)) / (
            right - left,
            bottom - top,
        )
        parts = np.zeros(image.shape[:2], np.uint8)
        parts[top:bottom, left:right] = divide(kinds, points)
        return parts

    def classes(self, image: np.ndarray) -> np.ndarray:
        """Class numbers [H, W] of a picture."""
        task = {"task_inputs": ["semantic"]} if self.model.config.model_type == "oneformer" else {}
        segments = self.processor.post_process_semantic_segmentation(
            self.model(**self.inputs(image, **task)), target_sizes=[image.shape[:2]]
        )
        return segments[0].cpu().numpy()


def _around(box: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
    """The box with its margin, whole pixels inside the picture."""
    room = MARGIN * max(box[2] - box[0], box[3] - box[1])
    left, top = np.floor(np.maximum(box[:2] - room, 0)).astype(int)
    right, bottom = np.ceil(np.minimum(box[2:] + room, (width, height))).astype(int)
    return int(left), int(top), int(right), int(bottom)
