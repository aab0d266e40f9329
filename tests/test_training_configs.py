"""The shipped configs load, with every command their headers give; SD 1.5's and SDXL's train at tiny size."""

import dataclasses
import shlex
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_training_sources import data as small_data
from test_training_sources import save_parquet
from tiny_pipelines import make_mini, make_xl

from bolid.avatars.dataset import avatar_dataset
from bolid.training import feature_store
from bolid.training.avatar_rows import AvatarRows
from bolid.training.bases import FrozenBase, open_base
from bolid.training.config import DataConfig, TrainConfig, build, load_config
from bolid.training.draws import step_draws
from bolid.training.feature_store import CODE, PACKAGE, FeatureRows, code_fingerprint
from bolid.training.objectives.critic import Critic
from bolid.training.objectives.critic_stage import CriticOptions
from bolid.training.objectives.diffusion import DiffusionOptions
from bolid.training.objectives.distillation import DistillationOptions
from bolid.training.person_rows import StepRows, person_rows
from bolid.training.stages import STAGES, build_stage

CONFIGS = sorted((Path(__file__).parents[1] / "train" / "configs").glob("*.yaml"))
CPU = torch.device("cpu")
SCHEMAS = {"diffusion": DiffusionOptions, "distill": DistillationOptions, "critic": CriticOptions}


def commands(config: Path) -> list[list[str]]:
    """Overrides of every command in the file's header; flags as a.b=c."""
    found = []
    for line in config.read_text().splitlines():
        words = (
            shlex.split(line.removeprefix("#"), comments=True) if "--config train/configs/" in line else []
        )
        if words:
            assert words[words.index("--config") + 1] == f"train/configs/{config.name}"
            rest = words[words.index("--config") + 2 :]
            flags = [f"{a[2:]}={b}" for a, b in pairwise(rest) if a.startswith("--")]
            found.append(flags + [word for word in rest if "=" in word])
    return found


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_shipped_configs_and_their_commands_load(file):
    for overrides in [[], *commands(file)]:
        config = load_config(file, overrides)
        assert config.stage in STAGES
        if schema := SCHEMAS.get(config.stage):
            build(schema, config.objective, "objective")
            assert config.data.height % 8 == config.data.width % 8 == 0


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_the_large_configs_have_a_command_for_every_stage(name):
    (file,) = (file for file in CONFIGS if file.stem == name)
    assert len(commands(file)) == 3


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    rows = avatar_dataset("train", 6, height=96, width=72, cache_dir=folder / "cache").remove_columns(
        "identity"
    )
    return save_parquet(rows, folder / "rows")


def tiny(base: Path, source: Path, output: Path) -> dict[str, Any]:
    """Values of a config for two steps on a tiny base."""
    return {
        "objective.base": base,
        "data.source": source,
        "data.cache_dir": output.parent / "cache",
        "data.height": 64,
        "data.width": 48,
        "data.validation_size": 2,
        "output_dir": output,
        "max_train_steps": 2,
        "train_batch_size": 2,
        "validation_steps": 0,
        "mixed_precision": "no",
        "lr_warmup_steps": 0,
    }


def run_config(file: Path, values: dict[str, Any]) -> Path:
    """Train by a config with other values; the export."""
    from bolid.training.loop import make_accelerator, train

    config = load_config(file, [f"{key}={value}" for key, value in values.items()])
    accelerator = make_accelerator(config)
    exported = train(config, *build_stage(config), accelerator)
    assert exported is not None
    return exported


