"""train/leave_out.py: a pipeline without layers that do nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scripts import open_script
from tiny_objective import SMALL, make_base
from tiny_pipelines import make_mini, make_reference

from bolid.pipeline import BoLIDPipeline
from bolid.training.objectives.diffusion import open_adapter
from bolid.training.objectives.mini_unet import UNetOptions, mini_unet

main = open_script("train/leave_out").main
LAST = (  # the last layers of all that is to be left out
    "down_blocks.1.attentions.0.proj_out",
    "up_blocks.0.attentions.0.proj_out",
    "up_blocks.0.attentions.1.proj_out",
    "mid_block.attentions.0.proj_out",
    "mid_block.resnets.1.conv2",
)


@pytest.fixture
def idle(tmp_path: Path) -> Path:
    """A tiny pipeline whose coarse level's attention and middle block do nothing."""
    pipe: Any = make_mini()
    unet = pipe.unet
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if name.startswith(LAST):
                parameter.zero_()
    pipe.save_pretrained(tmp_path / "whole")
    return tmp_path / "whole"


def drawn(folder: Path) -> np.ndarray:
    pipe = BoLIDPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return np.asarray(pipe("a", make_reference(), "standing", generator=0, output_type="np").images)


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def test_what_does_nothing_is_left_out_and_pictures_stay(idle: Path, tmp_path: Path) -> None:
    output = tmp_path / "smaller"
    call = [str(idle), "--attention-of-level", "1", "--attention-of-middle", "--output", str(output)]
    assert main(call) == 0
    np.testing.assert_allclose(drawn(output), drawn(idle), atol=1e-5)
    for file in idle.rglob("*.safetensors"):
        mine, whole = load_file(output / file.relative_to(idle)), load_file(file)
        assert all(torch.equal(value, whole[name]) for name, value in mine.items())
    assert size(output / "unet") < 0.8 * size(idle / "unet")
    assert size(output / "adapter") < size(idle / "adapter")
    pipe: Any = BoLIDPipeline.from_pretrained(output)
    assert len(pipe.adapter.layer_names) == 3
    assert main(call) == 2  # the folder is there


def test_what_it_does_then_shows(idle: Path, tmp_path: Path) -> None:
    """Level 0 acts in the tiny pipeline: without its attention the picture is another."""
    assert main([str(idle), "--attention-of-level", "0", "--output", str(tmp_path / "other")]) == 0
    assert np.abs(drawn(tmp_path / "other") - drawn(idle)).max() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing is to be left out"),
        (["--attention-of-level", "2"], "levels 0 to 1"),
        (["--attention-of-level", "-1"], "levels 0 to 1"),
    ],
)
def test_mistakes_are_named(idle: Path, tmp_path: Path, capsys, arguments, words) -> None:
    assert main([str(idle), *arguments, "--output", str(tmp_path / "x")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    assert main([str(tmp_path), "--attention-of-middle", "--output", str(tmp_path / "x")]) == 2
    assert "holds no pipeline" in capsys.readouterr().err


def test_a_new_unet_has_the_shape_that_is_left() -> None:
    shape: dict[str, Any] = {"block_out_channels": (16, 32), "attention_head_counts": (2, 2)}
    made = mini_unet(UNetOptions(**shape, attention=(True, False), mid_attention=False), 4, 32)
    assert tuple(made.config.down_block_types) == ("CrossAttnDownBlock2D", "DownBlock2D")
    assert tuple(made.config.up_block_types) == ("UpBlock2D", "CrossAttnUpBlock2D")
    assert made.config.mid_block_type == "UNetMidBlock2D"
    for wrong in ((True, False, True), (False,)):
        with pytest.raises(ValueError, match=r"objective\.attention"):
            mini_unet(UNetOptions(**shape, attention=wrong), 4, 32)


def test_an_adapter_for_the_smaller_shape_has_the_layers_that_are_left() -> None:
    options = replace(SMALL, attention=(True, False), mid_attention=False)
    base = make_base()
    unet = mini_unet(options, 4, base.text_encoders[0].config.hidden_size)
    layers = open_adapter(options, unet, base).layer_names
    assert {name.rpartition(".attentions")[0] for name in layers} == {"down_blocks.0", "up_blocks.1"}
    assert len(layers) == 3
