"""train/new_encoders.py: linear maps from new states to old ones, folded into what reads them."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
from scripts import open_script
from torch.testing import assert_close

from bolid import BoLIDPipeline

SCRIPT = open_script("train/new_encoders")
fold, main, patches, ridge, text_states = (
    getattr(SCRIPT, name) for name in ("fold", "main", "patches", "ridge", "text_states")
)
MODEL = Path(__file__).parents[1] / "models" / "bolid-mini"


def test_ridge_finds_a_linear_map() -> None:
    generator = torch.Generator().manual_seed(0)
    x, a = torch.randn(500, 6, generator=generator), torch.randn(4, 6, generator=generator)
    matrix, constant, left = ridge(x, x @ a.T + 3, constant=True)
    assert_close(matrix.float(), a, atol=1e-3, rtol=0)
    assert_close(constant.float(), torch.full((4,), 3.0), atol=1e-3, rtol=0)
    assert left < 1e-6
    matrix, constant, left = ridge(x, x @ a.T, constant=False)
    assert_close(matrix.float(), a, atol=1e-3, rtol=0)
    assert not constant.any()
    assert ridge(x, torch.randn(500, 4, generator=generator), constant=True)[2] > 0.9


@torch.no_grad()
def test_what_is_read_stays_when_the_encoders_are_turned() -> None:
    """Encoders whose last layers speak another basis: keys, values and resamplers read the same as before."""
    old = BoLIDPipeline.from_pretrained(MODEL, dtype=torch.float32)
    new = BoLIDPipeline.from_pretrained(MODEL, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    norm = new.text_encoder.final_layer_norm
    scale = 0.5 + torch.rand(norm.weight.shape, generator=generator)
    norm.weight.mul_(scale)
    norm.bias.mul_(scale)
    unfolded = copy.deepcopy(new.unet)
    left = fold(old, new, rows=20)
    assert left["text"] < 0.01
    assert left["patches"] < 0.01
    states = [text_states(each, ["a woman in a red dress on a beach"])[0] for each in (old, new)]
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    keys = [each.unet.get_submodule(name)(state) for each, state in zip((old, new), states, strict=True)]
    apart = (keys[0] - keys[1]).norm() / keys[0].norm()
    assert apart < 0.1
    assert (keys[0] - unfolded.get_submodule(name)(states[1])).norm() / keys[0].norm() > 2 * apart
    pictures = torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1
    read = [each.adapter.resampler.proj_in(patches(each, pictures)) for each in (old, new)]
    assert_close(read[0], read[1], atol=0.05, rtol=0.05)


def test_a_folder_without_a_clip_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--clip", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "export/text_encoder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_makes_a_model_that_opens(tmp_path: Path) -> None:
    (tmp_path / "clip" / "export").mkdir(parents=True)
    for name in ("text_encoder", "image_encoder"):
        shutil.copytree(MODEL / name, tmp_path / "clip" / "export" / name)
    shutil.copytree(MODEL / "tokenizer", tmp_path / "clip" / "tokenizer")
    assert main(["--clip", str(tmp_path / "clip"), "--output", str(tmp_path / "out"), "--rows", "20"]) == 0
    image = BoLIDPipeline.from_pretrained(tmp_path / "out")("in a park", pose="standing", generator=1).images[
        0
    ]
    assert image.size == (128, 192)