def test_a_critic_is_taught_alone_and_goes_on_beside_the_model(tmp_path: Path, source: Path) -> None:
    configs = Path(__file__).parents[1] / "train" / "configs"
    make_mini().save_pretrained(tmp_path / "base")
    values = tiny(tmp_path / "base", source, tmp_path / "critic") | {"data.train_size": 4}
    exported = run_config(configs / "mini-critic.yaml", values)
    assert {each.name for each in exported.iterdir()} == {"critic"}
    values |= {
        "output_dir": tmp_path / "adapter",
        "objective.adapter": tmp_path / "base",
        "objective.critic": exported,
        "objective.weights.picture": 0,
        "objective.grid_steps": 1,
    }
    further = run_config(configs / "mini-adapter.yaml", values)
    assert "critic" not in {each.name for each in further.iterdir()}
    first, second = (
        load_file(folder / "critic" / "diffusion_pytorch_model.safetensors")
        for folder in (exported, tmp_path / "adapter")
    )
    far = [float((first[name].float() - second[name].float()).norm()) for name in first]
    new = Critic.from_pretrained(exported / "critic")
    for module in new.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.reset_parameters()
    other = [float((first[name].float() - value).norm()) for name, value in new.state_dict().items()]
    assert 0 < sum(far) < 0.5 * sum(other)  # it went on from there


@pytest.mark.parametrize(("name", "make"), [("sd15", make_mini), ("sdxl", make_xl), ("photos-20", make_mini)])
def test_a_config_runs_two_steps_on_a_tiny_base(tmp_path, source, name, make):
    from bolid.training.loop import make_accelerator, train

    make().save_pretrained(tmp_path / "base")
    file = Path(__file__).parents[1] / "train" / "configs" / f"{name}.yaml"
    values = tiny(tmp_path / "base", source, tmp_path / "out") | {
        "objective.image_encoder": tmp_path / "base" / "image_encoder",
        "objective.token_dim": 64 if make is make_xl else 32,
        "objective.body_channels": "[8, 8]",
        "objective.body_blocks": "[1]",
        "objective.adapter": "none" if name != "photos-20" else tmp_path / "base",
        "objective.grid_steps": 1,
    }
    config = load_config(file, [f"{key}={value}" for key, value in values.items()])
    if name != "photos-20":
        config = dataclasses.replace(config, objective=config.objective | {"adapter": None})
    accelerator = make_accelerator(config)
    objective, rows, held_out = build_stage(config)
    before = {key: value.clone() for key, value in objective.adapter.state_dict().items()}
    exported = train(config, objective, rows, held_out, accelerator)
    assert exported is not None
    assert (exported / "adapter" / "config.json").is_file()
    assert any(not torch.equal(value, before[key]) for key, value in objective.adapter.state_dict().items())
    assert len(rows.fingerprint) >= 16


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return FrozenBase(dict(make_mini().components), "tiny")


class Counted(AvatarRows):
    """Avatars that count what is read, and fail at a row if asked to."""

    read_rows, fail_at = 0, 10**9

    def read(self, indices):
        if (indices >= self.fail_at).any():
            raise KeyboardInterrupt
        self.read_rows += len(indices)
        return super().read(indices)


def avatar_data(tmp_path: Path) -> DataConfig:
    return DataConfig(height=64, width=48, cache_dir=str(tmp_path), processes=1)


def test_stopped_features_go_on_with_the_first_missing_shard(tmp_path, base, monkeypatch):
    monkeypatch.setattr(feature_store, "SHARD", 4)
    monkeypatch.setattr(feature_store, "BATCH", 2)
    rows = Counted(avatar_data(tmp_path), "train", 10)
    rows.fail_at = 6
    with pytest.raises(KeyboardInterrupt):
        FeatureRows(rows, base, tmp_path, CPU, estimate=True)
    rows.fail_at, rows.read_rows = 10**9, 0
    held = FeatureRows(rows, base, tmp_path, CPU, estimate=True)
    assert rows.read_rows == 6  # the first four are there
    mapped = FeatureRows(rows, base, tmp_path, CPU, estimate=True, memory=0.0)
    assert rows.read_rows == 6
    chosen = np.array([9, 0, 5, 5])
    for name, value in held.batch(chosen).items():
        torch.testing.assert_close(mapped.batch(chosen)[name], value, rtol=0, atol=0)
    whole = FeatureRows(
        AvatarRows(avatar_data(tmp_path), "train", 10), base, tmp_path / "new", CPU, estimate=True
    )
    torch.testing.assert_close(
        whole.batch(chosen)["appearance"], held.batch(chosen)["appearance"], rtol=0, atol=0
    )
    fewer = Counted(avatar_data(tmp_path), "train", 8)
    FeatureRows(fewer, base, tmp_path, CPU, estimate=True)
    assert fewer.read_rows == 0  # full shards are shared by sets of other sizes


