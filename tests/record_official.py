"""Records `tests/fixtures/official_*` by running the original projects' own code on numbers made by name.

    python tests/record_official.py --ip-adapter DIR --instantid DIR --pulid DIR            # compares
    python tests/record_official.py --ip-adapter DIR --instantid DIR --pulid DIR --write    # records anew

The three folders are clones beside this project (github.com/tencent-ailab/IP-Adapter at 62e4af9,
github.com/InstantID/InstantID at 2145b67, github.com/ToTheBeginning/PuLID at 1aa2fc7); none of their code is
in this repository. They also need einops. What runs is theirs from end to end: their projectors, their
attention processors in a UNet of diffusers, their loading by position, InstantID's whole pipeline with its
IdentityNet. Of ours there are only the numbers (`official_files`) and layers made smaller than theirs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.models.controlnets import multicontrolnet
from official_files import (
    FIXTURES,
    LAYOUTS,
    TOKEN_DIM,
    checkpoint,
    control_picture,
    face_points,
    identity_net,
    instantid_call,
    nested,
    numbers,
    real_features,
    real_unet,
    run_unet,
    tables,
    tiny_features,
    tiny_unet,
    zero_pixels,
)
from PIL import Image
from torch import Tensor, nn

from bolid.baselines.checkpoint import PREFIXES

SAME = 1e-5  # between two recordings: another machine sums in another order
SCALE = 0.7


@contextmanager
def importing(folder: Path) -> Iterator[None]:
    """Modules of a clone, forgotten afterwards: two of the projects have a package of the same name."""
    sys.path.insert(0, str(folder))
    before = set(sys.modules)
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if name.split(".")[0] in ("ip_adapter", "pulid"):
                del sys.modules[name]


def resized(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """The module with these weights, its linear layers and norms made to their shapes; its code as it is."""
    for name, layer in list(module.named_modules()):
        weight = state.get(f"{name}.weight")
        if (
            not isinstance(layer, nn.Linear | nn.LayerNorm)
            or weight is None
            or weight.shape == layer.weight.shape
        ):
            continue
        if isinstance(layer, nn.Linear):
            other: nn.Module = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None)
        else:
            other = nn.LayerNorm(weight.shape[0])
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, other)
    module.load_state_dict(state, strict=True)
    return module.eval()


def projector(layout: str, size: str, modules: SimpleNamespace) -> nn.Module:
    """The original projector of a layout at its tiny or real size, without weights."""
    method, family = LAYOUTS[layout]
    dim = TOKEN_DIM if size == "tiny" else {"sd15": 768, "sdxl": 2048}[family]
    table = tables(size)[layout]
    if method == "ip-adapter":
        width = table["image_proj.proj.weight"][1]
        return modules.ip.ImageProjModel(dim, width, table["image_proj.proj.weight"][0] // dim)
    if method == "ip-adapter-full":
        return modules.ip.MLPProjModel(dim, table["image_proj.proj.0.weight"][1])
    if method == "ip-adapter-faceid":
        return modules.faceid.MLPProjModel(dim, table["image_proj.proj.0.weight"][1], 4)
    if method.startswith("ip-adapter-faceid-plus"):
        vision = table["image_proj.perceiver_resampler.proj_in.weight"][1]
        return modules.faceid.ProjPlusModel(dim, table["image_proj.proj.0.weight"][1], vision, 4)
    if method == "pulid-v1":
        return modules.pulid.IDEncoder(table["id_adapter.body.0.weight"][1], dim, 5)
    if method == "pulid-v1.1":
        _, queries, width = table["id_adapter.latents"]
        options = {"dim": width, "depth": 10, "dim_head": 64, "heads": width // 64}
        return modules.former.IDFormer(**options, num_queries=queries, output_dim=dim)
    resampler = modules.instantid if method == "instantid" else modules.resampler
    _, queries, width = table["image_proj.latents"]
    incoming = table["image_proj.proj_in.weight"][1]
    sizes = {"dim": width, "depth": 4, "dim_head": 64, "heads": width // 64, "num_queries": queries}
    return resampler.Resampler(**sizes, embedding_dim=incoming, output_dim=dim, ff_mult=4)


def parts(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Projector and attention weights of a file."""
    found = nested(state)
    first, second = found
    return found[first], found[second]


