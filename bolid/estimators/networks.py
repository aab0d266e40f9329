"""Person boxes, key-points, image features and captions by networks of transformers.

Every class opens its model by `open(weights, device)`, takes uint8 RGB pictures [H, W, 3], and keeps its
network in float32: the pictures are few and the places must be exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from bolid.estimators.catalogue import Weights, from_hub, require_packages
from bolid.estimators.joints import from_coco
from bolid.estimators.part_labels import PERSON, kind_of

PERSON_SCORE = 0.5  # from which a box counts as a person


@dataclass(frozen=True, eq=False)
class Boxes:
    """Persons in a picture, the most prominent first. xyxy: float32 [N, 4] px; scores: float32 [N]."""

    xyxy: np.ndarray
    scores: np.ndarray

    @classmethod
    def ordered(cls, xyxy: np.ndarray, scores: np.ndarray, size: tuple[int, int]) -> Boxes:
        """Clipped to the picture of `size` (height, width), those of no area left out, by area x score."""
        limits = (size[1], size[0], size[1], size[0])
        xyxy = np.clip(np.reshape(xyxy, (-1, 4)), 0, limits).astype(np.float32)
        areas = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
        order = [i for i in np.argsort(-areas * scores, kind="stable") if areas[i] > 0]
        return cls(xyxy[order], np.asarray(scores, np.float32)[order])

    @property
    def areas(self) -> np.ndarray:
        """Pixels of each box, float32 [N]."""
        return (self.xyxy[:, 2] - self.xyxy[:, 0]) * (self.xyxy[:, 3] - self.xyxy[:, 1])

    def __len__(self) -> int:
        return len(self.xyxy)


class Network:
    """A model and its processor on one device."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model.eval().requires_grad_(False), processor

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def inputs(self, image: np.ndarray, **options: Any) -> Any:
        """What the network gets for a picture, on its device. The order of axes is said, not left to a guess:
        a crop may be three pixels high.
        """
        given = self.processor(
            images=image, return_tensors="pt", input_data_format="channels_last", **options
        )
        return given.to(self.device)

    def to(self, device: torch.device | str) -> Self:
        """Moves the network; costs nothing where it is there already."""
        self.model.to(device)
        return self


class PeopleFinder(Network):
    """Any object detector of transformers that knows persons: RT-DETR, DETR, YOLOS, D-FINE."""

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        names = model.config.id2label
        self.classes = [int(number) for number, name in names.items() if kind_of(name) == PERSON]
        if not self.classes:
            raise ValueError(
                f"the detector's classes ({', '.join(list(names.values())[:8])}, ...) hold no person; "
                "give one that knows persons, for example PekingU/rtdetr_r50vd_coco_o365"
            )

    @classmethod
    def open(cls, weights: Weights, device: torch.device | str = "cpu") -> Self:
        from transformers import AutoImageProcessor, AutoModelForObjectDetection

        model = from_hub(weights, AutoModelForObjectDetection.from_pretrained, dtype=torch.float32)
        return cls(model, from_hub(weights, AutoImageProcessor.from_pretrained)).to(device)

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> Boxes:
        """Persons of a score of 0.5 or more."""
        inputs = self.inputs(image)
        found = self.processor.post_process_object_detection(
            self.model(**inputs), threshold=PERSON_SCORE, target_sizes=[image.shape[:2]]
        )[0]
        person = torch.isin(found["labels"].cpu(), torch.tensor(self.classes))
        boxes, scores = found["boxes"].cpu()[person].numpy(), found["scores"].cpu()[person].numpy()
        return Boxes.ordered(boxes, scores, (image.shape[0], image.shape[1]))


class VitPoseKeypoints(Network):
    """ViTPose and its like: one body per box, COCO-17 joints turned into the 18 of OpenPose."""

    @classmethod
    def open(cls, weights: Weights, device: torch.device | str = "cpu") -> Self:
        require_packages(weights, "scipy")  # for any ViTPose: its processor turns crops by it
        from transformers import AutoImageProcessor, VitPoseForPoseEstimation

        model = from_hub(weights, VitPoseForPoseEstimation.from_pretrained, dtype=torch.float32)
        return cls(model, from_hub(weights, AutoImageProcessor.from_pretrained)).to(device)

    @torch.no_grad()
    def __call__(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Key-points float32 [N, 18, 3] of the bodies in the boxes [N, 4] (px, x1 y1 x2 y2)."""
        if not len(boxes):
            return np.zeros((0, 18, 3), np.float32)
        corner_and_size = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        coco_boxes = [corner_and_size.astype(float).tolist()]  # one picture
        inputs = self.inputs(image, boxes=coco_boxes)
        if getattr(self.model.config.backbone_config, "num_experts", 1) > 1:
            # ViTPose+ has an expert per data set; 0 is COCO's
            inputs["dataset_index"] = torch.zeros(len(boxes), dtype=torch.long, device=self.device)
        found = self.processor.post_process_pose_estimation(self.model(**inputs), boxes=coco_boxes)[0]
        points = np.stack([person["keypoints"].numpy() for person in found])
        scores = np.stack([person["scores"].numpy() for person in found])
        return from_coco(points, scores, (image.shape[0], image.shape[1]))


class VisionEncoder(Network):
    """A frozen vision encoder: CLIP, DINOv2 or SigLIP."""

    @classmethod
    def open(cls, weights: Weights, device: torch.device | str = "cpu") -> Self:
        from transformers import AutoConfig, AutoImageProcessor, AutoModel, CLIPVisionModel, SiglipVisionModel

        kind = from_hub(weights, AutoConfig.from_pretrained).model_type
        towers = {"clip": CLIPVisionModel, "clip_vision_model": CLIPVisionModel,
                  "siglip": SiglipVisionModel, "siglip_vision_model": SiglipVisionModel}  # fmt: skip
        load = towers.get(kind, AutoModel).from_pretrained
        model = from_hub(weights, load, dtype=torch.float32)
        return cls(model, from_hub(weights, AutoImageProcessor.from_pretrained)).to(device)

    @property
    def size(self) -> int:
        """Side in pixels of the pictures it takes."""
        return int(self.model.config.image_size)

    @torch.no_grad()
    def patches(self, pictures: Tensor) -> Tensor:
        """Patch features of the last layer but one, without class and register tokens.

        pictures: [B, 3, size, size] in [-1, 1] -> [B, L, D] with L = (size / patch size)^2.
        """
        mean, std = (pictures.new_tensor(values).view(1, 3, 1, 1)
                     for values in (self.processor.image_mean, self.processor.image_std))  # fmt: skip
        pixels = ((pictures / 2 + 0.5 - mean) / std).to(self.device)
        states = self.model(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
        count = (self.size // self.model.config.patch_size) ** 2
        return states[:, states.shape[1] - count :]


class Captioner(Network):
    """A captioning model, BLIP or another that transformers' image-text-to-text classes open."""

    @classmethod
    def open(cls, weights: Weights, device: torch.device | str = "cpu") -> Self:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        model = from_hub(weights, AutoModelForImageTextToText.from_pretrained, dtype=torch.float32)
        return cls(model, from_hub(weights, AutoProcessor.from_pretrained)).to(device)

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> str:
        """One sentence; the same picture gives the same sentence."""
        inputs = self.inputs(image)
        tokens = self.model.generate(**inputs, max_new_tokens=40, do_sample=False)
        return " ".join(self.processor.batch_decode(tokens, skip_special_tokens=True)[0].split())
