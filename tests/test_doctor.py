"""`python -m bolid doctor`: it tells the truth, offline, and always ends well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_estimators import hide

from bolid import doctor
from bolid.__main__ import main
from bolid.estimators.catalogue import CATALOGUE

ROOT = Path(__file__).parents[1]


def lines() -> dict[str, doctor.Line]:
    return {line.name: line for _, found in doctor.sections() for line in found}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub and of insightface."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("cache")
def test_every_missing_model_has_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    for weights in CATALOGUE:
        assert weights.command in told
        assert weights.size in told
    found = lines()
    assert found["people, keypoints, parts"].state == "the mini estimator"
    assert found["bolid-mini"].state == "present"
    assert found["stabilityai/stable-diffusion-xl-base-1.0"].cure.startswith("hf download stabilityai/")


def test_what_is_in_the_cache_is_present_and_used(cache: Path) -> None:
    for weights in CATALOGUE:
        if weights.name in ("rtdetr", "vitpose", "segformer-clothes"):
            snapshot = cache / f"models--{weights.repo.replace('/', '--')}" / "snapshots" / "abc"
            snapshot.mkdir(parents=True)
            (snapshot.parents[1] / "refs").mkdir()
            (snapshot.parents[1] / "refs" / "main").write_text("abc")
            for file in ("config.json", "model.safetensors"):
                (snapshot / file).write_bytes(b"")
    found = lines()
    assert (found["vitpose"].state, found["vitpose"].cure) == ("present", "")
    assert found["openpose"].state == "missing"
    assert found["keypoints"].state == "vitpose"
    assert "people, keypoints, parts" not in found


@pytest.mark.usefixtures("cache")
def test_a_missing_package_has_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata as metadata

    version = metadata.version

    def without(name: str) -> str:
        if name == "controlnet_aux":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without)
    found = lines()
    assert found["controlnet_aux"].cure == "pip install controlnet_aux"
    assert found["scipy"].note.startswith("ViTPose key-points")
    hide("scipy", monkeypatch)
    assert lines()["vitpose"].cure.startswith("pip install scipy && hf download")
    assert found["torch"].state == version("torch")


def test_without_the_repository_it_still_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "mini_folder", lambda: None)
    monkeypatch.chdir(tmp_path)
    assert lines()["bolid-mini"].state == "missing"
    assert lines()["people, keypoints, parts"].state == "nothing"


@pytest.mark.slow
def test_the_command_opens_no_connection() -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise AssertionError('a connection was opened')\n"
        "socket.socket.connect = socket.create_connection = refuse\n"
        "from bolid.__main__ import main\n"
        "sys.exit(main(['doctor']))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