def asked(module: nn.Module, method: str, given: dict[str, Any]) -> Tensor:
    """Tokens, called as each project's pipeline calls it."""
    if method == "ip-adapter":
        return module(given["image"])
    if method in ("ip-adapter-plus", "ip-adapter-full"):
        return module(given["patches"])
    if method == "instantid":
        return module(given["face"].reshape(len(given["face"]), 1, -1))
    if method == "ip-adapter-faceid":
        return module(given["face"])
    if method.startswith("ip-adapter-faceid-plus"):
        return module(given["face"], given["patches"], shortcut=method.endswith("v2"), scale=1.0)
    return module(torch.cat([given["face"], given["image"]], dim=-1), given["levels"])


def conventional(method: str, given: dict[str, Any]) -> dict[str, Any]:
    """Features as the project's usage takes them: insightface's `normed_embedding` for FaceID, PuLID's class
    embedding divided by its norm.
    """
    given = dict(given)
    if "faceid" in method:
        given["face"] = given["face"] / given["face"].norm(dim=1, keepdim=True)
    if method.startswith("pulid"):
        given["image"] = torch.div(given["image"], torch.norm(given["image"], 2, 1, True))
    return given


def unconditional(given: dict[str, Any]) -> dict[str, Any]:
    """What each pipeline gives its negative half: zeros, and an encoded picture of zeros for patches."""
    blank: dict[str, Any] = {name: value * 0 for name, value in given.items() if isinstance(value, Tensor)}
    blank["patches"] = zero_pixels().expand(len(given["patches"]), -1, -1)
    blank["levels"] = tuple(states * 0 for states in given["levels"])
    return blank


def through_ip_adapter(kind: Any, unet: Any, layout: str, tokens: Tensor, projection: nn.Module) -> Tensor:
    """IP-Adapter's own placing of processors, loading from a .bin by position, and a step of the UNet."""
    table = tables("tiny")[layout]
    ranks = [shape[0] for key, shape in table.items() if key.endswith("to_q_lora.down.weight")]
    host = kind.__new__(kind)
    host.device, host.num_tokens, host.torch_dtype = "cpu", tokens.shape[1], torch.float32
    host.lora_rank = ranks[0] if ranks else 0
    host.pipe, host.image_proj_model = SimpleNamespace(unet=unet), projection
    host.set_ip_adapter()
    for processor in unet.attn_processors.values():
        processor.float()
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        torch.save(nested(checkpoint(layout)), file.name)
        host.ip_ckpt = file.name
        host.load_ip_adapter()
    host.set_scale(SCALE)
    return run_unet(unet, text=torch.cat([numbers("text", (2, 7, TOKEN_DIM)), tokens], dim=1))


def through_instantid(kind: Any, unet: Any, layout: str, tokens: Tensor) -> Tensor:
    host = kind.__new__(kind)
    object.__setattr__(host, "unet", unet)
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        torch.save(nested(checkpoint(layout)), file.name)
        host.set_ip_adapter(file.name, tokens.shape[1], SCALE)
    return run_unet(unet, text=torch.cat([numbers("text", (2, 7, TOKEN_DIM)), tokens], dim=1))


def through_pulid(attention: Any, unet: Any, layout: str, tokens: Tensor) -> Iterator[tuple[str, Tensor]]:
    """PuLID's processors by position under every setting of its module's switches."""
    _, weights = parts(checkpoint(layout))
    placed: dict[str, Any] = {}
    for position, name in enumerate(unet.attn_processors):
        key = weights.get(f"{position}.id_to_k.weight")
        placed[name] = (
            attention.AttnProcessor2_0() if key is None else attention.IDAttnProcessor2_0(*key.shape)
        )
    unet.set_attn_processor(placed)
    nn.ModuleList(unet.attn_processors.values()).load_state_dict(weights, strict=True)
    for zeros in (0, 3):
        for ortho in ("off", "v1", "v2"):
            attention.NUM_ZERO, attention.ORTHO, attention.ORTHO_v2 = zeros, ortho == "v1", ortho == "v2"
            asked = {"id_embedding": tokens, "id_scale": SCALE}
            yield f"{layout}/unet/{zeros}/{ortho}", run_unet(unet, cross_attention_kwargs=asked)


