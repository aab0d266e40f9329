"""train/lightning_cost.py: what the lightning branch costs, by gradient mode."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from scripts import open_script

from bolid.training.random_bases import adapter_shape, random_base

MODEL = Path(__file__).parents[1] / "models" / "bolid-mini"
CONFIGS = Path(__file__).parents[1] / "train" / "configs"


def told(text: str) -> dict[str, tuple[float, float]]:
    """(seconds, MiB) of each row."""
    rows = re.findall(r"^\| (.+) \| ([\d.]+) \| (-?\d+) \|$", text, flags=re.MULTILINE)
    return {name: (float(seconds), float(memory)) for name, seconds, memory in rows}


def test_every_mode_asked_for_has_its_cost(capsys: pytest.CaptureFixture[str]) -> None:
    main = open_script("train/lightning_cost").main
    given = [
        "--base",
        str(MODEL),
        "--rows",
        "1",
        "--steps",
        "3",
        "--repeats",
        "1",
        "--modes",
        "one_step",
        "full, checkpointing",
    ]
    assert main(given) == 0
    found = told(capsys.readouterr().out)
    assert list(found) == ["L_rec alone, 1 rows", "one_step", "full, checkpointing"]
    assert found["full, checkpointing"][0] > found["one_step"][0] > 0


def test_an_adapters_shape_is_its_configs() -> None:
    shape = adapter_shape(CONFIGS / "sdxl.yaml")
    assert shape["token_dim"] == 2048
    assert sum(shape["tokens_per_part"]) == 16
    assert "lightning" not in shape


@pytest.mark.slow  # a minute or two and 5 GB
def test_the_branch_runs_at_full_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert sum(w.numel() for w in random_base("sd15", 64).unet.parameters()) == 859_520_964  # SD 1.5's own
    main = open_script("train/lightning_cost").main
    assert (
        main(["--random", "sd15", "--size", "128", "--rows", "1", "--repeats", "1", "--modes", "one_step"])
        == 0
    )
    assert told(capsys.readouterr().out)["one_step"][1] > 100  # MiB
