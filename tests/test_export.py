"""Tokens for stock tools: `python -m bolid export`, and what stock diffusers draws with its file."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import UNet2DConditionModel
from official_files import tables
from stock_pipelines import draw, stock_picture
from tiny_pipelines import MAKERS, make_mini, make_reference, make_sd15, own_components
from tiny_unets import COMMON, FAMILIES

from bolid import Identity
from bolid.__main__ import main
from bolid.adapter import BoLIDAdapter
from bolid.baselines.export import export_ip_adapter_plus
from bolid.export import comfyui_reads, export, export_encoder
from bolid.training.config import build, load_config
from bolid.training.objectives.diffusion import AdapterOptions, DiffusionOptions

ROOT = Path(__file__).parents[1]
EXACT = {"rtol": 0.0, "atol": 1e-4}
PERSON = make_reference("standing", 96, 64)
SIZES = ("image_proj.latents", "image_proj.layers.0.0.to_q.weight", "ip_adapter.1.to_k_ip.weight")


@pytest.mark.parametrize("narrow", [1, 2], ids=["tokens as wide as text", "half as wide"])
@pytest.mark.parametrize("family", list(MAKERS))
def test_a_stock_pipeline_draws_what_we_draw(family: str, narrow: int, tmp_path: Path) -> None:
    """An adapter that knows four parts, written as whole-person tokens; bolid-mini's are narrower than
    its text.
    """
    pipe = MAKERS[family]()
    pipe.register_modules(**own_components(pipe.unet, pipe.unet.config.cross_attention_dim // narrow))
    pipe._listen()
    person = pipe.encode_identity(PERSON, whole=True)
    ours = draw(pipe, reference=person, id_strength=1.0, guidance_scale=1.0)
    by_parts = draw(pipe, reference=PERSON, id_strength=1.0, guidance_scale=1.0)
    assert not torch.allclose(ours, by_parts, atol=1e-3)  # it is another reading of the same weights
    file = export(pipe, tmp_path / "tokens.safetensors")
    export_encoder(pipe, tmp_path / "image_encoder")  # its pictures were in [-1, 1], stock ones are not
    torch.testing.assert_close(stock_picture(pipe, PERSON, file), ours, **EXACT)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_sd15().save_pretrained(tmp_path / "model")
    command = ["export", str(tmp_path / "model"), "--format", "ip-adapter-plus", "--output"]
    assert main([*command, str(tmp_path / "person.safetensors")]) == 0
    encoder = ["--image-encoder", str(tmp_path / "encoder")]
    assert main([*command, str(tmp_path / "scene.safetensors"), "--group", "image", *encoder]) == 0
    assert (tmp_path / "encoder" / "model.safetensors").is_file()
    assert main([*command, str(tmp_path / "scene.safetensors"), *encoder]) == 2
    keys = safetensors.torch.load_file(tmp_path / "person.safetensors").keys()
    assert {
        "image_proj.latents",
        "ip_adapter.1.to_k_ip.weight",
    } <= keys  # stock tools tell the kind by these
    assert "ComfyUI's nodes read 16 tokens of one size only" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "person.bin")]) == 2
    assert main([*command, str(tmp_path / "nowhere" / "person.safetensors")]) == 2
    assert "must end in .safetensors" in capsys.readouterr().err
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_what_comfyuis_nodes_can_hold(tmp_path: Path) -> None:
    """The official sizes, and no others."""
    for family in ("sd15", "sdxl"):
        shapes = tables("real")[f"ip-adapter-plus_{family}"]
        kept = {name: torch.zeros(shape) for name, shape in shapes.items() if name in SIZES}
        safetensors.torch.save_file(kept, tmp_path / "right.safetensors")
        assert comfyui_reads(tmp_path / "right.safetensors")
        kept["image_proj.latents"] = torch.zeros(1, 28, kept["image_proj.latents"].shape[-1])
        safetensors.torch.save_file(kept, tmp_path / "wrong.safetensors")
        assert not comfyui_reads(tmp_path / "wrong.safetensors")


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_what_the_configs_train_is_read_by_comfyuis_nodes(name: str, tmp_path: Path) -> None:
    config = load_config(ROOT / "train" / "configs" / f"{name}.yaml")
    options = build(DiffusionOptions, config.objective, "objective")
    sizes = COMMON | FAMILIES["sd15"] | {"cross_attention_dim": options.token_dim}
    unet = UNet2DConditionModel(in_channels=4, out_channels=4, **sizes)
    shape = {
        each.name: getattr(options, each.name) for each in fields(AdapterOptions) if each.name != "method"
    }
    adapter = BoLIDAdapter.for_unet(unet, vision_dim=1280, **(shape | {"body_channels": (8, 8)}))
    export_ip_adapter_plus(adapter, tmp_path / "person.safetensors", "identity", options.token_dim)
    assert comfyui_reads(tmp_path / "person.safetensors")


def test_whole_persons_keep_the_rules_of_strength(tmp_path: Path) -> None:
    pipe = make_mini()
    person = pipe.encode_identity(PERSON, whole=True)
    weak = draw(pipe, reference=person, id_strength=0.5)
    assert torch.equal(weak, draw(pipe, reference=person, id_strength={"head": 0.5, "upper": 1.0}))
    assert torch.equal(draw(pipe, reference=person, id_strength={"feet": 0.0}), draw(pipe))
    assert torch.equal(draw(pipe, reference=Identity.load(person.save(tmp_path / "p.safetensors")),
                            id_strength=0.5), weak)  # fmt: skip
    with pytest.raises(ValueError, match="seen part by part and people seen whole"):
        draw(pipe, ["a", "b"], [person, pipe.encode_identity(PERSON)])