def record_layout(layout: str, modules: SimpleNamespace) -> Iterator[tuple[str, Tensor]]:
    """Tokens, negative tokens and a UNet's answer of one layout."""
    method, family = LAYOUTS[layout]
    weights, _ = parts(checkpoint(layout))
    module = resized(projector(layout, "tiny", modules), weights)
    given = conventional(method, tiny_features(layout))
    tokens = asked(module, method, given)
    negative = asked(module, method, unconditional(given))
    yield f"{layout}/tokens", tokens
    yield f"{layout}/negative", negative
    mixed, unet = torch.cat([negative[:1], tokens[1:]]), tiny_unet(family)
    if method.startswith("pulid"):
        yield from through_pulid(modules.attention, unet, layout, mixed)
    elif method == "instantid":
        yield f"{layout}/unet", through_instantid(modules.pipeline, unet, layout, mixed)
    else:
        kind = modules.faceid.IPAdapterFaceID if "faceid" in method else modules.ip.IPAdapter
        yield f"{layout}/unet", through_ip_adapter(kind, unet, layout, mixed, module)
    if method == "pulid-v1.1":  # two references of one person
        joined = tuple(states.flatten(0, 1)[None] for states in given["levels"])
        both = torch.cat([given["face"], given["image"]], dim=-1)[None]
        yield f"{layout}/two references", module(both, joined)
    del module
    real = resized(projector(layout, "real", modules), parts(checkpoint(layout, "real"))[0])
    given = conventional(method, real_features(layout))
    yield f"{layout}/real tokens", asked(real, method, given)[..., ::32]


def record_instantid(modules: SimpleNamespace) -> Tensor:
    """InstantID's pipeline from face embedding and drawn points to latents, with its IdentityNet."""
    unet = tiny_unet("sdxl")
    call = instantid_call()
    pipe = modules.pipeline(**call.components, unet=unet, controlnet=identity_net(unet))
    pipe.set_progress_bar_config(disable=True)
    weights, _ = parts(checkpoint("instantid"))
    pipe.image_proj_model = resized(projector("instantid", "tiny", modules), weights)
    pipe.image_proj_model_in_features = 512
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        torch.save(nested(checkpoint("instantid")), file.name)
        pipe.set_ip_adapter(file.name, weights["latents"].shape[1], 0.8)
    return pipe(
        image=control_picture(), image_embeds=numbers("a face", (512,), 2.0).numpy(), **call.options
    ).images


def real_tables(modules: SimpleNamespace) -> dict[str, dict[str, list[int]]]:
    """Keys and shapes of the original modules at their real size, on the meta device."""
    found: dict[str, dict[str, list[int]]] = {}
    for layout, (method, family) in LAYOUTS.items():
        if method == "ip-adapter-faceid-plusv2":
            continue  # the same module as version 1
        prefix = PREFIXES["pulid" if method.startswith("pulid") else "ip-adapter"][:2]
        with torch.device("meta"):
            halves = projector(layout, "real", modules), processors(method, real_unet(family), modules)
        found[layout] = {
            f"{first}{name}": list(weight.shape)
            for first, half in zip(prefix, halves, strict=True)
            for name, weight in half.state_dict().items()
        }
    return found


def processors(method: str, unet: Any, modules: SimpleNamespace) -> nn.ModuleList:
    """The original processors for every attention of a UNet, in the order in which it names them."""
    made: list[nn.Module] = []
    for name in unet.attn_processors:
        attention = unet.get_submodule(name.removesuffix(".processor"))
        sizes = {"hidden_size": attention.inner_dim}
        sizes["cross_attention_dim"] = (
            None if name.endswith("attn1.processor") else unet.config.cross_attention_dim
        )
        kinds = modules.attention_kinds["faceid" if "faceid" in method else method.split("-")[0]]
        made.append(kinds[sizes["cross_attention_dim"] is not None](sizes))
    return nn.ModuleList(made)


