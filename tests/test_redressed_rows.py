"""Rows whose clothes come by words: the reference wears others, and does not tell what it wears."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tiny_objective import SMALL, make_base, make_rows, save_loss_networks
from tiny_pipelines import HEIGHT, WIDTH

from bolid.avatars.identity import is_held_out
from bolid.avatars.world import plan_row
from bolid.clothes import in_other_clothes, with_clothes
from bolid.encoder import Look
from bolid.losses import LossWeights
from bolid.pose import PARTS
from bolid.training.avatar_rows import AvatarRows
from bolid.training.config import DataConfig, TrainConfig
from bolid.training.data import JoinedRows, Rows
from bolid.training.draws import step_draws
from bolid.training.features import compute_features
from bolid.training.objectives.diffusion import DiffusionObjective
from bolid.training.person_rows import person_rows
from bolid.training.redressed_rows import RedressedRows

CLOTHES_PARTS = [PARTS.index("upper"), PARTS.index("lower")]


def small_data(tmp_path, **changes) -> DataConfig:
    sizes = {"train_size": 6, "validation_size": 2, "height": HEIGHT, "width": WIDTH, "processes": 1}
    return DataConfig(cache_dir=str(tmp_path), **(sizes | changes))


def test_other_clothes_are_on_the_same_person():
    changed = set()
    for seed in range(40):
        person = plan_row(seed, "train").identity
        other = in_other_clothes(person, np.random.default_rng(seed))
        before, after = person.as_dict(), other.as_dict()
        changed |= {name for name in before if before[name] != after[name]}
        assert not is_held_out(other)
        assert (other.top == "dress") <= (other.gender == "woman")
    assert changed == {
        "top", "top_colour", "bottom", "bottom_colour", "pattern", "pattern_colour", "logo", "top_rgb",
        "pattern_rgb", "bottom_rgb",
    }  # fmt: skip


def test_clothes_are_told_in_the_captions_words():
    worn = {"top": "jacket", "top_colour": "orange", "bottom": "long skirt", "bottom_colour": "blue"}
    told = with_clothes("a person in a park, side view", worn)
    assert told == "a person wearing an orange jacket and a long blue skirt in a park, side view"
    assert "wearing a red dress in" in with_clothes(
        "a person in the snow", worn | {"top": "dress", "top_colour": "red"}
    )
    told = with_clothes("sitting, a person", worn | {"bottom": "shorts"})
    assert told == "sitting, a person wearing an orange jacket and blue shorts"


def test_the_target_stays_and_the_reference_changes(tmp_path):
    rows = AvatarRows(small_data(tmp_path), "train", 12)
    redressed = RedressedRows(rows)
    indices = np.arange(12)
    before, after = rows.read(indices), redressed.read(indices)
    assert len(redressed) == 12
    assert redressed.fingerprint != rows.fingerprint
    for name in ("image", "masks", "keypoints", "caption_without_identity", "image_prompt"):
        np.testing.assert_array_equal(before[name], after[name])
    kept = after["shared_parts"]
    assert kept.shape == (12, 4)
    assert not kept[:, CLOTHES_PARTS].any()
    assert kept[:, [PARTS.index("head"), PARTS.index("feet")]].all()

    def colour(columns, row, part):
        return columns["reference"][row][columns["reference_masks"][row] == part + 1].mean(0)

    drawn = [row for row in range(12) if (after["reference_masks"][row] == CLOTHES_PARTS[0] + 1).sum() > 30]
    moved = [
        np.abs(colour(before, r, CLOTHES_PARTS[0]) - colour(after, r, CLOTHES_PARTS[0])).max() for r in drawn
    ]
    assert np.median(moved) > 30
    head = PARTS.index("head")
    stayed = [np.abs(colour(before, r, head) - colour(after, r, head)).max() for r in drawn]
    assert np.median(stayed) < 10
    named = sum("a person wearing" in caption for caption in after["caption"])
    assert 5 <= named < 12
    np.testing.assert_array_equal(redressed.read(indices[::-1])["reference"], after["reference"][::-1])


def test_no_feature_tells_what_the_reference_wears(tmp_path):
    """Other colours on its clothes change nothing that the model is told at the rows' strengths."""
    base, rows = make_base(), RedressedRows(AvatarRows(small_data(tmp_path), "train", 4)).read(np.arange(4))
    worn = np.isin(rows["reference_masks"], [part + 1 for part in CLOTHES_PARTS])
    changed = np.where(worn[..., None], 255 - rows["reference"], rows["reference"])
    assert worn.mean() > 0.02
    before, after = (
        compute_features(rows | {"reference": x}, base, 0, torch.device("cpu"), estimate=False)
        for x in (rows["reference"], changed)
    )
    assert (before["strengths"][:, :, CLOTHES_PARTS] == 0).all()
    heard = [part for part in range(4) if part not in CLOTHES_PARTS]
    np.testing.assert_array_equal(before["patches"][:, heard], after["patches"][:, heard])
    np.testing.assert_array_equal(before["appearance"], after["appearance"])
    assert np.abs(before["appearance"]).max() > 0
    assert (before["patches"] != after["patches"]).any()


