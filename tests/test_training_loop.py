"""The loop: resuming equals a straight run, checkpoints are whole or absent, the config refuses what it
can't use."""

import dataclasses
import os

import numpy as np
import pytest
import torch

from bolid.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from bolid.training.config import TrainConfig, build, load_config
from bolid.training.data import Rows, batch_indices
from bolid.training.loop import train
from bolid.training.objectives.autoencoder import AutoencoderObjective, AutoencoderOptions

OPTIONS = AutoencoderOptions(4, (12, 12, 12, 12), (1, 1, 1), (1, 1, 1), crop=16)


def rows(count: int = 12) -> Rows:
    rng = np.random.default_rng(0)
    return Rows(
        {
            "image": np.kron(rng.integers(0, 256, (count, 3, 2, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8),
            "masks": rng.integers(0, 5, (count, 24, 16), dtype=np.uint8),
        }
    )


def config(output_dir: object, **changes: object) -> TrainConfig:
    base = TrainConfig(
        output_dir=str(output_dir),
        max_train_steps=6,
        train_batch_size=4,
        lr_warmup_steps=0,
        mixed_precision="no",
        checkpointing_steps=3,
        validation_steps=0,
    )
    return dataclasses.replace(base, **changes)  # pyright: ignore[reportArgumentType]


def objective() -> AutoencoderObjective:
    torch.manual_seed(1)
    return AutoencoderObjective(OPTIONS)


def test_resumed_run_equals_straight_run(tmp_path):
    straight = objective()
    train(config(tmp_path / "a"), straight, rows(), rows(4))
    train(config(tmp_path / "b", max_train_steps=6, checkpointing_steps=2), objective(), rows(), rows(4))
    for folder in ("checkpoint-4", "checkpoint-6"):  # as if the run had been killed after step 4
        target = tmp_path / "c" / folder
        if folder == "checkpoint-4":
            target.parent.mkdir()
            os.rename(tmp_path / "b" / folder, target)
    resumed = objective()
    train(config(tmp_path / "c", resume_from_checkpoint="latest"), resumed, rows(), rows(4))
    for name, value in straight.state_dict().items():
        if "quant_conv" not in name:  # set at export
            assert torch.equal(value, resumed.state_dict()[name]), name


def test_training_lowers_the_loss(tmp_path):
    model = objective()
    before = model.evaluate(rows().batch(np.arange(12)))["psnr"]
    train(config(tmp_path, max_train_steps=150, learning_rate=1e-2), model, rows(), rows(4))
    assert model.evaluate(rows().batch(np.arange(12)))["psnr"] > before + 1


def test_standardising_keeps_reconstructions_and_gives_unit_latents(tmp_path):
    model = objective()
    images = rows(64).batch(np.arange(64))["image"]
    train(config(tmp_path, max_train_steps=1, ema_decay=0.0), model, rows(64), rows(4))
    latents = model.vae.encode(images).latents.permute(1, 0, 2, 3).flatten(1)
    torch.testing.assert_close(latents.mean(1), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.std(), torch.tensor(1.0), atol=1e-3, rtol=0)
    plain = model.vae.decoder(model.vae.encoder(images))
    torch.testing.assert_close(model.vae(images), plain, atol=1e-4, rtol=1e-4)


def test_a_failed_save_leaves_the_earlier_checkpoint(tmp_path):
    save_checkpoint(tmp_path, 1, {"step": 1}, {}, limit=1)
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, 2, {"step": 2}, {"config.yaml": None}, limit=1)  # pyright: ignore[reportArgumentType]
    assert [p.name for p in list_checkpoints(tmp_path)] == ["checkpoint-1"]
    assert load_checkpoint(tmp_path, "latest") == {"step": 1}
    assert not list(tmp_path.glob(".partial*"))


def test_checkpoint_of_another_architecture_is_refused(tmp_path):
    train(config(tmp_path), objective(), rows(), rows(4))
    wider = AutoencoderObjective(dataclasses.replace(OPTIONS, block_out_channels=(12, 12, 12, 24)))
    with pytest.raises(ValueError, match="another architecture"):
        train(config(tmp_path, resume_from_checkpoint="latest"), wider, rows(), rows(4))


def test_not_finite_loss_stops_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="learning_rate"):
        train(
            config(tmp_path, learning_rate=1e30, max_grad_norm=1e30, checkpointing_steps=1),
            objective(),
            rows(),
            rows(4),
        )
    assert list_checkpoints(tmp_path)


def test_every_epoch_is_a_permutation():
    seen = np.concatenate([batch_indices(step, 4, 10, seed=3) for step in range(5)])
    assert sorted(seen[:10]) == list(range(10))
    assert sorted(seen[10:]) == list(range(10))
    assert list(seen[:10]) != list(seen[10:])


def test_unknown_key_names_the_known_ones(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("stage: autoencoder\nlearning_rte: 1e-4\n")
    with pytest.raises(ValueError, match="Did you mean 'learning_rate'"):
        load_config(file)


def test_overrides_are_typed(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("learning_rate: 1e-4\n")  # a string to PyYAML
    made = load_config(file, ["data.train_size=100", "max_train_steps=1e3", "objective.crop=64"])
    assert made.learning_rate == 1e-4
    assert made.data.train_size == 100
    assert made.max_train_steps == 1000
    assert build(AutoencoderOptions, made.objective).crop == 64
    with pytest.raises(ValueError, match="max_train_steps"):
        load_config(file, ["max_train_steps=many"])
