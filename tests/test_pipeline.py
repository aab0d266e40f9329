"""The pipeline's promises, on real classes at tiny size."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from tiny_pipelines import HEIGHT, WIDTH, make_mini, make_reference, make_xl

from bolid import BoLIDPipeline, BoLIDXLPipeline, Identity, Pose, Reference
from bolid.attention import IdentityAttnProcessor
from bolid.pose import PARTS, skeleton_map

NEAR = {"rtol": 0, "atol": 2e-5}  # fp32 sums in another order


def draw(pipe: Any, prompt: Any = "a beach", reference: Any = None, **options: Any) -> torch.Tensor:
    """Latents [B, 4, h, w] of a two-step call."""
    options = {"generator": 7, "output_type": "latent", "num_inference_steps": 2} | options
    return pipe(prompt, reference, **options).images


def stock(pipe: Any) -> Any:
    """The stock pipeline around the same components, its UNet with stock processors."""
    own = {"adapter", "estimator"}
    kind = (
        StableDiffusionXLPipeline if isinstance(pipe, StableDiffusionXLPipeline) else StableDiffusionPipeline
    )
    components = {name: part for name, part in pipe.components.items() if name not in own}
    options = {} if kind is StableDiffusionXLPipeline else {"requires_safety_checker": False}
    plain = kind(**components, **options)
    plain.set_progress_bar_config(disable=True)
    return plain


class TestStockEquality:
    @pytest.mark.parametrize("guidance", [1.0, 3.0])
    @pytest.mark.parametrize("count", [1, 2])
    def test_no_identity_no_pose_is_the_stock_pipeline_bit_by_bit(
        self, person: Reference, guidance: float, count: int
    ) -> None:
        pipe = make_mini()
        common: dict[str, Any] = {
            "num_inference_steps": 3,
            "guidance_scale": guidance,
            "num_images_per_prompt": count,
            "negative_prompt": "b",
            "output_type": "np",
        }
        ours = pipe("a c", person, id_strength=0, generator=torch.Generator().manual_seed(3), **common).images
        pipe.adapter.detach(pipe.unet)
        plain = stock(pipe)("a c", generator=torch.Generator().manual_seed(3), **common).images
        assert np.array_equal(ours, plain)

    def test_the_same_for_sdxl(self, person: Reference) -> None:
        pipe = make_xl()
        common: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "np"}
        ours = pipe("a c", person, id_strength=0, generator=torch.Generator().manual_seed(3), **common).images
        pipe.adapter.detach(pipe.unet)
        plain = stock(pipe)("a c", generator=torch.Generator().manual_seed(3), **common).images
        assert np.array_equal(ours, plain)

    def test_zero_strengths_are_absent_conditions(self, mini: BoLIDPipeline, person: Reference) -> None:
        nothing = draw(mini)
        zeros = dict.fromkeys(PARTS, 0)
        picture = person.image
        for options in (
            {"id_strength": 0.0},
            {"id_strength": zeros},
            {"id_strength": 0, "pose": "sitting", "pose_strength": 0},
            {"id_strength": 0, "image_prompt": picture, "image_prompt_strength": 0},
        ):
            assert torch.equal(draw(mini, reference=person, **options), nothing)

    def test_pose_alone_does_not_look_at_the_reference(self, mini: BoLIDPipeline, person: Reference) -> None:
        with_person = draw(mini, reference=person, pose="sitting", id_strength=0)
        assert torch.equal(with_person, draw(mini, pose="sitting"))


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
        points = person.keypoints.copy()
        points[[9, 10, 12, 13], 1] += 0.04  # longer legs, the same pixels
        longer = Reference(person.image, points, person.parts)
        first, second = (
            draw(mini, reference=r, pose="standing", id_strength={"lower": 0, "feet": 0, "upper": 0})
            for r in (person, longer)
        )
        assert torch.equal(first, second)

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


class TestFolders:
    @pytest.mark.parametrize("opener", [BoLIDPipeline, BoLIDXLPipeline])
    def test_round_trip_by_either_door(self, tmp_path: Path, person: Reference, opener: Any) -> None:
        for pipe in (make_mini(), make_xl()):
            folder = tmp_path / type(pipe).__name__
            pipe.save_pretrained(folder)
            index = json.loads((folder / "model_index.json").read_text())
            assert index["_class_name"] == type(pipe).__name__
            again = opener.from_pretrained(folder)
            again.set_progress_bar_config(disable=True)
            assert type(again) is type(pipe)
            assert again.config.default_guidance_scale == 2.0
            expected = draw(pipe, reference=person, pose="sitting")
            assert torch.equal(draw(again, reference=person, pose="sitting"), expected)

    def test_half_precision(self, tmp_path: Path, person: Reference) -> None:
        make_mini().save_pretrained(tmp_path)
        half = BoLIDPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
        half.set_progress_bar_config(disable=True)
        assert half.adapter.dtype == half.unet.dtype == torch.bfloat16
        options: dict[str, Any] = {"reference": person, "pose": "sitting", "image_prompt": person.image}
        assert torch.isfinite(draw(half, **options).float()).all()

    def test_a_plain_base_and_an_adapter_apart(self, tmp_path: Path, person: Reference) -> None:
        pipe = make_mini()
        expected = draw(pipe, reference=person, pose="sitting", guidance_scale=7.5)  # a base's own default
        pipe.save_bolid_adapter(tmp_path / "adapter-only")
        pipe.adapter.detach(pipe.unet)
        base = stock(pipe)
        base.register_modules(image_encoder=None)
        base.save_pretrained(tmp_path / "base")
        plain = BoLIDPipeline.from_pretrained(tmp_path / "base")
        plain.set_progress_bar_config(disable=True)
        assert type(plain) is BoLIDPipeline
        assert plain.adapter is None
        with pytest.raises(ValueError, match="no adapter; load one with load_bolid_adapter"):
            draw(plain, reference=person)
        nothing = draw(plain)
        plain.load_bolid_adapter(tmp_path / "adapter-only")
        assert torch.equal(draw(plain, reference=person, pose="sitting"), expected)
        assert torch.equal(draw(plain), nothing)
        plain.save_pretrained(tmp_path / "whole")
        whole = BoLIDPipeline.from_pretrained(tmp_path / "whole")
        whole.set_progress_bar_config(disable=True)
        assert torch.equal(draw(whole, reference=person, pose="sitting"), expected)
        plain.unload_bolid_adapter()
        assert not any(
            isinstance(each, IdentityAttnProcessor) for each in plain.unet.attn_processors.values()
        )

    def test_an_adapter_for_another_unet_is_refused(self, tmp_path: Path) -> None:
        make_xl().save_bolid_adapter(tmp_path)
        pipe = make_mini()
        with pytest.raises(ValueError, match="made for another base"):
            pipe.load_bolid_adapter(tmp_path)
        with pytest.raises(ValueError, match=r"adapter/config\.json"):
            pipe.load_bolid_adapter(tmp_path / "nowhere")

    def test_what_is_no_pipeline(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        for source in (tmp_path, tmp_path / "missing", "models/nowhere", "./nowhere/at/all"):
            with pytest.raises(ValueError, match=r"give the folder of a saved pipeline"):
                BoLIDPipeline.from_pretrained(source)
        (tmp_path / "model_index.json").write_text(
            '{"_class_name": "FluxPipeline", "vae": ["diffusers", "X"]}'
        )
        with pytest.raises(ValueError, match=r"works with Stable Diffusion 1\.5 and SDXL"):
            BoLIDPipeline.from_pretrained(tmp_path)


class TestState:
    def test_a_call_keeps_nothing(self, mini: BoLIDPipeline, person: Reference) -> None:
        before, scheduler = dict(mini.__dict__), dict(mini.scheduler.__dict__)
        draw(mini, reference=person, pose="sitting", num_inference_steps=3)
        assert mini.__dict__.keys() == before.keys()
        assert all(mini.__dict__[name] is value for name, value in before.items())
        assert all(mini.scheduler.__dict__[name] is value for name, value in scheduler.items())

    def test_two_calls_at_once(self, mini: BoLIDPipeline, person: Reference) -> None:
        jobs: list[dict[str, Any]] = [
            {"pose": "sitting", "num_inference_steps": 5},
            {"pose": "lying", "guidance_scale": 1.0, "num_inference_steps": 3},
        ]
        expected = [draw(mini, reference=person, **job) for job in jobs]
        results: dict[int, torch.Tensor] = {}

        def work(index: int) -> None:
            results[index] = draw(mini, reference=person, **jobs[index])

        threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(torch.equal(results[index], expected[index]) for index in range(2))

    def test_the_callback_stops_its_own_call_only(self, mini: BoLIDPipeline) -> None:
        steps: list[int] = []

        def stop(run: Any, step: int, _: int, values: dict[str, Any]) -> dict[str, Any]:
            steps.append(step)
            run._interrupt = step >= 1
            return values

        draw(mini, num_inference_steps=5, callback_on_step_end=stop)
        assert steps == [0, 1]
        assert not getattr(mini, "_interrupt", False)

    def test_replaced_processors_are_noticed(self, person: Reference) -> None:
        pipe = make_mini()
        pipe.enable_attention_slicing()
        with pytest.raises(ValueError, match="attention slicing"):
            draw(pipe, reference=person)


class TestMistakes:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"id_strength": -0.1}, "id_strength is -0.1; it must be 0 or more"),
            ({"id_strength": {"head": -1}}, "id_strength of head is -1"),
            ({"id_strength": {"hat": 1}}, "'hat'; the parts are head, upper, lower, feet"),
            ({"id_strength": float("nan")}, "must be a number"),
            ({"id_strength": [1, 2]}, "2 values for 1 prompts"),
            ({"pose_strength": -1}, "pose_strength is -1"),
            ({"image_prompt_strength": -1}, "image_prompt_strength is -1"),
            ({"guidance_scale": -1}, "guidance_scale is -1"),
            ({"pose": "siting"}, "Did you mean 'sitting'"),
            ({"pose": "nowhere.png"}, "does not exist"),
            ({"pose": 7}, "give a name"),
            ({"pose": np.zeros((17, 3))}, "give a name|must be"),
            ({"pose": np.full((18, 2), 50.0)}, "shares of the picture"),
            ({"pose": []}, "empty list"),
            ({"pose": ["sitting"] * 2, "prompt": ["a", "b", "c"]}, r"lists of \[2, 3\]"),
            ({"reference": []}, "empty list"),
            ({"reference": [[]]}, "empty list"),
            ({"reference": "missing.png"}, "does not exist"),
            ({"reference": 3}, "give a path"),
            ({"image_prompt": "missing.png"}, "does not exist"),
            ({"height": 100}, "height is 100; it must be a positive multiple of 8, for example 96"),
            ({"width": 0}, "width is 0"),
            ({"height": "tall"}, "height is 'tall'"),
            ({"num_inference_steps": 0}, "num_inference_steps is 0"),
            ({"num_images_per_prompt": 0}, "num_images_per_prompt is 0"),
            ({"generator": [1, 2, 3]}, "lists 3 for 1 pictures"),
            ({"generator": -3}, "a seed is -3"),
            ({"generator": "x"}, "give a seed"),
            ({"prompt": None}, "give a text"),
            ({"prompt": []}, "give a text"),
            ({"prompt": [1]}, "give a text"),
            ({"id_strenght": 1}, "did you mean 'id_strength'"),
        ],
    )
    def test_one_sentence_that_names_the_cure(
        self, mini: BoLIDPipeline, options: dict[str, Any], message: str
    ) -> None:
        person = make_reference()
        with pytest.raises(ValueError, match=message):
            draw(mini, **({"prompt": "a", "reference": person} | options))

    def test_nobody_in_the_reference(self, mini: BoLIDPipeline) -> None:
        empty = Image.new("RGB", (WIDTH, HEIGHT), (120, 180, 120))
        mini_estimator = mini.estimator
        torch.nn.init.constant_(
            mini_estimator.person.bias, -50.0
        )  # this network is untrained: make it say no
        try:
            with pytest.raises(ValueError, match="no person was found in the reference; give a picture"):
                draw(mini, reference=empty)
            with pytest.raises(ValueError, match="no person was found in the pose picture"):
                draw(mini, pose=empty)
        finally:
            torch.nn.init.zeros_(mini_estimator.person.bias)
