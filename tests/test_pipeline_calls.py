"""A call keeps nothing, and tells a mistake in one sentence."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from stock_pipelines import draw
from tiny_pipelines import HEIGHT, WIDTH, make_reference

from bolid import BoLIDPipeline, Reference


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
