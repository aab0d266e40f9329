"""The lightning branch: the queries it records, and alignment losses on them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_lightning import STEPS, Scene
from torch import Tensor
from torch.testing import assert_close

from bolid.attention import cross_attentions
from bolid.lightning import text_keys
from bolid.losses import alignment_losses


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


@pytest.mark.parametrize("mode", ["full", "last_k"])
def test_recording_changes_nothing_and_hears_every_layer(scene: Scene, mode: str) -> None:
    layers = scene.adapter.layer_names
    made = scene.run(mode, last=2, record=layers)
    assert_close(made.latents, scene.run(mode, last=2).latents, rtol=0, atol=0)
    assert len(made.queries) == (STEPS if mode == "full" else 2)
    for heard in made.queries:
        assert set(heard) == set(layers)
    first = scene.run("one_step", record=layers[:1]).queries
    assert [set(heard) for heard in first] == [{layers[0]}]
    found = cross_attentions(scene.unet)[layers[0]]
    assert first[0][layers[0]].shape == (2, found.heads, 96, found.inner_dim // found.heads)
    assert scene.run(mode).queries[0] == {}


def test_recorded_queries_are_the_projections_outputs(scene: Scene) -> None:
    name = scene.adapter.layer_names[2]
    attn: Any = cross_attentions(scene.unet)[name]
    seen: list[Tensor] = []
    hook = attn.to_q.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        heard = scene.run("full", record=[name]).queries
    hook.remove()
    for query, projected in zip(heard, seen, strict=True):
        assert_close(query[name].transpose(1, 2).flatten(2), projected, rtol=0, atol=0)
    key = text_keys(scene.unet, scene.text, [name])[name]
    assert_close(key.transpose(1, 2).flatten(2), attn.to_k(scene.text), rtol=0, atol=0)


@pytest.mark.parametrize("blocks", [False, True], ids=["steps", "steps and blocks"])
def test_alignment_reaches_the_adapter_through_checkpoints(blocks: bool) -> None:
    scene = Scene()

    def gradients(checkpoint: bool) -> dict[str, Tensor]:
        inputs, layers = scene.inputs(), scene.adapter.layer_names
        with torch.no_grad():
            without = scene.run("full", scene.adapter.conditions(inputs.without_identity()), record=layers)
        made = scene.run("full", record=layers, checkpoint=checkpoint)
        aligned = alignment_losses(made.queries, without.queries, text_keys(scene.unet, scene.text, layers))
        assert all(bool((value > 0).all()) for value in aligned.values())
        return scene.gradients((aligned["semantic"] + aligned["layout"]).sqrt())

    plain = gradients(False)
    if blocks:
        scene.unet.train()
        scene.unet.enable_gradient_checkpointing()
    assert_close(gradients(True), plain, rtol=1e-3, atol=1e-8)
    assert (
        sum(bool((g != 0).any()) for n, g in plain.items() if "to_v_id" in n) >= len(scene.adapter.layers) - 1
    )


def test_two_paths_that_are_the_same_are_aligned(scene: Scene) -> None:
    layers = scene.adapter.layer_names
    nobody = scene.adapter.conditions(scene.inputs().without_identity())
    with torch.no_grad():
        without = scene.run("last_k", nobody, record=layers, last=2)
    made = scene.run("last_k", nobody, record=layers, last=2)
    aligned = alignment_losses(made.queries, without.queries, text_keys(scene.unet, scene.text, layers))
    assert [value.tolist() for value in aligned.values()] == [[0, 0], [0, 0]]
