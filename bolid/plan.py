"""A request with its people encoded and its poses in place, and the maps that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from bolid.appearance import appearance_map
from bolid.garments import COLUMNS, GarmentNet
from bolid.identity import Identity
from bolid.inputs import proportions_of
from bolid.pose import retarget, skeleton_map
from bolid.reference import Reference
from bolid.regions import person_regions
from bolid.request import Request

TOGETHER = 2**20  # pixels of appearance maps drawn at once; a map takes about 100 bytes for each


@dataclass(frozen=True)
class Plan:
    """A request with its people encoded and its poses in place: what all conditions are made of.

    people: a row each, None without identity; poses: a row each, [18, 3] in the frame of the picture to be
    made and with the reference's proportions, or None; words: the states [1, L, C] of each row's prompt,
    where something reads them; garments: the network that draws the clothes they name into the maps, if any.
    """

    request: Request
    people: list[Identity] | None
    poses: list[np.ndarray | None]
    words: list[Tensor] | None = None
    garments: GarmentNet | None = None

    @cached_property
    def persons(self) -> list[Plan]:
        """One plan for each person of a group."""
        return [
            Plan(
                self.request.of_person(index),
                None if self.people is None else self.people[index : index + 1],
                self.poses[index : index + 1],
                self.words,
                self.garments,
            )
            for index in range(len(self.poses))
        ]

    def regions(self, height: int, width: int) -> Tensor:
        """Where each person of a group acts, `person_regions` [P, 1, height, width]."""
        return person_regions(np.stack([pose for pose in self.poses if pose is not None]), height, width)

    @cached_property
    def maps(self) -> Tensor:
        """Faded appearance maps, float32 [rows, 4, H, W] on the CPU; zeros for a row without pose, and but
        for clothes that its prompt names for one without person.

        Those of a group lie in its one row, each where its person acts.
        """
        request = self.request
        if request.group:
            regions = self.regions(*request.size)  # no pixel lies in two
            own = torch.cat([person.maps for person in self.persons])
            return (own * (regions > 0)).sum(0, keepdim=True)
        shown: dict[int, tuple[list[Reference], np.ndarray, np.ndarray]] = {}
        for row, pose in enumerate(self.poses):
            references = [] if pose is None else shown_references(request, self.people, row)
            strength = request.strength[row] * request.appearance_strength
            if references and pose is not None and strength.any():
                shown[row] = references, pose, strength
        maps = torch.zeros(len(self.poses), 4, *request.size)
        if shown:
            maps[list(shown)] = best_maps(list(shown.values()))
        dressed = np.flatnonzero(self.room.any(1))
        if len(dressed) and self.garments is not None and self.words is not None:
            words = torch.cat([self.words[row] for row in dressed])
            room = torch.from_numpy(self.room[dressed])
            maps[dressed] = self.garments.fill(maps[dressed], self.skeletons[dressed], words, room)
        return maps

    @property
    def room(self) -> np.ndarray:
        """How far clothes may come by words, float32 [rows, 2] in [0, 1] for each of `garments.DRAWN`: what
        the reference's strength leaves, in rows with a pose."""
        told = self.request.strength[:, COLUMNS].clip(0, 1)
        posed = np.array([pose is not None for pose in self.poses], np.float32)
        room = np.ones_like(told) if self.people is None else 1 - told
        return room * posed[:, None] * self.request.appearance_strength

    @cached_property
    def skeletons(self) -> Tensor:
        """Skeleton maps, float32 [rows, 3, H, W] in [0, 1] on the CPU; black for a row without pose. Those of
        a group lie in its one row.
        """
        if self.request.group:
            return torch.cat([person.skeletons for person in self.persons]).amax(0, keepdim=True)
        nobody = np.zeros((18, 3), np.float32)
        poses = np.stack([nobody if pose is None else pose for pose in self.poses])
        return torch.from_numpy(skeleton_map(poses, *self.request.size)).permute(0, 3, 1, 2) / 255


def shown_references(request: Request, people: list[Identity] | None, row: int) -> list[Reference]:
    """A row's reference pictures at the size to be made; none where its strength is 0."""
    if people is None or request.strength[row].max() <= 0:
        return []
    return [each.resized(*request.size) for each in people[row].references]


def fitted(pose: np.ndarray, references: Sequence[Reference], strength: np.ndarray) -> np.ndarray:
    """The pose [18, 3] with the proportions of the reference that shows most joints."""
    best = max(references, key=lambda reference: float(reference.keypoints[:, 2].sum()))
    height, width = best.image.shape[:2]
    return retarget(pose, proportions_of(best.keypoints, strength), width / height)


def best_maps(rows: Sequence[tuple[Sequence[Reference], np.ndarray, np.ndarray]]) -> Tensor:
    """For each row the appearance map of the reference that covers most of the target, weighted by strength.

    rows: references, pose [18, 3] in the frame of their size, and strength [4], above 1 counts as 1; all
    references of one size.
    Returns float32 [N, 4, H, W].
    """
    at_once = max(1, TOGETHER // rows[0][0][0].parts.size)
    if len(rows) > at_once:
        return torch.cat([best_maps(rows[at : at + at_once]) for at in range(0, len(rows), at_once)])
    counts = [len(references) for references, _, _ in rows]
    drawn = [each.without(strength <= 0) for references, _, strength in rows for each in references]
    maps = appearance_map(
        pixels_of([reference.image for reference in drawn]),
        torch.from_numpy(np.stack([reference.parts for reference in drawn])),
        torch.from_numpy(np.stack([reference.keypoints for reference in drawn])),
        torch.from_numpy(np.repeat([pose for _, pose, _ in rows], counts, axis=0)),
        torch.from_numpy(np.repeat([strength for _, _, strength in rows], counts, axis=0)).clamp(max=1),
    )
    return torch.stack([own[int(own[:, 3].sum(dim=(1, 2)).argmax())] for own in maps.split(counts)])


def pixels_of(images: Sequence[np.ndarray]) -> Tensor:
    """uint8 pictures [H, W, 3] -> float32 [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
