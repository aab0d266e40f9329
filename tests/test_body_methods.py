"""The compared methods: each trains, saves, opens in a fresh process and draws; each obeys its own paper."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from scripts import open_script
from test_comparison import ENV, arguments
from tiny_objective import SMALL, make_base, make_rows, save_loss_networks
from tiny_pipelines import HEIGHT, WIDTH, make_mini, make_reference

from bolid.adapter import AdapterInputs
from bolid.attention import Conditions
from bolid.baselines.body import BodyAdapter
from bolid.baselines.body_methods import BODY_METHODS, find_method
from bolid.baselines.body_tokens import body_look, pulid_levels
from bolid.baselines.down_residuals import ResidualGroup, down_widths
from bolid.baselines.identity_net import ControlGroup, MapHint
from bolid.losses import LossWeights
from bolid.pipeline import BoLIDPipeline
from bolid.training.config import build, load_config
from bolid.training.draws import Draws
from bolid.training.loop import train
from bolid.training.objectives.diffusion import DiffusionObjective, DiffusionOptions
from bolid.training.stages import build_stage

ROOT = Path(__file__).parents[1]
OTHERS = [name for name in BODY_METHODS if name != "bolid"]
CPU = torch.device("cpu")
TINY = (
    "objective.lightning.every=1", "objective.lightning.after=0", "objective.body_channels=[8,8]",
    "objective.body_blocks=[1]", "objective.tokens_per_part=[2,2,2,1]",
    "data.train_size=4", "data.validation_size=2", f"data.height={HEIGHT}", f"data.width={WIDTH}",
    "data.processes=1", "max_train_steps=2", "train_batch_size=4", "mixed_precision=no",
)  # fmt: skip


def pipeline(name: str, seed: int = 0) -> BoLIDPipeline:
    """A tiny pipeline with the method's adapter, whose every part acts."""
    pipe = make_mini(seed)
    unet = pipe.unet
    pipe.adapter.detach(unet)
    torch.manual_seed(seed)
    adapter = BodyAdapter.for_method(
        name, unet, pipe.image_encoder.config, body_channels=(8, 8), tokens_per_part=(2, 2, 2, 1)
    ).eval()
    for layer in adapter.layers.values():
        torch.nn.init.normal_(layer.body.weight, std=0.2)
    if adapter.control_net is not None:
        for layer in (
            *adapter.control_net.controlnet_down_blocks,
            adapter.control_net.controlnet_mid_block,
        ):
            torch.nn.init.normal_(layer.weight, std=0.1)
        hint = adapter.control_net.controlnet_cond_embedding
        last = hint.out if isinstance(hint, MapHint) else hint.conv_out
        torch.nn.init.normal_(last.weight, std=0.1)
    if adapter.down_residuals is not None:
        for layer in adapter.down_residuals.layers:
            torch.nn.init.normal_(layer.weight, std=0.2)
    adapter.attach(unet)
    pipe.register_modules(adapter=adapter)
    return pipe


def draw(pipe: BoLIDPipeline, reference: object = None, pose: object = None, **more: object) -> np.ndarray:
    return pipe("in a park", reference, pose, generator=3, output_type="np", **more).images[0]


@pytest.mark.parametrize("name", OTHERS)
def test_identity_off_is_the_stock_pipeline_and_on_it_acts(name: str) -> None:
    pipe, person = pipeline(name), make_reference()
    plain = draw(make_mini())  # the same base
    assert np.array_equal(draw(pipe), plain)
    assert np.array_equal(draw(pipe, person, id_strength=0), plain)
    acts = not np.array_equal(draw(pipe, person), plain)
    assert acts == (find_method(name).tokens != "none")


