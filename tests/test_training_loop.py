"""The loop: resuming equals a straight run, checkpoints are whole or absent, the config refuses what it
can't use."""

import dataclasses
import importlib.util
import json
import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from bolid.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from bolid.training.config import TrainConfig, build, load_config
from bolid.training.data import Rows, batch_indices
from bolid.training.feed import Feed
from bolid.training.loop import make_accelerator, require_whole_weights, train
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


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_takes_the_learning_rate_of_its_config(tmp_path, optimizer):
    first = config(tmp_path, max_train_steps=3, optimizer=optimizer, lr_scheduler="constant")
    train(first, objective(), rows(), rows(4))
    lower = dataclasses.replace(
        first, learning_rate=1e-5, max_train_steps=4, logging_steps=1, resume_from_checkpoint="latest"
    )
    train(lower, objective(), rows(), rows(4))
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["lr"] for r in records if r["step"] == 4 and "lr" in r] == [1e-5]
    before, after = (load_checkpoint(tmp_path, str(tmp_path / f"checkpoint-{n}")) for n in (3, 4))
    assert before is not None
    assert after is not None
    moved = max(float((after["parameters"][n] - w).abs().max()) for n, w in before["parameters"].items())
    assert 0 < moved < 1e-4  # the first run's rate was 1e-3


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


def test_not_finite_loss_stops_keeps_the_checkpoints_and_goes_on_with_the_cure(tmp_path):
    train(config(tmp_path, max_train_steps=2, checkpointing_steps=1), objective(), rows(), rows(4))
    again = config(tmp_path, checkpointing_steps=1, resume_from_checkpoint="latest")
    wild = dataclasses.replace(again, learning_rate=1e30, max_grad_norm=1e30)
    with pytest.raises(ValueError, match="learning_rate") as told:
        train(wild, objective(), rows(), rows(4))
    kept = [str(path) for path in list_checkpoints(tmp_path)]
    assert len(kept) == 2
    assert kept[0] in str(told.value)  # the newest may have been written just before it showed
    train(dataclasses.replace(again, resume_from_checkpoint=kept[0]), objective(), rows(), rows(4))
    assert list_checkpoints(tmp_path)[-1].name == "checkpoint-6"


@contextmanager
def full_disk(limit_bytes: int) -> Iterator[None]:
    """Inside, no file can grow beyond the limit: what the kernel answers is an OSError, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_keeps_the_old_checkpoint_and_goes_on_until_the_last_chance(tmp_path, caplog):
    train(config(tmp_path, max_train_steps=2, checkpointing_steps=2), objective(), rows(), rows(4))
    again = config(tmp_path, checkpointing_steps=2, resume_from_checkpoint="latest")
    with full_disk(20_000), pytest.raises(OSError, match="Free some space"):
        train(again, objective(), rows(), rows(4))
    assert "Training goes on" in caplog.text
    assert "checkpoint-4" in caplog.text
    assert [p.name for p in list_checkpoints(tmp_path)] == ["checkpoint-2"]
    assert not list(tmp_path.glob(".partial*"))
    train(again, objective(), rows(), rows(4))
    assert list_checkpoints(tmp_path)[-1].name == "checkpoint-6"


def test_latest_passes_over_a_broken_checkpoint(tmp_path, caplog):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"step": step}, {}, limit=0)
    broken = tmp_path / "checkpoint-2" / "state.pt"
    broken.write_bytes(broken.read_bytes()[:100])
    assert load_checkpoint(tmp_path, "latest") == {"step": 1}
    assert "remove that folder" in caplog.text
    with pytest.raises(ValueError, match="resume from the one before"):
        load_checkpoint(tmp_path, str(tmp_path / "checkpoint-2"))


def test_unknown_checkpoint_names_those_that_are_there(tmp_path):
    save_checkpoint(tmp_path, 7, {"step": 7}, {}, limit=0)
    with pytest.raises(ValueError, match="checkpoint-7"):
        load_checkpoint(tmp_path, str(tmp_path / "checkpoint-8"))


class Terminated(AutoencoderObjective):
    """Gets a SIGTERM in the middle of its third step."""

    def forward(self, batch, _draws=None):
        assert _draws is not None
        if _draws.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(batch, _draws)


def test_sigterm_saves_first_and_exports_nothing(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    assert train(config(tmp_path), Terminated(OPTIONS), rows(), rows(4)) is None
    assert [p.name for p in list_checkpoints(tmp_path)] == ["checkpoint-3"]
    assert not (tmp_path / "export").exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_facts_lie_beside_every_checkpoint(tmp_path, caplog):
    train(config(tmp_path, gradient_accumulation_steps=2), objective(), rows(), rows(4))
    facts = json.loads((tmp_path / "checkpoint-3" / "run.json").read_text())
    assert facts["step"] == 3
    assert facts["global_batch"] == 8
    assert facts["git_revision"] is None or len(facts["git_revision"].removesuffix("+changes")) == 40
    assert load_config(tmp_path / "checkpoint-3" / "config.yaml").gradient_accumulation_steps == 2
    longer = config(tmp_path, max_train_steps=7, resume_from_checkpoint="latest")
    train(longer, objective(), rows(), rows(4))
    assert "global_batch is 4, it was 8" in caplog.text


def test_feed_gives_the_batches_of_a_plain_loop(tmp_path):
    given, made = rows(), config(tmp_path, gradient_accumulation_steps=3)
    accelerator = make_accelerator(made)
    with Feed(given, made, accelerator, 2, None) as feed:
        fed = [feed.next() for _ in range(12)]
        assert threading.active_count() > 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("feed")]
    for number, (batch, draws) in enumerate(fed):
        assert draws.step == 2 + number // 3
        expected = given.batch(batch_indices(draws.step, 12, len(given), 0)[draws.rows])
        assert all(torch.equal(batch[name], expected[name]) for name in expected)
    assert [draws.rows.tolist() for _, draws in fed[:3]] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


class Unreadable(Rows):
    def batch(self, indices, device="cpu"):
        if 5 in indices:
            raise ValueError("row 5 can't be read")
        return super().batch(indices, device)


def test_what_reading_a_row_raises_ends_the_run_with_its_sentence(tmp_path):
    bad = Unreadable(rows().columns)
    with pytest.raises(ValueError, match="row 5"):
        train(config(tmp_path), objective(), bad, rows(4))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("feed")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixed_precision": "fp16"}, "needs a GPU"),
        ({"report_to": "wandb"}, "pip install wandb"),
        ({"gradient_checkpointing": True}, "can recompute"),
        ({"shard_base": True}, "there is one"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_step(tmp_path, changes, message):
    if changes.get("mixed_precision") == "fp16" and torch.cuda.is_available():
        pytest.skip("fp16 works here")
    if "report_to" in changes and importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    with pytest.raises(ValueError, match=message):
        train(config(tmp_path, **changes), objective(), rows(), rows(4))
    assert not list_checkpoints(tmp_path)


def test_split_weights_are_refused():
    with pytest.raises(ValueError, match=r"FSDP.*shard_base=true"):
        require_whole_weights("FSDP")
    require_whole_weights("MULTI_CPU")


def test_tensorboard_gets_losses_speed_and_figures(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(config(tmp_path, report_to="tensorboard", logging_steps=2), objective(), rows(), rows(4))
    events = EventAccumulator(str(tmp_path / "bolid"))
    events.Reload()
    wanted = {"train/loss", "train/lr", "train/samples_per_s", "train/data_wait", "held_out/psnr"}
    assert wanted <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("train/loss")] == [2, 4, 6]


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
