"""One call's conditions, checked and brought to rows: what was asked for, before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

import bolid.inputs as inputs
from bolid.identity import Identity
from bolid.pose import Pose
from bolid.regions import group_width


@dataclass(frozen=True)
class Request:
    """One call's conditions, checked, a row per prompt.

    people: per person the list of sources (one person serves all rows), None without reference; poses,
    pictures: per row a source or None; strength: float32 [rows, 4] per part; height, width: pixels.
    group: several people in the one picture of one prompt: rows is 1, and people, poses and strength have a
    row per person instead. chosen: rows whose pose was found for the prompt: they get the reference's
    proportions as named poses do.
    """

    rows: int
    people: list[list[Any]] | None
    poses: list[Any]
    pictures: list[Any]
    strength: np.ndarray
    pose_strength: float
    image_strength: float
    retarget: bool | None
    height: int
    width: int
    group: bool = False
    appearance_strength: float = 1.0
    chosen: frozenset[int] = frozenset()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    def retargets(self, row: int) -> bool:
        """Whether a row's pose gets the reference's proportions."""
        if self.retarget is not None:
            return self.retarget
        return row in self.chosen or not inputs.is_placed(self.poses[row])

    @property
    def has_identity(self) -> bool:
        return self.people is not None and float(self.strength.max()) > 0

    @property
    def has_image(self) -> bool:
        return self.image_strength > 0 and any(picture is not None for picture in self.pictures)

    @property
    def has_pose(self) -> bool:
        return self.pose_strength > 0 and any(pose is not None for pose in self.poses)

    @property
    def unposed(self) -> list[int]:
        """Rows that show a person and have no pose, where poses count; none of a group."""
        if self.group or self.people is None or self.pose_strength == 0:
            return []
        shown = self.strength.max(axis=1) > 0
        return [row for row in range(self.rows) if shown[row] and self.poses[row] is None]

    def repeated(self, people: list[list[Any]], per_row: int) -> Request:
        """Every row `per_row` times; `people` in place of its own."""

        def times(values: list[Any]) -> list[Any]:
            return [value for value in values for _ in range(per_row)]

        return replace(
            self, rows=self.rows * per_row, people=people if len(people) == 1 else times(people),
            poses=times(self.poses), pictures=times(self.pictures),
            strength=np.repeat(self.strength, per_row, axis=0),
        )  # fmt: skip

    def with_chosen(self, poses: dict[int, Pose]) -> Request:
        """With poses found for the prompts of some rows."""
        placed = [poses.get(row, pose) for row, pose in enumerate(self.poses)]
        return replace(self, poses=placed, chosen=frozenset(poses))

    def of_person(self, index: int) -> Request:
        """One person of a group, alone and without the image prompt, which belongs to the whole picture."""
        return replace(
            self, poses=self.poses[index : index + 1], pictures=[None], group=False,
            people=None if self.people is None else self.people[index : index + 1],
            strength=self.strength[index : index + 1],
        )  # fmt: skip

    def of_scene(self) -> Request:
        """A group's image prompt alone."""
        return replace(self, people=None, poses=[None], group=False, strength=self.strength[:1])


@dataclass(frozen=True)
class Asked:
    """What a call says of its conditions, as it came. See `BoLIDPipeline.__call__`."""

    prompt: Any
    embeds: torch.Tensor | None
    reference: Any
    pose: Any
    image_prompt: Any
    image_strength: Any
    id_strength: Any
    pose_strength: Any
    retarget: bool | None
    height: int | None
    width: int | None
    appearance_strength: Any = 1.0


def make_request(asked: Asked, default: tuple[int, int], factor: int) -> Request:
    """Check everything that can be checked without a network. Raises ValueError.

    default: (height, width) in pixels where the call says nothing; factor: what sizes are multiples of.
    """
    people = None if asked.reference is None else inputs.person_rows(asked.reference)
    poses = inputs.pose_rows(asked.pose)
    pictures = asked.image_prompt
    pictures = list(pictures) if isinstance(pictures, list | tuple) else [pictures]
    group = is_group(asked.prompt, asked.reference)
    if group:
        assert people is not None
        _check_group(people, poses, pictures, asked.pose_strength)
        rows, persons = 1, len(people)
        default = (default[0], group_width(asked.height or default[0], default[1], persons, factor))
    else:
        rows = persons = inputs.row_count(asked.prompt, asked.embeds, people, poses, pictures)
    height, width = inputs.picture_size(asked.height, asked.width, default, factor)
    return Request(
        rows=rows,
        people=people,
        poses=inputs.as_list(poses, "pose", persons),
        pictures=inputs.as_list(pictures, "image_prompt", rows),
        strength=inputs.part_strengths(asked.id_strength, persons),
        pose_strength=inputs.number(asked.pose_strength, "pose_strength"),
        image_strength=inputs.number(asked.image_strength, "image_prompt_strength"),
        retarget=asked.retarget,
        height=height,
        width=width,
        group=group,
        appearance_strength=inputs.share(asked.appearance_strength, "appearance_strength"),
    )


def is_group(prompt: Any, reference: Any) -> bool:
    """Whether one text asks for several people: a list of two or more (`Identity` or lists of pictures)."""
    if not isinstance(prompt, str) or not isinstance(reference, list | tuple) or len(reference) < 2:
        return False
    return any(isinstance(each, list | tuple | Identity) for each in reference)


def _check_group(people: list[Any], poses: list[Any], pictures: list[Any], pose_strength: Any) -> None:
    count = len(people)
    if len(poses) != count or any(pose is None for pose in poses):
        given = sum(pose is not None for pose in poses)
        raise ValueError(
            f"{count} people in one picture have {given} poses; give one pose each (pose=[...]): it says "
            "where each of them is. For one picture of each, give a list of prompts"
        )
    if len(pictures) != 1:
        raise ValueError(f"image_prompt lists {len(pictures)} pictures for one prompt; give one")
    if pose_strength == 0:
        raise ValueError("pose_strength is 0, but the poses say where each person is; give more than 0")
