"""Changed references: pixels, labels and key-points stay together; rows that keep theirs are left alone."""

import numpy as np
import torch
from torch import Tensor

from bolid.training.augmentation import augment
from bolid.training.draws import Draws

HEIGHT, WIDTH, ROWS = 64, 48, 16


def raw(own: bool) -> dict[str, Tensor]:
    """A white square with label 2 around the right wrist (joint 4) of a black picture."""
    picture, labels, points = (
        torch.full((ROWS, 3, HEIGHT, WIDTH), -1.0),
        torch.zeros(ROWS, HEIGHT, WIDTH, dtype=torch.uint8),
        torch.zeros(ROWS, 18, 3),
    )
    picture[:, :, 26:31, 14:19], labels[:, 26:31, 14:19] = 1.0, 2
    points[:, 4] = torch.tensor((16.5 / WIDTH, 28.5 / HEIGHT, 1.0))
    given = {"masks": labels, "keypoints": points, "reference_masks": labels, "reference_keypoints": points}
    return {"image": picture, "reference": picture, "own_reference": torch.full((ROWS,), own), **given}


def draws() -> Draws:
    return Draws(0, 0, np.arange(ROWS), ROWS, torch.device("cpu"))


def centres(labels: Tensor) -> Tensor:
    """Mean place [B, 2] of the labelled pixels, in shares."""
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    mask = (labels > 0).float()
    count = mask.sum((1, 2))
    return torch.stack(((mask * x).sum((1, 2)) / count / WIDTH, (mask * y).sum((1, 2)) / count / HEIGHT), -1)


def test_labels_pixels_and_key_points_move_together():
    changed = augment(raw(True), draws(), "own")
    points = changed["reference_keypoints"]
    mirrored = points[:, 7, 2] > 0  # the right wrist has become the left one
    assert 0 < int(mirrored.sum()) < ROWS
    place = torch.where(mirrored[:, None], points[:, 7, :2], points[:, 4, :2])
    torch.testing.assert_close(place, centres(changed["reference_masks"]), rtol=0, atol=1.5 / WIDTH)
    assert float((place - torch.tensor((16.5 / WIDTH, 28.5 / HEIGHT))).abs().mean()) > 0.01  # it did move
    for picture, x, y in zip(
        changed["reference"], *(place * torch.tensor((WIDTH, HEIGHT))).T.long(), strict=True
    ):
        assert picture[:, y, x].min() > 0.5  # the square is still white there
    assert torch.equal(changed["image"], raw(True)["image"])
    assert not points[:, 0].any()  # an unknown joint stays unknown


def test_a_lone_picture_gets_another_background_another_light_and_is_cut_by_the_frame():
    grey = raw(True)
    grey["image"] = grey["reference"] = torch.where(grey["image"] > 0, 0.3, -0.4)  # person and ground
    grey["masks"] = grey["reference_masks"] = torch.full((ROWS, HEIGHT, WIDTH), 2, dtype=torch.uint8)
    grey["reference_masks"][:, :, :3] = 0
    changed = augment(grey, draws(), "own")
    ground = changed["reference_masks"] == 0
    shown = torch.stack([changed["reference"][row][:, ground[row]].mean(1) for row in range(ROWS)])
    assert float((shown - grey["image"][:, :, 0, 0]).abs().mean()) > 0.2  # colours of its own
    assert len({tuple(colour) for colour in shown.tolist()}) == ROWS
    seen = [changed["reference"][row][:, ~ground[row]].median() for row in range(ROWS)]
    assert 0.01 < float((torch.stack(seen) + 0.4).abs().max()) < 0.3  # light changes, a little
    cut = [(labels[0] > 0).any() or (labels[-1] > 0).any() for labels in changed["reference_masks"]]
    assert 0 < sum(map(bool, cut)) < ROWS  # some are enlarged or moved past the frame, some are inside it
    assert torch.equal(changed["image"], grey["image"])


def test_a_reference_of_its_own_is_left_alone_unless_all_are_asked_for():
    before = raw(False)
    assert augment(before, draws(), "own") is before
    changed = augment(before, draws(), "all")
    assert not torch.equal(changed["reference"], before["reference"])
    flipped = changed["keypoints"][:, 7, 2] > 0  # picture and reference are mirrored together
    assert torch.equal(flipped, changed["reference_keypoints"][:, 7, 2] > 0)
    assert 0 < int(flipped.sum()) < ROWS
