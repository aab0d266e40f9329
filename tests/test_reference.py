"""Finding the person, or saying plainly why not."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_pipelines import HEIGHT, WIDTH, make_reference

from bolid.avatars.world import sample_row
from bolid.estimator import Estimate
from bolid.pictures import cut, whole_frame
from bolid.reference import Reference, find_person, flatness, refuse_photograph


class Exact:
    """An estimator that knows the answer: it finds the pixels of `reference`'s colours, wherever they are."""

    def __init__(self, reference: Reference, person: float = 1.0) -> None:
        self.reference, self.chance, self.seen = reference, person, []

    def predict(self, image: np.ndarray) -> Estimate:
        """The person's box in the picture gives scale and place of the key-points."""
        self.seen.append(image)
        nobody = Estimate(
            np.zeros((1, 18, 3), np.float32),
            np.zeros((1, *image.shape[:2]), np.uint8),
            np.zeros(1, np.float32),
        )
        parts = np.zeros(image.shape[:2], np.uint8)
        for label in range(1, 5):
            colour = self.reference.image[self.reference.parts == label][0].astype(int)
            parts[np.abs(image.astype(int) - colour).max(-1) < 40] = label
        if not parts.any():
            return nobody
        box, own = extent(parts), extent(self.reference.parts)
        points = self.reference.keypoints.copy()
        points[:, :2] = (points[:, :2] - own[0]) / (own[1] - own[0]) * (box[1] - box[0]) + box[0]
        return Estimate(points[None], parts[None], np.array([self.chance], np.float32))


def extent(parts: np.ndarray) -> np.ndarray:
    """Corners [2, 2] of the labelled pixels, x, y in [0, 1]."""
    rows, columns = np.nonzero(parts)
    size = np.array([parts.shape[1], parts.shape[0]])
    return np.array([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]]) / size


def find(picture: np.ndarray, **options: Any) -> tuple[Reference, Exact]:
    estimator = Exact(make_reference(), **options)
    return find_person(estimator, picture, HEIGHT, WIDTH), estimator  # pyright: ignore[reportArgumentType]


def test_a_picture_of_the_working_size_is_taken_as_it_is(person: Reference) -> None:
    found, _ = find(person.image)
    assert np.array_equal(found.image, person.image)
    np.testing.assert_allclose(found.keypoints, person.keypoints, atol=0.02)
    assert found.present.all()


@pytest.mark.parametrize("size", [(192, 128), (60, 40), (96, 200), (300, 64)])
def test_other_sizes_keep_their_proportions(person: Reference, size: tuple[int, int]) -> None:
    picture = cut(person.image, whole_frame((HEIGHT, WIDTH), *size), *size)
    found, _ = find(picture)
    assert found.image.shape == (HEIGHT, WIDTH, 3)
    assert found.frame is not None
    # the same places in the source picture, whatever the frame
    expected = whole_frame((HEIGHT, WIDTH), *size).to_frame(person.keypoints[:, :2], (HEIGHT, WIDTH))
    np.testing.assert_allclose(found.frame.to_source(found.keypoints[:, :2], size), expected, atol=0.05)


def test_a_small_person_is_looked_at_closely(person: Reference) -> None:
    street = np.full((260, 180, 3), (90, 160, 90), np.uint8)
    street[140:236, 100:164] = person.image
    found, estimator = find(street)
    assert len(estimator.seen) == 2
    low, high = extent(found.parts)
    assert (high - low).max() > 0.6
    assert found.frame is not None
    places = found.frame.to_source(found.keypoints[:, :2], (260, 180)) * (180, 260)
    np.testing.assert_allclose(places, person.keypoints[:, :2] * (WIDTH, HEIGHT) + (100, 140), atol=3)
    assert found.frame.height / found.frame.width == pytest.approx(HEIGHT / WIDTH)


@pytest.mark.parametrize("picture", [np.full((96, 64, 3), 150, np.uint8), None])
def test_nobody_there(person: Reference, picture: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match="no person was found in the reference; give a picture"):
        find(person.image if picture is None else picture, person=0.1 if picture is None else 1.0)


def test_resizing_a_reference_moves_points_with_pixels(person: Reference) -> None:
    for height, width in ((96, 96), (128, 64), (64, 128)):
        other = person.resized(height, width)
        assert other.image.shape == (height, width, 3)
        low, high = extent(other.parts)
        before = extent(person.parts)
        frame = whole_frame((HEIGHT, WIDTH), height, width)
        np.testing.assert_allclose(frame.to_frame(before, (HEIGHT, WIDTH)), [low, high], atol=0.03)
        assert np.array_equal(other.keypoints[:, 2], person.keypoints[:, 2])
    assert person.resized(HEIGHT, WIDTH) is person


def test_without_a_part_its_pixels_tell_nothing(person: Reference) -> None:
    absent = np.array([False, True, False, False])
    recoloured = make_reference(colours={2: (1, 2, 3)})
    assert np.array_equal(person.without(absent).image, recoloured.without(absent).image)
    assert not person.without(absent).present[1]
    assert person.without(np.zeros(4, bool)) is person


def test_shapes_are_checked(person: Reference) -> None:
    with pytest.raises(ValueError, match="uint8 RGB"):
        Reference(person.image.astype(np.float32), person.keypoints, person.parts)
    with pytest.raises(ValueError, match="label map"):
        Reference(person.image, person.keypoints, person.parts[:10])
    with pytest.raises(ValueError, match=r"labels 0 \.\.\. 4"):
        Reference(person.image, person.keypoints, person.parts + 3)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def noisy_scene(rng: np.random.Generator) -> np.ndarray:
    """What a camera would give: shading everywhere, texture, sensor noise. uint8 [192, 128, 3]."""
    coarse = rng.normal(128, 45, (12, 8, 3)).clip(0, 255).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((128, 192), Image.Resampling.BICUBIC)).astype(float)
    return (smooth + rng.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)


def test_avatars_pass_and_photographs_are_named() -> None:
    for seed in range(6):
        image = sample_row(seed, "validation")["reference"]
        for drawn in (image, jpeg(image, 75)):
            refuse_photograph(drawn, 1.0, "reference")
        refuse_photograph(image, 4.0, "reference")
    for seed in range(4):
        photograph = noisy_scene(np.random.default_rng(seed))
        assert flatness(photograph) < 0.1
        for shrunk in (1.0, 8.0):
            with pytest.raises(
                ValueError, match=r"photograph, and this small model draws avatars only; give"
            ):
                refuse_photograph(photograph, shrunk, "reference")


def test_a_photograph_is_refused_before_the_estimator_sees_it() -> None:
    estimator = Exact(make_reference())
    picture = noisy_scene(np.random.default_rng(0))
    with pytest.raises(ValueError, match="the pose picture looks like a photograph"):
        find_person(estimator, picture, HEIGHT, WIDTH, avatars_only=True, what="pose picture")  # pyright: ignore
    assert not estimator.seen
