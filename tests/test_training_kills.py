"""SIGKILL at any moment, then `--resume_from_checkpoint latest`: the same weights, bit for bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def same(a: object, b: object) -> bool:
    """Equal, bit for bit, through dictionaries and lists."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture(scope="module")
def killed_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("kills")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "killed_training.py"), str(folder)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return folder, [json.loads(line) for line in done.stdout.splitlines()]


def test_each_run_was_killed_and_one_of_them_inside_a_save(killed_runs):
    _, runs = killed_runs
    assert len(runs) == 5
    assert all(os.WTERMSIG(run["killed"]) == signal.SIGKILL for run in runs)
    in_save = next(run for run in runs if run["name"] == "inside-a-save")
    assert in_save["torn"] == 1
    assert in_save["left"] == ["checkpoint-2"]


def test_resumed_runs_end_with_the_state_of_a_straight_run(killed_runs):
    folder, runs = killed_runs
    straight = torch.load(folder / "straight" / "checkpoint-9" / "state.pt", weights_only=True)
    assert straight["step"] == 9
    assert "id" in json.loads((folder / "straight" / "log.jsonl").read_text().splitlines()[0])
    for run in runs:
        assert run["resumed"] == 0, run
        resumed = torch.load(folder / run["name"] / "checkpoint-9" / "state.pt", weights_only=True)
        assert same(straight, resumed), run
        assert not list((folder / run["name"]).glob(".partial-*"))


def test_comparison_notices_one_bit():
    one = {"a": [torch.ones(2)]}
    assert same(one, {"a": [torch.ones(2)]})
    assert not same(one, {"a": [torch.tensor([1.0, 1.0 + 2**-23])]})
