"""`eval/full_size.py`: what BoLID costs on the public bases at their full size."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FREE = 1.0  # % of a step's operations: pose and appearance are computed once a call


def told(tmp_path: Path, *arguments: str) -> tuple[dict[str, float], str]:
    """Share of a step's operations by row, and the whole text."""
    output = tmp_path / "cost.md"
    script = str(ROOT / "eval" / "full_size.py")
    command = [sys.executable, script, "--output", str(output), *arguments]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    text = output.read_text()
    rows = re.findall(r"^\| ([^|]+) \|[^|]+\|[^|]+\| ([\d.]+) % \|$", text, flags=re.MULTILINE)
    return {name: float(share) for name, share in rows}, text


@pytest.mark.slow
@pytest.mark.parametrize("base", ["sd15", "sdxl"])
def test_a_step_costs_what_the_base_costs(base: str, tmp_path: Path) -> None:
    """Counted without memory; a ControlNet beside it is what pose costs otherwise."""
    shares, text = told(tmp_path, "--base", base, "--count-only")
    assert 0 < shares["more with BoLID, each step"] < FREE
    assert shares["BoLID, once a call"] < 5
    assert shares["more with a ControlNet, each step"] > 30
    assert {"sd15": "| 860 M |", "sdxl": "| 2567 M |"}[base] in text  # the public bases' own sizes


@pytest.mark.slow  # minutes and 3 GB: run with -m slow
def test_the_full_size_runs_here(tmp_path: Path) -> None:
    """Random weights, bfloat16. The script itself checks that an attached adapter changes no bit."""
    _, text = told(tmp_path, "--base", "sd15", "--size", "256", "--times", "1")
    peak = re.search(r"largest memory of the process \| ([\d.]+) GiB", text)
    assert peak is not None
    assert float(peak[1]) < 4