@pytest.mark.parametrize("name", OTHERS)
def test_a_pose_acts_and_only_bolids_map_shows_the_reference(name: str) -> None:
    pipe, record = pipeline(name), find_method(name)
    standing, sitting = draw(pipe, pose="standing"), draw(pipe, pose="sitting")
    assert not np.array_equal(standing, sitting)
    red, blue = make_reference(), make_reference(colours={2: (20, 20, 220)})
    with torch.no_grad():
        tokens = [pipe.encode_identity(each).tokens for each in (red, blue)]
    inputs = AdapterInputs(
        skeleton=torch.rand(1, 3, HEIGHT, WIDTH), appearance=torch.rand(1, 5, HEIGHT // 8, WIDTH // 8)
    )
    sample, text = torch.randn(1, 4, HEIGHT // 8, WIDTH // 8), torch.randn(1, 16, 32)
    with torch.no_grad():
        with_map, without = (
            pipe.unet(sample, 5, text, cross_attention_kwargs=pipe.adapter.conditions(each).kwargs()).sample
            for each in (inputs, replace(inputs, appearance=None))
        )
    assert torch.equal(with_map, without) == ("map" not in record.body)
    assert tokens[0].shape == tokens[1].shape


def test_identity_net_listens_to_the_tokens_in_the_texts_place() -> None:
    pipe = pipeline("instantid")
    rows = {"skeleton": torch.rand(2, 3, HEIGHT, WIDTH), "pose_strength": torch.ones(2)}
    tokens = torch.randn(2, 16, 32)
    given = AdapterInputs(tokens=tokens, token_present=torch.ones(2, 16, dtype=torch.bool),
                          part_ids=pipe.adapter.part_ids, strength=torch.ones(2, 4), **rows)  # fmt: skip
    sample, text = torch.randn(2, 4, HEIGHT // 8, WIDTH // 8), torch.randn(2, 16, 32)

    def run(conditions: Conditions) -> torch.Tensor:
        with torch.no_grad():
            return pipe.unet(sample, 5, text, cross_attention_kwargs=conditions.kwargs()).sample

    conditions = pipe.adapter.conditions(given)
    control = next(group for group in conditions.groups if isinstance(group, ControlGroup))
    torch.testing.assert_close(control.tokens, tokens)
    whole = run(conditions)
    quiet = replace(control, tokens=torch.zeros_like(tokens))
    others = tuple(group for group in conditions.groups if group is not control)
    assert not torch.equal(whole, run(replace(conditions, groups=(*others, quiet))))
    off = replace(control, strength=torch.zeros(2))
    torch.testing.assert_close(
        run(replace(conditions, groups=(*others, off))), run(replace(conditions, groups=others))
    )
    # a row does not hear its neighbour, and guidance's negative half has zero tokens and the skeleton
    half = pipe.adapter.conditions(given.negative())
    negative = next(group for group in half.groups if isinstance(group, ControlGroup))
    assert not negative.tokens.any()
    assert torch.equal(negative.picture, control.picture)
    both = Conditions.cat(half, conditions)
    with torch.no_grad():
        stacked = pipe.unet(sample.repeat(2, 1, 1, 1), 5, text.repeat(2, 1, 1),
                            cross_attention_kwargs=both.kwargs()).sample  # fmt: skip
    torch.testing.assert_close(stacked[2:], whole, atol=1e-5, rtol=1e-4)
    # a callback may end guidance midway: the UNet then runs with the positive half's rows alone
    ended = Conditions.guidance(half, conditions)
    torch.testing.assert_close(run(ended), whole, atol=1e-5, rtol=1e-4)
    pipe.adapter.detach(pipe.unet)
    assert not pipe.unet._forward_pre_hooks


@pytest.mark.parametrize("name", ["body_features", "body_residuals", "body_control"])
def test_every_way_in_for_the_body_is_silent_at_first_and_scaled_by_pose_strength(name: str) -> None:
    mini, pipe = make_mini(), pipeline(name)
    inputs = AdapterInputs(
        skeleton=torch.rand(2, 3, HEIGHT, WIDTH), appearance=torch.rand(2, 5, HEIGHT // 8, WIDTH // 8)
    )
    sample, text = torch.randn(2, 4, HEIGHT // 8, WIDTH // 8), torch.randn(2, 16, 32)

    def run(adapter: BodyAdapter, strength: tuple[float, float]) -> torch.Tensor:
        given = adapter.conditions(replace(inputs, pose_strength=torch.tensor(strength)))
        with torch.no_grad():
            return pipe.unet(sample, 5, text, cross_attention_kwargs=given.kwargs()).sample

    with torch.no_grad():
        plain = pipe.unet(sample, 5, text).sample
    whole, half = run(pipe.adapter, (1.0, 1.0)), run(pipe.adapter, (0.0, 1.0))
    assert not torch.equal(whole, plain)
    torch.testing.assert_close(half[:1], plain[:1], atol=1e-5, rtol=1e-4)  # a row at 0 gets nothing
    torch.testing.assert_close(half[1:], whole[1:], atol=1e-5, rtol=1e-4)
    pipe.adapter.detach(pipe.unet)
    new = BodyAdapter.for_method(name, pipe.unet, mini.image_encoder.config, body_channels=(8, 8))
    new.attach(pipe.unet)
    torch.testing.assert_close(run(new, (1.0, 1.0)), plain, atol=1e-5, rtol=1e-4)


def test_residuals_come_once_a_call_and_fit_the_down_blocks() -> None:
    pipe = pipeline("body_residuals")
    inputs = AdapterInputs(skeleton=torch.rand(2, 3, HEIGHT, WIDTH))
    group = pipe.adapter.conditions(inputs).groups[-1]
    assert isinstance(group, ResidualGroup)
    widths = tuple(pipe.unet.config.block_out_channels)
    assert tuple(level.shape[1] for level in group.levels) == widths
    assert [level.shape[2] for level in group.levels] == [HEIGHT // 8, HEIGHT // 16]
    half = pipe.adapter.conditions(inputs.negative())
    both = Conditions.guidance(half, pipe.adapter.conditions(inputs))
    kept = both.for_rows(2).groups[-1]
    assert isinstance(kept, ResidualGroup)
    torch.testing.assert_close(kept.levels[0], group.levels[0])


def test_residuals_are_refused_where_they_would_not_fit() -> None:
    small = {"block_out_channels": (32, 32), "norm_num_groups": 8, "cross_attention_dim": 32}
    unet = UNet2DConditionModel(
        **small, attention_head_dim=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    with pytest.raises(ValueError, match="DownBlock2D"):
        down_widths(unet)


def test_a_new_identity_net_starts_as_the_unets_encoder_and_silent() -> None:
    pipe = make_mini()
    adapter = BodyAdapter.for_method("instantid", pipe.unet, pipe.image_encoder.config, body_channels=(8, 8))
    control, unet = adapter.control_net, pipe.unet
    for name, weight in control.down_blocks.state_dict().items():
        assert torch.equal(weight, unet.down_blocks.state_dict()[name])
    assert not any(layer.weight.any() for layer in control.controlnet_down_blocks)


@pytest.mark.parametrize(("depth", "levels", "layers"), [
    (24, (4, 8, 12, 16, 20), (4, 8, 12, 16, 20, 23, 24)),  # PuLID's own
    (4, (0, 1, 2, 3, 4), (0, 1, 2, 3, 4)),  # bolid-mini's
    (2, (0, 0, 1, 2, 2), (0, 1, 2)),
])  # fmt: skip
def test_levels_are_spread_over_the_encoder(
    depth: int, levels: tuple[int, ...], layers: tuple[int, ...]
) -> None:
    assert pulid_levels(depth) == levels
    assert body_look(depth).layers == layers


def test_pulid_has_zero_tokens_and_the_orthogonal_form_and_the_others_have_not() -> None:
    counts = {}
    for name in ("ip_adapter", "instantid", "pulid"):
        pipe = pipeline(name)
        with torch.no_grad():
            person = pipe.encode_identity(make_reference())
            group = pipe.adapter.conditions(
                AdapterInputs(
                    tokens=person.tokens[None], token_present=person.present[None], part_ids=person.part_ids
                )
            ).groups[0]
        counts[name] = (next(iter(group.keys.values())).shape[2], type(group).__name__)
    assert counts == {
        "ip_adapter": (16, "TokenGroup"),
        "instantid": (16, "TokenGroup"),
        "pulid": (10 + 8, "OrthogonalGroup"),
    }


@pytest.mark.parametrize(
    "file", sorted((ROOT / "train" / "configs").glob("baseline-*.yaml")), ids=lambda f: f.stem
)
def test_configs_have_the_records_losses_and_share_all_the_rest(file: Path) -> None:
    config = load_config(file)
    options = build(DiffusionOptions, config.objective, "objective")
    losses = {name: weight for name, weight in asdict(options.weights).items() if weight}
    assert losses == find_method(options.method).losses
    assert f"baseline-{options.method.replace('_', '-')}" == file.stem
    other = load_config(ROOT / "train" / "configs" / "baseline-ip-adapter.yaml")
    for name in ("max_train_steps", "train_batch_size", "lr_scheduler", "optimizer", "data", "seed"):
        assert getattr(config, name) == getattr(other, name)
    for name in (
        "base",
        "text_drop",
        "identity_drop",
        "pose_drop",
        "image_prompt_share",
        "plain_share",
        "few_step",
    ):
        assert config.objective[name] == other.objective[name]


@pytest.mark.parametrize("name", list(BODY_METHODS))
def test_every_method_learns_all_of_its_weights(name: str, tmp_path: Path) -> None:
    weights = LossWeights(**find_method(name).losses)
    networks = str(save_loss_networks(tmp_path)) if set(find_method(name).losses) - {"rec"} else None
    options = replace(SMALL, method=name, base="tiny", weights=weights, loss_networks=networks,
                      identity_drop=0.0, pose_drop=0.0, part_drop=0.0, faded_share=0.0)  # fmt: skip
    base = make_base()
    torch.manual_seed(0)
    objective = DiffusionObjective(options, base)
    for layer in objective.adapter.layers.values():
        torch.nn.init.normal_(layer.body.weight, std=0.1)
    for layer in getattr(getattr(objective.adapter, "down_residuals", None), "layers", ()):
        torch.nn.init.normal_(layer.weight, std=0.1)
    rows = make_rows(base)
    batch = rows.batch(np.arange(4))
    if objective.adapter.look.whole:
        depth = len(objective.adapter.look.layers)
        batch["patches"] = torch.randn(4, 1, 2 + 16, max(4, depth) * 16)
        batch["present"] = torch.ones(4, 1, dtype=torch.bool)
    losses = objective(batch, Draws(0, 0, np.arange(4), 4, CPU))
    losses["loss"].backward()
    assert set(find_method(name).losses) <= set(losses)
    got = {
        n.split(".")[0]
        for n, p in objective.adapter.named_parameters()
        if p.grad is not None and p.grad.any()
    }
    record = find_method(name)
    assert ("resampler" in got) == (record.tokens != "none")
    assert ("control_net" in got) == record.has_control
    assert ("body_net" in got) == (not record.has_control)
    assert ("down_residuals" in got) == (record.body == "map residuals")
    assert all(p.grad is None for p in base.parameters())


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and loss networks, tiny."""
    root = tmp_path_factory.mktemp("parts")
    make_mini().save_pretrained(root / "base")
    save_loss_networks(root / "networks")
    return root


@pytest.mark.parametrize("name", list(BODY_METHODS))
def test_its_command_trains_and_saves_what_draws(name: str, parts: Path, tmp_path: Path) -> None:
    words = BODY_METHODS[name].command.split()
    config = next(word for word in words if word.endswith(".yaml"))
    given = [word for word in words if word.startswith("objective.")]
    given += [f"objective.base={parts / 'base'}", f"objective.loss_networks={parts / 'networks'}", *TINY]
    given += [f"data.cache_dir={parts / 'cache'}", f"output_dir={tmp_path}"]
    resolved = load_config(ROOT / config, given)
    exported = train(resolved, *build_stage(resolved))
    assert exported is not None
    said = json.loads((exported / "adapter" / "config.json").read_text())["_class_name"]
    assert said == ("BoLIDAdapter" if name == "bolid" else "BodyAdapter")
    pipe = BoLIDPipeline.from_pretrained(exported)
    assert draw(pipe, make_reference(), "sitting").shape == (HEIGHT, WIDTH, 3)
    if name == "instantid":
        assert opened_afresh(exported) == [said, name]


def opened_afresh(folder: Path) -> list[str]:
    """Class and method of the adapter as a new process opens it, which has imported the package alone."""
    code = (
        "from bolid import BoLIDPipeline\n"
        f"pipe = BoLIDPipeline.from_pretrained({str(folder)!r})\n"
        "print(type(pipe.adapter).__name__, pipe.adapter.config.method)\n"
    )
    fresh = subprocess.run([sys.executable, "-c", code], env=ENV, capture_output=True, text=True)
    assert "not expected" not in fresh.stderr
    return fresh.stdout.split()


def test_trained_methods_stand_in_one_table(tmp_path: Path) -> None:
    from test_comparison import save_evaluators

    save_evaluators(tmp_path / "evaluators")
    for name in ("instantid", "pulid", "pose_only"):
        pipeline(name).save_pretrained(tmp_path / "runs" / name / "seed-0" / "export")
    output = tmp_path / "o"
    given = arguments(tmp_path, output, "instantid", "pulid", "pose_only")
    given[given.index("--samples") + 1] = "32"
    assert open_script("eval/run").main(given) == 0
    rows = json.loads((output / "results.json").read_text())["rows"]
    assert set(rows) == {
        "truth", "another", "base", "instantid", "instantid+pose", "pulid", "pulid+pose", "pose_only+pose"
    }  # fmt: skip
