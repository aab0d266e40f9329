"""train/average.py: one pipeline from several trainings' weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from scripts import open_script
from tiny_pipelines import make_mini
from torch import Tensor

main = open_script("train/average").main
UNET = "unet/diffusion_pytorch_model.safetensors"


def changed(folder: Path, name: str, change: Callable[[Tensor], Tensor]) -> None:
    weights = load_file(folder / name)
    save_file({key: change(value) for key, value in weights.items()}, folder / name)


@pytest.fixture
def trainings(tmp_path: Path) -> list[Path]:
    """A tiny pipeline three times; the weights of the second and the third UNet are moved apart."""
    folders = [tmp_path / name for name in "abc"]
    make_mini().save_pretrained(folders[0])
    for folder, step in zip(folders[1:], (0.3, -0.6), strict=True):
        shutil.copytree(folders[0], folder)
        changed(folder, UNET, lambda value, step=step: value + step)
    return folders


def test_the_mean_opens_as_a_pipeline_and_lies_between(trainings: list[Path], tmp_path: Path) -> None:
    assert main([*map(str, trainings), "--output", str(tmp_path / "mean")]) == 0
    first = load_file(trainings[0] / UNET)
    opened = type(make_mini()).from_pretrained(tmp_path / "mean")
    for name, value in opened.unet.state_dict().items():
        torch.testing.assert_close(value, first[name] - 0.1)
    for name, value in load_file(tmp_path / "mean" / UNET).items():
        assert value.dtype == first[name].dtype
    for file in trainings[0].rglob("*.safetensors"):
        name = file.relative_to(trainings[0])
        if name != Path(UNET):
            ours, theirs = load_file(tmp_path / "mean" / name), load_file(file)
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_weights_say_how_much_each_counts(trainings: list[Path], tmp_path: Path) -> None:
    weights = ["--weights", "6", "3", "1"]
    assert main([*map(str, trainings), *weights, "--output", str(tmp_path / "mean")]) == 0
    first = load_file(trainings[0] / UNET)
    for name, value in load_file(tmp_path / "mean" / UNET).items():
        torch.testing.assert_close(value, first[name] + 0.3 * 0.3 - 0.1 * 0.6)


def test_what_has_no_mean_is_refused_and_leaves_nothing(
    trainings: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*folders: Path) -> str:
        before = sorted(tmp_path.iterdir())
        assert main([*map(str, folders), "--output", str(tmp_path / "mean")]) == 2
        assert sorted(tmp_path.iterdir()) == before
        return capsys.readouterr().err

    a, b, c = trainings
    assert "nothing to average" in refused(a)
    assert "holds no pipeline" in refused(a, tmp_path)
    for weights in ("1", "1 0", "1 nan"):
        call = [str(a), str(b), "--output", str(tmp_path / "mean"), "--weights", *weights.split()]
        assert main(call) == 2
        assert "above 0 for each" in capsys.readouterr().err
    assert main([str(a), str(b), "--output", str(c)]) == 2
    assert "exists" in capsys.readouterr().err
    encoder = next((b / "text_encoder").glob("*.safetensors")).relative_to(b)
    changed(b, str(encoder), lambda value: value + 1)
    assert "other encoders" in refused(a, b)
    changed(c, UNET, lambda value: value[:1] if value.ndim else value)
    assert "another architecture" in refused(a, c)
    (c / UNET).unlink()
    assert "has no unet" in refused(a, c)
