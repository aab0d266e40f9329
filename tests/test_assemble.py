"""A pipeline out of public parts: files in the official layouts, tiny bases."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from local_hub import local_hub
from official_files import VISION, checkpoint, nested, numbers, tiny_unet
from stock_pipelines import by_stock, draw, stock_picture
from tiny_pipelines import make_controlnet, make_reference, make_tokenizer
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from bolid import BoLIDPipeline, BoLIDXLPipeline, Identity
from bolid.__main__ import main
from bolid.assemble import assemble
from bolid.avatars.dataset import avatar_dataset
from bolid.baselines import Features
from bolid.encoder import Look
from bolid.export import export
from bolid.request import Asked, make_request
from bolid.training.bases import open_base
from bolid.training.config import load_config
from bolid.training.loop import train
from bolid.training.stages import build_stage

CONFIGS = Path(__file__).parents[1] / "train" / "configs"
EXACT = {"rtol": 0.0, "atol": 1e-4}
PERSON = make_reference("standing", 96, 64)


def text_config(width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=54, hidden_size=width, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, projection_dim=24, eos_token_id=53, bos_token_id=52, pad_token_id=53,
    )  # fmt: skip


def base(family: str, folder: Path) -> str:
    """A stock pipeline around the tiny UNet that the official files of these tests are for, saved."""
    torch.manual_seed(0)
    small: dict[str, Any] = {f"{side}_block_out_channels": (4,) * 4 for side in ("encoder", "decoder")}
    vae = AutoencoderTiny(**small, num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4)
    common: dict[str, Any] = {
        "vae": vae.eval(), "unet": tiny_unet(family), "tokenizer": make_tokenizer(),
        "scheduler": DDIMScheduler(steps_offset=1, clip_sample=False), "feature_extractor": None,
    }  # fmt: skip
    if family == "sd15":
        text: Any = CLIPTextModel(text_config(64))
        pipe: Any = StableDiffusionPipeline(
            **common, text_encoder=text, safety_checker=None, requires_safety_checker=False
        )
    else:
        common |= {"text_encoder": CLIPTextModel(text_config(32)), "tokenizer_2": make_tokenizer()}
        second = CLIPTextModelWithProjection(text_config(32))
        pipe = StableDiffusionXLPipeline(**common, text_encoder_2=second, add_watermarker=False)
    pipe.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bases, body files with their vision encoder beside them, ControlNets and face files."""
    root = tmp_path_factory.mktemp("parts")
    torch.manual_seed(1)
    vision = CLIPVisionConfig(
        hidden_size=VISION, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4, image_size=32,
        patch_size=8, projection_dim=8,
    )  # fmt: skip
    CLIPVisionModelWithProjection(vision).save_pretrained(root / "image_encoder")
    for family in ("sd15", "sdxl"):
        base(family, root / family)
        safetensors.torch.save_file(
            checkpoint(f"ip-adapter-plus_{family}"), root / f"plus_{family}.safetensors"
        )
        make_controlnet(tiny_unet(family)).save_pretrained(root / f"pose_{family}")
    torch.save(nested(checkpoint("instantid")), root / "instantid.bin")
    safetensors.torch.save_file(checkpoint("pulid_v1"), root / "pulid.safetensors")
    return root


