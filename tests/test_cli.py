"""The command line: files, exit codes and sentences, on a tiny model in a folder."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pipelines import HEIGHT, WIDTH, make_mini, make_reference

from bolid.__main__ import find_model, main, output_names

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bolid-mini whose estimator always sees a person (it is untrained)."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    pipe = make_mini()
    torch.nn.init.constant_(pipe.estimator.person.bias, 50.0)
    torch.nn.init.constant_(pipe.estimator.joints.bias, 5.0)
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a reference picture."""
    Image.fromarray(make_reference(height=192, width=128).image).save(tmp_path / "person.png")
    return tmp_path


def command(model: Path, files: Path, *extra: str, output: str = "out.png") -> list[str]:
    base = ["generate", "--reference", str(files / "person.png"), "--prompt", "standing on a beach"]
    return [*base, "--model", str(model), "--output", str(files / output), "--device", "cpu", *extra]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_the_same_seed_gives_the_same_file(
    model: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for output in ("a.png", "b.png"):
        assert main(command(model, files, "--seed", "7", "--pose", "lying", output=output)) == 0
    assert (files / "a.png").read_bytes() == (files / "b.png").read_bytes()
    assert "a.png  (seed 7)" in capsys.readouterr().out
    with Image.open(files / "a.png") as image:
        assert image.size == (WIDTH, HEIGHT)
        settings = json.loads(image.info["bolid"])
    assert settings["seed"] == 7
    assert settings["pose"] == "lying"
    assert str(files) not in json.dumps(
        settings
    )  # a picture that is passed on tells nothing of its maker's disk


def test_a_random_seed_is_told(model: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(model, files)) == 0
    seed = capsys.readouterr().out.split("seed ")[1].split(")")[0]
    assert main(command(model, files, "--seed", seed, output="again.png")) == 0
    assert np.array_equal(pixels(files / "out.png"), pixels(files / "again.png"))


def test_every_option_at_once(model: Path, files: Path) -> None:
    extra = (
        "--pose", str(files / "person.png"), "--image-prompt", str(files / "person.png"), "--steps", "3",
        "--image-prompt-strength", "0.3", "--id-strength", "head=1,upper=0", "--pose-strength", "0.9",
        "--no-retarget", "--negative-prompt", "rain", "--guidance", "1.5", "--height", "64", "--width", "64",
        "--images", "2", "--seed", "3",
    )  # fmt: skip
    assert main(command(model, files, *extra, output="o.jpg")) == 0
    assert sorted(path.name for path in files.iterdir()) == ["o-2.jpg", "o.jpg", "person.png"]
    assert pixels(files / "o-2.jpg").shape == (64, 64, 3)


def test_picture_j_of_many_is_picture_one_of_seed_plus_j(model: Path, files: Path) -> None:
    assert main(command(model, files, "--images", "2", "--seed", "4", output="a.png")) == 0
    assert main(command(model, files, "--seed", "5", output="b.png")) == 0
    assert np.array_equal(pixels(files / "a-2.png"), pixels(files / "b.png"))


def test_pose_writes_a_skeleton_map_that_generate_reads(model: Path, files: Path) -> None:
    assert (
        main(["pose", str(files / "person.png"), "--output", str(files / "s.png"), "--model", str(model)])
        == 0
    )
    assert pixels(files / "s.png").shape == (192, 128, 3)
    assert main(command(model, files, "--pose", str(files / "s.png"))) == 0


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--reference", "missing.png"), "reference 'missing.png' does not exist; give"),
        (("--reference", str(ROOT / "pyproject.toml")), "not a picture"),
        (("--pose", "siting"), "Did you mean 'sitting'"),
        (("--pose", "nowhere/pose.png"), "pose picture 'nowhere/pose.png' does not exist"),
        (("--id-strength", "-1"), "id_strength is -1; it must be 0 or more"),
        (("--id-strength", "hat=1"), "the parts are head, upper, lower, feet"),
        (("--pose-strength", "-1"), "pose_strength is -1"),
        (("--height", "100"), "height is 100; it must be a positive multiple of 8"),
        (("--steps", "0"), "num_inference_steps is 0"),
        (("--images", "0"), "--images is 0"),
        (("--seed", "-1"), "--seed is -1"),
        (("--model", "no/such/model"), "the model folder 'no/such/model' does not exist"),
        (("--model", "models/none"), "the model folder 'models/none' does not exist"),
        (("--model", str(ROOT)), "holds no model_index.json"),
        (("--device", "toaster"), "--device 'toaster' cannot be used"),
        (("--image-prompt", "missing.png"), "image prompt 'missing.png' does not exist"),
    ],
)
def test_mistakes_end_in_one_line_and_exit_code_2(
    model: Path, files: Path, capsys: pytest.CaptureFixture[str], extra: tuple[str, ...], message: str
) -> None:
    assert main(command(model, files, *extra)) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert len(told.strip().splitlines()) == 1
    assert [path.name for path in files.iterdir()] == ["person.png"]


@pytest.mark.parametrize("output", ["out.xyz", "none/out.png", "person"])
def test_an_unwritable_output_is_told_before_the_work(
    files: Path, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    start = time.monotonic()
    assert main(command(Path("unused"), files, output=output)) == 2
    assert time.monotonic() - start < 2
    assert capsys.readouterr().err.startswith("bolid: output")


@pytest.mark.parametrize("arguments", [[], ["paint"], ["generate"], ["generate", "--id-strength", "strong"]])
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_photograph_is_named(model: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((800, 1200)).save(files / "person.png")
    assert main(command(model, files)) == 2
    assert "looks like a photograph, and this small model draws avatars only" in capsys.readouterr().err


def test_default_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "bolid-mini").mkdir(parents=True)
    (tmp_path / "models" / "bolid-mini" / "model_index.json").write_text("{}")
    assert find_model(None) == str(tmp_path / "models" / "bolid-mini")
    assert find_model("someone/bolid") == "someone/bolid"


def test_output_names(tmp_path: Path) -> None:
    names = [path.name for path in output_names(str(tmp_path / "out.png"), 3)]
    assert names == ["out.png", "out-2.png", "out-3.png"]


def test_help_is_quick_and_the_module_runs() -> None:
    start = time.monotonic()
    told = subprocess.run(
        [sys.executable, "-m", "bolid", "generate", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--reference" in told.stdout
    assert time.monotonic() - start < 5  # no torch, no diffusers; 0.2 s on an idle machine
