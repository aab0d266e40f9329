"""The main objective on tiny networks: the terms of Eq. 1, dropped conditions, gradients, families."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_objective import SMALL, awaken, gradients, make_base, make_rows, save_loss_networks
from tiny_pipelines import make_mini
from torch.testing import assert_close

from bolid.losses import LossWeights
from bolid.pipeline import BoLIDPipeline
from bolid.training.bases import open_base
from bolid.training.config import TrainConfig, build
from bolid.training.data import Rows
from bolid.training.draws import Draws, step_draws
from bolid.training.loop import train
from bolid.training.objectives.conditions import draw_conditions
from bolid.training.objectives.diffusion import DiffusionObjective, DiffusionOptions
from bolid.training.objectives.lightning_losses import BranchOptions

ALL = LossWeights(rec=1, id=1, clip=1, heatmap=1, appearance=1, semantic=0.6, layout=0.1)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return make_rows(make_base())


@pytest.fixture(scope="module")
def loss_networks(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_loss_networks(tmp_path_factory.mktemp("losses")))


def make_objective(family: str = "mini", **changes: Any) -> DiffusionObjective:
    torch.manual_seed(0)
    objective = DiffusionObjective(dataclasses.replace(SMALL, **changes), make_base(family))
    awaken(objective.adapter)
    return objective


def batch_of(rows: Rows, indices: Any = slice(None)) -> dict[str, torch.Tensor]:
    return rows.batch(np.arange(len(rows))[indices])


def test_loss_reaches_base_and_adapter(rows: Rows) -> None:
    objective = make_objective(text_drop=0, identity_drop=0, pose_drop=0, image_prompt_share=1)
    out = objective(batch_of(rows), step_draws(0, 0, 4))
    found = gradients(objective, out["loss"])
    silent = [n for n, p in objective.named_parameters() if p.requires_grad and not found[n].any()]
    assert len(silent) < 0.1 * len(found)
    assert not [n for n in silent if n.startswith("adapter.body_net") or ".to_k_id" in n]
    assert set(out) == {"loss", "rec", "v_error"}


def test_a_frozen_base_trains_the_adapter_alone(rows: Rows) -> None:
    objective = make_objective(base="tiny")
    objective(batch_of(rows), step_draws(0, 0, 4))["loss"].backward()
    trained = {n.split(".")[0] for n, p in objective.named_parameters() if p.grad is not None}
    assert trained == {"adapter"}
    assert set(objective.models) == {"adapter"}


def test_everything_dropped_leaves_the_base(rows: Rows) -> None:
    objective = make_objective(identity_drop=1.0, pose_drop=1.0, image_prompt_share=0.0, text_drop=0.0)
    batch = batch_of(rows)
    given = draw_conditions(objective.adapter, batch, objective.options, step_draws(0, 0, 4), 8)
    text, t = objective.encode(batch, given), torch.full((4,), 500)
    conditions = objective.adapter.conditions(given.inputs)
    with torch.no_grad():
        adapted = objective.unet(
            batch["latents"], t, text.states, cross_attention_kwargs=conditions.kwargs()
        ).sample
        plain = objective.unet(batch["latents"], t, text.states).sample
    assert torch.equal(adapted, plain)


def test_every_condition_is_dropped_by_its_own_share() -> None:
    rows = make_rows(make_base(), count=300)
    objective = make_objective(map_drop=0.5, part_drop=0.3, image_prompt_share=0.4)
    draws, o = step_draws(0, 0, 300), objective.options
    with torch.no_grad():
        given = draw_conditions(objective.adapter, batch_of(rows), o, draws, 8)
    strength, appearance = given.inputs.strength, given.inputs.appearance
    assert strength is not None
    assert appearance is not None
    nobody = (strength == 0).all(1) & (appearance == 0).flatten(1).all(1)
    no_map = (appearance == 0).flatten(1).all(1) & ~nobody
    lost = (strength == 0) & ~nobody[:, None]
    assert float(nobody.float().mean()) == pytest.approx(o.identity_drop, abs=0.06)
    assert float(no_map[~nobody].float().mean()) == pytest.approx(0.5, abs=0.08)
    assert float(lost[no_map].float().mean(0).min()) > 0.2
    assert given.inputs.pose_strength is not None
    without_pose = given.inputs.pose_strength == 0
    assert not lost[
        ~no_map & ~without_pose
    ].any()  # a part's tokens never go alone where a map shows the part
    assert float(without_pose.float().mean()) == pytest.approx(o.pose_drop, abs=0.06)
    assert given.inputs.image_strength is not None
    assert float((given.inputs.image_strength > 0).float().mean()) == pytest.approx(0.4, abs=0.08)
    assert float((no_map & without_pose).float().mean()) == pytest.approx(
        float(no_map.float().mean() * without_pose.float().mean()), abs=0.04
    )  # independent


def test_all_losses_of_the_branch_reach_the_adapter(rows: Rows, loss_networks: str) -> None:
    objective = make_objective(weights=ALL, loss_networks=loss_networks, base="tiny")
    batch, draws = batch_of(rows), step_draws(0, 0, 4)
    out = objective(batch, draws)
    for name in ("id", "clip", "heatmap", "appearance", "semantic", "layout"):
        assert float(out[name]) > 0
        assert not out[name].requires_grad
    found = gradients(objective, out["loss"])
    alone = make_objective(base="tiny")
    other = gradients(alone, alone(batch, draws)["loss"])
    assert any(not torch.allclose(found[n], other[n]) for n in other)
    assert not any(p.requires_grad for p in objective.branch.parameters())  # pyright: ignore[reportOptionalMemberAccess]


def test_losses_of_the_branch_stay_float32_in_mixed_precision(rows: Rows, loss_networks: str) -> None:
    """Every loss of a bf16 run is what it is without, to bf16's precision; none stumbles over its type."""
    objective = make_objective(weights=ALL, loss_networks=loss_networks, base="tiny")
    batch, draws = batch_of(rows), step_draws(0, 0, 4)
    whole = objective(batch, draws)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = objective(batch, draws)
    mixed["loss"].backward()
    assert {value.dtype for value in mixed.values()} == {torch.float32}
    for name in ("id", "clip", "heatmap", "appearance", "semantic", "layout"):
        assert_close(mixed[name], whole[name].detach(), rtol=0.1, atol=1e-3)