def test_redressed_rows_come_after_the_others(tmp_path):
    base = make_base()
    config = TrainConfig(data=small_data(tmp_path), max_train_steps=4, train_batch_size=2)
    plain, _ = person_rows(config, base)
    config = dataclasses.replace(config, data=small_data(tmp_path, redressed_size=4))
    both, held_out = person_rows(config, base)
    assert (len(plain), len(both), len(held_out)) == (6, 10, 2)
    own, every = plain.batch(np.arange(6)), both.batch(np.arange(10))
    for name, value in own.items():
        assert torch.equal(every[name][:6], value), name
    assert (every["strengths"][6:, :, CLOTHES_PARTS] == 0).all()
    assert (every["strengths"][6:, 0, 0] > 0.5).all()
    assert torch.equal(every["latents"][6:], own["latents"][:4])
    assert not torch.equal(every["patches"][6:], own["patches"][:4])


@pytest.mark.parametrize("changes", [{"source": "someone/people"}, {"cache_features": False}])
def test_only_avatars_with_kept_features_are_redressed(tmp_path, changes):
    config = TrainConfig(data=small_data(tmp_path, redressed_size=4, **changes))
    with pytest.raises(ValueError, match=r"data\.redressed_size=4.*leave it at 0"):
        person_rows(config, make_base())


def test_methods_that_see_the_whole_person_are_not_given_other_clothes(tmp_path):
    base = make_base()
    base.look = Look(whole=True)
    config = TrainConfig(data=small_data(tmp_path, redressed_size=4))
    with pytest.raises(ValueError, match="as a whole"):
        person_rows(config, base)


@pytest.mark.parametrize("size", [-1, 7])
def test_no_more_rows_are_redressed_than_there_are(tmp_path, size):
    config = TrainConfig(data=small_data(tmp_path, redressed_size=size))
    with pytest.raises(ValueError, match=r"data\.train_size=6"):
        person_rows(config, make_base())


def test_joined_rows_keep_the_order_asked_for():
    first, second = (Rows({"x": np.arange(n) + start}, f"{n}") for n, start in ((3, 0), (4, 10)))
    joined = JoinedRows([first, second])
    assert len(joined) == 7
    assert joined.batch(np.array([5, 0, 3, 2, 6]))["x"].tolist() == [12, 0, 10, 2, 13]
    assert joined.batch(np.array([1, 1]))["x"].tolist() == [1, 1]
    assert joined.fingerprint != JoinedRows([second, first]).fingerprint
    longer = Rows({"x": np.arange(4)}, "3")
    assert JoinedRows([longer, second]).fingerprint != joined.fingerprint


def test_few_step_pictures_are_told_by_words_what_the_reference_hides(tmp_path):
    """A loss on the whole person must not ask for clothes that nothing tells."""
    base = make_base()
    options = dataclasses.replace(
        SMALL, base="tiny", plain_share=1.0, weights=LossWeights(appearance=1.0),
        loss_networks=str(save_loss_networks(tmp_path)),
    )  # fmt: skip
    objective = DiffusionObjective(options, base)
    rows = make_rows(base)
    rows.columns["strengths"][1, :, CLOTHES_PARTS] = 0
    batch = rows.batch(np.arange(4))
    task = objective.task(batch, step_draws(0, 0, 4), torch.arange(4))
    plain, whole = (
        base.tokenizers[0].batch_decode(batch[ids], skip_special_tokens=True)
        for ids in ("plain_ids", "caption_ids")
    )
    assert task.words == [plain[0], whole[1], *plain[2:]]
    assert plain[1] != whole[1]


def test_the_words_may_tell_one_garment_alone():
    worn = {"top": "hoodie", "top_colour": "red", "bottom": "long skirt", "bottom_colour": "blue"}
    assert (
        with_clothes("a person, side view", worn, bottom=False) == "a person wearing a red hoodie, side view"
    )
    told = with_clothes("a person, side view", worn, top=False)
    assert told == "a person wearing a long blue skirt, side view"
    dress = worn | {"top": "dress", "bottom": "skirt"}
    assert with_clothes("a person", dress, top=False) == "a person wearing a red dress"
    assert with_clothes("a person", worn, top=False, bottom=False) == "a person"
