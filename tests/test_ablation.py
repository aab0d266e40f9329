"""The ablation: its statistics, the networks it refuses, and the command at tiny size."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scripts import open_script
from tiny_objective import save_loss_networks
from tiny_pipelines import HEIGHT, WIDTH, make_mini

from bolid.avatars.identity import ATTRIBUTES
from bolid.evaluation.ablation import FIGURES, markdown, over_seeds, summarise_runs
from bolid.evaluators import AppearanceEvaluator, PoseEvaluator
from bolid.metrics import keypoint_error
from bolid.training.objectives.loss_networks import refuse_shared


def test_intervals_over_seeds_are_students() -> None:
    found = over_seeds([1.0, 2.0, 3.0])
    assert found["mean"] == 2
    assert found["high"] == pytest.approx(2 + 4.303 / math.sqrt(3), abs=1e-3)
    assert math.isnan(over_seeds([1.0])["low"])


def test_differences_are_paired_by_seed_and_by_pair() -> None:
    rng = np.random.default_rng(0)
    base = [{name: rng.random(40) + seed for _, name, _ in FIGURES} for seed in range(3)]
    better = [{name: values + 0.1 for name, values in run.items()} for run in base]
    summary = summarise_runs({"before": base[:1], "rec": base, "rec + id": better}, "rec")
    assert set(summary["differences"]) == {"rec + id"}
    found = summary["differences"]["rec + id"]["pck"]
    assert found["over_seeds"]["low"] == pytest.approx(0.1)  # seeds differ by whole units, the pairs do not
    assert found["over_pairs"]["low"] == pytest.approx(0.1)
    settings = {"pairs": 40, "draw_steps": 4, "guidance": 1.0, "base": "a", "evaluators": "b", "clip": "c"}
    text = markdown(summary, "python x", settings)
    assert text.count("| rec + id |") == 2
    assert "+0.1000 [0.1000, 0.1000]" in text


def test_keypoint_error_is_in_shares_of_the_box() -> None:
    target = np.zeros((1, 18, 3))
    target[0, :2] = ((0.2, 0.2, 1), (0.5, 0.6, 1))  # a box of 30 x 40 pixels: diagonal 50
    moved = target.copy()
    moved[0, 1, 0] += 0.1
    moved[0, 5] = (0.9, 0.9, 1)  # the target does not show it
    assert keypoint_error(moved, target, (100, 100))[0] == pytest.approx(0.5 * 10 / 50)
    assert np.isnan(keypoint_error(moved, np.zeros((1, 18, 3)), (100, 100))[0])


def test_a_loss_network_of_the_pipeline_or_the_evaluation_is_refused(tmp_path: Path) -> None:
    networks = save_loss_networks(tmp_path / "losses")
    pipe = make_mini(seed=3)
    pipe.estimator.save_pretrained(tmp_path / "pipeline" / "estimator")
    none = tmp_path / "none"
    refuse_shared(networks, none, tmp_path / "pipeline", none)
    with pytest.raises(ValueError, match="text_image: a loss network must be another one"):
        refuse_shared(networks, none, tmp_path / "pipeline", networks)
    shutil.copytree(networks / "attributes", tmp_path / "measuring" / "attributes")
    with pytest.raises(ValueError, match="attributes: a loss network must be another one"):
        refuse_shared(networks, tmp_path / "measuring", tmp_path / "pipeline", none)
    shutil.rmtree(networks / "pose")
    pipe.estimator.half().save_pretrained(networks / "pose")
    with pytest.raises(ValueError, match=r"estimator: a loss network must be another one.*--seed 1"):
        refuse_shared(networks, none, tmp_path / "pipeline", none)


def save_evaluators(folder: Path) -> None:
    torch.manual_seed(9)
    PoseEvaluator(
        height=HEIGHT, width=WIDTH, stem_channels=8, channels=8, context_channels=8
    ).save_pretrained(folder / "pose")
    AppearanceEvaluator(
        attributes=tuple(ATTRIBUTES),
        values=tuple(len(values) for values in ATTRIBUTES.values()),
        height=HEIGHT,
        width=WIDTH,
        head_crop=16,
        channels=(8, 8, 8),
        point_channels=4,
        hidden=16,
        embedding=8,
    ).save_pretrained(folder / "appearance")


@pytest.mark.slow
def test_the_command_trains_measures_and_does_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_mini().save_pretrained(tmp_path / "base")
    save_loss_networks(tmp_path / "losses")
    save_evaluators(tmp_path / "evaluators")
    small = ("data.train_size=4", "data.validation_size=2", f"data.height={HEIGHT}", f"data.width={WIDTH}",
             "train_batch_size=2", f"data.cache_dir={tmp_path / 'cache'}", "mixed_precision=no",
             "data.processes=1", "objective.lightning.rows=2")  # fmt: skip
    folders = {name: str(tmp_path / name) for name in ("base", "evaluators", "output")}
    flags = [text for name, folder in folders.items() for text in (f"--{name}", folder)]
    flags += ["--clip", str(save_loss_networks(tmp_path / "clip", seed=6))]
    arguments = [*flags, "--loss_networks", str(tmp_path / "losses"), "--steps", "1", "--pairs", "16",
                 "--draw_steps", "1", "--variants", "rec,rec+id+clip",
                 "--seeds", "0,1"]  # fmt: skip
    script = open_script("train/ablation")
    assert script.main([*arguments, *small]) == 0
    results = json.loads((tmp_path / "output" / "results.json").read_text())
    assert set(results["variants"]) == {"before", "rec", "rec+id+clip"}
    assert len(results["variants"]["rec"]["pck"]["seeds"]) == 2
    assert -1 <= results["variants"]["rec"]["clip_score_mini"]["mean"] <= 1
    kept = tmp_path / "output" / "rec" / "seed-0" / "figures.npz"
    when = kept.stat().st_mtime_ns
    shutil.rmtree(tmp_path / "output" / "rec" / "seed-0" / "export")
    assert script.main([*arguments, *small]) == 0
    assert kept.stat().st_mtime_ns == when
    assert not (tmp_path / "output" / "rec" / "seed-0" / "export").exists()
    assert script.main([*arguments, "--guidance", "2", *small]) == 2
    assert "other settings" in capsys.readouterr().err
