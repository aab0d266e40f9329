"""Poses that no call names: chosen by the words of its prompts, where the pipeline has a `layout`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

import bolid.inputs as inputs
import bolid.variants as variants
from bolid.pictures import whole_frame
from bolid.pose import JOINTS, Pose, known
from bolid.request import Request
from bolid.variants import Start


class PosingMixin:
    """`pose_from_prompt`, for pipelines, and what a call without a pose does with it."""

    layout: Any
    picture_size: tuple[int, int]
    encode_identity: Any
    text_states: Any
    _execution_device: torch.device

    @torch.no_grad()
    def pose_from_prompt(self, prompt: str | list[str], generator: Any = None) -> Pose | list[Pose]:
        """A pose that fits a prompt, as a call without a pose takes it; another one for each seed.

        prompt: one text, or a list for a list of poses. generator: as of the call, with one picture of each
        prompt.
        Returns key-points in the frame of a picture of the model's own size; joints of the body that are
        hidden have confidence 0.5, those of the face 0. Raises ValueError without a `layout`.
        """
        if self.layout is None:
            raise ValueError(
                "this pipeline has no layout, which finds poses for prompts; name a pose "
                "(bolid.pose.POSE_NAMES), or open a pipeline that has one: the stage layout of train/run.py "
                "exports it"
            )
        rows = inputs.row_count(prompt, None)
        own = inputs.generators(generator, rows, 1)
        poses = self._sampled(self.text_states(prompt, {}, range(rows)), own, range(rows))
        return poses if isinstance(prompt, list) else poses[0]

    def _rows_to_pose(self, request: Request, start: Start) -> list[int]:
        """The rows of a call whose pose the layout chooses."""
        if self.layout is None or start.task != "text" or start.control is not None:
            return []
        return request.unposed

    def _with_poses(
        self, request: Request, start: Start, per_row: int, kwargs: dict[str, Any]
    ) -> tuple[Request, int, dict[str, Any]]:
        """The call with a pose in each of `_rows_to_pose`: request, pictures of each row, stock arguments.

        Each picture gets a pose of its own, so each becomes a row; without such rows all stays as it came.
        """
        rows = self._rows_to_pose(request, start)
        if not rows:
            return request, per_row, kwargs
        chosen = [row * per_row + index for row in rows for index in range(per_row)]
        states = self.text_states(kwargs["prompt"], kwargs, rows)
        states = [each for each in states for _ in range(per_row)]
        poses = self._sampled(states, kwargs["generator"], chosen)
        frame = whole_frame(self.picture_size, *request.size)
        for index, pose in enumerate(poses):
            points = pose.keypoints.copy()
            sure = points[:, 2] > 0
            points[sure, :2] = frame.to_frame(points[sure, :2], self.picture_size)
            poses[index] = Pose(points)
        kwargs = variants.spread(kwargs, request.rows, per_row)
        if per_row > 1:
            assert request.people is not None
            people = [[self.encode_identity(person)] for person in request.people]  # not once a picture
            request = request.repeated(people, per_row)
        return request.with_chosen(dict(zip(chosen, poses, strict=True))), 1, kwargs

    def _sampled(self, states: list[Tensor], generator: Any, pictures: Sequence[int]) -> list[Pose]:
        """Poses of the model's own frame, one for each of states [1, L, C].

        generator: as of `bolid.inputs.generators`; pictures: which of a list's generators are theirs.
        """
        if isinstance(generator, list):
            generator = [generator[index] for index in pictures]
        device = self.layout.device
        noise = randn_tensor((len(pictures), len(JOINTS), 3), generator=generator, device=device)
        poses = []
        for own, start in zip(states, noise.split(1), strict=True):
            points = known(self.layout.sample(own.to(device), start).cpu().numpy())[0]
            points[points[:, 2] <= 0] = 0  # a place that was not learnt
            poses.append(Pose(points))
        return poses
