"""The avatar world's rows: pure in the seed, disjoint between splits, in the shapes and words it promises."""

import numpy as np
import pytest

from bolid.avatars import dataset
from bolid.avatars.caption import POSE_WORDS, SCENE_WORDS, VIEW_WORDS, caption, caption_without_identity
from bolid.avatars.dataset import COLUMNS, avatar_dataset, render_arrays
from bolid.avatars.identity import ATTRIBUTES, HELD_OUT, AvatarIdentity, is_held_out, sample_identity
from bolid.avatars.scene import SCENES
from bolid.avatars.skeleton import POSE_FAMILIES, VIEWS, forward_kinematics, sample_angles
from bolid.avatars.world import SPLITS, plan_row, sample_row


def assert_same(left: object, right: object) -> None:
    """Equality through dictionaries down to the last pixel."""
    if isinstance(left, dict):
        assert isinstance(right, dict)
        assert list(left) == list(right)
        for name in left:
            assert_same(left[name], right[name])
    else:
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right))


def test_row_is_a_pure_function_of_seed_and_split() -> None:
    first = sample_row(5, "train")
    sample_row(6, "train")
    assert_same(first, sample_row(5, "train"))


def test_rows_of_other_seeds_and_splits_differ() -> None:
    images = [sample_row(seed, split)["image"] for seed in range(2) for split in SPLITS]
    assert len({image.tobytes() for image in images}) == len(images)


def test_no_identity_is_in_two_splits() -> None:
    people = [[plan_row(seed, split).identity for seed in range(300)] for split in SPLITS]
    assert len({person for group in people for person in group}) == 3 * 300


def test_training_never_shows_a_held_out_combination() -> None:
    for split in ("train", "validation"):
        plans = [plan_row(seed, split) for seed in range(1500)]
        assert not any(is_held_out(plan.identity) or plan.held_out for plan in plans)
        assert not any(plan.stranger and is_held_out(plan.stranger) for plan in plans)


def test_half_of_the_test_rows_are_held_out() -> None:
    plans = [plan_row(seed, "test") for seed in range(200)]
    assert sum(plan.held_out for plan in plans) == 100
    assert all(is_held_out(plan.identity) == plan.held_out for plan in plans)


def test_every_held_out_combination_is_drawn() -> None:
    rng = np.random.default_rng(0)
    people = [sample_identity(rng, held_out=True) for _ in range(200)]
    for (first, second), pairs in HELD_OUT.items():
        seen = {(getattr(person, first), getattr(person, second)) for person in people}
        assert set(pairs) <= seen


def test_reference_is_another_pose_in_another_scene() -> None:
    for seed in range(300):
        plan = plan_row(seed, "train")
        pose = (plan.angles.family, plan.angles.view)
        assert pose != (plan.reference_angles.family, plan.reference_angles.view)
        assert plan.scene != plan.reference_scene


def test_image_prompt_shows_the_same_place() -> None:
    """Most pixels beside the person are those of the image prompt, whoever stands in it."""
    for seed in range(12):
        row = sample_row(seed, "train")
        same = (row["image"] == row["image_prompt"]).all(-1)
        assert same[row["masks"] == 0].mean() > 0.5
        assert not same[row["masks"] > 0].all()


def test_shapes_and_ranges_of_a_row() -> None:
    row = sample_row(3, "validation", height=96, width=64)
    for name in ("image", "reference", "image_prompt"):
        assert row[name].shape == (96, 64, 3)
        assert row[name].dtype == np.uint8
    for prefix in ("", "reference_"):
        masks, keypoints = row[f"{prefix}masks"], row[f"{prefix}keypoints"]
        assert masks.shape == (96, 64)
        assert masks.dtype == np.uint8
        assert masks.max() <= 4
        assert keypoints.shape == (18, 3)
        assert keypoints.dtype == np.float32
        assert ((keypoints[:, :2] > 0) & (keypoints[:, :2] < 1)).all()
        assert set(np.unique(keypoints[:, 2])) <= {0.0, 1.0}
        assert set(row[f"{prefix}visible"]) == set(ATTRIBUTES)


def test_words_of_an_identity_are_in_the_vocabularies() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        person = sample_identity(rng)
        labels = person.labels()
        assert labels.shape == (len(ATTRIBUTES),)
        assert (labels >= 0).all()
        assert (person.hat == "none") == (person.hat_colour == "none")
        assert (person.bag == "none") == (person.bag_colour == "none")
        assert person.beard == "none" or person.gender == "man"
        assert all(0 <= channel <= 255 for channel in person.top_rgb + person.skin_rgb)


def test_skin_varies_in_brightness_only() -> None:
    rng = np.random.default_rng(2)
    skins = np.array([person.skin_rgb for person in (sample_identity(rng) for _ in range(500))])
    assert (skins[:, 0] > skins[:, 1]).all()
    assert (skins[:, 1] > skins[:, 2]).all()


def test_vocabularies_agree() -> None:
    assert set(SCENE_WORDS) == set(SCENES)
    assert set(POSE_WORDS) == set(POSE_FAMILIES)
    assert set(VIEW_WORDS) == set(VIEWS)


