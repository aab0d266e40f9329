"""Two processes with half the batch each give the weights of one process, with L_id and drops on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from split_training import run
from tiny_objective import save_loss_networks
from torch import Tensor

ROOT = Path(__file__).parents[1]
ENV = os.environ | {
    "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
ROWS = 4  # of a step


def state(folder: Path) -> tuple[dict[str, Tensor], list[Tensor], dict]:
    """Weights, their averages, and run.json, of the run's end."""
    end = folder / "checkpoint-10"
    saved = torch.load(end / "state.pt", weights_only=True)
    return saved["parameters"], saved["ema"]["shadow_params"], json.loads((end / "run.json").read_text())


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_loss_networks(tmp_path_factory.mktemp("networks")))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, networks: str) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    run(networks, str(folder), ROWS, 1)
    return folder


def losses(folder: Path) -> dict[str, float]:
    """Of the last record, over the processes."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line][-1]


def assert_same(one: Path, other: Path) -> None:
    for a, b in zip(state(one)[:2], state(other)[:2], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def run_two(networks: str, folder: Path, *further: str) -> None:
    script = [str(ROOT / "tests" / "split_training.py"), networks, str(folder), str(ROWS), "1", *further]
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *script],
        env=ENV,
        check=True,
    )


def assert_two_moved_as_one(alone: Path, folder: Path) -> None:
    weights, _, facts = state(folder)
    assert facts["processes"] == 2
    assert facts["global_batch"] == ROWS
    begun = torch.load(alone / "begun.pt", weights_only=True)
    moved = [(weights[n] - begun[n]).abs().max() for n in begun]
    assert max(moved) >= 1e-2
    assert_same(alone, folder)


def test_two_processes_equal_one(alone, networks, tmp_path):
    folder = tmp_path / "run"
    run_two(networks, folder)
    assert_two_moved_as_one(alone, folder)
    for name in ("loss", "rec", "id"):  # what is logged is of the whole batch too
        assert losses(folder)[name] == pytest.approx(losses(alone)[name], rel=1e-4)
    assert losses(folder)["id"] > 0
    assert sum("held_out" in line for line in (folder / "log.jsonl").read_text().splitlines()) == 1


def test_a_frozen_base_split_over_two_processes_changes_nothing(networks, tmp_path):
    run(networks, str(tmp_path / "whole"), ROWS, 1, base="whole")
    run_two(networks, tmp_path / "split", "split")
    assert_two_moved_as_one(tmp_path / "whole", tmp_path / "split")
    held = [int((tmp_path / "split" / f"held-{rank}").read_text()) for rank in (0, 1)]
    whole = int((tmp_path / "whole" / "held-0").read_text())
    assert max(held) < 0.55 * whole
    assert sum(held) >= whole  # nothing is missing
    figures, other = (losses(tmp_path / name) for name in ("split", "whole"))
    for name in ("loss", "rec", "id", "semantic"):
        assert figures[name] == pytest.approx(other[name], rel=1e-4)


def test_gradient_checkpointing_changes_nothing(alone, networks, tmp_path):
    run(networks, str(tmp_path / "run"), ROWS, 1, gradient_checkpointing=True)
    assert_same(alone, tmp_path / "run")


def test_accumulated_micro_batches_equal_one_batch(alone, networks, tmp_path):
    run(networks, str(tmp_path / "run"), ROWS, 2)
    assert_same(alone, tmp_path / "run")
