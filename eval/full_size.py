"""What BoLID costs on SD 1.5 and SDXL at their full size, with random weights.

    python eval/full_size.py --base sd15 --output runs/full-size-sd15.md
    python eval/full_size.py --base sdxl --size 512 --output runs/full-size-sdxl.md
    python eval/full_size.py --base sdxl --count-only --output runs/count-sdxl.md     # seconds, no memory

Operations are counted on the meta device, at the base's own picture size: one step of the UNet alone, with
BoLID's conditions, and with a ControlNet beside it, and what is done once a call. CPU seconds and memory are
those of this machine, one picture without guidance, weights in bfloat16, at --size. The adapter's weights are
let go before the UNet is made, as nothing in a step needs them. With the adapter attached, but no conditions,
the UNet must answer bit by bit as without. The adapter has the sizes of train/configs/{base}.yaml.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.utils import logging
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bolid.adapter import BoLIDAdapter
from bolid.attention import Conditions
from bolid.training.random_bases import UNETS, adapter_shape, filled

ROOT = Path(__file__).resolve().parents[1]
VISION, PATCHES = 1280, 256  # width and number of OpenCLIP ViT-H's patches
TEXT = 77  # tokens of a prompt


def build(base: str) -> tuple[Any, Any]:
    """UNet2DConditionModel and BoLIDAdapter without weights, in bfloat16."""
    shape = adapter_shape(ROOT / "train" / "configs" / f"{base}.yaml")
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel(**UNETS[base])
        adapter: Any = BoLIDAdapter.for_unet(unet, vision_dim=VISION, **shape)
    return unet.to(torch.bfloat16).eval(), adapter.to(torch.bfloat16).eval()


def inputs(base: str, side: int, device: str) -> dict[str, Any]:
    """Arguments of one step of the UNet for a picture of `side` pixels a side."""
    made: dict[str, Any] = {"device": device, "dtype": torch.bfloat16}
    text = torch.zeros(1, TEXT, UNETS[base]["cross_attention_dim"], **made)
    step: dict[str, Any] = {
        "sample": torch.zeros(1, 4, side // 8, side // 8, **made),
        "encoder_hidden_states": text,
    }
    step |= {"timestep": torch.zeros(1, device=device), "return_dict": False}
    if base == "sdxl":
        pooled, ids = torch.zeros(1, 1280, **made), torch.zeros(1, 6, **made)
        step["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids}
    return step


def conditions(adapter: BoLIDAdapter, side: int, device: str) -> Conditions:
    """Everything BoLID computes once a call: a person of four parts, an image prompt, a pose with its map."""
    made: dict[str, Any] = {"device": device, "dtype": torch.bfloat16}
    return adapter.conditions(
        adapter.inputs(
            patches=torch.ones(1, 4, PATCHES, VISION, **made),
            strength=torch.ones(1, 4, device=device),
            image_patches=torch.ones(1, PATCHES, VISION, **made),
            skeleton=torch.ones(1, 3, side, side, **made),
            appearance=torch.ones(1, 5, side // 8, side // 8, **made),
        )
    )


@torch.no_grad()
def operations(function: Callable[[], Any]) -> float:
    """10^12 floating-point operations of a call (a multiplication and an addition are two)."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() / 1e12


def count(base: str) -> list[tuple[str, float, float]]:
    """What, millions of parameters, 10^12 operations, at the base's own size; on the meta device."""
    unet, adapter = build(base)
    side = 8 * UNETS[base]["sample_size"]
    step: dict[str, Any] = inputs(base, side, "meta")
    with torch.device("meta"):
        controlnet: Any = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
    controlnet = controlnet.to(torch.bfloat16)
    picture = torch.zeros(1, 3, side, side, device="meta", dtype=torch.bfloat16)
    alone = operations(lambda: unet(**step))
    beside = operations(lambda: controlnet(**step, controlnet_cond=picture))
    once = operations(lambda: conditions(adapter, side, "meta"))
    made = conditions(adapter, side, "meta")
    adapter.attach(unet)
    ours = operations(lambda: unet(**step, cross_attention_kwargs=made.kwargs()))
    return [
        (f"the UNet, one step at {side} x {side}", millions(unet), alone),
        ("more with BoLID, each step", millions(adapter), ours - alone),
        ("BoLID, once a call", millions(adapter), once),
        ("more with a ControlNet, each step", millions(controlnet), beside),
    ]