def test_caption_without_identity_tells_scene_but_no_appearance() -> None:
    rng = np.random.default_rng(3)
    appearance = {"man", "woman", "hair", "black", "red", "blue", "wearing", "shirt", "dress", "hat"}
    poses = 0
    for seed in range(200):
        plan = plan_row(seed, "train")
        words = caption_without_identity(plan.angles, plan.scene, rng)
        assert "a person" in words
        assert any(scene in words for scene in SCENE_WORDS[plan.scene])
        assert not appearance & set(words.replace(",", "").replace("-", " ").split())
        poses += any(pose in words for pose in POSE_WORDS[plan.angles.family])
    assert poses > 140


def test_captions_vary_and_leave_out_what_is_hidden() -> None:
    plan = plan_row(0, "train")
    rng = np.random.default_rng(4)
    told = {caption(plan.identity, plan.angles, plan.scene, rng) for _ in range(100)}
    assert len(told) > 80
    hidden = dict.fromkeys(ATTRIBUTES, False)
    for _ in range(50):
        words = caption(plan.identity, plan.angles, plan.scene, rng, hidden)
        assert "wearing" not in words
        assert "hair" not in words


@pytest.mark.parametrize("family", POSE_FAMILIES)
def test_joints_keep_their_bones_and_their_view(family: str) -> None:
    rng = np.random.default_rng(5)
    for view in VIEWS:
        person = sample_identity(rng)
        angles = sample_angles(rng, family, view)
        assert (angles.family, angles.view) == (family, view)
        skeleton = forward_kinematics(person, angles)
        for side in "LR":
            upper = np.linalg.norm(skeleton.joints[f"el{side}"] - skeleton.joints[f"sh{side}"])
            assert upper == pytest.approx(0.285 * person.height)
        for frame in skeleton.frames.values():
            np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-12)
    with pytest.raises(ValueError, match="use one of"):
        sample_angles(rng, "flying")


def test_upright_views_show_the_right_side_of_the_torso() -> None:
    rng = np.random.default_rng(6)
    for view, low, high in (("front", 0.7, 1.0), ("side", -0.55, 0.55), ("back", -1.0, -0.7)):
        for _ in range(50):
            forward = forward_kinematics(sample_identity(rng), sample_angles(rng, "standing", view)).frames[
                "root"
            ]
            assert low <= forward[2, 2] <= high


def test_arrays_are_the_rows_whatever_the_processes() -> None:
    one = render_arrays("test", 4, 5, processes=1, height=96, width=64)
    two = render_arrays("test", 4, 5, processes=2, height=96, width=64)
    assert_same(one, two)
    row = sample_row(6, "test", 96, 64)
    for name in ("image", "reference", "image_prompt", "masks", "reference_masks", "keypoints", "caption"):
        assert_same(one[name][2], row[name])
    assert (
        one["labels"].shape == one["visible"].shape == one["reference_visible"].shape == (5, len(ATTRIBUTES))
    )
    assert SCENES[one["reference_scene"][2]] == row["reference_scene"]
    assert POSE_FAMILIES[one["pose_family"][2]] == row["pose_family"]
    assert one["held_out"].tolist() == [False, True, False, True, False]
    assert one["seed"].tolist() == [4, 5, 6, 7, 8]


def test_cache_gives_back_the_arrays_and_knows_its_sources(tmp_path, monkeypatch) -> None:
    def render():
        return render_arrays("train", 0, 3, processes=1, height=48, width=32, cache_dir=tmp_path)

    fresh = render()
    cached = render()
    assert {name: None for name in sorted(fresh)} == {name: None for name in sorted(cached)}
    for name in fresh:
        assert_same(fresh[name], cached[name])
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(dataset, "source_fingerprint", lambda: "changed")
    render()
    assert len(list(tmp_path.iterdir())) == 2


def test_bad_requests_say_what_is_valid() -> None:
    with pytest.raises(ValueError, match="train, validation, test"):
        plan_row(0, "dev")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="negative"):
        plan_row(-1, "train")
    with pytest.raises(ValueError, match="at least 1"):
        render_arrays("train", 0, 0)


@pytest.mark.parametrize("streaming", [False, True])
def test_dataset_has_the_promised_columns(streaming: bool, tmp_path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = avatar_dataset(
        "validation", 3, start=2, streaming=streaming, cache_dir=tmp_path, height=48, width=32
    )
    features = rows.features
    assert tuple(features) == COLUMNS
    assert isinstance(features["image"], datasets.Image)
    assert isinstance(features["masks"], datasets.Image)
    assert features["caption"] == datasets.Value("string")
    assert set(features["identity"]) == set(AvatarIdentity.__dataclass_fields__)
    example = next(iter(rows))
    expected = sample_row(2, "validation", 48, 32)
    for name in ("image", "reference", "image_prompt", "masks", "reference_masks"):
        np.testing.assert_array_equal(np.asarray(example[name]), expected[name])
    np.testing.assert_array_equal(np.float32(example["keypoints"]), expected["keypoints"])
    assert tuple(example["identity"]["top_rgb"]) == expected["identity"]["top_rgb"]
    assert len(list(rows)) == 3