def test_the_branch_runs_every_n_steps_and_not_at_weight_0(rows: Rows, loss_networks: str) -> None:
    lightning = BranchOptions(mode="one_step", rows=2, every=3, after=3)
    weights = LossWeights(id=1)
    objective = make_objective(weights=weights, loss_networks=loss_networks, lightning=lightning)
    with torch.no_grad():
        ran = ["id" in objective(batch_of(rows), step_draws(0, step, 4)) for step in (0, 3, 4, 6)]
    assert ran == [False, True, False, True]
    assert set(objective.branch.networks) == {"pose"}  # pyright: ignore[reportOptionalMemberAccess]
    assert make_objective().branch is None


@pytest.mark.parametrize("cut", ["processes", "micro-batches"])
def test_halves_of_a_batch_are_the_whole(rows: Rows, loss_networks: str, cut: str) -> None:
    """Two processes with half the rows each, or two micro-batches, average to the gradients of one."""
    lightning = BranchOptions(steps=2, rows=2)
    objective = make_objective(weights=ALL, loss_networks=loss_networks, lightning=lightning, base="tiny")
    batch = batch_of(rows)
    whole = objective(batch, step_draws(0, 1, 4))
    expected = gradients(objective, whole["loss"])
    strided = ([0, 2], [1, 3]) if cut == "processes" else ([0, 1], [2, 3])
    found: list[dict[str, torch.Tensor]] = []
    losses = []
    for own in strided:
        draws = Draws(0, 1, np.array(own), 4, torch.device("cpu"))
        out = objective(batch_of(rows, own), draws)
        losses.append(float(out["loss"].detach()))
        found.append(gradients(objective, out["loss"]))
    assert np.mean(losses) == pytest.approx(float(whole["loss"].detach()), rel=1e-4)
    for name, value in expected.items():
        assert_close((found[0][name] + found[1][name]) / 2, value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", ["sd15", "xl"])
def test_other_families_train_their_adapter(family: str, loss_networks: str) -> None:
    base = make_base(family)
    rows = make_rows(base)
    options = dataclasses.replace(SMALL, base="tiny", weights=ALL, loss_networks=loss_networks)
    torch.manual_seed(0)
    objective = DiffusionObjective(options, base)
    awaken(objective.adapter)
    out = objective(batch_of(rows), step_draws(0, 0, 4))
    assert "epsilon_error" in out
    found = gradients(objective, out["loss"])
    assert all(bool(torch.isfinite(gradient).all()) for gradient in found.values())
    assert any(gradient.any() for name, gradient in found.items() if "to_v_id" in name)
    assert objective.picture(batch_of(rows, [0])).dtype == np.uint8
    assert objective.evaluate(batch_of(rows, [0]))["epsilon_error"] > 0


def test_keypoint_weights_are_off_at_gain_0(rows: Rows) -> None:
    objective = make_objective(keypoint_gain=4.0)
    weighted = objective.pixel_weight(batch_of(rows))
    objective.common = dataclasses.replace(objective.options, keypoint_gain=0.0)
    plain = objective.pixel_weight(batch_of(rows))
    assert_close(plain.mean((1, 2, 3)), torch.ones(4))
    assert_close(weighted.mean((1, 2, 3)), torch.ones(4))
    assert not torch.allclose(plain, weighted)


def test_a_missing_network_or_folder_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"loss_networks is not set.*mini-estimator.yaml --seed 1"):
        make_objective(weights=LossWeights(id=1))
    with pytest.raises(ValueError, match=r"holds no 'text_image'.*mini-clip.yaml"):
        make_objective(weights=LossWeights(clip=1), loss_networks=str(tmp_path))
    with pytest.raises(ValueError, match="holds no adapter"):
        make_objective(adapter=str(tmp_path))