def test_of_two_runs_one_computes_the_features_and_the_other_waits(tmp_path, base, capsys):
    first, second = (Counted(avatar_data(tmp_path), "train", 10) for _ in range(2))
    inside, proceed = threading.Event(), threading.Event()

    class Slow(Counted):
        def read(self, indices):
            inside.set()
            assert proceed.wait(60)
            return first.read(indices)

    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(
            FeatureRows, Slow(avatar_data(tmp_path), "train", 10), base, tmp_path, CPU, estimate=True
        )
        assert inside.wait(60)
        other = pool.submit(FeatureRows, second, base, tmp_path, CPU, estimate=True)
        time.sleep(2)
        assert not other.done()
        proceed.set()
        chosen = np.arange(10)
        for name, value in slow.result(60).batch(chosen).items():
            torch.testing.assert_close(other.result(60).batch(chosen)[name], value, rtol=0, atol=0)
    assert (first.read_rows, second.read_rows) == (10, 0)
    assert "waiting for it" in capsys.readouterr().err


def test_a_changed_map_finds_no_old_features(tmp_path):
    for pattern in CODE:
        assert list(PACKAGE.glob(pattern)), pattern
    names = ("appearance.py", "appearance_body.py", "reference.py")
    for name in names:
        (tmp_path / name).write_bytes((PACKAGE / name).read_bytes())
    before = code_fingerprint(tmp_path)
    for name in names:
        changed = (tmp_path / name).read_text()
        (tmp_path / name).write_text(changed + "\n")
        assert code_fingerprint(tmp_path) != before
        (tmp_path / name).write_text(changed)
    assert code_fingerprint(tmp_path) == before
    assert code_fingerprint() != before


def test_features_in_the_step_are_those_on_disk_but_for_what_is_drawn(tmp_path, base, source):
    config = TrainConfig(data=small_data(tmp_path, source), max_train_steps=2, train_batch_size=2)
    kept, _ = person_rows(config, base)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, cache_features=False))
    fresh, _ = person_rows(config, base)
    assert isinstance(fresh, StepRows)
    chosen = np.array([0, 3])
    a, b = kept.batch(chosen), fresh.batch(chosen)
    assert a.keys() == b.keys()
    for name in ("latents", "patches", "prompt_patches", "keypoints", "caption_ids"):
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=2e-3, check_dtype=False)
    draws = step_draws(0, 1, 2)
    again = fresh.take(draws)
    torch.testing.assert_close(fresh.take(draws)["appearance"], again["appearance"], rtol=0, atol=0)
    assert not torch.equal(fresh.take(step_draws(0, 4, 2))["strengths"], again["strengths"])


def test_streaming_with_kept_features_is_refused(tmp_path, base, source):
    config = TrainConfig(data=small_data(tmp_path, source, streaming=True))
    with pytest.raises(ValueError, match=r"data\.cache_features=false"):
        person_rows(config, base)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, cache_features=False))
    rows, held = person_rows(config, base)
    assert isinstance(rows, StepRows)
    assert rows.take(step_draws(0, 0, 3))["latents"].shape == (3, 4, 8, 6)
    assert len(held) == 2


def test_a_base_without_vision_encoder_says_how_to_name_one(tmp_path, source):
    pipe = make_xl()
    pipe.register_modules(image_encoder=None)
    pipe.save_pretrained(tmp_path / "base")
    config = TrainConfig(data=small_data(tmp_path, source))
    with pytest.raises(ValueError, match=r"objective\.image_encoder"):
        person_rows(config, open_base(tmp_path / "base"))
