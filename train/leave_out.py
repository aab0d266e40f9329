r"""A pipeline without layers of its UNet that do nothing.

    python train/leave_out.py models/bolid-mini --attention-of-level 2 --attention-of-middle \
        --output runs/smaller

Measure first whether they do: copy the pipeline, set the last weights of the layers to zero, and compare its
pictures (docs/LOG.md). What is left is bit for bit what it was; training goes on from the result with the
same shape (objective.attention, objective.mid_attention).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from bolid.attention import cross_attentions
from bolid.training.objectives.mini_unet import PLAIN_DOWN, PLAIN_MID, PLAIN_UP

WEIGHTS = "diffusion_pytorch_model.safetensors"


def leave_out(folder: Path, output: Path, levels: Sequence[int], middle: bool) -> None:
    """Write the smaller pipeline to `output`, a new folder.

    Args:
        levels: of the UNet, 0 the finest, that lose their attention.
        middle: whether the block in the middle loses its own, and the residual block behind it.

    Raises:
        ValueError: no pipeline with a BoLID adapter there, no such level, nothing to leave out, or an output
            that exists.
    """
    if not all((folder / name / WEIGHTS).is_file() for name in ("unet", "adapter")):
        raise ValueError(
            f"{folder} holds no pipeline with unet/ and adapter/: give an export of train/run.py."
        )
    if output.exists():
        raise ValueError(f"{output} exists: choose another --output, or remove it.")
    config: Any = UNet2DConditionModel.load_config(folder / "unet")
    down, up = list(config["down_block_types"]), list(config["up_block_types"])
    if not levels and not middle:
        raise ValueError(
            "nothing is to be left out: give --attention-of-level, --attention-of-middle or both."
        )
    for level in levels:
        if not 0 <= level < len(down):
            raise ValueError(f"level {level}: the UNet has levels 0 to {len(down) - 1}.")
        down[level], up[len(up) - 1 - level] = PLAIN_DOWN, PLAIN_UP
    config = {**config, "down_block_types": down, "up_block_types": up}
    if middle:
        config["mid_block_type"] = PLAIN_MID
    unet: Any = UNet2DConditionModel.from_config(config)
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(folder, partial)
    try:
        unet.save_config(partial / "unet")
        _keep(partial / "unet" / WEIGHTS, set(unet.state_dict()))
        _keep_layers(partial / "adapter", set(cross_attentions(unet)))
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _keep(file: Path, names: set[str]) -> None:
    weights = load_file(file)
    save_file({name: weights[name] for name in names}, file, metadata={"format": "pt"})


def _keep_layers(folder: Path, layers: set[str]) -> None:
    """Take an adapter's layers out that the UNet no longer has."""
    config = json.loads((folder / "config.json").read_text())
    gone = [row["name"] for row in config["layer_table"] if row["name"] not in layers]
    config["layer_table"] = [row for row in config["layer_table"] if row["name"] in layers]
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    weights = load_file(folder / WEIGHTS)
    prefixes = tuple(f"layers.{name.replace('.', '__')}." for name in gone)
    kept = {name: value for name, value in weights.items() if not name.startswith(prefixes)}
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 2 for a mistake in the call."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a pipeline")
    parser.add_argument("--attention-of-level", nargs="+", type=int, default=[], help="0 is the finest")
    parser.add_argument("--attention-of-middle", action="store_true", help="that of the block in the middle")
    parser.add_argument("--output", required=True, type=Path, help="folder of the smaller pipeline")
    options = parser.parse_args(arguments)
    try:
        leave_out(options.folder, options.output, options.attention_of_level, options.attention_of_middle)
    except (ValueError, OSError) as error:
        print(f"train/leave_out.py: {error}", file=sys.stderr)
        return 2
    print(f"the smaller pipeline is in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