def test_weights_and_rows_that_cannot_be(rows: Rows, loss_networks: str) -> None:
    with pytest.raises(ValueError, match="rec=0"):
        make_objective(weights=LossWeights(rec=0))
    many = BranchOptions(rows=8)
    objective = make_objective(weights=LossWeights(id=1), loss_networks=loss_networks, lightning=many)
    with pytest.raises(ValueError, match="at most 4"):
        objective(batch_of(rows), step_draws(0, 0, 4))
    values = {"weights": {"id": 0.5}, "lightning": {"mode": "full", "form": "square"}}
    options: DiffusionOptions = build(DiffusionOptions, values, "objective")
    assert (options.weights.id, options.weights.clip, options.lightning.form) == (0.5, 0, "square")


def test_trained_export_opens_as_a_pipeline(rows: Rows, tmp_path: Path) -> None:
    make_mini().save_pretrained(tmp_path / "components")
    torch.manual_seed(0)
    objective = DiffusionObjective(SMALL, open_base(tmp_path / "components"))
    config = TrainConfig(
        output_dir=str(tmp_path / "run"),
        max_train_steps=2,
        train_batch_size=3,
        lr_warmup_steps=0,
        mixed_precision="no",
    )
    exported = train(config, objective, rows, rows)
    assert (tmp_path / "run" / "grid-2.png").is_file()
    assert exported is not None
    pipe = BoLIDPipeline.from_pretrained(exported)
    pipe.set_progress_bar_config(disable=True)
    pictures = pipe(
        "on the beach", pose="sitting", num_inference_steps=2, generator=0, height=64, width=48
    ).images
    assert pictures[0].size == (48, 64)


def test_a_frozen_base_exports_with_its_own_defaults(rows: Rows, tmp_path: Path) -> None:
    make_mini().save_pretrained(tmp_path / "base")
    options = dataclasses.replace(SMALL, base=str(tmp_path / "base"), adapter=str(tmp_path / "base"))
    objective = DiffusionObjective(options, open_base(tmp_path / "base"))
    config = TrainConfig(
        output_dir=str(tmp_path / "run"), max_train_steps=1, train_batch_size=2, mixed_precision="no"
    )
    exported = train(config, objective, rows, rows)
    pipe = BoLIDPipeline.from_pretrained(exported)  # pyright: ignore[reportArgumentType]
    assert pipe.config.default_steps == 2
    before = open_base(tmp_path / "base").unet.state_dict()
    for name, value in pipe.unet.state_dict().items():
        assert_close(value, before[name].half().float())


def test_what_a_reference_does_not_show_the_prompt_tells(rows: Rows) -> None:
    """Prompts lose identity words where every part is there; `plain_missing` says how often elsewhere."""
    shares = {"map_drop": 0.0, "pose_drop": 0.0, "part_drop": 0.0, "identity_drop": 0.0, "plain_share": 1.0}
    objective = make_objective(**shares, faded_share=0.0, plain_missing=0.0)
    batch = batch_of(rows)
    batch["strengths"] = torch.ones_like(batch["strengths"])
    batch["strengths"][1::2, :, 1] = 0
    fold, draws = objective.base.fold, step_draws(0, 0, len(batch["latents"]))
    assert not torch.equal(batch["plain_ids"], batch["caption_ids"])
    ids = draw_conditions(objective.adapter, batch, objective.options, draws, fold).ids
    assert torch.equal(ids[0::2], batch["plain_ids"][0::2])
    assert torch.equal(ids[1::2], batch["caption_ids"][1::2])
    always = dataclasses.replace(objective.options, plain_missing=1.0)
    assert torch.equal(draw_conditions(objective.adapter, batch, always, draws, fold).ids, batch["plain_ids"])


def test_raw_pictures_become_features_in_the_step() -> None:
    """Rows whose reference is their own picture: it is changed, and the changes are keyed by the draws."""
    objective = make_objective()
    rng = np.random.default_rng(0)
    made = make_rows(objective.base, 2).batch(np.arange(2))
    picture = torch.from_numpy(rng.integers(0, 255, (2, 96, 64, 3)).astype(np.uint8))
    parts = torch.zeros(2, 96, 64, dtype=torch.uint8)
    parts[:, 20:80, 16:48] = torch.arange(1, 5, dtype=torch.uint8).repeat_interleave(15)[:, None]
    names = ("keypoints", "caption_ids", "plain_ids")
    raw = {name: made[name] for name in names} | {
        "image": picture,
        "reference": picture,
        "masks": parts,
        "reference_masks": parts,
        "reference_keypoints": made["keypoints"],
        "own_reference": torch.ones(2, dtype=torch.bool),
        "has_prompt": torch.zeros(2, dtype=torch.bool),
    }
    assert objective.prepare(raw) is raw
    first = objective.features(raw, step_draws(0, 0, 2))
    assert torch.equal(first["patches"], objective.features(raw, step_draws(0, 0, 2))["patches"])
    assert not torch.equal(first["patches"], objective.features(raw, step_draws(0, 1, 2))["patches"])
    assert torch.equal(first["latents"], objective.features(raw, step_draws(0, 1, 2))["latents"])
    assert np.isfinite(float(objective(raw, step_draws(0, 0, 2))["loss"].detach()))
    assert objective.evaluate(raw)["v_error"] > 0