def open_originals(folders: argparse.Namespace) -> SimpleNamespace:
    """Everything of the three projects that is run."""
    load = importlib.import_module
    # where diffusers had it when these projects were written
    load("diffusers.pipelines.controlnet").MultiControlNetModel = diffusers.MultiControlNetModel
    sys.modules["diffusers.pipelines.controlnet.multicontrolnet"] = multicontrolnet
    with importing(folders.ip_adapter):
        ip, faceid = load("ip_adapter.ip_adapter"), load("ip_adapter.ip_adapter_faceid")
        resampler = load("ip_adapter.resampler")
    with importing(folders.instantid):
        pipeline = load("pipeline_stable_diffusion_xl_instantid")
        instantid = load("ip_adapter.resampler")
    with importing(folders.pulid):
        pulid, former = load("pulid.encoders"), load("pulid.encoders_transformer")
        attention = load("pulid.attention_processor")
    kinds = {  # of self- and of cross-attention
        "ip": (lambda _: ip.AttnProcessor(), lambda sizes: ip.IPAttnProcessor(**sizes)),
        "faceid": tuple(
            lambda sizes, kind=kind: kind(**sizes, rank=128)
            for kind in (faceid.LoRAAttnProcessor, faceid.LoRAIPAttnProcessor)
        ),
        "instantid": (lambda _: pipeline.AttnProcessor(), lambda sizes: pipeline.IPAttnProcessor(**sizes)),
        "pulid": (
            lambda _: attention.AttnProcessor2_0(),
            lambda sizes: attention.IDAttnProcessor2_0(**sizes),
        ),
    }
    return SimpleNamespace(
        ip=ip, faceid=faceid, resampler=resampler, instantid=instantid, pulid=pulid, former=former,
        attention=attention, draw_kps=pipeline.draw_kps, attention_kinds=kinds,
        pipeline=pipeline.StableDiffusionXLInstantIDPipeline,
    )  # fmt: skip


@torch.no_grad()
def record(modules: SimpleNamespace) -> dict[str, np.ndarray]:
    """Every recording by name."""
    found = {f"{family}/plain": run_unet(tiny_unet(family)) for family in ("sd15", "sdxl")}
    for layout in LAYOUTS:
        found |= dict(record_layout(layout, modules))
    found["instantid/pipeline"] = record_instantid(modules)
    arrays = {name: value.numpy() for name, value in found.items()}
    points, size = face_points()
    return arrays | {"instantid/points": np.asarray(modules.draw_kps(Image.new("RGB", size), points))}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--ip-adapter", "--instantid", "--pulid"):
        parser.add_argument(name, type=Path, required=True, metavar="DIR", help="clone of the project")
    parser.add_argument("--write", action="store_true", help="write the fixtures instead of comparing")
    options = parser.parse_args()
    modules = open_originals(options)
    arrays, real = record(modules), real_tables(modules)
    if options.write:
        np.savez_compressed(FIXTURES / "official_outputs.npz", **arrays)
        kept = json.loads((FIXTURES / "official_layouts.json").read_text())
        (FIXTURES / "official_layouts.json").write_text(json.dumps({**kept, "real": real}) + "\n")
        return 0
    kept = json.loads((FIXTURES / "official_layouts.json").read_text())["real"]
    with np.load(FIXTURES / "official_outputs.npz") as file:
        before = {name: file[name] for name in file.files}
    shared = before.keys() & arrays.keys()
    away = {name: float(np.abs(before[name].astype(float) - arrays[name]).max()) for name in shared}
    worst = max(away, key=lambda name: away[name])
    print(f"{len(shared)} of {len(arrays)} recordings are in the fixtures")
    print(f"largest difference {away[worst]:.1e} ({worst})")
    print(f"keys and shapes of {len(real)} layouts {'equal' if real == kept else 'DIFFER'}")
    return int(away[worst] > SAME or real != kept or before.keys() != arrays.keys())


if __name__ == "__main__":
    sys.exit(main())
