"""`python train/run.py` as people call it: trains, stops on SIGTERM with a checkpoint, goes on, refuses in a
sentence."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bolid.autoencoder import AvatarAutoencoder
from bolid.training.checkpoint import list_checkpoints

ROOT = Path(__file__).parents[1]
CONFIG = str(ROOT / "train" / "configs" / "mini-autoencoder.yaml")
SMALL = (
    "data.validation_size=4",
    "data.height=64",
    "data.width=48",
    "objective.block_out_channels=[12, 12, 12, 16]",
    "objective.crop=32",
)


def command(tmp_path: Path, *arguments: str) -> list[str]:
    script = str(ROOT / "train" / "run.py")
    cache = f"data.cache_dir={tmp_path / 'cache'}"
    return [
        sys.executable,
        script,
        "--config",
        CONFIG,
        "--output_dir",
        str(tmp_path / "out"),
        *arguments,
        *SMALL,
        cache,
    ]


def test_terminated_run_saves_and_goes_on(tmp_path):
    running = subprocess.Popen(command(tmp_path, "--max_train_steps", "100000", "data.train_size=8"))
    log = tmp_path / "out" / "log.jsonl"
    limit = time.monotonic() + 120
    while not log.is_file() and time.monotonic() < limit:
        time.sleep(0.2)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=60) == 143
    (saved,) = list_checkpoints(tmp_path / "out")
    step = int(saved.name.split("-")[1])
    assert step >= 20
    more = command(
        tmp_path,
        "--max_train_steps",
        str(step + 2),
        "--resume_from_checkpoint",
        "latest",
        "data.train_size=8",
    )
    subprocess.run(more, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert list_checkpoints(tmp_path / "out")[-1].name == f"checkpoint-{step + 2}"
    AvatarAutoencoder.from_pretrained(tmp_path / "out" / "export" / "vae")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # an override between flags is one too
        (("learning_rte=1", "--seed", "0"), "Did you mean 'learning_rate'"),
        (("stage=autoencode",), "autoencoder"),
        (("--init_from", "nowhere", "--max_train_steps", "1"), "export folder"),
        (("--resume_from_checkpoint", "nowhere", "--max_train_steps", "1"), "checkpoint-N"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(tmp_path, arguments, message):
    done = subprocess.run(command(tmp_path, *arguments), capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


LAUNCHERS = {
    "torchrun": ("torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
    "accelerate": (
        "accelerate.commands.launch",
        *("--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers_start_two_processes_and_a_run_goes_on_with_one(tmp_path, launcher):
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    small = ("data.train_size=8", "train_batch_size=2", "validation_steps=0")
    _, *arguments = command(tmp_path, "--max_train_steps", "2", *small)
    launch = [sys.executable, "-m", *LAUNCHERS[launcher], *arguments]
    done = subprocess.run(launch, check=True, env=environment, capture_output=True, text=True)
    assert done.stdout.count("exported to") == 1
    facts = json.loads((tmp_path / "out" / "checkpoint-2" / "run.json").read_text())
    assert (facts["processes"], facts["global_batch"]) == (2, 4)
    small = ("data.train_size=8", "train_batch_size=4", "validation_steps=0")
    more = command(tmp_path, "--max_train_steps", "3", "--resume_from_checkpoint", "latest", *small)
    done = subprocess.run(more, check=True, env=environment, capture_output=True, text=True)
    assert "global_batch" not in done.stderr  # the same rows go on
    facts = json.loads((tmp_path / "out" / "checkpoint-3" / "run.json").read_text())
    assert (facts["processes"], facts["global_batch"]) == (1, 4)


@pytest.mark.slow
def test_two_processes_stop_together_on_sigterm(tmp_path):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    small = ("data.train_size=8", "train_batch_size=2", "logging_steps=1")
    _, *arguments = command(tmp_path, "--max_train_steps", "100000", *small)
    running = subprocess.Popen(
        [sys.executable, "-m", *LAUNCHERS["torchrun"], *arguments], env=environment, stderr=subprocess.PIPE
    )
    log = tmp_path / "out" / "log.jsonl"
    limit = time.monotonic() + 240
    while not log.is_file() and time.monotonic() < limit:
        time.sleep(0.2)
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=120)
    (saved,) = list_checkpoints(tmp_path / "out")
    assert json.loads((saved / "run.json").read_text())["processes"] == 2