def opened(folder: Path) -> Any:
    pipe = BoLIDPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_command_builds_a_pipeline_that_draws(
    family: str, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["assemble", "--base", parts / family, "--body", parts / f"plus_{family}.safetensors"]
    arguments += ["--pose", parts / f"pose_{family}", "--output", tmp_path / "made"]
    assert main([str(each) for each in arguments]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "made")
    needed = (
        "unet",
        "adapter",
        "image_encoder",
        "text_encoder",
        "vae",
        "scheduler",
        "controlnet",
        "estimator",
    )
    assert all(
        (tmp_path / "made" / name).is_dir() for name in needed
    )  # what training starts from, and the pose
    pipe = opened(tmp_path / "made")
    assert type(pipe) is (BoLIDPipeline if family == "sd15" else BoLIDXLPipeline)
    options: dict[str, Any] = {"guidance_scale": 3.0, "height": 96, "width": 64}
    seen = draw(pipe, reference=PERSON, pose="sitting", **options)
    assert torch.isfinite(seen).all()
    for other in ({"pose": "lying"}, {"pose": None}, {"id_strength": {"upper": 0.0}}, {"reference": None}):
        assert not torch.allclose(
            seen, draw(pipe, **({"reference": PERSON, "pose": "sitting"} | options | other))
        )
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    frozen = open_base(tmp_path / "made")  # training's own door
    assert frozen.unet is not None
    assert frozen.image_encoder.config.hidden_size == pipe.adapter.config.vision_dim


def test_the_command_takes_everything_from_the_hub(parts: Path, tmp_path: Path) -> None:
    """Ids as one writes them; the vision encoder and PuLID are found where their authors keep them."""
    hub, made = tmp_path / "hub", tmp_path / "made"
    shutil.copytree(parts / "sdxl", hub / "me" / "base")
    shutil.copytree(parts / "pose_sdxl", hub / "me" / "pose")
    shutil.copytree(parts / "image_encoder", hub / "h94" / "IP-Adapter" / "models" / "image_encoder")
    (hub / "h94" / "IP-Adapter" / "sdxl_models").mkdir()
    shutil.copy(parts / "plus_sdxl.safetensors", hub / "h94/IP-Adapter/sdxl_models/plus.safetensors")
    (hub / "guozinan" / "PuLID").mkdir(parents=True)
    safetensors.torch.save_file(checkpoint("pulid_v1.1"), hub / "guozinan/PuLID/pulid_v1.1.safetensors")
    command = ["-m", "bolid", "assemble", "--base", "me/base", "--pose", "me/pose", "--face", "pulid",
               "--body", "h94/IP-Adapter:sdxl_models/plus.safetensors", "--output"]  # fmt: skip
    with local_hub(hub) as (address, _):
        environment = os.environ | {
            "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
        }  # fmt: skip
        command = [sys.executable, *command, str(made)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    pipe = opened(made)
    assert (type(pipe), pipe.face.method.name) == (BoLIDXLPipeline, "pulid-v1.1")
    assert pipe.controlnet is not None
    body = str(parts / "plus_sdxl.safetensors")
    by_path = assemble(str(parts / "sdxl"), body, tmp_path / "local", pose=str(parts / "pose_sdxl"))
    options: dict[str, Any] = {"pose": "sitting", "height": 96, "width": 64}
    assert torch.equal(draw(pipe, **options), draw(opened(by_path), **options))


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_training_goes_on_from_it(family: str, parts: Path, tmp_path: Path) -> None:
    """The family's own config of `train/run.py`, on rows from a file: what starts from nothing moves."""
    body = str(parts / f"plus_{family}.safetensors")
    made = assemble(str(parts / family), body, tmp_path / "made", pose=str(parts / f"pose_{family}"))
    rows = avatar_dataset("train", 8, height=96, width=64, cache_dir=tmp_path / "drawn")
    (tmp_path / "rows").mkdir()
    rows.to_parquet(tmp_path / "rows" / "train-00000-of-00001.parquet")
    changed = {
        "output_dir": tmp_path / "run", "data.cache_dir": tmp_path / "cache",
        "data.source": tmp_path / "rows", "data.height": 96, "data.width": 64, "data.validation_size": 2,
        "data.workers": 1, "max_train_steps": 2, "train_batch_size": 2, "lr_warmup_steps": 0,
        "validation_steps": 0, "checkpointing_steps": 2, "mixed_precision": "no",
        "objective.base": made, "objective.adapter": made, "objective.image_encoder": "null",
    }  # fmt: skip
    config = load_config(CONFIGS / f"{family}.yaml", [f"{name}={value}" for name, value in changed.items()])
    exported = train(config, *build_stage(config))
    assert exported is not None
    pipe = opened(made)
    before = {name: weight.clone() for name, weight in pipe.adapter.state_dict().items()}
    options: dict[str, Any] = {"reference": PERSON, "pose": "sitting", "height": 96, "width": 64}
    first = draw(pipe, **options)
    pipe.load_bolid_adapter(exported)
    after = pipe.adapter.state_dict()
    assert before.keys() == after.keys()
    bodies = [name for name in after if name.endswith(".body.weight")]
    assert all(not before[name].any() for name in bodies)
    assert any(after[name].any() for name in bodies)
    assert pipe.adapter.config.class_token
    assert not torch.equal(draw(pipe, **options), first)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_seen_whole_it_is_ip_adapter_plus(family: str, parts: Path, tmp_path: Path) -> None:
    """The same picture as stock diffusers with the same file, and exported it is the file again."""
    body = parts / f"plus_{family}.safetensors"
    assemble(str(parts / family), str(body), tmp_path / "made", tokens="whole")
    pipe = opened(tmp_path / "made")
    ours = draw(pipe, reference=PERSON, id_strength=1.0, guidance_scale=1.0, height=64, width=64)
    export(pipe, tmp_path / "again.safetensors")
    before, after = (safetensors.torch.load_file(path) for path in (body, tmp_path / "again.safetensors"))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert torch.equal(weight, after[name]), name
    torch.testing.assert_close(stock_picture(pipe, PERSON, body, height=64, width=64), ours, **EXACT)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_its_image_prompt_is_ip_adapter_plus(family: str, parts: Path, tmp_path: Path) -> None:
    """In the pipeline and in training's features alike: the class token goes with the patches."""
    body = parts / f"plus_{family}.safetensors"
    assemble(str(parts / family), str(body), tmp_path / "made")
    pipe, scene = opened(tmp_path / "made"), np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    options: dict[str, Any] = {"height": 64, "width": 64}
    ours = draw(pipe, image_prompt=scene, image_prompt_strength=1.0, guidance_scale=1.0, **options)
    pixels = torch.from_numpy(scene).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        patches = pipe._states(Look(class_token=True), pixels)
        frozen = open_base(tmp_path / "made")
        frozen.look = pipe.adapter.look
        assert torch.equal(frozen.patches(pixels), patches)
    theirs = by_stock(pipe, body, ip_adapter_image_embeds=[patches[None]], **options)
    torch.testing.assert_close(theirs, ours, **EXACT)


def with_instantid(parts: Path, folder: Path) -> Any:
    """SDXL with a body from IP-Adapter Plus and a face from InstantID."""
    made = assemble(
        str(parts / "sdxl"), str(parts / "plus_sdxl.safetensors"), folder / "made",
        face="instantid", face_file=str(parts / "instantid.bin"),
    )  # fmt: skip
    return opened(made)


class TestFaces:
    def test_instantid(self, parts: Path, tmp_path: Path) -> None:
        pipe = with_instantid(parts, tmp_path)
        options: dict[str, Any] = {"pose": "standing", "height": 96, "width": 64, "guidance_scale": 3.0}
        people = [
            pipe.encode_identity(PERSON, face=Features(face=numbers(name, (1, 512), 2.0))) for name in "ab"
        ]
        first, second = (draw(pipe, reference=person, **options) for person in people)
        assert not torch.allclose(first, second)
        none = [draw(pipe, reference=person, id_strength={"head": 0.0}, **options) for person in people]
        assert torch.equal(*none)
        kept = Identity.load(people[0].save(tmp_path / "a.safetensors"))
        assert torch.equal(draw(pipe, reference=kept, **options), first)
        pipe.save_bolid_adapter(tmp_path / "adapter")  # the face adapter goes with it
        pipe.unload_bolid_adapter()
        pipe.load_bolid_adapter(tmp_path / "adapter")
        assert torch.equal(draw(pipe, reference=kept, **options), first)
        rows = draw(pipe, ["a beach"] * 2, people, **options)
        torch.testing.assert_close(rows[1:], second, **EXACT)

    def test_a_face_of_several_people_acts_on_its_own_head(self, parts: Path, tmp_path: Path) -> None:
        pipe = with_instantid(parts, tmp_path)
        people = [
            pipe.encode_identity(PERSON, face=Features(face=numbers(name, (1, 512), 2.0))) for name in "ab"
        ]
        asked = Asked("a", None, people, ["standing", "waving"], None, 0.5, 1.0, 1.0, None, 96, 128)
        plan = pipe.plan(make_request(asked, (96, 64), 8))
        with torch.no_grad():
            groups = pipe.conditions_for(plan, 1, False).groups
        bodies, faces = groups[::2], groups[1::2]  # of each person the body's tokens, then the face's
        assert len(groups) == 4
        for body, face in zip(bodies, faces, strict=True):
            inside, head = body.region[0, 0], face.region[0, 0]
            assert (head <= inside).all()
            assert 0 < head.sum() < 0.5 * inside.sum()
        assert not (faces[0].region * faces[1].region).any()

    def test_a_face_without_features_says_what_is_needed(self, parts: Path, tmp_path: Path) -> None:
        body = str(parts / "plus_sdxl.safetensors")
        made = assemble(
            str(parts / "sdxl"),
            body,
            tmp_path / "made",
            face="pulid",
            face_file=str(parts / "pulid.safetensors"),
        )
        with pytest.raises(ValueError, match=r"needs features of .*EVA02"):
            opened(made).encode_identity(PERSON)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"body": "instantid.bin"}, "is of instantid; give an IP-Adapter Plus"),
        ({"body": "plus_sdxl.safetensors"}, "cross-attentions, the UNet has|made for|needs"),
        ({"body": "nowhere.safetensors"}, "no file"),
        ({"pose": "pose_sdxl"}, "made for another base: its"),
        ({"face": "instantid", "face_file": "pulid.safetensors"}, "is of pulid-v1, not of instantid"),
        ({"face": "smile"}, "must be instantid, pulid or none"),
        ({"base": "image_encoder"}, "give the folder of a saved pipeline"),
    ],
)
def test_parts_that_do_not_fit(parts: Path, tmp_path: Path, options: dict[str, str], message: str) -> None:
    given: dict[str, Any] = {"base": "sd15", "body": "plus_sd15.safetensors", **options}
    given |= {name: str(parts / value) for name, value in given.items() if name != "face"}
    with pytest.raises(ValueError, match=message):
        assemble(output=tmp_path / "made", **given)
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_overwritten(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is there already; give a new folder"):
        assemble(str(parts / "sd15"), str(parts / "plus_sd15.safetensors"), tmp_path)
    assert np.array_equal([path.name for path in tmp_path.iterdir()], ["notes.txt"])