def millions(model: nn.Module) -> float:
    return sum(weight.numel() for weight in model.parameters()) / 1e6


def seconds(function: Callable[[], Any], times: int) -> float:
    """Median of some calls in CPU seconds of all threads: what else the machine does hardly counts."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        function()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


@torch.no_grad()
def run(base: str, side: int, times: int) -> list[tuple[str, str]]:
    """Seconds and memory on this machine. Raises AssertionError if an attached adapter changes the base."""
    unet, adapter = build(base)
    adapter = filled(adapter, torch.bfloat16)
    once = seconds(lambda: conditions(adapter, side, "cpu"), times)
    made = conditions(adapter, side, "cpu")
    weights = 2e6 * (millions(unet) + millions(adapter)) / 2**30  # in bfloat16
    adapter, unet = adapter.to_empty(device="meta"), filled(unet, torch.bfloat16)
    step: dict[str, Any] = inputs(base, side, "cpu")
    step["sample"].normal_(generator=torch.Generator().manual_seed(0))
    plain = unet(**step)[0]
    alone = seconds(lambda: unet(**step), times)
    adapter.attach(unet)
    assert torch.equal(unet(**step)[0], plain), "an adapter that is asked nothing changes the base"
    ours = unet(**step, cross_attention_kwargs=made.kwargs())[0]
    assert torch.isfinite(ours).all()
    assert not torch.equal(ours, plain)
    with_ours = seconds(lambda: unet(**step, cross_attention_kwargs=made.kwargs()), times)
    held: list[int] = []
    made.map(lambda tensor: held.append(tensor.nbytes) or tensor)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return [
        (f"UNet, one step at {side} x {side}", f"{alone:.2f} CPU s"),
        ("the same with BoLID's conditions", f"{with_ours:.2f} CPU s"),
        ("conditions, once a call", f"{once:.2f} CPU s"),
        ("conditions held during a call", f"{sum(held) / 2**20:.0f} MiB"),
        ("weights of UNet and adapter", f"{weights:.1f} GiB"),
        ("largest memory of the process", f"{peak:.1f} GiB"),
    ]


def table(counted: list[tuple[str, float, float]], measured: list[tuple[str, str]]) -> str:
    whole = counted[0][2]
    lines = ["| | parameters | operations | share of a step |", "|---|---|---|---|"]
    for what, parameters, flops in counted:
        lines.append(f"| {what} | {parameters:.0f} M | {flops:.3f} T | {100 * flops / whole:.1f} % |")
    if measured:
        lines += ["", "| | |", "|---|---|", *(f"| {what} | {value} |" for what, value in measured)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", choices=UNETS, required=True)
    parser.add_argument("--size", type=int, help="pixels a side that are run (default: the base's own)")
    parser.add_argument("--times", type=int, default=3, help="calls of which the median is told (default 3)")
    parser.add_argument("--count-only", action="store_true", help="operations and parameters alone")
    parser.add_argument("--output", required=True, metavar="FILE.md")
    options = parser.parse_args()
    logging.set_verbosity_error()
    side = options.size or 8 * UNETS[options.base]["sample_size"]
    text = table(count(options.base), [] if options.count_only else run(options.base, side, options.times))
    text = f"{options.base}, {torch.get_num_threads()} threads\n\n{text}\n"
    Path(options.output).parent.mkdir(parents=True, exist_ok=True)
    Path(options.output).write_text(text)
    print(text)


if __name__ == "__main__":
    main()
