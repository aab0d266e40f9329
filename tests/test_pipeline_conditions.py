"""What references, poses and strengths do to a picture, on real classes at tiny size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stock_pipelines import NEAR, draw
from tiny_pipelines import make_reference

from bolid import BoLIDPipeline, BoLIDXLPipeline, Identity, Pose, Reference, plan
from bolid.adapter import AdapterInputs
from bolid.appearance import appearance_map
from bolid.inputs import proportions_of
from bolid.pose import PARTS, retarget, skeleton_map
from bolid.request import Asked, make_request


def with_narrow_hips(person: Reference) -> Reference:
    """The same pixels, read with hips of 0.7 of their width."""
    points = person.keypoints.copy()
    points[[8, 11], 0] -= 0.3 * (points[[8, 11], 0] - points[[8, 11], 0].mean())
    return Reference(person.image, points, person.parts)


class TestStrength:
    @pytest.mark.parametrize("pose", [None, "sitting"])
    @pytest.mark.parametrize("strength", [0.3, 1.0])
    def test_every_part_at_s_is_s(
        self, mini: BoLIDPipeline, person: Reference, pose: str | None, strength: float
    ) -> None:
        whole = draw(mini, reference=person, pose=pose, id_strength=strength)
        parts = draw(mini, reference=person, pose=pose, id_strength=dict.fromkeys(PARTS, strength))
        assert torch.equal(whole, parts)

    @pytest.mark.parametrize("pose", [None, "sitting"])
    @pytest.mark.parametrize("part", range(4))
    def test_a_part_at_zero_has_no_influence(self, mini: BoLIDPipeline, pose: str | None, part: int) -> None:
        strength = {PARTS[part]: 0.0}
        one = make_reference()
        other = make_reference(colours={part + 1: (250, 240, 20)})
        first, second = (draw(mini, reference=r, pose=pose, id_strength=strength) for r in (one, other))
        assert torch.equal(first, second)
        first, second = (draw(mini, reference=r, pose=pose, id_strength=1.0) for r in (one, other))
        assert not torch.allclose(first, second, **NEAR)

    def test_proportions_of_a_part_at_zero_have_no_influence(
        self, mini: BoLIDPipeline, person: Reference
    ) -> None:
        hidden = {"lower": 0, "feet": 0, "upper": 0}
        for strength, same in ((hidden, True), (1.0, False)):
            first, second = (
                draw(mini, reference=r, pose="standing", id_strength=strength)
                for r in (person, with_narrow_hips(person))
            )
            assert torch.equal(first, second) == same

    @pytest.mark.parametrize("part", ["upper", "lower"])
    def test_a_part_at_zero_tells_no_widths(self, person: Reference, part: str) -> None:
        strength = np.array([float(name != part) for name in PARTS])
        narrow, standing = with_narrow_hips(person).keypoints, Pose.named("standing").keypoints
        untold = retarget(standing, proportions_of(narrow, strength))
        np.testing.assert_allclose(untold, standing, atol=1e-5)
        assert np.abs(retarget(standing, narrow) - standing).max() > 0.005

    def test_conditions_change_the_picture(self, mini: BoLIDPipeline, person: Reference) -> None:
        seen = [
            draw(mini),
            draw(mini, reference=person),
            draw(mini, pose="sitting"),
            draw(mini, reference=person, pose="sitting"),
            draw(mini, reference=person, pose="lying"),
            draw(mini, reference=person, pose="sitting", retarget=False, id_strength=1.0),
            draw(mini, image_prompt=person.image),
            draw(mini, reference=person, pose="sitting", pose_strength=0.5),
        ]
        for index, first in enumerate(seen):
            for second in seen[index + 1 :]:
                assert not torch.allclose(first, second, **NEAR)

    def test_names_take_the_persons_proportions_and_keypoints_stay(
        self, mini: BoLIDPipeline, person: Reference
    ) -> None:
        points, person = Pose.named("standing"), with_narrow_hips(person)
        given, kept, fitted = (
            draw(mini, reference=person, pose=points, retarget=how) for how in (None, False, True)
        )
        assert torch.equal(given, kept)
        assert not torch.allclose(given, fitted, **NEAR)
        by_name, by_name_fitted = (
            draw(mini, reference=person, pose="standing", retarget=how) for how in (None, True)
        )
        assert torch.equal(by_name, by_name_fitted)

    def test_without_guidance_there_is_no_negative_half(self, mini: BoLIDPipeline, person: Reference) -> None:
        one = draw(mini, reference=person, pose="sitting", guidance_scale=1.0)
        assert torch.equal(one, draw(mini, reference=person, pose="sitting", guidance_scale=0.0))
        assert not torch.allclose(
            one, draw(mini, reference=person, pose="sitting", guidance_scale=1.5), **NEAR
        )


class TestBatches:
    def test_results_do_not_depend_on_the_rest_of_the_batch(self, mini: BoLIDPipeline) -> None:
        people = [make_reference(), make_reference("walking", colours={2: (20, 220, 20)})]
        identities = [mini.encode_identity(each) for each in people]
        together = draw(mini, ["a", "b c"], identities, pose=["sitting", "lying"])
        for row, (prompt, pose) in enumerate([("a", "sitting"), ("b c", "lying")]):
            alone = draw(mini, prompt, people[row], pose=pose)
            torch.testing.assert_close(together[row : row + 1], alone, **NEAR)

    def test_persons_with_unlike_numbers_of_references(self, mini: BoLIDPipeline) -> None:
        one, two = make_reference(), make_reference("walking")
        together = draw(mini, ["a", "b"], [[one, two], [one]], pose="sitting")
        torch.testing.assert_close(together[:1], draw(mini, "a", [one, two], pose="sitting"), **NEAR)
        torch.testing.assert_close(together[1:], draw(mini, "b", one, pose="sitting"), **NEAR)

    def test_large_maps_are_drawn_a_few_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes: list[int] = []

        def counted(reference: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
            sizes.append(len(reference))
            return appearance_map(reference, *rest)

        monkeypatch.setattr(plan, "appearance_map", counted)
        one, two = make_reference(), make_reference("walking")
        whole = np.ones(4, np.float32)
        rows = [
            (people, Pose.named(name).keypoints, whole)
            for people, name in (([one, two], "sitting"), ([one], "lying"), ([two], "walking"))
        ]
        together = plan.best_maps(rows)
        monkeypatch.setattr(plan, "TOGETHER", 2 * one.parts.size)
        by_two = plan.best_maps(rows)
        monkeypatch.setattr(plan, "TOGETHER", 1)
        one_by_one = plan.best_maps(rows)
        assert sizes == [4, 3, 1, 2, 1, 1]
        for each in (by_two, one_by_one):
            torch.testing.assert_close(each, together, **NEAR)
        assert together.abs().amax((1, 2, 3)).min() > 0

    def test_rows_without_a_pose_or_an_image_prompt(self, mini: BoLIDPipeline, person: Reference) -> None:
        together = draw(mini, ["a", "b"], person, pose=["sitting", None], image_prompt=[None, person.image])
        torch.testing.assert_close(together[:1], draw(mini, "a", person, pose="sitting"), **NEAR)
        alone = draw(mini, "b", person, image_prompt=person.image)
        torch.testing.assert_close(together[1:], alone, **NEAR)

    def test_pictures_of_a_prompt_stand_side_by_side(self, mini: BoLIDPipeline, person: Reference) -> None:
        poses = ["sitting", "lying"]
        many = draw(mini, ["a", "b"], person, pose=poses, num_images_per_prompt=2)
        for row, prompt in enumerate("ab"):
            for index in range(2):
                alone = draw(mini, prompt, person, pose=poses[row], generator=7 + index)
                torch.testing.assert_close(many[2 * row + index][None], alone, **NEAR)

    def test_one_prompt_serves_a_list_of_poses(self, mini: BoLIDPipeline, person: Reference) -> None:
        many = draw(mini, "a", person, pose=["sitting", "lying"], negative_prompt="b")
        assert many.shape[0] == 2
        alone = draw(mini, "a", person, pose="lying", negative_prompt="b")
        torch.testing.assert_close(many[1:], alone, **NEAR)

    def test_strengths_by_row(self, mini: BoLIDPipeline, person: Reference) -> None:
        many = draw(mini, ["a", "a"], person, pose="sitting", id_strength=[0.0, {"head": 1.0}])
        torch.testing.assert_close(many[:1], draw(mini, "a", person, pose="sitting", id_strength=0), **NEAR)
        alone = draw(mini, "a", person, pose="sitting", id_strength={"head": 1.0})
        torch.testing.assert_close(many[1:], alone, **NEAR)

    def test_seeds(self, mini: BoLIDPipeline, person: Reference) -> None:
        first = draw(mini, reference=person, generator=7)
        assert torch.equal(first, draw(mini, reference=person, generator=7))
        assert torch.equal(first, draw(mini, reference=person, generator=torch.Generator().manual_seed(7)))
        assert not torch.equal(first, draw(mini, reference=person, generator=8))
        several = draw(mini, ["a beach"] * 2, person, generator=[8, torch.Generator().manual_seed(7)])
        torch.testing.assert_close(several[1:], first, **NEAR)


class TestReferences:
    def test_an_identity_is_its_reference(
        self, mini: BoLIDPipeline, person: Reference, tmp_path: Path
    ) -> None:
        identity = mini.encode_identity(person)
        assert torch.equal(identity.part_ids, torch.tensor([0, 0, 1, 1, 2, 2, 3]))
        assert identity.present.all()
        expected = draw(mini, reference=person, pose="sitting")
        assert torch.equal(draw(mini, reference=identity, pose="sitting"), expected)
        loaded = Identity.load(identity.save(tmp_path / "person.safetensors"))
        assert torch.equal(draw(mini, reference=loaded, pose="sitting"), expected)
        assert [path.name for path in tmp_path.iterdir()] == ["person.safetensors"]

    def test_several_references_join(self, mini: BoLIDPipeline, person: Reference) -> None:
        other = make_reference("walking")
        both = mini.encode_identity([person, other])
        assert len(both.tokens) == 14
        assert both.references == (person, other)
        joined = Identity.join([mini.encode_identity(person), mini.encode_identity(other)])
        assert torch.equal(joined.tokens, both.tokens)

    def test_mixing(self, mini: BoLIDPipeline, person: Reference) -> None:
        one = mini.encode_identity(person)
        other = mini.encode_identity(make_reference("walking", colours={2: (0, 250, 0)}))
        assert torch.equal(one.mix(other, 0).tokens, one.tokens)
        assert torch.equal(one.mix(other, 1).tokens, other.tokens)
        assert one.mix(other, 1).references == other.references
        torch.testing.assert_close(one.mix(other, 0.5).tokens, (one.tokens + other.tokens) / 2)
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            one.mix(other, 1.5)
        with pytest.raises(ValueError, match="same number of references"):
            one.mix(Identity.join([one, other]))

    def test_a_part_only_one_shows_is_that_ones(self, mini: BoLIDPipeline, person: Reference) -> None:
        faceless = Reference(person.image, person.keypoints, np.where(person.parts == 1, 0, person.parts))
        mixed = mini.encode_identity(faceless).mix(mini.encode_identity(person), 0.25)
        assert mixed.present.all()
        assert torch.equal(mixed.tokens[:2], mini.encode_identity(person).tokens[:2])

    def test_no_face_is_no_error(self, mini: BoLIDPipeline, person: Reference) -> None:
        faceless = Reference(person.image, person.keypoints, np.where(person.parts == 1, 0, person.parts))
        assert not mini.encode_identity(faceless).present[:2].any()
        draw(mini, reference=faceless, pose="sitting")

    def test_identity_files_that_are_none(self, tmp_path: Path) -> None:
        (tmp_path / "a.safetensors").write_bytes(b"nothing of the kind")
        for path in (tmp_path / "a.safetensors", tmp_path / "missing.safetensors"):
            with pytest.raises(ValueError, match=r"Identity\.save"):
                Identity.load(path)

    def test_an_identity_of_another_model_is_refused(self, mini: BoLIDPipeline, xl: BoLIDXLPipeline) -> None:
        stranger = xl.encode_identity(make_reference())
        with pytest.raises(ValueError, match="encode the reference again"):
            draw(mini, reference=stranger)


class TestPoses:
    def test_all_kinds_of_one_pose_agree(self, mini: BoLIDPipeline, person: Reference) -> None:
        points = Pose.named("standing").keypoints
        expected = draw(mini, reference=person, pose="standing")
        for pose in (Pose(points), points, points.tolist(), torch.from_numpy(points.copy())):
            assert torch.equal(draw(mini, reference=person, pose=pose), expected)
        assert torch.equal(draw(mini, ["a beach"] * 1, person, pose=points[None]), expected)

    def test_a_skeleton_map_is_read(self, mini: BoLIDPipeline, tmp_path: Path) -> None:
        points = Pose.named("standing").keypoints
        drawn = Image.fromarray(skeleton_map(points[None], 384, 256)[0])
        drawn.save(tmp_path / "pose.png")
        seen = draw(mini, pose=drawn)
        assert torch.equal(draw(mini, pose=str(tmp_path / "pose.png")), seen)
        assert torch.equal(draw(mini, pose=tmp_path / "pose.png"), seen)
        away = (draw(mini, pose="lying") - draw(mini, pose="standing")).norm()
        assert (seen - draw(mini, pose="standing")).norm() < 0.3 * away

    def test_another_size(self, mini: BoLIDPipeline, person: Reference) -> None:
        for height, width in ((96, 96), (128, 64), (72, 104)):
            seen = draw(mini, reference=person, pose="sitting", height=height, width=width)
            assert seen.shape[-2:] == (height // 8, width // 8)

    def test_two_dimensional_key_points(self, mini: BoLIDPipeline) -> None:
        points = Pose.named("standing").keypoints.copy()
        points[:, 2] = points[:, :2].any(1)
        assert torch.equal(draw(mini, pose=points[:, :2]), draw(mini, pose=points))


def test_appearance_strength_fades_the_map_and_leaves_the_tokens(mini: BoLIDPipeline, person: Reference):
    def inputs_of(strength: float) -> AdapterInputs:
        asked = Asked("a", None, person, "standing", None, 0.5, 1.0, 1.0, None, None, None, strength)
        found = mini.prepare(mini.plan(make_request(asked, mini.picture_size, 8)))
        assert found is not None
        return found

    whole, half, none = (inputs_of(strength) for strength in (1.0, 0.5, 0.0))
    assert whole.appearance is not None
    assert half.appearance is not None
    assert none.appearance is not None
    torch.testing.assert_close(half.appearance[:, -1], 0.5 * whole.appearance[:, -1])
    assert whole.appearance[:, -1].any()
    assert not none.appearance.any()
    for found in (half, none):
        for name in ("tokens", "strength", "skeleton", "pose_strength"):
            assert torch.equal(getattr(found, name), getattr(whole, name))
    assert not torch.equal(
        draw(mini, reference=person, pose="standing"),
        draw(mini, reference=person, pose="standing", appearance_strength=0.0),
    )
    for wrong in (-0.1, 1.5, "much"):
        with pytest.raises(ValueError, match="appearance_strength"):
            draw(mini, reference=person, pose="standing", appearance_strength=wrong)
