"""Two ONNX files with the inputs and outputs of YuNet and SFace, for the real classes of OpenCV.

    python tests/tiny_faces.py      # writes them; needs the package onnx

The detector sees a face in every cell of 8 x 8 pixels that is bright in red; the recogniser answers with the
mean colour of the aligned face.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

FOLDER = Path(__file__).parent / "fixtures"
STRIDES = (8, 16, 32)
POINTS = (-1.0, -1.0, 1.0, -1.0, 0.0, 0.0, -1.0, 1.0, 1.0, 1.0)  # in cells from the cell's corner
SIDE = 1.2  # log of a face's side in cells


class Detector(nn.Module):
    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        """Picture [1, 3, H, W], BGR, 0 to 255 → class, objectness, boxes, points; three levels of each."""
        found = []
        for stride in STRIDES:
            red = functional.avg_pool2d(picture[:, 2:], stride).flatten(2).transpose(1, 2)  # [1, cells, 1]
            none = red * 0
            score = (red / 255 - 0.9).clamp(min=0) * 10 if stride == STRIDES[0] else none
            box = torch.cat([none, none, none + SIDE, none + SIDE], dim=-1)
            found.append((score, score, box, torch.cat([none + place for place in POINTS], dim=-1)))
        return tuple(level for kind in zip(*found, strict=True) for level in kind)


class Recogniser(nn.Module):
    def forward(self, face: Tensor) -> Tensor:
        """Face [1, 3, 112, 112], RGB → mean colour, repeated [1, 128]."""
        return face.mean(dim=(2, 3)).repeat(1, 43)[:, :128]


def main() -> None:
    outputs = [f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in STRIDES]
    common = {"dynamo": False, "opset_version": 11}
    torch.onnx.export(
        Detector(), (torch.zeros(1, 3, 64, 64),), str(FOLDER / "face_detection_yunet_2023mar.onnx"), **common,
        input_names=["input"], output_names=outputs, dynamic_axes={"input": {2: "height", 3: "width"}},
    )  # fmt: skip
    torch.onnx.export(
        Recogniser(), (torch.zeros(1, 3, 112, 112),), str(FOLDER / "face_recognition_sface_2021dec.onnx"),
        **common, input_names=["data"], output_names=["fc1"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
